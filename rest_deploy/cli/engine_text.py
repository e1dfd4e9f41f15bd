"""An engine in words: how it was built, and its layers by stage and datatype."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.manifest import manifest_path
from rest_deploy.cli.terminal import clean
from rest_deploy.nvidia import LIBRARIES

_MIB = 2**20


def engine_rows(engine: EngineRecord) -> dict[str, str]:
    """Name -> value, empty where there is nothing to say."""
    title = LIBRARIES[engine.library].title if engine.library in LIBRARIES else engine.library
    return {
        "library": f"{title} {engine.version}" + (f" ({engine.why})" if engine.why else ""),
        "targets": ", ".join(engine.targets) + (f" ({engine.gpu})" if engine.gpu else ""),
        "profiles": ", ".join(str(profile) for profile in engine.profiles),
        "memory": f"{engine.activation_bytes / _MIB:.0f} MiB for activations" if engine.activation_bytes else "",
        "options": ", ".join(f"{name} {value}" for name, value in engine.options.items()),
    }


def way_to_its_gpu(engine: EngineRecord, path: Path) -> dict[str, str]:
    """What is left to do where an engine was built and could not be run: what travels, what runs and proves it there.

    Args:
        engine: Its record.
        path: Its plan.
    """
    library = LIBRARIES[engine.library]
    pins = " ".join(f"{package}=={engine.version}" for package in library.pinned)
    checkpoint = _argument(engine.command, "--checkpoint")
    more = f", to prove it {checkpoint} too" if checkpoint is not None else ""
    extras = library.extra if checkpoint is None else f"{library.extra},export"
    rows = {
        "copy": f"{path.name} and {manifest_path(path).name}{more}",
        "runs on": f"GPUs of {', '.join(engine.targets)}",
        "install": f'in a clone of rest_deploy there: pip install ".[{extras}]" {pins}',
    }
    if checkpoint is not None:
        rows["install"] += "  (only to run it, without export, which brings torch)"
        rows["prove"] = shlex.join(["rest-verify", path.name, "--reference", Path(checkpoint).name])
    if engine.library == "trt-rtx" and engine.command is not None:
        on_hopper = engine.rebuild(path.name, library="trt")
        rows["Hopper"] = f'{library.title} has none for H100 and H200; there, with ".[trt,export,cpu]": {on_hopper}'
    return rows


def _argument(command: Sequence[str] | None, flag: str) -> str | None:
    """The word behind a flag."""
    words = list(command or ())
    return words[words.index(flag) + 1] if flag in words else None


def layer_table(layers: Mapping[str, Mapping[str, int]]) -> str:
    """Stages down, datatypes across."""
    types = sorted({datatype for counts in layers.values() for datatype in counts})
    lines = [f"  {'':<15}" + "".join(f"{datatype:>7}" for datatype in types)]
    for stage, counts in layers.items():
        lines.append(f"  {clean(stage):<15}" + "".join(f"{counts.get(datatype, 0):>7}" for datatype in types))
    return "\n".join(lines)
