"""rest-export: make a verified artifact from a model and a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from rest_deploy.artifact.profile import Profile
from rest_deploy.cli.export_text import as_json, plan, plan_text, result_text
from rest_deploy.cli.preprocessing_flags import (
    add_preprocessing_flags,
    add_weights_flags,
    number_as,
    number_of,
    preprocessing_change,
    typed,
)
from rest_deploy.cli.process import start
from rest_deploy.cli.terminal import OK, clean, command, parser, progress_bar
from rest_deploy.errors import DeviceError
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.export.formats import FORMATS, parse_formats
from rest_deploy.export.onnx_config import OnnxConfig
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.models.config import list_models
from rest_deploy.pipeline import ExportRequest, prepare, run_exports
from rest_deploy.runtimes.devices import Device
from rest_deploy.specs import BATCH, FACTOR, SEED, Activation, CalibrationMethod, ImageSize, Int8Target, Precision
from rest_deploy.verification import BUDGETS


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rest-export", "Export a ResT for deployment. A file is made only if it agrees with the PyTorch model."
    )
    add = made.add_argument
    add("--model", metavar="NAME", help=f"{', '.join(list_models())}; may be left out with --checkpoint")
    add("--checkpoint", metavar="FILE", help="PyTorch or safetensors file; without it the weights are random")
    add_weights_flags(made)
    add(
        "--format",
        default="onnx",
        metavar="F[,F]",
        type=typed(_formats),
        help=f"what to make: {', '.join(FORMATS)} (default onnx)",
    )
    precision = made.add_mutually_exclusive_group()
    precision.add_argument("--precision", choices=[p.value for p in Precision], help="number format (default fp32)")
    for name in (Precision.FP16, Precision.INT8):
        precision.add_argument(
            f"--{name.value}",
            dest="precision",
            action="store_const",
            const=name.value,
            help=f"--precision {name.value}",
        )
    add("-o", "--output", metavar="FILE", help="default: the model's name, here; for several formats without suffix")
    add(
        "--labels",
        metavar="FILE",
        help="class names; or imagenet, none (default: the checkpoint's, or for 1000 classes ImageNet's)",
    )
    add(
        "--activation",
        choices=[a.value for a in Activation],
        help="from logits to scores (default: the checkpoint's, or softmax, of one output sigmoid)",
    )
    add_preprocessing_flags(made)
    add("--strict", action="store_true", help="refuse to assume what neither the checkpoint nor a flag says")
    add("--no-verify", action="store_true", help="do not check the file against the PyTorch model")
    add("--seed", type=number_as(SEED), help="of random weights (default 0)")
    add("--json", action="store_true", help="print what was made as JSON")
    add("--dry-run", action="store_true", help="check the request, say what would be made, and make nothing")
    _add_precision(made.add_argument_group("FP16 and INT8"))
    _add_onnx(made.add_argument_group("ONNX"))
    _add_sizes(made.add_argument_group("sizes of an engine (default 1x1x1 over the image size to 8x640x640)"))
    _add_build(made.add_argument_group("build of an engine"))
    return made


def _add_precision(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--calibration",
        metavar="DIR",
        help="images or .npy inputs: INT8 ranges for TensorRT from some, judged on others",
    )
    add(
        "--calibration-images",
        metavar="N",
        type=number_of(PrecisionConfig, "calibration_images"),
        help="how many ranges are taken from (default 100)",
    )
    add("--calibration-method", choices=[m.value for m in CalibrationMethod], help="(default min-max)")
    add(
        "--calibration-sizes",
        metavar="HxW",
        nargs="+",
        type=typed(ImageSize.parse),
        help="sizes of those images (default: the image size)",
    )
    add("--calibration-seed", metavar="N", type=number_as(SEED), help="of the choice of images (default 0)")
    add("--int8-target", choices=[t.value for t in Int8Target], help="(default trt for engines, else cpu)")
    add("--reduced-range", action="store_const", const=True, help="INT8 weights of 7 bits, for CPUs without VNNI")
    add("--half-io", action="store_const", const=True, help="input and output in float16 too")
    add(
        "--min-top1-agreement",
        metavar="SHARE",
        type=number_of(PrecisionConfig, "min_top1_agreement"),
        help=f"with FP32, on images ({_budgets()})",
    )
    add("--max-error", metavar="STD", type=number_as(FACTOR), help="largest, in standard deviations of the logits")
    add("--sensitivity", metavar="FILE", help=".csv or .json: what each part of the network costs; beside it a plot")
    add("--require-speedup", metavar="X", type=number_as(FACTOR), help="fail unless it is X times as fast as FP32 here")
    add("--no-speed", dest="compare_speed", action="store_const", const=False, help="do not time it against FP32")


def _budgets() -> str:
    words = (f"{name.value} {budget.min_top1_agreement}" for name, budget in BUDGETS.items())
    return "default " + ", ".join(words)


def _add_onnx(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--opset", type=number_of(OnnxConfig, "opset"), help="ONNX operator set, 18 to 21 (default 18)")
    add("--no-simplify", dest="simplify", action="store_const", const=False, help="leave onnxsim out")


def _add_sizes(group: argparse._ArgumentGroup) -> None:
    add, size = group.add_argument, typed(ImageSize.parse)
    add("--min-size", metavar="HxW", type=size, help="smallest")
    add("--opt-size", metavar="HxW", type=size, help="what it is tuned for")
    add("--max-size", metavar="HxW", type=size, help="largest")
    add("--max-batch", metavar="N", type=number_as(BATCH), help="largest batch")
    add(
        "--profile",
        dest="profiles",
        metavar="MIN:OPT:MAX",
        action="append",
        help="a range of sizes, as 1x32x32:1x224x224:8x640x640; may be repeated, in place of the four above",
    )


def _add_build(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--target",
        dest="targets",
        metavar="SM[,SM]",
        type=lambda text: tuple(part.strip() for part in text.split(",")),
        help="GPUs that TensorRT-RTX builds for: sm86, sm89, sm120, ... (default Ampere and later)",
    )
    add("--device", metavar="cuda:N", type=typed(_gpu), dest="gpu", help="GPU that TensorRT builds on (default cuda:0)")
    add(
        "--workspace",
        dest="workspace_mib",
        metavar="MIB",
        type=number_of(EngineConfig, "workspace_mib"),
        help="most scratch memory of a layer",
    )
    add(
        "--optimization-level",
        metavar="0-5",
        type=number_of(EngineConfig, "optimization_level"),
        help="0 builds fast, 5 makes a fast engine (default 3)",
    )
    add("--timing-cache", metavar="FILE|none", help="where TensorRT keeps what it measured (default: user's cache)")
    add("--tf32", action="store_const", const=True, help="let products be rounded to TF32's 10 bits")
    add("--version-compatible", action="store_const", const=True, help="run on later versions of TensorRT too")
    add(
        "--hardware-compatible",
        dest="hardware_compatibility",
        choices=("same-cc", "ampere+"),
        help="run on other GPUs too: of the same compute capability, or Ampere and later (TensorRT)",
    )


#: Flags that are options of a format, by name.
_OPTIONS = (
    *("opset", "simplify", "min_size", "opt_size", "max_size", "max_batch", "profiles", "targets", "gpu"),
    *("workspace_mib", "optimization_level", "tf32", "version_compatible", "hardware_compatibility"),
    *("calibration", "calibration_images", "calibration_method", "calibration_sizes", "calibration_seed"),
    *(
        "int8_target",
        "half_io",
        "reduced_range",
        "min_top1_agreement",
        "max_error",
        "sensitivity",
        "require_speedup",
        "compare_speed",
    ),
)


def request_of(arguments: argparse.Namespace) -> ExportRequest:
    """What the command's arguments ask for."""
    options = {name: getattr(arguments, name) for name in _OPTIONS if getattr(arguments, name) is not None}
    if "profiles" in options:  # one that is well written and cannot be meant is no wrong usage
        options["profiles"] = tuple(Profile.parse(text) for text in options["profiles"])
    if arguments.timing_cache is not None:
        none = arguments.timing_cache.lower() == "none"
        options |= {"use_timing_cache": False} if none else {"timing_cache": arguments.timing_cache}
    return ExportRequest(
        model=arguments.model,
        output=arguments.output,
        checkpoint=arguments.checkpoint,
        format=arguments.format,
        precision=Precision.parse(arguments.precision or Precision.FP32),
        labels=arguments.labels,
        preprocessing=preprocessing_change(arguments),
        activation=Activation(arguments.activation) if arguments.activation else None,
        weights_key=arguments.weights_key,
        key_prefix=arguments.key_prefix,
        num_heads=tuple(arguments.num_heads) if arguments.num_heads else None,
        strict=arguments.strict,
        verify=not arguments.no_verify,
        seed=arguments.seed,
        options=options,
    )


def _main(arguments: argparse.Namespace) -> int:
    if arguments.model is None and arguments.checkpoint is None:
        _parser().error("give --model NAME, --checkpoint FILE or both")
    request = request_of(arguments)
    if arguments.dry_run:
        loaded, jobs = prepare(request)
        plans = [plan(request, loaded, job) for job in jobs]
        print(json.dumps(plans[0] if len(plans) == 1 else plans, indent=2) if arguments.json else plan_text(plans))
        return OK
    with progress_bar("exporting") as report:
        results = run_exports(request, report)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(f"warning: {clean(note)}", file=sys.stderr)
    if arguments.json:
        made = [as_json(result) for result in results]
        print(json.dumps(made[0] if len(made) == 1 else made, indent=2))
    else:
        print("\n\n".join(result_text(result) for result in results))
    return OK


def _formats(text: str) -> str:
    return ",".join(parse_formats(text))


def _gpu(text: str) -> int:
    device = Device.parse(text)
    if device.kind != "cuda":
        raise DeviceError(f"device {text}: an engine is built on a GPU; accepted: cuda, cuda:0, cuda:1, ...")
    return device.index


main: Callable[..., Any] = command(_main, _parser, lambda arguments: arguments.json or arguments.dry_run)

if __name__ == "__main__":
    sys.exit(start("export"))
