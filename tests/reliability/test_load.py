"""A predictor in a server: many threads, many hours, many of them, and processes that fork."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rest_deploy import Predictor
from rest_deploy.errors import RestDeployError
from tests.reliability.conftest import Amount, Worker
from tests.reliability.record import Record

_FLAT = 0.02  # of memory: what it may grow by after the warm-up


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "checkpoint"])
def test_64_threads_get_the_answers_of_one(  # noqa: PLR0917
    kind: str, tiny_onnx: Path, tiny_checkpoint: Path, worker: Worker, amount: Amount, record: Record
) -> None:
    artifact = {"onnx": tiny_onnx, "checkpoint": tiny_checkpoint}[kind]
    calls = amount(1000, 10_000 if kind == "onnx" else 2000)
    told = worker("busy", "load", artifact, calls)
    assert told["equal"] == told["calls"] > calls
    first, *later = told["memory"]
    assert max(later) < (1 + _FLAT) * first, told["memory"]
    record.add(
        f"calls from 64 threads, {told['sizes']} sizes mixed ({kind})",
        told["calls"],
        f"all equal to the sequential answers; memory after the warm-up {max(later) / first - 1:+.2%}",
    )


@pytest.mark.slow
def test_opening_and_closing_leaves_nothing(tiny_onnx: Path, worker: Worker, amount: Amount, record: Record) -> None:
    times = amount(40, 200)
    told = worker("busy", "open", tiny_onnx, times)
    (memory, *others), (grown, *others_then) = told["held"]
    assert others == others_then
    assert grown < (1 + _FLAT) * memory
    record.add(
        "a predictor opened, called and closed",
        times,
        f"memory {grown / memory - 1:+.2%} after the first quarter, no thread, no file handle more",
    )


@pytest.mark.parametrize("kind", ["onnx", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_a_fork_after_loading(
    kind: str, tiny_onnx: Path, tiny_checkpoint: Path, worker: Worker, record: Record
) -> None:
    artifact = {"onnx": tiny_onnx, "checkpoint": tiny_checkpoint}[kind]
    told = worker("forked", artifact)
    assert told.pop("use") == (
        f"refused: {artifact}: it was opened before this process was forked, and its threads are not here; open it in "
        "each process, or start processes by spawn"
    )
    two = told.pop("open_with_two_threads")
    assert two == "True" if kind == "onnx" else two.startswith("refused: threads is 2; in a process that was forked")
    assert told == {"close": "closed", "drop": "dropped", "open_own": "True", "inherit": "ended", "parent": "True"}
    record.add(
        f"a fork after loading ({kind})", 6, "using it in the child is an error; all else works, and nothing hangs"
    )


@pytest.mark.parametrize("kind", ["onnx", "checkpoint"])
def test_closing_while_16_threads_call(kind: str, tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    """Each call gives the answer, or says that the predictor is closed."""
    predictor = Predictor({"onnx": tiny_onnx, "checkpoint": tiny_checkpoint}[kind])
    batch = np.ones((1, 3, 32, 32), np.float32)
    expected = predictor.logits(batch)
    begun = threading.Event()

    def call() -> str:
        for _ in range(1000):
            try:
                if not np.array_equal(predictor.logits(batch), expected):
                    return "another answer"
                begun.set()
            except RestDeployError as exc:
                return str(exc)
        return "never closed"

    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(call) for _ in range(16)]
        begun.wait()
        predictor.close()
        told = {call.result() for call in calls}
    assert len(told) == 1
    assert told.pop().endswith("this predictor is closed; open the artifact again")
