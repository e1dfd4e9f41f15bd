"""rest-info: what an artifact says of itself."""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rest_deploy.artifact.address import Address, Place, located
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import InputSize
from rest_deploy.cli.flags import typed
from rest_deploy.cli.process import start
from rest_deploy.cli.record_text import assumed, engine_rows, figures, layer_table, outputs, precision_rows, record_rows
from rest_deploy.cli.tables import Table
from rest_deploy.cli.terminal import OK, ON_A_SERVER, clean, command, parser
from rest_deploy.errors import ConfigError
from rest_deploy.machine import SHARE, USUAL
from rest_deploy.runtimes.memory import Prediction, predict
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import USUAL_MAX_PIXELS, Taps


def _parser() -> argparse.ArgumentParser:
    made = parser("rest-info", "Show what an artifact says of itself: model, weights, preprocessing, verification.")
    made.add_argument(
        "artifact", help=f".onnx or .engine file, a .pth, .pt or .safetensors checkpoint, or {ON_A_SERVER}"
    )
    made.add_argument("--json", action="store_true", help="print JSON, labels included")
    made.add_argument(
        "--memory",
        nargs="+",
        metavar="HxW",
        type=typed(functools.partial(InputSize.parse, resized=False)),
        default=[],
        help="predict the memory of a call at each size, before anything runs; NxHxW for a batch of N images",
    )
    return made


def _main(arguments: argparse.Namespace) -> int:
    path = located(arguments.artifact)
    info = read_info(path)
    if arguments.memory and isinstance(path, Address):
        raise ConfigError(f"{path}: a call's memory is the server's, and not known here; give the file")
    predicted = [predict(info, size, path.name) for size in arguments.memory]
    if arguments.json:
        record = info.to_dict()
        if predicted:
            record["memory"] = [_prediction(one) for one in predicted]
        print(json.dumps(record, indent=2))
    else:
        print(_text(path, info))
        if predicted:
            print(_memory(predicted))
    return OK


def _prediction(own: Prediction) -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        **dict(zip(("batch", "height", "width"), own.size.sizes, strict=True)),
        "bytes": own.needed,
        "what": own.what,
        "estimated": own.estimated,
        "free_bytes": own.free,
        "fits": own.fits,
        "most_pixels": own.most,
        "profile": str(own.profile) if own.profile is not None else None,
    }


_MIB = 2**20


def _memory(predicted: Sequence[Prediction]) -> str:
    """A row for each size."""
    first = predicted[0]
    beside = ", beside what the open network takes" if first.profile is None else ""
    head = ("batch x size", "MiB", "", "here", "largest square in such a batch")
    rows = [
        (
            str(own.size),
            f"{own.needed / _MIB:,.0f}",
            "estimated" if own.estimated else "as built",
            _VERDICTS[own.fits],
            _largest(own),
        )
        for own in predicted
    ]
    return "\n".join([Table(f"memory of {first.what}{beside}:", head, rows, words=3).text(), *_free(first)])


_VERDICTS = {True: "fits", False: "does not fit", None: "asks the GPU, at the call"}


def _largest(own: Prediction) -> str:
    if own.profile is not None:
        return f"not known; its profile ends at {own.profile.max}"
    if own.most is None:
        return "not known, as the free memory is not"
    side = math.isqrt(own.most)
    return f"at most about {own.most:,} pixels, as {side}x{side}" if side else "none"


def _free(own: Prediction) -> list[str]:
    """What is free, if that is known."""
    if own.free is None:
        return []
    unasked = f", and of up to {USUAL / _MIB:.0f} MiB always" if SHARE * own.free < USUAL else ""
    told = [f"  {own.free / _MIB:,.0f} MiB are free here; Predictor takes calls of up to {SHARE:.0%} of that{unasked}"]
    if not own.resized:  # else the network's input has one size
        told.append(f"  and, where max_pixels does not say more, inputs of up to {USUAL_MAX_PIXELS:,} pixels")
    return told


def _text(path: Place, info: ArtifactInfo) -> str:
    where = (
        {"server": path} if isinstance(path, Address) else {"file": f"{path} ({path.stat().st_size / 2**20:.1f} MiB)"}
    )
    names = ", ".join(info.label(i) for i in range(min(3, info.num_classes)))
    prefix = info.weights.prefix
    rows = {
        **where,
        "format": f"{info.format}, {info.precision.value}",
        "model": info.model,
        "weights": info.weights,
        "input": f"{info.input.name}: {info.input.dtype} {_shape(info.input.shape)}, {_sizes(info)}",
        "output": "; ".join(f"{own.name}: {own.dtype} {_shape(own.shape)}" for own in info.outputs),
        "gives": outputs(info) if info.taps != Taps() else "",
        "prefix": f"{prefix!r} was taken off the names of the weights" if prefix and not info.num_classes else "",
        "classes": f"{info.num_classes}: {names}{', ...' if info.num_classes > 3 else ''}" if info.num_classes else "",
        **record_rows(info),
        "assumed": assumed(info),
        "config": ", ".join(f"{key} {value}" for key, value in info.config.items()),
        "read with" if info.format == "pytorch" else "made with": ", ".join(
            f"{package} {version}" for package, version in info.versions.items()
        ),
        **(precision_rows(info.precision_plan) if info.precision_plan is not None else {}),
        **(engine_rows(info.engine) if info.engine is not None else {}),
        "details": ", ".join(f"{key} {value}" for key, value in info.extra.items() if value is not None),
        "verified": _verification(info),
    }
    if info.engine is not None:
        engine = info.engine
        rows["plan"] = f"SHA-256 {engine.plan_sha256[:16]}..., as its manifest says"
        rows["source"] = f"ONNX of SHA-256 {engine.source_sha256[:16]}..."
        if isinstance(path, Path):
            rows["rebuild"] = engine.rebuild(path)
    lines = [f"{name:<14} {clean(str(value))}" for name, value in rows.items() if value]
    if info.engine is not None:
        lines += ["layers by stage and datatype, from the build's log:", layer_table(info.engine.layers)]
    return "\n".join(lines)


def _sizes(info: ArtifactInfo) -> str:
    return "any size from 1x1 up" if info.engine is None else "sizes as in the profiles"


def _verification(info: ArtifactInfo) -> str:
    if info.format == "pytorch":
        return ""
    if info.engine is not None and info.verification is None and info.engine.source_verification is not None:
        told = figures(info.engine.source_verification)
        return f"its ONNX {told}; the engine itself was not run: {info.engine.not_run}"
    return "no (exported with --no-verify)" if info.verification is None else figures(info.verification)


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(str(size) for size in shape)})"


main = command(_main, _parser)

if __name__ == "__main__":
    sys.exit(start("info"))
