"""The service of examples/service.py as a process, asked over real connections: it answers as the predictor does."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rest_deploy.errors import ImageError, PredictorError
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.predictor import Predictor
from rest_deploy.specs import ImageSize, InputKind, Preprocessing
from tests.conftest import IMAGES, ROOT, TINY

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")


from examples import service as example

_TIMEOUT = 120  # of a request to a server that hangs, in seconds
_AT_ONCE = 64


@dataclass
class Service:
    """A running one."""

    process: subprocess.Popen[str]
    port: int
    log: list[str]

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Status and JSON of one request by a connection of its own."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)) as connection:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def classify(self, body: bytes) -> tuple[int, Any]:
        """Of one picture."""
        return self.ask("POST", "/classify", body)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that resizes pictures itself; its verification is of other tests."""
    path = tmp_path_factory.mktemp("service") / "tiny.onnx"
    steps = Preprocessing("crop", ImageSize(48, 64))
    return run_export(ExportRequest(TINY, path, input=InputKind.PIXELS, labels="none", preprocessing=steps)).path


@pytest.fixture(scope="module")
def predictor(file: Path) -> Iterator[Predictor]:
    """What the service must agree with."""
    with Predictor(file) as opened:
        yield opened


@pytest.fixture(scope="module")
def service(file: Path) -> Iterator[Service]:
    """As its docstring starts it, on a port that is free; it says on which, and goes when it is told."""
    argv = [sys.executable, "-m", "uvicorn", "examples.service:app", "--port", "0", "--limit-concurrency", "100"]
    process = subprocess.Popen(
        argv,
        cwd=ROOT,
        env=os.environ | {"ARTIFACT": str(file)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    log: list[str] = []
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
            break
    else:
        pytest.fail(f"the service ended with {process.wait()}: {''.join(log)}")
    reader = threading.Thread(target=log.extend, args=(process.stderr,))
    reader.start()
    try:
        yield Service(process, int(found[1]), log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_TIMEOUT)
        reader.join()
        process.stderr.close()
    assert "Traceback" not in "".join(log), "".join(log)


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def noise(*shape: int) -> Image.Image:
    """A picture of that shape."""
    return Image.fromarray(np.random.default_rng(shape).integers(0, 256, shape, np.uint8))


@pytest.mark.slow
def test_many_at_once_get_their_own_answers(service: Service, predictor: Predictor) -> None:
    bodies = [path.read_bytes() for path in sorted(IMAGES.glob("*.[jp][pn]g"))]
    bodies += [encoded(noise(*shape)) for shape in ((1, 1, 3), (48, 64, 3), (31, 200, 3), (333, 222, 3), (5, 700, 3))]
    wanted = [predictor.classify(body) for body in bodies]
    assert len({str(answer) for answer in wanted}) == len(bodies) == 8
    together = threading.Barrier(_AT_ONCE)

    def ask(number: int) -> tuple[int, Any]:
        together.wait(_TIMEOUT)
        return service.classify(bodies[number % len(bodies)])

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(ask, range(_AT_ONCE)))
    assert answers == [(200, wanted[number % len(bodies)]) for number in range(_AT_ONCE)]


#: Not RGB in 8 bits, or a strange shape: taken, and answered as the predictor does.
ODD = {
    "rgba": encoded(noise(50, 70, 4)),
    "grey": encoded(noise(50, 70)),
    "16-bit grey": encoded(Image.fromarray(np.arange(3500, dtype=np.uint16).reshape(50, 70) * 18)),
    "palette": encoded(noise(50, 70, 3).quantize(16)),
    "100000x1": encoded(noise(1, 100_000, 3)),
    "1x100000": encoded(noise(100_000, 1, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_answered(service: Service, predictor: Predictor, name: str) -> None:
    assert service.classify(ODD[name]) == (200, predictor.classify(ODD[name]))


def _png(width: int, height: int) -> bytes:
    """A PNG that says it is of that size, and has nearly no pixels."""
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(16))):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content


_WHOLE = encoded(noise(50, 70, 3))
#: Body -> a fact in the line that says why it is not taken.
BAD = {
    "truncated": (_WHOLE[: len(_WHOLE) // 2], "damaged"),
    "only a signature": (_WHOLE[:8], "image"),
    "nothing": (b"", "image"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "not an image"),
    "float": (encoded(Image.fromarray(np.zeros((50, 70), np.float32)), "TIFF"), "float pixels"),
    "no height": (_png(5, 0), "image"),
    "a bomb": (_png(100_000, 100_000), "10,000,000,000 pixels"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_in_a_line(service: Service, predictor: Predictor, name: str) -> None:
    body, fact = BAD[name]
    with pytest.raises(ImageError) as refusal:
        predictor.classify(body)
    assert service.classify(body) == (400, {"detail": str(refusal.value)})
    assert fact in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_too_many_bytes_are_refused(service: Service) -> None:
    status, answer = service.classify(bytes((16 << 20) + 1))
    assert status == 413
    assert "16,777,216" in answer["detail"]


@pytest.mark.slow
def test_a_slow_client_holds_up_nobody(service: Service, predictor: Predictor) -> None:
    body = ODD["rgba"]
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", service.port), _TIMEOUT) as slow:
        slow.sendall(head + body[:100])
        assert service.classify(ODD["grey"])[0] == 200
        slow.sendall(body[100:])
        answer = b"".join(iter(lambda: slow.recv(1 << 16), b""))
    assert json.loads(answer.split(b"\r\n\r\n")[1]) == predictor.classify(body)


def test_faults_of_the_process_are_not_the_clients() -> None:
    answer = asyncio.run(example.refused(None, PredictorError("memory is short")))  # type: ignore[arg-type]
    assert answer.status_code == 503
    assert json.loads(answer.body) == {"detail": "memory is short"}


@pytest.mark.slow
def test_a_client_that_goes_away_is_no_error(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), _TIMEOUT) as gone:
        gone.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    assert service.ask("GET", "/health")[0] == 200  # what it logged is read when it has ended


@pytest.mark.slow
def test_its_health_is_what_the_record_says(service: Service, predictor: Predictor) -> None:
    info = predictor.info
    expected = {"model": info.model, "precision": "fp32", "classes": 7, "weights": info.weights.sha256}
    assert service.ask("GET", "/health") == (200, expected)


@pytest.mark.slow
def test_without_a_good_file_it_does_not_start(tmp_path: Path) -> None:
    env = os.environ | {"ARTIFACT": str(tmp_path / "none.onnx")}
    argv = [sys.executable, "-m", "uvicorn", "examples.service:app", "--port", "0"]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    assert done.returncode != 0
    assert "none.onnx: no such file" in done.stderr
