"""rest-export: make a verified artifact from a model and a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.cli.terminal import OK, clean, command, parser
from rest_deploy.errors import ConfigError
from rest_deploy.export.formats import FORMATS
from rest_deploy.models.config import list_models
from rest_deploy.pipeline import ExportRequest, ExportResult, prepare, run_export
from rest_deploy.specs import DEFAULT_OPSET, ImageSize, Precision, PreprocessingChange, Resize


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rest-export", "Export a ResT for deployment. The file is made only if it agrees with the PyTorch model."
    )
    add = made.add_argument
    add("--model", metavar="NAME", help=f"{', '.join(list_models())}; may be left out with --checkpoint")
    add("--checkpoint", metavar="FILE", help=".pth, .pt or .safetensors; without it the weights are random")
    add("--format", default="onnx", choices=list(FORMATS), help="what to make (default onnx)")
    add("--precision", default="fp32", choices=[p.value for p in Precision], help="number format (default fp32)")
    add("-o", "--output", metavar="FILE", help="default: the model's name, in this folder")
    add("--labels", metavar="FILE", help="class names: one a line, or JSON (default: the checkpoint's, or ImageNet's)")
    add("--transform", choices=[r.value for r in Resize], help="crop, warp, or native: images at their own size")
    add("--image-size", metavar="HxW", type=_size, help="size that crop or warp gives (default 224)")
    add("--mean", type=float, nargs="+", metavar="M", help="of each channel, images scaled to 0-1 (default ImageNet's)")
    add("--std", type=float, nargs="+", metavar="S", help="of each channel (default ImageNet's)")
    add("--opset", type=int, default=DEFAULT_OPSET, help="ONNX operator set, 18 to 21 (default 18)")
    add("--no-simplify", action="store_true", help="leave onnxsim out")
    add("--no-verify", action="store_true", help="do not check the file against the PyTorch model")
    add("--seed", type=int, default=0, help="of random weights (default 0)")
    add("--json", action="store_true", help="print what was made as JSON")
    add("--dry-run", action="store_true", help="check the request, say what would be made, and make nothing")
    return made


def _main(arguments: argparse.Namespace) -> int:
    if arguments.model is None and arguments.checkpoint is None:
        _parser().error("give --model NAME, --checkpoint FILE or both")
    request = ExportRequest(
        model=arguments.model,
        output=arguments.output,
        checkpoint=arguments.checkpoint,
        format=arguments.format,
        precision=arguments.precision,
        labels=arguments.labels,
        preprocessing=_preprocessing(arguments),
        opset=arguments.opset,
        simplify=not arguments.no_simplify,
        verify=not arguments.no_verify,
        seed=arguments.seed,
    )
    if arguments.dry_run:
        print(_plan(request, *prepare(request)[1:]))
        return OK
    result = run_export(request)
    for note in result.notes:
        print(f"warning: {clean(note)}", file=sys.stderr)
    print(json.dumps(_as_json(result), indent=2) if arguments.json else _text(result))
    return OK


def _size(text: str) -> ImageSize:
    try:
        return ImageSize.parse(text)
    except ConfigError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _preprocessing(arguments: argparse.Namespace) -> PreprocessingChange | None:
    """What the flags change of the checkpoint's own preprocessing, or None where none of them was given."""
    change = PreprocessingChange(
        resize=Resize(arguments.transform) if arguments.transform else None,
        size=arguments.image_size,
        mean=tuple(arguments.mean) if arguments.mean else None,
        std=tuple(arguments.std) if arguments.std else None,
    )
    return None if change == PreprocessingChange() else change


def _plan(request: ExportRequest, info: ArtifactInfo, output: Path) -> str:
    weights = f"random, seed {info.weights.seed}" if info.weights.random else info.weights.file
    steps = info.preprocessing
    rows = {
        "model": info.model,
        "weights": weights,
        "format": f"{request.format}, {request.precision.value}, opset {request.opset}",
        "output": output,
        "input": f"{info.input.shape[1]} channels, any batch, height and width from 1 up",
        "images": f"{steps.resize.value} {steps.size or ''} mean {steps.mean} std {steps.std}",
        "classes": info.num_classes,
        "simplify": "yes" if request.simplify else "no",
        "verify": "yes" if request.verify else "no",
    }
    return "\n".join(["would make:", *(f"  {name:<9} {clean(str(value))}" for name, value in rows.items())])


def _text(result: ExportResult) -> str:
    lines = []
    if result.comparison is not None:
        lines += ["largest and mean error of the logits against PyTorch float64:", result.comparison.table(), ""]
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.seconds.items())
    mib = result.path.stat().st_size / 2**20
    verified = "verified" if result.comparison is not None else "not verified"
    lines.append(f"{clean(str(result.path))}: {result.info.model}, {mib:.1f} MiB, {verified} ({steps})")
    return "\n".join(lines)


def _as_json(result: ExportResult) -> dict[str, object]:
    return {
        "path": str(Path(result.path).resolve()),
        "bytes": result.path.stat().st_size,
        "seconds": result.seconds,
        "notes": list(result.notes),
        "info": result.info.to_dict(),
    }


main = command(_main, _parser)

if __name__ == "__main__":
    sys.exit(main())
