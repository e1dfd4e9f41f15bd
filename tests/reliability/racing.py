"""Several processes write one name while others read it: python -m tests.reliability.racing exports|engines FOLDER N

Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rest_deploy.errors import RestDeployError
from tests.reliability.every_line import CASES, NEW, OLD, what_is_there, write_engine


def in_child(action: Callable[[], Any]) -> Callable[[], Any]:
    """Begin something in a child; gives what waits for it and gives what it gave."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        code = 1
        try:
            os.write(writing, json.dumps(action()).encode())
            code = 0
        except BaseException:
            traceback.print_exc()  # who waits sees the code alone
        finally:
            os._exit(code)
    os.close(writing)

    def wait() -> Any:
        with os.fdopen(reading, "rb") as pipe:
            content = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            raise RuntimeError(f"a child ended with {code}")
        return json.loads(content)

    return wait


def race_engines(folder: Path, writes: int) -> dict[str, Any]:
    """Four write an engine, two read it until they are done."""
    write_engine(folder, OLD)
    done = folder.with_name("done")
    found: Counter[str] = Counter()

    def write(content: bytes) -> None:
        for _ in range(writes):
            write_engine(folder, content)

    def read() -> Counter[str]:
        seen: Counter[str] = Counter()
        while not done.exists():
            seen[what_is_there(CASES["engine"], folder, old=True)] += 1
        return seen

    readers = [in_child(read) for _ in range(2)]
    writers = [in_child(lambda content=content: write(content)) for content in (OLD, NEW, OLD, NEW)]  # type: ignore[misc]
    try:
        for wait in writers:
            wait()
    finally:
        done.touch()  # or the readers would go on for ever, and with them whoever waits for what this process prints
    for wait in readers:
        found.update(wait())
    litter = sorted(set(os.listdir(folder)) - set(CASES["engine"].names))
    bad = [outcome for outcome in found if outcome not in ("old", "new")] + litter
    return {"reads": found.total(), "found": found, "bad": bad}


def race_exports(folder: Path, rounds: int) -> dict[str, Any]:
    """Two export to one name, one reads it until they are done."""
    from tests.once import shared_by_children
    from tests.reliability.killed_exports import BATCH, run_killed

    shared_by_children()
    made, scratch = folder / "made", folder / "scratch"
    for place in (made, scratch):
        place.mkdir()
    tempfile.tempdir = str(scratch)
    output, bad, reads = made / "tiny.onnx", [], 0
    for number in range(rounds):
        output.unlink(missing_ok=True)
        done = folder / f"done{number}"

        def one(name: str) -> int:
            arguments = ["--checkpoint", str(folder / f"{name}.safetensors"), "-o", str(output)]
            return run_killed(arguments, None, signal.SIGKILL)[0]

        def read(done: Path = done) -> dict[str, int]:
            from rest_deploy import Predictor

            seen: Counter[str] = Counter()
            while not done.exists():
                if not output.exists():
                    continue
                try:
                    with Predictor(output) as predictor:
                        seen[f"{predictor.info.weights.file}: {predictor.logits(BATCH).tobytes().hex()[:32]}"] += 1
                except RestDeployError as exc:
                    seen[f"broken: {exc}"] += 1
            return seen

        reader = in_child(read)
        writers = [in_child(lambda name=name: one(name)) for name in "ab"]  # type: ignore[misc]
        try:
            codes = [wait() for wait in writers]
        finally:
            done.touch()
        seen = reader()
        reads += sum(seen.values())
        bad += [name for name in seen if name.startswith("broken")] + [f"exit code {code}" for code in codes if code]
        files = Counter(name.partition(":")[0] for name in seen)
        bad += [f"two answers of {name}" for name, answers in files.items() if answers > 1]
        bad += sorted(set(os.listdir(made)) - {output.name}) + os.listdir(scratch)
    return {"reads": reads, "bad": bad}


if __name__ == "__main__":
    race = {"exports": race_exports, "engines": race_engines}[sys.argv[1]]
    place = Path(sys.argv[2])
    if sys.argv[1] == "engines":
        place /= "engines"
        place.mkdir()
    print(json.dumps(race(place, int(sys.argv[3]))))
