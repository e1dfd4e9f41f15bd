"""Replace files in children that die inside of a write, while somebody holds the old ones open.

python -m tests.reliability.half_written FOLDER MOST FAULT[=FIRST],... WRITER...

A child gets a limit on the size of its files as it opens one for writing, so that the kernel ends it in the middle of
the bytes. At most MOST files that each writer opens are tried so. With a fault planted, which may be in the FIRST of
the writers alone, this must find something. Prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import mmap
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from rest_deploy.artifact import engine_files, files
from rest_deploy.artifact.manifest import manifest_path
from tests.reliability.every_line import NEW, OLD, write_engine, write_file

CONTENT = OLD, NEW
_SHARES = (0.0, 0.5)  # of the old file's bytes that are written before the end, and one more
_FEWER = 3  # exit code of a child that opened fewer files
Write = Callable[[Path, int], None]


def _records(folder: Path, version: int) -> None:
    from rest_deploy.cli.tables import write_outputs
    from tests.report.samples import verification

    names = [folder / f"v.{suffix}" for suffix in ("json", "csv", "md")]
    rows = [{"what": f"{version}{number}", "error": number} for number in range(200)]
    notes = [f"note {version}"] * 100
    write_outputs(names, verification(labelled=bool(version)), lambda: ((), notes), lambda: rows)


def _report(folder: Path, version: int) -> None:
    from rest_deploy.report import write_report
    from tests.report.samples import benchmark, verification

    write_report(folder / "r.html", verification=verification(), benchmark=benchmark() if version else None)


def _sensitivities(folder: Path, version: int) -> None:
    from rest_deploy.pipeline.sensitivities import Sensitivity, write_sensitivities
    from rest_deploy.specs import Precision

    rows = [Sensitivity(f"part{version}{number}", 1 / (1 + number), 0.9) for number in range(30)]
    for suffix in ("csv", "json"):
        write_sensitivities(folder / f"{suffix}.{suffix}", rows, Precision.FP16, Precision.FP32)


def _caches(folder: Path, version: int) -> None:
    from rest_deploy.export.engine.builder import save_timing_cache
    from rest_deploy.runtimes.tensorrt_open import LoadedEngine

    kept: Any = SimpleNamespace(serialize=lambda: CONTENT[version])
    save_timing_cache(folder / "timing.cache", SimpleNamespace(get_timing_cache=lambda: kept))
    engine: Any = SimpleNamespace(_cache=kept, cache_path=folder / "a.engine.cache")
    LoadedEngine.save_cache(engine)


@functools.cache
def _tiny(version: int) -> Any:
    import torch

    from rest_deploy.models.factory import create_model
    from tests.conftest import TINY, lively

    torch.set_num_threads(1)  # those of OpenMP are not there in a child
    return lively(create_model(TINY), version)


def _checkpoint(folder: Path, version: int) -> None:
    from rest_deploy.models.card import Card
    from rest_deploy.models.checkpoint import save_checkpoint

    save_checkpoint(folder / "a.safetensors", _tiny(version).state_dict(), Card("tiny"))


def _onnx(folder: Path, version: int, precision: str = "fp32", takes: str = "float") -> None:
    from rest_deploy.pipeline import ExportRequest, run_export

    beside = folder.parent / f"checkpoint{version}"
    if not beside.exists():
        beside.mkdir()
        _checkpoint(beside, version)
    untimed = {} if precision == "fp32" else {"compare_speed": False}  # or no two files would be the same
    request = ExportRequest(
        None,
        folder / "a.onnx",
        checkpoint=beside / "a.safetensors",
        precision=precision,
        input=takes,
        verify=False,
        options=untimed,
    )
    run_export(request)


def _plain(folder: Path, version: int) -> None:
    from rest_deploy.export.formats import Exporter, FormatRequest, Made
    from rest_deploy.specs import Precision
    from tests.artifact.test_info import make_info

    made = folder.parent / f"made{version}"
    made.write_bytes(CONTENT[version])
    exporter: Any = SimpleNamespace(request=FormatRequest("toy", Precision.FP32, None))
    Exporter.place(exporter, Made(made, make_info()), folder / "a.toy")


WRITERS: dict[str, Write] = {
    "a file": lambda folder, version: write_file(folder, CONTENT[version]),
    "an engine and its manifest": lambda folder, version: write_engine(folder, CONTENT[version]),
    "records as JSON, CSV and Markdown": _records,
    "a report": _report,
    "tables of sensitivity and their plots": _sensitivities,
    "caches of TensorRT": _caches,
    "a file of a format without a record": _plain,
    "a checkpoint": _checkpoint,
    "an ONNX file": _onnx,
    "an ONNX file in FP16": functools.partial(_onnx, precision="fp16"),
    "an ONNX file in INT8": functools.partial(_onnx, precision="int8"),
    "an ONNX file that takes pictures": functools.partial(_onnx, takes="pixels"),
}


@contextlib.contextmanager
def _replacing_in_place(path: str | Path) -> Iterator[Path]:
    yield Path(path)


@contextlib.contextmanager
def _replacing_engine_in_place(path: str | Path) -> Iterator[tuple[Path, Path]]:
    yield Path(path), manifest_path(path)


@contextlib.contextmanager
def planted(fault: str) -> Iterator[None]:
    """``"in place"``: targets are written themselves; ``"copied"``: over the old bytes; ``"none"``."""
    swaps: list[tuple[Any, Any]] = {
        "none": [],
        "in place": [
            (files.replacing, _replacing_in_place),
            (engine_files.replacing_engine, _replacing_engine_in_place),
        ],
        "copied": [(files.move, shutil.copyfile)],
    }[fault]
    with contextlib.ExitStack() as stack:
        for honest, faulty in swaps:
            for name, module in list(sys.modules.items()):
                if name.startswith(("rest_deploy", "tests")) and vars(module).get(honest.__name__) is honest:
                    stack.enter_context(mock.patch.object(module, honest.__name__, faulty))
        yield


@dataclass
class Held:
    """Files that somebody has open, and one of them mapped, from before they are replaced."""

    folder: Path
    old: dict[str, bytes]
    open: dict[str, tuple[int, mmap.mmap]] = field(default_factory=dict)

    def __enter__(self) -> Held:
        for name in self.old:
            handle = os.open(self.folder / name, os.O_RDONLY)
            self.open[name] = handle, mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        return self

    def __exit__(self, *_: object) -> None:
        for handle, view in self.open.values():
            view.close()
            os.close(handle)

    def changed(self) -> list[str]:
        """Those of which their holder no longer reads the old content."""
        found = []
        for name, (handle, view) in self.open.items():
            size = os.fstat(handle).st_size
            # a view past the end of a file that was cut ends the process, so it comes last
            whole = size == len(self.old[name]) and os.pread(handle, size + 1, 0) == self.old[name] == view[:]
            if not whole:
                found.append(name)
        return found


def contents(folder: Path) -> dict[str, bytes]:
    """Name of each file -> what is in it."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def write_in_child(write: Write, folder: Path, version: int, number: int = 0, share: float = 0.0) -> int:
    """Write in a child that dies inside of a file; its exit code, that of a signal negative.

    Args:
        write: What.
        folder: Where.
        version: Which one.
        number: Of the file, as they are opened for writing, from 1; 0 for none.
        share: Of the bytes that the file of that name had.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code, seen = 99, 0

    def limit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != "open" or not isinstance(arguments[0], str) or not arguments[0].startswith(str(folder)):
            return
        path, flags = Path(arguments[0]), int(arguments[2])
        if not flags & (os.O_WRONLY | os.O_RDWR):
            return
        seen += 1
        if seen == number:
            kept = path.stat().st_size if path.exists() and not flags & os.O_TRUNC else 0
            before = folder / path.name
            more = int(share * before.stat().st_size) if before.exists() else 0
            resource.setrlimit(resource.RLIMIT_FSIZE, (kept + more + 1, resource.RLIM_INFINITY))

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        sys.addaudithook(limit)
        write(folder, version)
        code = 0 if seen >= number else _FEWER
    finally:
        os._exit(code)


def try_writer(write: Write, folder: Path, most: int) -> dict[str, Any]:
    """Let a writer end, and then die in each file that it opens, at two places. What was found.

    All of it in children: one that is forked from a process that has exported lacks the threads of its packages.
    """
    (start := folder / "start").mkdir(parents=True)
    code = write_in_child(write, start, 0)
    if code:
        raise SystemExit(f"writing ended with {code}")
    old = contents(start)
    deaths, bad = 0, []

    def fresh(name: str) -> Path:
        (made := folder / name).mkdir()
        for file, content in old.items():
            (made / file).write_bytes(content)
        return made

    place = fresh("whole")
    with Held(place, old) as held:
        code = write_in_child(write, place, 1)
        bad += [f"written: {name} changed under its holder" for name in held.changed()]
    new = contents(place)
    if code or sorted(os.listdir(place)) != sorted(old) or any(new[name] == old[name] for name in old):
        bad.append(f"written: ended with {code}, {sorted(os.listdir(place))} are not new")
    for number, share in [(number, share) for number in range(1, most + 1) for share in _SHARES[-most:]]:
        trial = f"file {number}, {share}"
        place = fresh(trial)
        with Held(place, old) as held:
            code = write_in_child(write, place, 1, number, share)
            if code == _FEWER:
                break
            if code not in (0, -signal.SIGXFSZ):
                bad.append(f"{trial}: ended with {code}")
            bad += [f"{trial}: {name} changed under its holder" for name in held.changed()]
        deaths += code != 0  # or else nothing was written into that file, as where it is opened to be flushed
        found = contents(place)
        bad += [f"{trial}: {name} is broken" for name in old if found.get(name) not in (old[name], new[name])]
    return {"files": len(old), "deaths": deaths, "bad": bad}


def main(folder: Path, most: int, faults: list[str], names: list[str]) -> None:
    """Try each writer with each of the faults."""
    for module in ("report", "export.formats", "pipeline.run", "pipeline.sensitivities", "models.checkpoint",
                   "cli.tables", "export.engine.builder", "runtimes.tensorrt_open"):  # fmt: skip
        importlib.import_module(f"rest_deploy.{module}")  # so that a fault is planted in all of them
    exports = any(name.startswith("an ONNX file") for name in names)
    if exports or "a checkpoint" in names:
        for version in range(2):
            _tiny(version)
    if exports:  # loaded here, once, and not in every child
        for module in (
            "onnxsim",
            "torch._dynamo",
            "torch.onnx._internal.exporter._core",
            "rest_deploy.export.trace",
            "tests.once",
        ):
            importlib.import_module(module)
        sys.modules["rest_deploy.export.trace"]._load_bisector()
        sys.modules["tests.once"].shared_by_children()
    told = {}
    for text in faults:
        fault, _, first = text.partition("=")
        with planted(fault):
            told[fault] = {
                name: try_writer(WRITERS[name], folder / fault / str(number), most)
                for number, name in enumerate(names[: int(first or len(names))])
            }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:])
