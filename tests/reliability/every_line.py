"""Replace files in children that die at each line of the code that does it.

python -m tests.reliability.every_line file|engine SIGNAL...

Prints one line of JSON: how many lines there are, and what was found after each death.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rest_deploy.artifact import engine_files, files, manifest, workspace
from rest_deploy.artifact.engine_files import replacing_engine
from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.artifact.manifest import manifest_path, read_engine, write_manifest
from rest_deploy.errors import ArtifactError
from tests.artifact.test_engine import make_record
from tests.artifact.test_info import make_info

#: Whose lines are counted: ours, and those of what removes and makes folders for us.
TRACED = frozenset(str(module.__file__) for module in (files, workspace, engine_files, manifest, shutil, tempfile))
OLD, NEW = b"old" * 1000, b"new" * 2000


@dataclass(frozen=True)
class Case:
    """Something that is replaced.

    Args:
        write: Put a content in place of what is there.
        read: The content that a user would get, None where there is nothing yet; raises where it is not whole.
        names: Of the files that there are at the end.
    """

    write: Callable[[Path, bytes], None]
    read: Callable[[Path], bytes | None]
    names: tuple[str, ...]


def write_file(folder: Path, content: bytes) -> None:
    """One file."""
    with replacing(folder / "a.onnx") as temporary:
        temporary.write_bytes(content)


def read_file(folder: Path) -> bytes | None:
    """What is in it."""
    path = folder / "a.onnx"
    return path.read_bytes() if path.exists() else None


def write_engine(folder: Path, content: bytes) -> None:
    """A plan and its manifest."""
    with replacing_engine(folder / "a.engine") as (plan, beside):
        plan.write_bytes(content)
        record = make_record(plan_sha256=sha256_of(plan), plan_bytes=len(content))
        write_manifest(beside, make_info(format="trt-rtx", extra={}, model=content[:3].decode(), engine=record))


def read_whole_engine(folder: Path) -> bytes | None:
    """The plan, once its manifest has been found to be of it."""
    path = folder / "a.engine"
    if not path.exists():  # whatever there is of a manifest
        return None
    file = read_engine(path)
    if file.info.model != file.plan[:3].decode():
        raise ArtifactError("a record of the other one")
    return file.plan


CASES = {
    "file": Case(write_file, read_file, ("a.onnx",)),
    "engine": Case(write_engine, read_whole_engine, ("a.engine", manifest_path("a.engine").name)),
}


def run_dying(action: Callable[[], None], line: int, death: signal.Signals) -> int:
    """Run an action in a child that gets a signal as it comes to a line.

    Args:
        action: What.
        line: Which of the lines that it comes to, from 1.
        death: The signal.

    Returns:
        What ``os.waitpid`` says of the child; 0 where the action ended before it came so far.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 99
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as the commands do
        signal.signal(signal.SIGINT, signal.default_int_handler)
        seen = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal seen
            if frame.f_code.co_filename not in TRACED:
                return None
            if event == "line":
                seen += 1
                if seen == line:
                    os.kill(os.getpid(), death)
            return trace

        sys.settrace(trace)
        try:
            action()
        finally:
            sys.settrace(None)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit:
        code = 143
    finally:
        os._exit(code)


def try_every_line(case: Case, *, old: bool, death: signal.Signals) -> dict[str, Any]:
    """Die at each line in turn; after each death look what there is, then write again and look for litter."""
    found: Counter[str] = Counter()
    bad: list[str] = []
    line = 0
    while True:
        line += 1
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if old:
                case.write(folder, OLD)
            status = run_dying(lambda folder=folder: case.write(folder, NEW), line, death)  # type: ignore[misc]
            if status == 0:
                return {"lines": line - 1, "found": found, "bad": bad}
            outcome = what_is_there(case, folder, old=old)
            litter = _after_the_next_run(case, folder)
            found[outcome] += 1
            if outcome not in ("old", "new", "nothing") or litter:
                bad.append(f"line {line}: {outcome}, litter {litter}, status {status}")


def what_is_there(case: Case, folder: Path, *, old: bool) -> str:
    """``"old"``, ``"new"``, ``"nothing"`` where nothing was there before, or what is wrong."""
    try:
        content = case.read(folder)
    except (ArtifactError, OSError) as exc:
        return f"broken: {exc}"
    if content is None:
        return "nothing" if not old else "lost"
    return {OLD: "old", NEW: "new"}.get(content, "something else")


def _after_the_next_run(case: Case, folder: Path) -> list[str]:
    case.write(folder, NEW)
    if case.read(folder) != NEW:
        return ["not written"]
    return sorted(set(os.listdir(folder)) - set(case.names))


def main(name: str, deaths: Iterable[signal.Signals]) -> None:
    """Try a case with each signal, over something that is there and over nothing."""
    told = {
        f"{'replacing' if old else 'first'}, {death.name}": try_every_line(CASES[name], old=old, death=death)
        for old in (True, False)
        for death in deaths
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], [signal.Signals[death] for death in sys.argv[2:]])
