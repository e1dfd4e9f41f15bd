"""Repositories on a real Triton server: what is right is kept, and what is planted is found.

The server is that of PyPI's nvidia-pytriton, with ONNX Runtime behind its Python backend (``backends/``):
configuration, scheduler, batching, cache, warm-up, labels and protocols are Triton's own, its C++ backends are not.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rest_deploy import Predictor, benchmark, export, verify
from rest_deploy.archives.results import Output
from rest_deploy.archives.run import ArchiveRequest, run
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking.run import Effort
from rest_deploy.cli import serve as command
from rest_deploy.errors import ConfigError, PredictorError, VerificationError
from rest_deploy.runtimes import triton
from rest_deploy.serving import proof
from rest_deploy.serving.config import TritonConfig
from rest_deploy.serving.model import Model, read_model
from rest_deploy.serving.proof import PROTOCOLS, prove, running
from rest_deploy.serving.repository import serve_triton, write_models
from rest_deploy.specs import ImageSize
from tests.cli.test_commands import Outcome
from tests.conftest import DIGITS, ROOT, further
from tests.serving.servers import serving

pytestmark = pytest.mark.slow

#: Six, in pixels (height, width).
SIZES = ((16, 16), (20, 27), (32, 32), (33, 40), (48, 31), (64, 64))


def test_proved_by_a_server(
    tmp_path: Path,
    tritonserver: Path,
    tiny_by_input: dict[str, Path],
    tiny_features: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The environment has the tests' own ONNX Runtime, so that answers of requests that run alone are equal."""
    artifacts = [*tiny_by_input.values(), tiny_features]
    done = Outcome(command, ["triton", *artifacts, "-o", tmp_path / "r", "--server", tritonserver], capsys)
    assert (done.code, done.err) == (0, "")
    for path in artifacts:
        found = json.loads((tmp_path / "r" / path.stem / "proof.json").read_text())
        assert found["server"].startswith("triton 2.")
        assert found["labels"] is (path != tiny_features)
        assert found["executions"] < found["requests"]  # so that batches are proved too
        outputs = {"stage2", "embedding"} if path == tiny_features else {"logits"}
        for protocol in PROTOCOLS:
            assert found["largest_difference"]["alone"][protocol] == dict.fromkeys(outputs, 0.0)
            together = found["largest_difference"]["together"][protocol]
            assert together.get("logits", 0.0) < 1e-5  # what is batched is rounded; maps, which are larger, more
        assert f"{path.stem}: proved by triton 2." in done.out


# ---- what is planted


def _fixed_dim(folder: Path) -> None:
    _replaced(folder, "dims: [3, -1, -1]", "dims: [3, 224, 224]")


def _wrong_dtype(folder: Path) -> None:
    _replaced(folder, 'name: "logits"\n  data_type: TYPE_FP32', 'name: "logits"\n  data_type: TYPE_FP16')


def _wrong_dtype_of_the_input(folder: Path) -> None:
    _replaced(folder, "TYPE_FP32", "TYPE_FP16")


def _other_labels(folder: Path) -> None:
    labels = folder / "tiny" / "labels.txt"
    first, second, *others = labels.read_text().splitlines(keepends=True)
    labels.write_text("".join([second, first, *others]))


def _fewer_classes(folder: Path) -> None:
    _replaced(folder, "dims: [7]", "dims: [6]")


def _no_record(folder: Path) -> None:
    _replaced(folder, 'key: "rest_deploy"\n', 'key: "other"\n')


def _damaged(folder: Path) -> None:
    model = folder / "tiny" / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1000])


def _syntax(folder: Path) -> None:
    _replaced(folder, "max_batch_size: 16", "max_batch_sise: 16")


def _replaced(folder: Path, old: str, new: str) -> None:
    config = folder / "tiny" / "config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("plant", "fact"),
    [
        (_fixed_dim, r"image FP32 \(-1, 3, 224, 224\)"),
        (_wrong_dtype, r"logits FP16 \(-1, 7\)"),
        (_wrong_dtype_of_the_input, "the server did not start: "),  # its warm-up fails, and Triton 2.51 may die of it
        (_other_labels, "class 0 is 'a' in the record, and 'b' on the server"),
        (_fewer_classes, r"logits FP32 \(-1, 6\)"),
        (_no_record, "has no record of rest_deploy"),
        (_damaged, "the server did not start: .*failed to load"),
        (_syntax, "the server did not start: .*failed to read text proto"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_configuration_is_found(
    tmp_path: Path, tritonserver: Path, tiny_onnx: Path, plant: Callable[[Path], None], fact: str
) -> None:
    model = read_model(tiny_onnx, TritonConfig(server=str(tritonserver)))
    write_models([model], tmp_path)
    plant(tmp_path)
    with pytest.raises(VerificationError, match=fact) as caught:
        prove(tmp_path, [model])
    assert "\n" not in str(caught.value)


def test_other_weights_are_found_and_nothing_is_kept(
    tmp_path: Path, tritonserver: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of another seed, under the first one's name, record and digest: only its answers tell."""
    from rest_deploy.artifact.identity import sha256_of
    from rest_deploy.models.factory import create_model
    from tests.conftest import TINY, lively

    other = export(lively(create_model(TINY), seed=1), tmp_path / "other.onnx", verify=False)
    monkeypatch.setattr("rest_deploy.serving.repository.write_models", _with_weights_of(other))
    monkeypatch.setattr(proof, "sha256_of", lambda path: sha256_of(tiny_onnx))
    with pytest.raises(VerificationError, match="the server's logits differs from the artifact's by"):
        serve_triton([tiny_onnx], tmp_path / "r", TritonConfig(server=str(tritonserver)))
    assert {path.name for path in tmp_path.iterdir()} == {"other.onnx"}


def _with_weights_of(other: Path) -> Callable[[list[Model], Path], None]:
    def written(models: list[Model], folder: Path) -> None:
        write_models(models, folder)
        (folder / "tiny" / "1" / "model.onnx").write_bytes(other.read_bytes())

    return written


# ---- servers that do not start


def test_a_server_that_ends_is_told_by_its_last_error(tmp_path: Path, tiny_onnx: Path, tritonserver: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\necho starting\necho 'error: creating server: no license' >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(VerificationError, match="the server did not start: error: creating server: no license"):
        serve_triton([tiny_onnx], tmp_path / "r", TritonConfig(server=str(program)))
    assert not (tmp_path / "r").exists()


def test_a_port_in_use(tmp_path: Path, tritonserver: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes the port between our look and the server's: others are tried, and then it is said."""
    model, free = read_model(tiny_onnx, TritonConfig(server=str(tritonserver))), proof._free_ports
    write_models([model], tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        used = {**free(), "http": taken.getsockname()[1]}
        ports = iter([used, free()])
        monkeypatch.setattr(proof, "_free_ports", lambda: next(ports))
        assert prove(tmp_path, [model])[0]["tiny"]["server"].startswith("triton")
        monkeypatch.setattr(proof, "_free_ports", lambda: used)
        with pytest.raises(VerificationError, match=r"did not start: .*in use") as caught:
            prove(tmp_path, [model])
        assert "\n" not in str(caught.value)


def test_servers_listen_on_loopback_alone_and_end(tmp_path: Path, tritonserver: Path, tiny_onnx: Path) -> None:
    with serving(tritonserver, tmp_path, [tiny_onnx]) as served:
        process = served.server.process
        sockets = [line.split() for line in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]]
        own = {os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir() if link.is_symlink()}
        listening = {
            fields[1].split(":")[0] for fields in sockets if fields[3] == "0A" and f"socket:[{fields[9]}]" in own
        }
        assert listening == {"0100007F"}  # 127.0.0.1
    assert process.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# ---- many requests


def test_200_requests_at_once(tmp_path: Path, tritonserver: Path, tiny_onnx: Path) -> None:
    """Of six sizes by both protocols: every answer is the artifact's, and requests of a size were run together."""
    with serving(tritonserver, tmp_path, [tiny_onnx], queue_delay_us=50_000) as served, Predictor(tiny_onnx) as local:
        rng = np.random.default_rng(7)
        batches = [rng.standard_normal((2, 3, *SIZES[i * 6 // 200])).astype(np.float32) for i in range(200)]
        wanted = [local.logits(batch) for batch in batches]
        remotes = [Predictor(str(served.address(protocol, "tiny"))) for protocol in PROTOCOLS]
        with served.counting("tiny", 200) as counted, ThreadPoolExecutor(32) as pool:
            found = list(pool.map(lambda i: remotes[i % 2].logits(batches[i]), range(200)))
        for remote in remotes:
            remote.close()
    assert max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(found, wanted, strict=True)) == 0.0
    assert (counted[0].requests, counted[0].images) == (200, 400)
    assert counted[0].executions < 200


def _post(port: int, path: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", path)
        assert connection.getresponse().status == 200


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_another_model_is_loaded_under_the_name(  # noqa: PLR0917
    protocol: str,
    tmp_path: Path,
    tritonserver: Path,
    tiny_checkpoint: Path,
    tiny_onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same network with its labels the other way round: its classes are not told by the labels of before."""
    other = export(None, tmp_path / "tiny.onnx", checkpoint=tiny_checkpoint, labels=list("gfedcba"), verify=False)
    monkeypatch.setattr(triton, "_CHECK_S", 0.0)
    folder, batch = tmp_path / "served", np.zeros((1, 3, 20, 20), np.float32)
    models = [read_model(tiny_onnx, TritonConfig())]
    write_models(models, folder)
    by_hand = "--model-control-mode=explicit", "--load-model=tiny"
    with running(tritonserver, folder, models, *by_hand) as server:
        address = str(server.address(protocol, "tiny"))
        with Predictor(address) as before:
            before.logits(batch)
            shutil.rmtree(folder / "tiny")
            write_models([read_model(other, TritonConfig())], folder)
            _post(server.ports["http"], "/v2/repository/models/tiny/load")
            with pytest.raises(PredictorError, match="another model of this name now; open it again"):
                before.logits(batch)
            with Predictor(address) as after:
                assert after.info.labels == tuple("gfedcba")
                after.logits(batch)
                _post(server.ports["http"], "/v2/repository/models/tiny/unload")
                with pytest.raises(PredictorError, match="the server does not have the model now: "):
                    after.logits(batch)


def test_the_cache_answers_what_was_seen(tmp_path: Path, tritonserver: Path, tiny_onnx: Path) -> None:
    with serving(tritonserver, tmp_path, [tiny_onnx], response_cache=True) as served:
        batch = np.random.default_rng(8).standard_normal((1, 3, 40, 40)).astype(np.float32)
        with Predictor(str(served.address("http", "tiny"))) as remote, served.counting("tiny", 2) as counted:
            first, second = remote.logits(batch), remote.logits(batch)
        np.testing.assert_array_equal(first, second)
        assert (counted[0].requests, counted[0].executions, counted[0].cache_hits) == (2, 1, 1)
        for protocol in PROTOCOLS:  # a time of it is no time of the model, and is not taken for one
            quick = {"sizes": [(16, 16)], "effort": Effort(1, 0.0), "cold": False}
            address = str(served.address(protocol, "tiny"))
            (told,) = benchmark([address], **quick).to_dict()["contenders"]
            assert told["description"].endswith("answers inputs that it has seen from its cache")
            (judged,) = verify([address], reference=tiny_onnx, cases=[InputSize(1, ImageSize(16, 16))]).to_dict()[
                "artifacts"
            ]
            for record in (told, judged):
                assert (record["sha256"], record["bytes"]) == (sha256_of(tiny_onnx), None)
                assert re.fullmatch(r"rest-deploy-\w+ 2\.\d+\.\d+", record["server"])  # its name here, and version


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_archives_by_a_server(protocol: str, tmp_path: Path, tritonserver: Path, tiny_onnx: Path) -> None:
    """The same classes as by the file; and rows that were begun by the one are not gone on with by the other."""
    folder, rng = tmp_path / "images", np.random.default_rng(12)
    folder.mkdir()
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no picture")

    def rows(artifact: str, *, resume: bool = False) -> list[tuple[str, list[int]]]:
        run(ArchiveRequest(artifact, [str(folder)], Output(str(tmp_path / "r.jsonl")), resume=resume))
        lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
        return [(line["image"], [one["index"] for one in line["predictions"]]) for line in lines]

    with serving(tritonserver, tmp_path / "served", [tiny_onnx]) as served:
        address = str(served.address(protocol, "tiny"))
        found = rows(address)
        assert rows(address, resume=True) == found
        with pytest.raises(ConfigError, match="artifact"):
            rows(str(tiny_onnx), resume=True)
    for file in tmp_path.glob("r.jsonl*"):
        file.unlink()
    assert rows(str(tiny_onnx)) == found
    assert len(found) == 6


def test_batches_larger_than_the_server_takes_are_asked_in_parts(
    tmp_path: Path, tritonserver: Path, tiny_onnx: Path
) -> None:
    batch = np.random.default_rng(9).standard_normal((7, 3, 20, 20)).astype(np.float32)
    with Predictor(tiny_onnx) as local:
        wanted = local.logits(batch)
    with serving(tritonserver, tmp_path, [tiny_onnx], max_batch_size=3) as served:
        remote = Predictor(str(served.address("grpc", "tiny")))
        np.testing.assert_allclose(remote.logits(batch), wanted, rtol=0, atol=1e-5)
        remote.close()


def test_the_client_beside_it(tmp_path: Path, tritonserver: Path) -> None:
    """It has nothing of rest_deploy, and its best class is the picture's."""
    pixels = export(None, tmp_path / "digits.onnx", checkpoint=DIGITS, input="pixels", verify=False)
    serve_triton([pixels], tmp_path / "r", TritonConfig(server=str(tritonserver)))
    images = sorted((ROOT / "examples" / "digits" / "images").iterdir())
    with serving(tritonserver, tmp_path / "again", [pixels]) as served:
        server = str(served.address("http", "digits")).rpartition("/")[0]
        for image, digit in zip(images, "873", strict=True):
            argv = [sys.executable, "-I", str(tmp_path / "r" / "client.py"), str(image), server]
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
            assert done.stdout.splitlines()[0].split()[-1] == digit


@pytest.mark.parametrize("requests", [(200, 400), *further([((500, 2000),)])])
def test_memory_stays(
    tmp_path: Path, tritonserver: Path, tiny_by_input: dict[str, Path], requests: tuple[int, int]
) -> None:
    """Of mixed sizes: what the server holds after all requests is within 5% of what it held after a quarter or half."""
    settled, all_of_them = requests
    rng, held = np.random.default_rng(10), dict[int, list[int]]((end, []) for end in requests)
    with serving(tritonserver, tmp_path, [tiny_by_input["pixels"]]) as served:
        remote = Predictor(str(served.address("http", "pixels")))
        for number in range(1, all_of_them + 1):
            height, width = rng.integers(16, 400, 2)
            remote.logits(rng.integers(0, 256, (1, height, width, 3), np.uint8))
            for end in requests:  # the mean of many: a large call's memory is given back with the next
                if end - 50 < number <= end:
                    held[end].append(_resident(served.server.process.pid))
        remote.close()
    before, after = (float(np.mean(held[end])) / 2**20 for end in requests)
    assert after <= 1.05 * before, f"{before:.0f} MiB after {settled} requests, {after:.0f} after {all_of_them}"


def _resident(group: int) -> int:
    """Bytes that the processes of a group hold: the server, and the Python of its backend."""
    pages: Counter[int] = Counter()
    for own in Path("/proc").glob("[0-9]*"):
        try:
            fields = (own / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                pages[group] += int((own / "statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages[group] * os.sysconf("SC_PAGE_SIZE")


def test_pictures_are_classified_as_by_the_file(
    tmp_path: Path, tritonserver: Path, tiny_by_input: dict[str, Path]
) -> None:
    picture = Image.fromarray(np.random.default_rng(11).integers(0, 256, (70, 90, 3), np.uint8))
    with serving(tritonserver, tmp_path, list(tiny_by_input.values())) as served:
        for name, file in tiny_by_input.items():
            with Predictor(file) as local, Predictor(str(served.address("grpc", name))) as remote:
                assert remote.classify([picture, picture]) == local.classify([picture, picture])
