"""Models on a server: addresses, and what may be wrong with one, on a stand-in that speaks KServe's v2 and no more.

``test_contract.py`` and ``tests/serving`` have a real server.
"""

from __future__ import annotations

import json
import pickle
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rest_deploy import Predictor, benchmark, verify
from rest_deploy.artifact.address import Address, is_address, located
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.benchmarking.measure import Effort
from rest_deploy.cli import info as info_command
from rest_deploy.cli import predict as predict_command
from rest_deploy.errors import ArtifactError, ConfigError, DeviceError, PredictorError, RestDeployError
from rest_deploy.runtimes import kserve, triton
from rest_deploy.runtimes.registry import can_sleep, is_checkpoint, open_runtime, read_info
from tests.cli.test_commands import Outcome
from tests.conftest import IMAGES
from tests.serving.servers import Served

# ---- addresses


@pytest.mark.parametrize(
    ("text", "host", "port", "prefix", "name"),
    [
        ("http://localhost:8000/rest_small", "localhost", 8000, "", "rest_small"),
        ("https://models.example.com/rest_small", "models.example.com", 443, "", "rest_small"),
        ("http://h/a/b/rest%20small/", "h", 80, "/a/b", "rest small"),
        ("grpc://[::1]:8001/x", "[::1]", 8001, "", "x"),
        ("GRPCS://h:1/x", "h", 1, "", "x"),
        ("http://h:8000/v2/models/rest_small", "h", 8000, "", "rest_small"),  # as curl is given it
        ("http://h:8000/a/v2/models/rest_small/infer", "h", 8000, "/a", "rest_small"),
        ("grpc://h:8001/v2/models/x", "h", 8001, "", "x"),
        ("http://h/api/v2/proxy/x", "h", 80, "/api/v2/proxy", "x"),
    ],
)
def test_addresses(text: str, host: str, port: int, prefix: str, name: str) -> None:
    address = located(text)
    assert isinstance(address, Address)
    assert (address.host, address.port, address.prefix, address.name) == (host, port, prefix, name)
    assert str(address) == text
    assert located(address) is address


@pytest.mark.parametrize(
    "text",
    [
        "http://",
        "http://host:8000",
        "http://host:8000/",
        "http:///x",
        "http://host:x/y",
        "http://host:99999/y",
        "http://user:secret@host/x",
        "http://host/x?y",
        "http://host/x#y",
        "http://host/a b",
        "grpc://host/x",
        "grpc://host:8001/a/x",
        "http://a..b:8000/x",
        "http://./x",
        f"http://{64 * 'h'}/x",
        "http://h:8000/v2/models",
        "http://h:8000/v2/models/x/versions/1",
        "http://h:8000/v2/models/x/versions/1/infer",
        "http://h:8000/v2/models/x/config",
        "http://h/grüße/x",
        "http://grüße.example/x",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match=r"accepted: http://HOST:8000/NAME"):
        Predictor(text)


@pytest.mark.parametrize("text", ["x.onnx", "http", "https:/x", "ftp://host/x.onnx", "a/http://x"])
def test_files_are_files(text: str) -> None:
    assert not is_address(text)
    assert located(text) == Path(text)
    with pytest.raises(ConfigError, match=r"accepted: http://HOST:8000/NAME"):
        Address.parse(text)


# ---- a stand-in


@dataclass
class StandIn:
    """Answers by path: status and JSON, or bytes."""

    port: int = 0
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def url(self, name: str = "tiny") -> str:
        """Address of a model."""
        return f"http://127.0.0.1:{self.port}/{name}"


@pytest.fixture
def standin(tiny_onnx: Path) -> Iterator[StandIn]:
    """A server whose answers describe the tiny model, and which infers nothing."""
    made = StandIn()
    record = read_info(tiny_onnx).to_json()
    made.answers = {
        "/v2": (200, {"name": "standin", "version": "1"}),
        "/v2/models/tiny": (
            200,
            {
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 3, -1, -1]}],
                "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 7]}],
            },
        ),
        "/v2/models/tiny/ready": (200, b""),
        "/v2/models/tiny/config": (
            200,
            {"max_batch_size": 4, "parameters": {"rest_deploy": {"string_value": record}}},
        ),
        "/v2/repository/index": (200, [{"name": "tiny", "version": "1", "state": "READY"}]),
        "/v2/models/tiny/infer": (400, {"error": "no inference\nhere"}),
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = made.answers.get(self.path, (404, {"error": f"unknown {self.path}"}))
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for header in {**made.headers, "Content-Length": str(len(body))}.items():
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_port
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


def _with(standin: StandIn, path: str, change: Callable[[Any], Any]) -> None:
    status, content = standin.answers[path]
    standin.answers[path] = status, change(json.loads(json.dumps(content)))


def test_a_record_is_that_of_the_file(standin: StandIn, tiny_onnx: Path) -> None:
    assert read_info(standin.url()) == replace(read_info(tiny_onnx), format="triton")
    assert not is_checkpoint(standin.url())
    assert not can_sleep(standin.url())
    with open_runtime(standin.url()) as runtime:
        assert (runtime.device, str(runtime.path), runtime.max_batch(8, 8)) == ("server", standin.url(), 4)
        assert runtime.call_bytes(16, 1000, 1000) == 0  # of this machine's memory


_METADATA, _CONFIG = "/v2/models/tiny", "/v2/models/tiny/config"


def _output(**change: Any) -> Callable[[Any], Any]:
    return lambda told: {**told, "outputs": [{**told["outputs"][0], **change}]}


@pytest.mark.parametrize(
    ("path", "change", "error", "fact"),
    [
        ("/v2", lambda _: {"other": 1}, DeviceError, "not a server of KServe's protocol v2"),
        ("/v2", lambda _: [1], DeviceError, "not a server of KServe's protocol v2"),
        (_METADATA, _output(shape=[-1, 6]), ArtifactError, r"logits FP32 \(-1, 6\), and the model's record logits"),
        (_METADATA, _output(datatype="FP16"), ArtifactError, r"logits FP16 \(-1, 7\)"),
        (_METADATA, _output(name="scores"), ArtifactError, "scores FP32"),
        (_METADATA, lambda told: {**told, "outputs": []}, ArtifactError, "the server says , and"),
        (_METADATA, lambda told: {**told, "outputs": 3}, ArtifactError, "not of the protocol|not ready"),
        (_CONFIG, lambda told: {**told, "parameters": {}}, ArtifactError, "has no record of rest_deploy"),
        (_CONFIG, lambda told: {"parameters": told["parameters"]}, ArtifactError, "no configuration"),
        (_CONFIG, lambda told: {**told, "max_batch_size": 0}, ArtifactError, "max_batch_size 0"),
    ],
)
def test_a_server_that_tells_something_else(
    standin: StandIn, path: str, change: Callable[[Any], Any], error: type[RestDeployError], fact: str
) -> None:
    _with(standin, path, change)
    with pytest.raises((error, DeviceError), match=fact) as caught:
        Predictor(standin.url())
    assert "\n" not in str(caught.value)
    assert standin.url() in str(caught.value)


@pytest.mark.parametrize("record", ["{", "[]", '{"schema": 99}', '{"schema": 3, "format": "onnx"}'])
def test_a_record_that_is_none(standin: StandIn, record: str) -> None:
    _with(standin, _CONFIG, lambda told: {**told, "parameters": {"rest_deploy": {"string_value": record}}})
    with pytest.raises(ArtifactError, match="metadata"):
        Predictor(standin.url())


def test_a_record_of_what_no_server_has(standin: StandIn, tiny_onnx: Path) -> None:
    record = replace(read_info(tiny_onnx), format="pytorch").to_json()
    _with(standin, _CONFIG, lambda told: {**told, "parameters": {"rest_deploy": {"string_value": record}}})
    with pytest.raises(ArtifactError, match="its record says format pytorch; accepted: onnx, trt"):
        Predictor(standin.url())


@pytest.mark.parametrize(("digest", "told"), [("a" * 64, "a" * 64), ("A" * 64, None), ("\x1b[2J", None), (None, None)])
def test_a_record_says_which_bytes_by_which_server(standin: StandIn, digest: str | None, told: str | None) -> None:
    standin.answers["/v2"] = 200, {"name": "stand\nin", "version": "1" * 1000}
    if digest is not None:
        own = {"sha256": {"string_value": digest}}
        _with(standin, _CONFIG, lambda config: {**config, "parameters": {**config["parameters"], **own}})
    with open_runtime(standin.url()) as runtime:
        assert dict(runtime.facts) == {"sha256": told, "server": f"stand in {'1' * 91}"}


def test_models_that_are_not_there_or_not_ready(standin: StandIn) -> None:
    with pytest.raises(ArtifactError, match=r"the server has no such model .*; it has tiny; give one of its names"):
        Predictor(standin.url("other"))
    standin.answers["/v2/models/tiny/ready"] = 400, {"error": "Model version not ready"}
    _with(standin, "/v2/repository/index", lambda told: [{**told[0], "state": "UNAVAILABLE", "reason": "no memory"}])
    with pytest.raises(DeviceError, match="the model is not ready: no memory; look at the server's log"):
        Predictor(standin.url())


def test_no_server(standin: StandIn) -> None:
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(DeviceError, match=r"no answer .Connection refused.; start the server, or give its address"):
            Predictor(f"http://127.0.0.1:{port}/tiny")
        pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
        with pytest.raises(DeviceError, match=r"no answer .*; start the server, or give its address"):
            Predictor(f"grpc://127.0.0.1:{port}/tiny")
    with pytest.raises(DeviceError, match=r"does not speak Triton's gRPC; .*grpc:// port 8001"):
        Predictor(f"grpc://127.0.0.1:{standin.port}/tiny")


@contextmanager
def _answering(content: bytes) -> Iterator[str]:
    """Address of a model on a server that answers all requests with these bytes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(content)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/tiny"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_of_another_protocol() -> None:
    """What does not speak HTTP at all, as the gRPC port of Triton."""
    with (
        _answering(b"\0\0\x06\x04\0\0\0\0\0hello, this is no HTTP\n") as address,
        pytest.raises(DeviceError, match=r"what answers does not speak HTTP; .*port 8000"),
    ):
        Predictor(address)


def test_a_server_that_does_not_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve, "TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DeviceError, match=r"no answer within 0\.05 s"):
            Predictor(f"http://127.0.0.1:{silent.getsockname()[1]}/tiny")


def test_an_answer_that_goes_on_and_on() -> None:
    """A byte at a time, each in time: the whole of it is to be."""
    answer = SimpleNamespace(read1=lambda count: b"x", length=1 << 40)
    with pytest.raises(TimeoutError):
        kserve._content(SimpleNamespace(sock=None), answer, 1 << 40, end=0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_an_answer_that_breaks_off(head: str) -> None:
    with (
        _answering(f'HTTP/1.1 200 OK\r\n{head}\r\n\r\n40\r\n{{"name"'.encode()) as address,
        pytest.raises(DeviceError, match=r"its answer broke off; ask again|Connection reset"),
    ):
        Predictor(address)


def test_a_number_beyond_all_is_not_of_the_protocol(standin: StandIn) -> None:
    standin.answers["/v2/models/tiny/config"] = 200, b'{"max_batch_size": 1e999}'
    with pytest.raises(RestDeployError, match=r"its answer is not of the protocol|no JSON"):
        Predictor(standin.url())


def test_another_model_of_the_same_name(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose answers would get the labels of the one that was there; and one that is gone."""
    batch = np.zeros((1, 3, 8, 8), np.float32)
    with Predictor(standin.url()) as predictor:
        monkeypatch.setattr(triton, "_CHECK_S", 0.0)
        with pytest.raises(PredictorError, match="no inference here"):  # the same as before
            predictor.logits(batch)
        was = standin.answers["/v2/models/tiny/config"][1]
        standin.answers["/v2/models/tiny/config"] = 200, {**was, "parameters": {"sha256": {"string_value": "other"}}}
        with pytest.raises(PredictorError, match="the server has another model of this name now; open it again"):
            predictor.logits(batch)
        standin.answers["/v2/models/tiny/config"] = 404, {"error": "no such model"}
        with pytest.raises(PredictorError, match="the server does not have the model now: no such model"):
            predictor.logits(batch)


def test_what_a_server_refuses_is_one_line(standin: StandIn) -> None:
    with Predictor(standin.url()) as predictor:
        with pytest.raises(PredictorError, match=r"the server refused an input of shape .*: no inference here$"):
            predictor.logits(np.zeros((1, 3, 8, 8), np.float32))
        standin.answers["/v2/models/tiny/infer"] = 200, {"outputs": [{"name": "logits"}]}
        with pytest.raises(PredictorError, match="its answer is not of the protocol"):
            predictor.logits(np.zeros((1, 3, 8, 8), np.float32))


BUSY = [
    (429, b"", r"too many requests \(HTTP status 429\); try again in 7 s$"),
    (502, b"<html>bad gateway</html>", r"a gateway has no answer of the server \(HTTP status 502\); try again in 7 s$"),
    (
        503,
        {"error": "Exceeds maximum\nqueue size"},
        r"not ready \(HTTP status 503: Exceeds maximum queue size\); try",
    ),
    (504, b"<html></html>", r"a gateway has waited too long for the server \(HTTP status 504\); try again in 7 s$"),
]


@pytest.mark.parametrize(("status", "content", "told"), BUSY)
def test_a_server_that_may_answer_at_another_time(standin: StandIn, status: int, content: Any, told: str) -> None:
    """It has refused nothing, and lacks nothing, whatever it is asked."""
    standin.headers["Retry-After"] = "7"
    paths = ["/v2", _METADATA, f"{_METADATA}/ready", _CONFIG]
    with Predictor(standin.url()) as predictor:
        standin.answers["/v2/models/tiny/infer"] = status, content
        with pytest.raises(PredictorError, match=told) as caught:
            predictor.logits(np.zeros((1, 3, 8, 8), np.float32))
        assert "refused" not in str(caught.value)
    standin.answers["/v2/repository/index"] = status, content
    for path in paths:
        was, standin.answers[path] = standin.answers[path], (status, content)
        with pytest.raises(DeviceError, match=told):
            Predictor(standin.url())
        standin.answers[path] = was


def test_it_is_no_other_model_where_a_gateway_answers(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_CHECK_S", 0.0)
    with Predictor(standin.url()) as predictor:
        standin.answers[_CONFIG] = 503, b""
        with pytest.raises(PredictorError, match=r"overloaded or not ready \(HTTP status 503\); try again later$"):
            predictor.logits(np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        ("UNAVAILABLE", "Received http2 header with status: 502", "a gateway has no answer of the server"),
        ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size", "the server is overloaded"),
        ("RESOURCE_EXHAUSTED", "slow down", "too many requests"),
    ],
)
def test_a_server_that_may_answer_by_grpc_at_another_time(status: str, text: str, told: str) -> None:
    grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    with (
        closing(kserve.open_client(Address.parse("grpc://h:1/x"))) as client,
        pytest.raises(kserve.Busy, match=rf"{told}.* \({re.escape(text)}\); try again later"),
        client._asking(),  # type: ignore[attr-defined]
    ):
        raise grpc.InferenceServerException(text, status=f"StatusCode.{status}")


def test_a_model_that_is_gone_is_no_matter_of_time(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the status is that says so."""
    monkeypatch.setattr(triton, "_CHECK_S", 0.0)
    text = "Request for unknown model: 'tiny' has no available versions"
    with Predictor(standin.url()) as predictor:
        standin.answers[_CONFIG] = 503, {"error": text}
        with pytest.raises(PredictorError, match=f"the server does not have the model now: {text}"):
            predictor.logits(np.zeros((1, 3, 8, 8), np.float32))
    grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    with (
        closing(kserve.open_client(Address.parse("grpc://h:1/x"))) as client,
        pytest.raises(kserve.Refused, match=text) as caught,
        client._asking(),  # type: ignore[attr-defined]
    ):
        raise grpc.InferenceServerException(text, status="StatusCode.UNAVAILABLE")
    assert not isinstance(caught.value, kserve.Busy)


def test_an_input_too_large_for_the_server_is_no_matter_of_time() -> None:
    grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    text = "SERVER: Received message larger than max (25165861 vs. 4194304)"
    with (
        closing(kserve.open_client(Address.parse("grpc://h:1/x"))) as client,
        pytest.raises(kserve.Refused, match="larger than max"),
        client._asking(),  # type: ignore[attr-defined]
    ):
        raise grpc.InferenceServerException(text, status="StatusCode.RESOURCE_EXHAUSTED")


def test_an_answer_of_more_than_was_asked_for(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of seven logits in float32, and a head: what is beyond is not read."""
    monkeypatch.setattr(kserve, "_MOST_HEAD", 100)
    most = 2 * 7 * 4 + 100
    with Predictor(standin.url()) as predictor:
        for size, told in ((most, "no JSON"), (most + 1, f"an answer of over {most} bytes")):
            standin.answers["/v2/models/tiny/infer"] = 200, b"x" * size
            with pytest.raises(PredictorError, match=told):
                predictor.logits(np.zeros((2, 3, 8, 8), np.float32))


def test_devices_threads_and_memory_are_the_servers(standin: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("cpu", "cuda:0"):
        with pytest.raises(
            DeviceError, match="a model on a server runs where its server was told to; leave the device"
        ):
            Predictor(standin.url(), device)
    with pytest.raises(ConfigError, match="the server's threads are its own"):
        Predictor(standin.url(), allow_spinning=False)
    asked = len(standin.asked)
    with pytest.raises(ConfigError, match="threads is 2; a server's threads are its own: leave threads out"):
        Predictor(standin.url(), threads=2)
    done = Outcome(predict_command, [standin.url(), IMAGES / "chelsea.png", "--threads", "2"], capsys)
    assert (done.code, "leave threads out" in done.err, len(standin.asked)) == (1, True, asked)
    done = Outcome(info_command, [standin.url(), "--memory", "224"], capsys)
    assert (done.code, done.err.count("\n")) == (1, 1)
    told = Outcome(info_command, [standin.url()], capsys)
    assert told.out.startswith(f"server         {standin.url()}\nformat         triton, fp32\n")
    done = Outcome(predict_command, [standin.url("none"), IMAGES / "chelsea.png"], capsys)
    assert (done.code, done.err.count("\n")) == (1, 1)


def test_blocks_cannot_be_seen(standin: StandIn, tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="the blocks of such a file cannot be looked into"):
        verify(standin.url(), tiny_checkpoint, per_block=True, synthetic=False)


# ---- a real server


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_verified_timed_and_pickled(served: Served, protocol: str, tiny_checkpoint: Path, tiny_onnx: Path) -> None:
    address = str(served.address(protocol, "tiny"))
    found = verify([address, tiny_onnx], tiny_checkpoint, sizes=[(33, 40)])
    assert found.passed
    about = found.artifacts[0].about
    assert (about["path"], about["format"], about["device"]) == (address, "triton", "server")
    assert (about["computed"], about["bytes"]) == ("by its server", None)
    timed = benchmark([address, tiny_onnx], sizes=[(8, 8)], effort=Effort(1, 0.0), cold=False)
    assert timed.errors == {}
    for own in (about, timed.to_dict()["contenders"][0]):
        assert own["sha256"] == sha256_of(tiny_onnx)  # so that a report finds the file's proof
        assert re.fullmatch(r"rest-deploy-\w+ 2\.\d+\.\d+", own["server"])  # its --id, and its version
    assert timed.descriptions["tiny"] == "Triton server, over the network"
    batch = np.random.default_rng(0).standard_normal((2, 3, 20, 24)).astype(np.float32)
    with Predictor(address) as predictor:
        again = pickle.loads(pickle.dumps(predictor))
        np.testing.assert_array_equal(again.logits(batch), predictor.logits(batch))
        again.close()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_model_that_a_real_server_does_not_have(served: Served, protocol: str) -> None:
    with pytest.raises(ArtifactError, match=r"no such model .*; it has tiny"):
        Predictor(str(served.address(protocol, "other")))
    other = "grpc" if protocol == "http" else "http"
    with pytest.raises(DeviceError, match=r"(does not speak|no answer).* Triton http:// asks port 8000"):
        Predictor(f"{protocol}://127.0.0.1:{served.server.ports[other]}/tiny")


@pytest.mark.slow
def test_a_connection_that_the_server_closed_is_made_again(served: Served) -> None:
    with Predictor(str(served.address("http", "tiny"))) as predictor:
        batch = np.zeros((1, 3, 8, 8), np.float32)
        first = predictor.logits(batch)
        client: Any = predictor._runtime
        for connection in client._client._idle:
            connection.sock.shutdown(socket.SHUT_RDWR)
        np.testing.assert_array_equal(predictor.logits(batch), first)
