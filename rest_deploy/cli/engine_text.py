"""An engine in words: how it was built, and its layers by stage and datatype."""

from __future__ import annotations

from collections.abc import Mapping

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.cli.terminal import clean
from rest_deploy.nvidia.library import LIBRARIES

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


def layer_table(layers: Mapping[str, Mapping[str, int]]) -> str:
    """Stages down, datatypes across."""
    types = sorted({datatype for counts in layers.values() for datatype in counts})
    lines = [f"  {'':<15}" + "".join(f"{datatype:>7}" for datatype in types)]
    for stage, counts in layers.items():
        lines.append(f"  {clean(stage):<15}" + "".join(f"{counts.get(datatype, 0):>7}" for datatype in types))
    return "\n".join(lines)
