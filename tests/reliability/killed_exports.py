"""Kill exports at random moments, and look what there is.

python -m tests.reliability.killed_exports FOLDER COUNT SIGNAL...

An export runs in a child of this process, which has everything loaded, so that the moments are those of the export and
not of imports. But in the soak its network is traced once, so that the moments are those of what follows.
Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxsim  # noqa: F401  (loaded here, once, and not in every child)
import torch._dynamo
import torch.onnx._internal.exporter._core  # noqa: F401

from rest_deploy import Predictor
from rest_deploy.artifact.files import check_writable
from rest_deploy.artifact.workspace import remove_abandoned
from rest_deploy.cli import export as command
from rest_deploy.errors import RestDeployError
from tests.once import shared_by_children

BATCH = np.random.default_rng(0).standard_normal((2, 3, 33, 47)).astype(np.float32)


def run_killed(arguments: list[str], moment: float | None, death: signal.Signals) -> tuple[int, float]:
    """Run rest-export in a child, which gets a signal after so many seconds; None lets it end.

    Returns:
        Its exit code, that of a signal negative, and how long it took.
    """
    start = time.perf_counter()
    child = os.fork()
    if not child:
        code = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = command.main(arguments)
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        except KeyboardInterrupt:  # before the command was ready for it
            code = 130
        finally:
            os._exit(code)
    if moment is not None:
        handle = os.pidfd_open(child)
        if not select.select([handle], [], [], moment)[0]:
            os.kill(child, death)
        os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, time.perf_counter() - start


def main(folder: Path, count: int, deaths: list[signal.Signals]) -> None:
    """Kill so many exports over an artifact that is there, and as many where none is."""
    shared_by_children()
    generator = random.Random(0)
    made, scratch = folder / "made", folder / "scratch"
    for place in (made, scratch):
        place.mkdir()
    tempfile.tempdir = str(scratch)  # inherited by the children
    output = made / "tiny.onnx"
    arguments = {name: ["--checkpoint", str(folder / f"{name}.safetensors"), "-o", str(output)] for name in ("a", "b")}
    whole, seconds = {}, 0.0
    for name in ("b", "a"):
        code, seconds = run_killed(arguments[name], None, deaths[0])
        if code:
            raise SystemExit(f"the export ended with {code}")
        whole[name] = output.read_bytes()
    expected = {name: _answer(folder, content) for name, content in whole.items()}
    found: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    bad: list[str] = []
    for number in range(count):
        before = "a" if number % 2 else None  # half of them over one that is there
        output.unlink(missing_ok=True)
        if before:
            output.write_bytes(whole[before])
        moment = generator.uniform(0, 1.1 * seconds)
        code, _ = run_killed(arguments["b"], moment, deaths[number // 2 % len(deaths)])
        codes[code] += 1
        outcome = _what_is_there(output, expected)
        found[outcome] += 1
        check_writable(output)  # as the next run begins
        remove_abandoned(scratch)
        litter = sorted({*os.listdir(made)} - {output.name}) + os.listdir(scratch)
        if outcome not in {before or "nothing", "b"} or litter:
            bad.append(f"after {moment:.3f} s: {outcome}, litter {litter}")
    print(json.dumps({"seconds": seconds, "found": found, "codes": codes, "bad": bad}))


def _answer(folder: Path, content: bytes) -> Any:
    path = folder / "whole.onnx"
    path.write_bytes(content)
    with Predictor(path) as predictor:
        return predictor.logits(BATCH)


def _what_is_there(path: Path, expected: dict[str, Any]) -> str:
    if not path.exists():
        return "nothing"
    try:
        with Predictor(path) as predictor:
            logits = predictor.logits(BATCH)
    except RestDeployError as exc:
        return f"broken: {exc}"
    return next((name for name, answer in expected.items() if np.array_equal(answer, logits)), "something else")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [signal.Signals[name] for name in sys.argv[3:]])
