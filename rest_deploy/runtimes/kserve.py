"""KServe's inference protocol v2 with Triton's extensions, over HTTP by Python itself and over gRPC by tritonclient.

Errors of both, and of the network, become ours here: ``DeviceError`` where a server does not answer as one,
``Refused`` where it answers that it will not, and of these ``Busy`` where it, or a gateway before it, may later.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.address import Address
from rest_deploy.errors import ArtifactError, DeviceError, MissingPackageError, RestDeployError, one_line
from rest_deploy.values import load_json

#: Seconds that a request may take, from its connection to the last byte of its answer.
TIMEOUT_S = 60.0
#: Bytes of an answer beside its tensors: a record of a thousand classes takes under 100 KiB.
_MOST_TEXT = 64 << 20
_CHUNK = 1 << 20
#: Of gRPC: a server that is back is found within a second and not within two minutes, whatever other channels of this
#: process have waited for; no proxy, as by HTTP; messages of any size, which tritonclient's own options are.
_CHANNEL = [
    *(("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)),
    *(("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1000)),
    *(("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)),
]
#: Bytes of an answer with tensors beside them.
_MOST_HEAD = 1 << 20
#: Status of HTTP that passes -> what it says.
_BUSY = {
    429: "too many requests",
    502: "a gateway has no answer of the server",
    503: "the server is overloaded or not ready",
    504: "a gateway has waited too long for the server",
}
#: What gRPC says where a gateway answered by HTTP, and Triton where a queue of requests is full.
_BUSY_TEXT = re.compile(r"http2? header with status: (429|502|503|504)|maximum queue size")
#: What Triton says of a model that it does not have (any more), with a status of a server that is overloaded.
_GONE = re.compile("unknown model|no available versions", re.IGNORECASE)
_PORTS = "of Triton http:// asks port 8000 and grpc:// port 8001, unless it was started with others"
#: Of the protocol -> ours.
DTYPES: Mapping[str, str] = {"FP32": "float32", "FP16": "float16", "UINT8": "uint8"}
DATATYPES = {ours: theirs for theirs, ours in DTYPES.items()}

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> datatype and shape, -1 for what is free


class Refused(RestDeployError):
    """What a server said where it did not do what it was asked."""


class Busy(Refused):
    """What it said where it may do the same at another time."""

    def __init__(self, what: str, after: str = "") -> None:
        super().__init__(f"{what}; try again {f'in {after} s' if after.isdecimal() else 'later'}")


@dataclass(frozen=True)
class Served:
    """A model as its server tells of it.

    Args:
        server: Name and version, such as ``"triton 2.51.0"``.
        inputs, outputs: Its tensors, the batch among their sizes.
        max_batch: Most images of a request.
        parameters: Texts of its configuration.
        cached: Whether the server answers an input that it has seen from a cache.
    """

    server: str
    inputs: Tensors
    outputs: Tensors
    max_batch: int
    parameters: Mapping[str, str]
    cached: bool = False


@dataclass(frozen=True)
class Statistics:
    """Of a model until now: requests that were answered, images and executions of the network without those that the
    response cache answered, and its hits.
    """

    requests: int
    images: int
    executions: int
    cache_hits: int

    def since(self, before: Statistics) -> Statistics:
        """What was counted after a moment."""
        return Statistics(*(getattr(self, own.name) - getattr(before, own.name) for own in fields(Statistics)))


class Client(ABC):
    """One model on a server. May be used from several threads at once.

    Args:
        address: Of the model.
    """

    def __init__(self, address: Address) -> None:
        self.address = address

    def describe(self) -> Served:
        """Ask for the model.

        Raises:
            DeviceError: There is no server, it is one of another protocol, or the model is not ready.
            ArtifactError: It has no such model, or does not tell its configuration.
        """
        try:
            server = " ".join(self._server().split())[:100]
        except Busy as exc:
            raise DeviceError(f"{self.address}: {exc}") from exc
        except Refused as exc:
            raise DeviceError(f"{self.address}: not a server of KServe's protocol v2 ({exc}); {_PORTS}") from exc
        try:
            inputs, outputs = self._tensors()
            if not self._ready():
                raise Refused("it is not ready")
        except Refused as exc:
            raise self._without_model(exc) from exc
        try:
            max_batch, parameters, cached = self._config()
        except Busy as exc:
            raise DeviceError(f"{self.address}: {exc}") from exc
        except Refused as exc:
            raise ArtifactError(
                f"{self.address}: the server tells no configuration of the model ({exc}), so no record; ask Triton"
            ) from exc
        return Served(server, inputs, outputs, max_batch, parameters, cached)

    def is_same(self, served: Served) -> bool:
        """Whether the server still has the model that it told of, by its record and its SHA-256.

        Raises:
            DeviceError: The server does not answer.
            Refused: It has no such model now.
        """
        _, parameters, _ = self._config()
        return parameters == served.parameters

    def _without_model(self, said: Refused) -> RestDeployError:
        """Why a model does not answer, with what the server has."""
        try:
            states = self._states()
        except Refused:
            states = {}
        if self.address.name in states:
            reason = f": {states[self.address.name]}" if states[self.address.name] else ""
            return DeviceError(f"{self.address}: the model is not ready{reason}; look at the server's log")
        if isinstance(said, Busy):
            return DeviceError(f"{self.address}: {said}")
        has = f"; it has {', '.join(sorted(states)[:10]) or 'none'}" if states else ""
        return ArtifactError(f"{self.address}: the server has no such model ({said}){has}; give one of its names")

    def _unreachable(self, why: str) -> DeviceError:
        return DeviceError(f"{self.address}: {why}; start the server, or give its address ({_PORTS})")

    @abstractmethod
    def infer(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], most: int) -> dict[str, NDArray[Any]]:
        """Outputs by name for inputs by name, as arrays of their own.

        Args:
            inputs: What is asked.
            outputs: Names of what is to be answered.
            most: Bytes of these. By HTTP no more of an answer is read; a message of gRPC has up to 2 GiB.

        Raises:
            DeviceError: The server does not answer, or with more.
            Refused: It does not take them.
        """

    @abstractmethod
    def classes(self, inputs: Mapping[str, NDArray[Any]], output: str, count: int) -> list[str]:
        """Best classes of a batch of one by the server's own labels, each ``"VALUE:NUMBER:LABEL"``."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """What the server counted; the last requests may be counted a moment after they were answered."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connections."""

    @abstractmethod
    def _server(self) -> str: ...
    @abstractmethod
    def _tensors(self) -> tuple[Tensors, Tensors]: ...
    @abstractmethod
    def _ready(self) -> bool: ...
    @abstractmethod
    def _config(self) -> tuple[int, Mapping[str, str], bool]: ...
    @abstractmethod
    def _states(self) -> dict[str, str]:
        """Name of each model -> why it is not ready, as far as that is told."""


def open_client(address: Address) -> Client:
    """The client of an address; nothing is asked yet.

    Raises:
        MissingPackageError: It asks by gRPC, and that is not installed.
    """
    return (HttpClient if address.scheme.startswith("http") else GrpcClient)(address)


class HttpClient(Client):
    """Over HTTP. Connections are kept, and each is one call's at a time."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._idle: list[http.client.HTTPConnection] = []  # append and pop are safe between threads
        self._model = f"/v2/models/{quote(address.name, safe='')}"

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self.address.host.strip("[]"), self.address.port
        if not self.address.encrypted:
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=ssl.create_default_context())

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        most: int = _MOST_TEXT,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and content of an answer."""
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                connection, kept = self._idle.pop(), True
            except IndexError:
                connection, kept = self._connection(), False
            try:
                connection.request(method, self.address.prefix + path, body, dict(headers or {}))
                answer = connection.getresponse()
                content = _content(connection, answer, most, end)
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                if kept and isinstance(exc, ConnectionError):  # a server closes connections that were idle for a while
                    continue
                raise self._failed(exc) from exc
            if len(content) > most:
                connection.close()
                raise DeviceError(f"{self.address}: an answer of over {most:,} bytes, more than what was asked for has")
            self._idle.append(connection)
            return answer.status, answer.headers, content

    def _failed(self, exc: OSError | http.client.HTTPException) -> DeviceError:
        """The error of an exchange that did not end."""
        if isinstance(exc, TimeoutError):
            return self._unreachable(f"no answer within {TIMEOUT_S:g} s")
        if isinstance(exc, OSError):
            return self._unreachable(f"no answer ({exc.strerror or one_line(exc)})")
        if isinstance(exc, http.client.IncompleteRead):
            return self._unreachable("its answer broke off; ask again")
        return DeviceError(f"{self.address}: what answers does not speak HTTP; {_PORTS}")

    def _json(self, method: str, path: str) -> Any:
        return self._read(*self._ask(method, path))

    def _read(self, status: int, headers: http.client.HTTPMessage, content: bytes) -> Any:
        """JSON of an answer.

        Raises:
            Refused: It says that it was not done, or is no JSON.
        """
        told: Any = None
        with suppress(ValueError):
            told = load_json(content.decode())
        error = told.get("error") if isinstance(told, dict) else None
        said = " ".join(str(error).split())[:300] if error else ""
        if status in _BUSY and not _GONE.search(said):
            raise Busy(
                f"{_BUSY[status]} (HTTP status {status}{f': {said}' if said else ''})", headers.get("Retry-After") or ""
            )
        if told is None:
            raise Refused(f"HTTP status {status}, and no JSON")
        if status != http.client.OK:
            raise Refused(said or f"HTTP status {status}")
        return told

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """An answer that lacks what the protocol has is none of it."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as exc:
            raise Refused(f"its answer is not of the protocol: {one_line(exc)}") from exc

    def _server(self) -> str:
        told = self._json("GET", "/v2")
        with self._reading():
            return f"{told['name']} {told['version']}"

    def _tensors(self) -> tuple[Tensors, Tensors]:
        told = self._json("GET", self._model)
        with self._reading():
            inputs, outputs = (
                {one["name"]: (str(one["datatype"]), tuple(map(int, one["shape"]))) for one in told[side]}
                for side in ("inputs", "outputs")
            )
            return inputs, outputs

    def _ready(self) -> bool:
        status, headers, content = self._ask("GET", f"{self._model}/ready")
        if status in _BUSY:
            self._read(status, headers, content)
        return status == http.client.OK

    def _config(self) -> tuple[int, Mapping[str, str], bool]:
        told = self._json("GET", f"{self._model}/config")
        with self._reading():
            parameters = {key: str(value.get("string_value", "")) for key, value in told.get("parameters", {}).items()}
            return int(told["max_batch_size"]), parameters, bool(told.get("response_cache", {}).get("enable", False))

    def _states(self) -> dict[str, str]:
        told = self._json("POST", "/v2/repository/index")
        with self._reading():
            return {one["name"]: str(one.get("reason", "")) for one in told}

    def infer(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], most: int) -> dict[str, NDArray[Any]]:
        asked = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        told, tensors = self._infer(inputs, asked, most + _MOST_HEAD)
        found: dict[str, NDArray[Any]] = {}
        with self._reading():
            start = 0
            for one in told["outputs"]:
                end = start + int(one["parameters"]["binary_data_size"])
                values = np.frombuffer(tensors[start:end], DTYPES[one["datatype"]])
                found[one["name"]] = values.reshape([int(size) for size in one["shape"]]).copy()
                start = end
            return {name: found[name] for name in outputs}

    def classes(self, inputs: Mapping[str, NDArray[Any]], output: str, count: int) -> list[str]:
        told, _ = self._infer(inputs, [{"name": output, "parameters": {"classification": count}}])
        with self._reading():
            return [str(text) for text in told["outputs"][0]["data"]]

    def _infer(self, inputs: Mapping[str, NDArray[Any]], outputs: Any, most: int = _MOST_TEXT) -> tuple[Any, bytes]:
        """JSON of an answer, and the bytes of the tensors behind it."""
        parts = {name: np.ascontiguousarray(values).tobytes() for name, values in inputs.items()}
        tensors = [
            {
                "name": name,
                "shape": values.shape,
                "datatype": DATATYPES[str(values.dtype)],
                "parameters": {"binary_data_size": len(parts[name])},
            }
            for name, values in inputs.items()
        ]
        text = json.dumps({"inputs": tensors, "outputs": outputs}).encode()
        length = "Inference-Header-Content-Length"
        headers = {length: str(len(text)), "Content-Type": "application/octet-stream"}
        status, told, content = self._ask(
            "POST", f"{self._model}/infer", text + b"".join(parts.values()), headers, most
        )
        with self._reading():
            end = int(told.get(length) or len(content))
        return self._read(status, told, content[:end]), content[end:]

    def statistics(self) -> Statistics:
        told = self._json("GET", f"{self._model}/stats")
        with self._reading():
            own = told["model_stats"][0]
            answered, hits = (own["inference_stats"].get(key, {}).get("count", 0) for key in ("success", "cache_hit"))
            return Statistics(int(answered), int(own["inference_count"]), int(own["execution_count"]), int(hits))

    def close(self) -> None:
        """Let go of the connections that no call has."""
        while self._idle:
            self._idle.pop().close()


def _content(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, most: int, end: float) -> bytes:
    """All of an answer, up to one byte more than so many, before a moment.

    Raises:
        TimeoutError: It takes longer.
        IncompleteRead: It ends before its end.
    """
    content = bytearray()
    while len(content) <= most:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:  # which an answer keeps that closes its connection
            connection.sock.settimeout(left)
        if not (chunk := answer.read1(min(_CHUNK, most + 1 - len(content)))):
            break
        content += chunk
    if len(content) <= most and answer.length:
        raise http.client.IncompleteRead(bytes(content), answer.length)
    answer.close()  # read by parts it does not notice its end, and the connection would wait for it
    if connection.sock is not None:
        connection.sock.settimeout(TIMEOUT_S)
    return bytes(content)


class GrpcClient(Client):
    """Over gRPC, by tritonclient, whose client of gRPC may be used from several threads."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        try:
            import tritonclient.grpc as triton
        except ModuleNotFoundError as exc:
            raise MissingPackageError("tritonclient", "ask a server by gRPC", "triton") from exc
        self._triton, self._name = triton, address.name
        self._client = triton.InferenceServerClient(
            f"dns:///{address.host}:{address.port}", ssl=address.encrypted, channel_args=_CHANNEL
        )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Errors of gRPC are ours."""
        try:
            yield
        except self._triton.service_pb2_grpc.grpc.RpcError as exc:
            raise self._unreachable(f"no answer ({one_line(exc)})") from exc
        except self._triton.InferenceServerException as exc:
            status, text = str(exc.status()).rpartition(".")[2], one_line(Exception(exc.message()))
            if status == "DEADLINE_EXCEEDED":
                raise self._unreachable(f"no answer within {TIMEOUT_S:g} s") from exc
            busy = _BUSY_TEXT.search(text) if status == "UNAVAILABLE" else None
            if busy or (status == "RESOURCE_EXHAUSTED" and "larger than max" not in text):  # the message, gRPC means
                raise Busy(f"{_BUSY[int(busy[1] or 503) if busy else 429]} ({text})") from exc
            if _GONE.search(text):
                raise Refused(text) from exc
            if status == "UNAVAILABLE" and "parsing HTTP" not in text:
                raise self._unreachable(f"no answer ({text.rpartition(': ')[2]})") from exc
            if status in ("UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN"):
                raise DeviceError(f"{self.address}: what answers does not speak Triton's gRPC; {_PORTS}") from exc
            raise Refused(text) from exc

    def _server(self) -> str:
        with self._asking():
            told = self._client.get_server_metadata(client_timeout=TIMEOUT_S)
        return f"{told.name} {told.version}"

    def _tensors(self) -> tuple[Tensors, Tensors]:
        with self._asking():
            told = self._client.get_model_metadata(self._name, client_timeout=TIMEOUT_S)
        inputs, outputs = (
            {one.name: (str(one.datatype), tuple(one.shape)) for one in side} for side in (told.inputs, told.outputs)
        )
        return inputs, outputs

    def _ready(self) -> bool:
        with self._asking():
            return bool(self._client.is_model_ready(self._name, client_timeout=TIMEOUT_S))

    def _config(self) -> tuple[int, Mapping[str, str], bool]:
        with self._asking():
            told = self._client.get_model_config(self._name, client_timeout=TIMEOUT_S).config
        parameters = {key: str(value.string_value) for key, value in told.parameters.items()}
        return int(told.max_batch_size), parameters, bool(told.response_cache.enable)

    def _states(self) -> dict[str, str]:
        with self._asking():
            told = self._client.get_model_repository_index(client_timeout=TIMEOUT_S)
        return {one.name: str(one.reason) for one in told.models}

    def _answer(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[Any]) -> Any:
        given = []
        for name, values in inputs.items():
            tensor = self._triton.InferInput(name, list(values.shape), DATATYPES[str(values.dtype)])
            tensor.set_data_from_numpy(np.ascontiguousarray(values))
            given.append(tensor)
        with self._asking():
            return self._client.infer(self._name, given, outputs=list(outputs), client_timeout=TIMEOUT_S)

    def infer(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], most: int) -> dict[str, NDArray[Any]]:
        answer = self._answer(inputs, [self._triton.InferRequestedOutput(name) for name in outputs])
        found = {name: answer.as_numpy(name) for name in outputs}
        if lacking := [name for name, values in found.items() if values is None]:
            raise Refused(f"its answer has no {', '.join(lacking)}")
        return {name: np.array(values) for name, values in found.items()}

    def classes(self, inputs: Mapping[str, NDArray[Any]], output: str, count: int) -> list[str]:
        answer = self._answer(inputs, [self._triton.InferRequestedOutput(output, class_count=count)])
        return [text.decode(errors="replace") for text in answer.as_numpy(output).ravel().tolist()]

    def statistics(self) -> Statistics:
        with self._asking():
            told = self._client.get_inference_statistics(self._name, client_timeout=TIMEOUT_S).model_stats[0]
        own = told.inference_stats
        return Statistics(own.success.count, told.inference_count, told.execution_count, own.cache_hit.count)

    def close(self) -> None:
        """Close the channel."""
        self._client.close()
