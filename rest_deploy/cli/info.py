"""rest-info: what an artifact says of itself."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.cli.process import start
from rest_deploy.cli.record_text import assumed, engine_rows, figures, layer_table, outputs, precision_rows, record_rows
from rest_deploy.cli.terminal import OK, clean, command, parser
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import Taps


def _parser() -> argparse.ArgumentParser:
    made = parser("rest-info", "Show what an artifact says of itself: model, weights, preprocessing, verification.")
    made.add_argument("artifact", help=".onnx or .engine file, or a .pth, .pt or .safetensors checkpoint")
    made.add_argument("--json", action="store_true", help="print JSON, labels included")
    return made


def _main(arguments: argparse.Namespace) -> int:
    info = read_info(arguments.artifact)
    print(json.dumps(info.to_dict(), indent=2) if arguments.json else _text(Path(arguments.artifact), info))
    return OK


def _text(path: Path, info: ArtifactInfo) -> str:
    mib = path.stat().st_size / 2**20
    names = ", ".join(info.label(i) for i in range(min(3, info.num_classes)))
    prefix = info.weights.prefix
    rows = {
        "file": f"{path} ({mib:.1f} MiB)",
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
