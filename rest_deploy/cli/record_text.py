"""A record in words: how the file was made, verified and built, for rest-export, rest-info and rest-predict."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rest_deploy.artifact.engine import LIBRARIES, EngineRecord
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.manifest import manifest_path
from rest_deploy.artifact.precision import PrecisionRecord, speed_text
from rest_deploy.cli.terminal import clean
from rest_deploy.errors import counted
from rest_deploy.specs import LOGITS, FeatureNorm, InputKind, Int8Target


def figures(verification: Mapping[str, Any]) -> str:
    """The worst of them, of each output."""
    outputs: dict[str, list[Mapping[str, Any]]] = {}
    for case in verification["cases"]:
        outputs.setdefault(case.get("output", ""), []).append(case)
    sizes = max(map(len, outputs.values()))
    told = [_worst(f" of {name}" if name else "", cases) for name, cases in outputs.items()]
    return "; ".join([f"against {verification['reference']} at {counted(sizes, 'size')}", *told])


def _worst(of: str, cases: Sequence[Mapping[str, Any]]) -> str:
    worst = max(cases, key=lambda case: float(case["max_error"]))
    own = worst["reference_error"]
    return f"largest error{of} {worst['max_error']:.2g} at {worst['batch']}x{worst['height']}x{worst['width']}" + (
        f", where float32 has {own:.2g}" if own is not None else ""
    )


def record_rows(info: ArtifactInfo) -> dict[str, str]:
    """How pictures become inputs and logits scores, and what was done with the weights."""
    steps = info.preprocessing
    rows = {
        "takes": info.takes if info.input_kind is not InputKind.FLOAT else "",
        "images": str(steps) if steps is not None else "none: the caller makes the input",
        "activation": info.activation.value if info.num_classes else "",
        "notes": "; ".join(info.weights.notes),
    }
    return {name: value for name, value in rows.items() if value}


def outputs(info: ArtifactInfo) -> str:
    """What it gives, and where maps have norms."""
    told = []
    for own in info.outputs:
        kind = "classes" if own.name == LOGITS else "channels"
        stride = f", stride {own.stride}{', normalised' if own.norm else ''}" if own.stride is not None else ""
        told.append(f"{own.name} ({own.shape[1]} {kind}{stride})")
    says = info.feature_norm not in (None, FeatureNorm.NONE) or any(own.stride is not None for own in info.outputs)
    norm = f"; feature norm {info.feature_norm.value}" if info.feature_norm is not None and says else ""
    return ", ".join(told) + norm


def assumed(info: ArtifactInfo) -> str:
    """What was assumed when an artifact was made, on one line; empty if nothing was."""
    return "; ".join(f"{what}: {value}" for what, value in info.assumed.items())


# ---- lower precision


_NOT_JUDGED = "not judged on images; give rest-export --calibration DIR"


def precision_rows(plan: PrecisionRecord) -> dict[str, str]:
    """Name -> value, empty where there is nothing to say."""
    kept = ", ".join(f"{part} {precision.value}" for part, precision in plan.kept.items())
    return {
        "made for": _target(plan),
        "ends": "input and output in float16" if plan.half_io else "",
        "kept": kept,
        "ranges": _ranges(plan),
        "agreement": _agreement(plan.agreement) if plan.agreement is not None else _NOT_JUDGED,
        "speed": speed_text(plan.speed) if plan.speed is not None else "not timed against FP32",
    }


def _target(plan: PrecisionRecord) -> str:
    if plan.int8_target is Int8Target.TRT:
        return "TensorRT: INT8 by Q/DQ pairs, the rest in half"
    if plan.int8_target is Int8Target.CPU:
        bits = "7 bits, so that sums of products do not saturate" if plan.reduced_range else "8 bits"
        return f"CPUs: weights in {bits}, activations quantized at each call"
    return ""


def _ranges(plan: PrecisionRecord) -> str:
    calibration = plan.calibration
    if calibration is None:
        return ""
    sizes = f" at {', '.join(calibration.sizes)}" if calibration.sizes else ""
    images = counted(len(calibration.images), "image")
    return f"{calibration.method.value}, {images}{sizes}, SHA-256 {calibration.sha256[:16]}..."


def _agreement(figures: Mapping[str, Any]) -> str:
    top1, of = figures.get("top1_agreement"), "the logits" if "top1_agreement" in figures else "the worst output"
    return (
        f"{f'top-1 {top1:.2%} of ' if top1 is not None else ''}{counted(figures['images'], 'image')}, cosine "
        f"{figures['cosine']:.5f}, largest error {figures['max_error']:.3g} standard deviations of {of}, against FP32"
    )


# ---- engines


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
    """What is left to do if an engine was built and could not be run here: what to copy, install and run there.

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
