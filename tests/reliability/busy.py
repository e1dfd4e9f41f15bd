"""One predictor under load, many opened and closed: python -m tests.reliability.busy load|open ARTIFACT N

Runs in a process of its own, whose memory is then that of the predictor. Prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy import Predictor
from tests.reliability.process import open_files, resident, threads

_THREADS = 64
_SIZES = [(1, 1), (7, 5), (16, 16), (32, 32), (33, 47), (64, 64), (96, 50), (64, 128), (128, 128), (57, 181)]
#: Calls until the runtime's memory has met the worst mix of calls at one time; PyTorch's, one at a time, has at once.
_WARM_UP = {".onnx": 15_000, ".safetensors": 300}


def batches() -> list[NDArray[np.float32]]:
    """Inputs of every size, of one image and of three."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal((batch, 3, *size)).astype(np.float32) for size in _SIZES for batch in (1, 3)]


def load(artifact: Path, calls: int) -> dict[str, Any]:
    """So many calls from 64 threads, compared with the answers of calls one by one."""
    inputs = batches()
    with Predictor(artifact) as predictor:
        expected = [predictor.logits(batch) for batch in inputs]
        warm = _WARM_UP[artifact.suffix]
        generator = random.Random(0)
        order = [generator.randrange(len(inputs)) for _ in range(warm + calls)]

        def call(number: int) -> bool:
            return bool(np.array_equal(predictor.logits(inputs[number]), expected[number]))

        memory = []
        with ThreadPoolExecutor(_THREADS) as pool:
            equal = sum(pool.map(call, order[:warm]))
            memory.append(resident())
            parts = 4
            rest = order[warm:]
            for part in range(parts):
                equal += sum(pool.map(call, rest[part::parts]))
                memory.append(resident())
    return {"calls": warm + calls, "equal": equal, "sizes": len(inputs), "memory": memory}


def open_and_close(artifact: Path, times: int) -> dict[str, Any]:
    """Open a predictor, call it and close it, so many times."""
    batch = batches()[6]
    held = []
    for number in range(times):
        with Predictor(artifact) as predictor:
            predictor.logits(batch)
        del predictor
        if number + 1 in (times // 4, times):
            gc.collect()
            held.append((resident(), open_files(), threads()))
    return {"times": times, "held": held}


if __name__ == "__main__":
    action = {"load": load, "open": open_and_close}[sys.argv[1]]
    print(json.dumps(action(Path(sys.argv[2]), int(sys.argv[3]))))
