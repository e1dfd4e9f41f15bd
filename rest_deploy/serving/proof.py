"""Proof of a repository: a real server is started on it, asked from all sides, and must answer as the artifacts do."""

from __future__ import annotations

import http.client
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.address import Address
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.errors import (
    ConfigError,
    DeviceError,
    MissingPackageError,
    RestDeployError,
    VerificationError,
)
from rest_deploy.nvidia import find_gpu
from rest_deploy.runtimes.kserve import Client, Statistics, open_client
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.runtimes.triton import SHA256_KEY, TritonRuntime
from rest_deploy.serving.model import Model, server_arguments
from rest_deploy.specs import LOGITS, InputKind
from rest_deploy.verification.reference import Case, cases_of, synthetic_images

LOOPBACK = "127.0.0.1"
PROTOCOLS = ("http", "grpc")
#: A server loads models and runs warm-ups before it answers; a plan of gigabytes takes a minute.
_START_S = 300.0
_STOP_S = 30.0
_TRIES = 3
_LOOKS = 1000
_LOOK_S, _LOOK_AT_MOST_S = 0.1, 2.0
#: Requests of each size by each protocol, and how many of all are under way at a time.
_REQUESTS, _AT_ONCE = 4, 8
#: Pixels of the largest input that is tried: the largest take seconds each, and say nothing of a configuration.
_MOST_PIXELS = 1 << 21
_SEED = 0


_Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Server:
    """A server that runs: its ports, and its process."""

    ports: dict[str, int]
    process: _Process

    def address(self, protocol: str, name: str) -> Address:
        """Of one of its models."""
        return Address.parse(f"{protocol}://{LOOPBACK}:{self.ports[protocol]}/{name}")


def prove(
    folder: Path, models: Sequence[Model], *, verify: bool = True
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Serve a repository and compare each model with its artifact.

    Args:
        folder: The repository.
        models: All that are in it.
        verify: Whether to.

    Returns:
        Name of each model -> what was found, for its ``proof.json``; and what the user should know.

    Raises:
        ConfigError: There is no server at the path that was given.
        MissingPackageError: A server is there, and what asks it by gRPC is not installed.
        VerificationError: It did not start, or answered otherwise.
    """
    server = find_server(models[0].config.server) if verify else None
    why_not = "not asked for" if not verify else _why_not(server, models)
    if server is None or why_not:
        note = (f"not served here: {why_not}",) if verify else ()
        return {model.name: {"server": None, "why_not": why_not} for model in models}, note
    with running(server, folder, models) as started:
        return {model.name: _prove(folder, model, started) for model in models}, ()


def find_server(given: str | None) -> Path | None:
    """The program ``tritonserver``: as given, or on PATH; None where there is none.

    Raises:
        ConfigError: What was given is none.
    """
    found = shutil.which(given or "tritonserver")
    if given is not None and found is None:
        raise ConfigError(f"server {given}: no program that can be run; give the path of tritonserver")
    return Path(found) if found is not None else None


def _why_not(server: Path | None, models: Sequence[Model]) -> str:
    """Why a repository cannot be served here; empty where it can."""
    if server is None:
        return "no tritonserver on PATH; --server FILE names one, and rest-verify asks one that runs"
    if any(model.on_gpu for model in models):
        try:
            find_gpu(0)
        except (DeviceError, MissingPackageError) as exc:
            return f"it is for a GPU: {exc}"
    return ""


# ---- the server


@contextmanager
def running(server: Path, folder: Path, models: Sequence[Model], *more: str) -> Iterator[Server]:
    """Start a server of a repository on loopback alone, and stop it by its process, however the block ends.

    Raises:
        VerificationError: It did not become ready; says what it logged last.
    """
    with tempfile.TemporaryDirectory(prefix="rest-serve") as place, ExitStack() as stack:
        log, name = Path(place) / "log", f"rest-deploy-{secrets.token_hex(8)}"
        tries = 0
        while True:  # another program may take a port between our look and the server's
            ports, tries = _free_ports(), tries + 1
            process = _started(server, folder, ports, log, [f"--id={name}", *server_arguments(models), *more])
            stack.callback(_stop, process)
            if _wait(process, ports["http"], name):
                break
            said = _last_error(log, process.poll())
            stack.close()  # ends it now, and not again later, when its number may be another's
            if "in use" not in said.lower() or tries == _TRIES:
                raise VerificationError(f"{folder.name}: the server did not start: {said}")
        yield Server(ports, process)


def _started(server: Path, folder: Path, ports: dict[str, int], log: Path, more: Sequence[str]) -> _Process:
    command = [
        str(server),
        f"--model-repository={folder}",
        f"--http-address={LOOPBACK}",
        f"--http-port={ports['http']}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={ports['grpc']}",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
        *more,
    ]
    with log.open("wb") as file:
        try:
            return subprocess.Popen(  # noqa: S603  # the server that the user has, without a shell
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as exc:
            raise ConfigError(f"server {server}: cannot be run: {exc.strerror}; give another with --server") from exc


def _free_ports() -> dict[str, int]:
    with ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in PROTOCOLS}
        for own in sockets.values():
            own.bind((LOOPBACK, 0))
        return {name: own.getsockname()[1] for name, own in sockets.items()}


def _wait(process: _Process, port: int, name: str) -> bool:
    """Whether a server of a name becomes ready before it ends, or takes too long."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if name.encode() in (_get(port, "/v2") or b"") and _get(port, "/v2/health/ready") is not None:
            return True
        try:
            process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            continue
        return False
    return False


def _get(port: int, path: str) -> bytes | None:
    """What a server answers; None where nothing does, or it says that it is not ready."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_LOOK_AT_MOST_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        content = answer.read(1 << 20)
    except (OSError, http.client.HTTPException):
        return None  # it does not listen yet, or another program does
    finally:
        connection.close()
    return content if answer.status == http.client.OK else None


def _last_error(log: Path, code: int | None) -> str:
    """What a server said of its end: why a model was not loaded, else its last error, else its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if "CudaDriverHelper" not in line]  # said wherever there is no GPU, at any moment
    wrong = [line for line in lines if re.match(r"E\d{4} |error", line)]
    loading = [line for line in wrong if re.search("failed to load '|Poll failed|in use", line)]
    if not wrong:  # as where it crashed
        how = f"not ready within {_START_S:g} s" if code is None else f"it ended with exit code {code}"
        wrong = [f"{how}; its last line: {lines[-1]}" if lines else how]
    said = (loading or wrong)[-1]
    said = re.sub(r"^E\d{4} \S+ \d+ [\w.]+:\d+\] ", "", said)
    return " ".join(said.replace('"', "").split())[:300]


def _stop(process: _Process) -> None:
    """End a server, and what it started, by their process group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    with suppress(ProcessLookupError, PermissionError):  # what is left of its group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# ---- what it is asked


@dataclass(frozen=True)
class _Question:
    """An input, and what the artifact gives for it."""

    case: Case
    values: NDArray[Any]
    answers: dict[str, NDArray[np.float32]]


def _prove(folder: Path, model: Model, server: Server) -> dict[str, Any]:
    """Ask a model by each protocol, several sizes at once.

    Raises:
        VerificationError: It is not what its artifact is.
    """
    try:
        with ExitStack() as stack:
            remotes: dict[str, TritonRuntime] = {}
            for protocol in PROTOCOLS:
                remotes[protocol] = TritonRuntime(server.address(protocol, model.name), "server")
                stack.callback(remotes[protocol].close)
            told = remotes["http"].served
            for remote in remotes.values():
                _check_identity(folder, model, remote)
            first, *others = _questions(model, 1 + _REQUESTS)
            # requests of one size stand side by side, so that the server runs them together
            more = sorted((own for asked in others for own in asked), key=lambda own: own.values.shape)
            client = open_client(server.address("http", model.name))
            stack.callback(client.close)
            before = client.statistics()
            alone = {name: _ask(model, remote, first, 1) for name, remote in remotes.items()}
            together = {name: _ask(model, remote, more, _AT_ONCE) for name, remote in remotes.items()}
            requests = len(PROTOCOLS) * (len(first) + len(more))
            counted = counted_since(client, before, requests)
            if model.info.labels is not None:
                for protocol in PROTOCOLS:
                    _check_labels(model, server.address(protocol, model.name), first[0])
    except (VerificationError, ConfigError, MissingPackageError):
        raise
    except RestDeployError as exc:
        raise VerificationError(f"{model.name}: the server does not answer as the artifact does: {exc}") from exc
    return {
        "server": f"triton {told.server.rpartition(' ')[2]}",
        "protocols": list(PROTOCOLS),
        "inputs": [str(question.case) for question in first],
        **asdict(counted),
        "largest_difference": {"alone": alone, "together": together},
        "allowed": f"{model.info.recipe.logits_tolerance:g} of an output's largest value, or of 1",
        "labels": model.info.labels is not None,
    }


def counted_since(client: Client, before: Statistics, requests: int) -> Statistics:
    """What a server counted of so many requests, once it has counted them all, or has been asked often enough."""
    for _ in range(_LOOKS):
        counted = client.statistics().since(before)
        if counted.requests >= requests:
            break
    return counted


def _check_identity(folder: Path, model: Model, remote: TritonRuntime) -> None:
    """The server has the record and the file that were meant."""
    if replace(remote.info, format=model.info.format) != model.info:
        raise VerificationError(f"{model.name}: the server tells another record than the artifact's; make it again")
    found = sha256_of(folder / model.name / "1" / model.file_name)
    if not remote.served.parameters.get(SHA256_KEY) == model.sha256 == found:
        raise VerificationError(f"{model.name}: its file is another than its configuration names; make it again")


def _questions(model: Model, rounds: int) -> list[list[_Question]]:
    """Rounds of inputs of several sizes and batches, with the artifact's own answers."""
    cases = [case for case in cases_of(model.info) if case.size.height * case.size.width <= _MOST_PIXELS]
    cases = [case for case in cases if case.batch <= model.max_batch] or [Case(1, cases[0].size)]
    rng = np.random.default_rng(_SEED)
    device = None if model.is_plan or not model.on_gpu else "cuda"
    with open_runtime(model.file, device) as artifact:
        inputs = [[(case, _input(model, rng, case)) for case in cases] for _ in range(rounds)]
        return [[_Question(case, values, artifact.run(values)) for case, values in own] for own in inputs]


def _input(model: Model, rng: np.random.Generator, case: Case) -> NDArray[Any]:
    if model.info.input_kind is not InputKind.FLOAT:
        return rng.integers(0, 256, model.info.input_shape(*case.sizes), np.uint8)
    return synthetic_images(rng, case, model.info.channels)


def _ask(model: Model, remote: TritonRuntime, questions: Sequence[_Question], at_once: int) -> dict[str, float]:
    """Largest difference of each output, over requests of which so many are under way at once.

    Raises:
        VerificationError: One is over what another computer may differ by.
    """
    largest = {output.name: 0.0 for output in model.info.outputs}
    lock = threading.Lock()

    def ask(question: _Question) -> None:
        for name, values in remote.run(question.values).items():
            wanted = question.answers[name]
            apart = float(np.abs(values - wanted).max(initial=0.0))
            allowed = model.info.recipe.logits_tolerance * max(1.0, float(np.abs(wanted).max(initial=0.0)))
            if not apart <= allowed:  # NaN is not
                raise VerificationError(
                    f"{model.name}: for an input of {question.case} the server's {name} differs from the artifact's by "
                    f"{apart:.3g}, allowed {allowed:.3g}; is it the same file?"
                )
            with lock:
                largest[name] = max(largest[name], apart)

    with ThreadPoolExecutor(at_once, "rest_deploy-proof") as pool:
        list(pool.map(ask, questions))
    return largest


def _check_labels(model: Model, address: Address, question: _Question) -> None:
    """Every class has its label on the server.

    Raises:
        VerificationError: One has another.
    """
    info, own = model.info, question.values[:1]
    client = open_client(address)
    try:
        told = client.classes({info.input.name: own.astype(info.input.dtype)}, LOGITS, info.num_classes)
    finally:
        client.close()
    found = {int(number): label for _, number, label in (text.split(":", 2) for text in told if text.count(":") >= 2)}
    for number, label in enumerate(info.labels or ()):
        if label and found.get(number) != label:
            raise VerificationError(
                f"{model.name}: class {number} is {label!r} in the record, and {found.get(number)!r} on the server"
            )
