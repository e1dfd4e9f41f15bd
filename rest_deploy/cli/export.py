"""rest-export: make a verified artifact from a model and a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rest_deploy.artifact.files import bytes_of
from rest_deploy.artifact.info import ASSUMABLE
from rest_deploy.cli.flags import (
    add_options,
    add_preprocessing_flags,
    add_weights_flags,
    given_options,
    preprocessing_change,
    typed,
)
from rest_deploy.cli.process import start
from rest_deploy.cli.record_text import (
    assumed,
    engine_rows,
    figures,
    layer_table,
    outputs,
    precision_rows,
    record_rows,
    way_to_its_gpu,
)
from rest_deploy.cli.tables import Table
from rest_deploy.cli.terminal import OK, clean, command, parser, progress_display
from rest_deploy.errors import counted
from rest_deploy.export.formats import FORMATS, SOURCE, parse_formats
from rest_deploy.machine import describe_cpu
from rest_deploy.models.family import titles
from rest_deploy.pipeline import ExportRequest, ExportResult, Job, Prepared, prepare, run_exports
from rest_deploy.pipeline.request import config_classes
from rest_deploy.specs import InputKind, Precision, Taps


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rest-export", f"Export a {titles()} for deployment. A file is made only if it agrees with the PyTorch model."
    )
    add = made.add_argument
    add_options(made, ExportRequest)
    add_weights_flags(made)
    add(
        "--format",
        default=SOURCE,
        metavar="F[,F]",
        type=typed(lambda text: ",".join(parse_formats(text))),
        help=f"what to make: {', '.join(FORMATS)} (default {SOURCE})",
    )
    precision = made.add_mutually_exclusive_group()
    precision.add_argument("--precision", choices=[p.value for p in Precision], help="number format (default fp32)")
    for name in _lower():
        precision.add_argument(
            f"--{name.value}",
            dest="precision",
            action="store_const",
            const=name.value,
            help=f"--precision {name.value}",
        )
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="file or folder to write (default: the model's name, in this folder); without suffix for several formats",
    )
    add_preprocessing_flags(made)
    add("--json", action="store_true", help="print what was made as JSON")
    add("--dry-run", action="store_true", help="check the request, say what would be made, and make nothing")
    for kind, title in _groups().items():
        add_options(made.add_argument_group(title), kind)
    return made


def _lower() -> list[Precision]:
    return [precision for precision in Precision if precision is not Precision.FP32]


def _groups() -> dict[type, str]:
    """Classes of options -> title, each once."""
    titles: dict[type, str] = {}
    for name, kind in config_classes(tuple(FORMATS)).items():
        title = FORMATS[name].title if name in FORMATS else " and ".join(own.value.upper() for own in _lower())
        titles[kind] = f"{titles[kind]} and {title}" if kind in titles else title
    return titles


def request_of(arguments: argparse.Namespace) -> ExportRequest:
    """What the command's arguments ask for."""
    options: dict[str, Any] = {}
    for kind in _groups():
        options |= given_options(arguments, kind)
    return ExportRequest(
        output=arguments.output,
        format=arguments.format,
        precision=Precision.parse(arguments.precision or Precision.FP32),
        preprocessing=preprocessing_change(arguments),
        options=options,
        **given_options(arguments, ExportRequest),
    )


def _main(arguments: argparse.Namespace) -> int:
    if arguments.model is None and arguments.checkpoint is None:
        _parser().error("give --model NAME, --checkpoint FILE or both")
    request = request_of(arguments)
    if arguments.dry_run:
        prepared = prepare(request)
        plans = [_plan(prepared, job) for job in prepared.jobs]
        print(json.dumps(plans[0] if len(plans) == 1 else plans, indent=2) if arguments.json else _plan_text(plans))
        return OK
    with progress_display("exporting") as report:
        results = run_exports(request, report)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(f"warning: {clean(note)}", file=sys.stderr)
    if arguments.json:
        made = [_as_json(result) for result in results]
        print(json.dumps(made[0] if len(made) == 1 else made, indent=2))
    else:
        print("\n\n".join(_result_text(result) for result in results))
    return OK


_MIB = 2**20


def _plan_text(plans: Sequence[Mapping[str, str]]) -> str:
    """What a request would make, a line a fact."""
    lines = [f"  {name:<9} {clean(value)}" for plan in plans for name, value in plan.items()]
    return "\n".join(["would make:", *lines])


def _plan(prepared: Prepared, job: Job) -> dict[str, str]:
    """An artifact that a request would make, in words."""
    request = prepared.request
    info, pictures = prepared.info.taking(job.input), job.input is not InputKind.FLOAT
    rows: dict[str, object] = {
        "model": info.model,
        "weights": info.weights,
        "format": f"{job.format}, {request.precision.value}, opset {request.onnx_config.opset}",
        "output": job.output,
        "input": "" if pictures else f"{counted(info.channels, 'channel')}, any batch, height and width from 1 up",
        **record_rows(info),
        "assumed": assumed(info),
        "outputs": outputs(info) if info.taps != Taps() else "",
        "classes": info.num_classes or "",
        "simplify": "yes" if request.onnx_config.simplify else "no",
        "verify": "yes" if request.verify else "no",
        "precision": _precision(prepared),
        **job.exporter.plan(info),
    }
    return {name: str(value) for name, value in rows.items() if value}


def _precision(prepared: Prepared) -> str:
    request, sample = prepared.request, prepared.sample
    if request.precision is Precision.FP32:
        return ""
    words = [request.precision.value]
    if request.recipe.target is not None:
        words.append(f"for {request.recipe.target.value}")
    if sample is not None:
        ranges = f"{len(sample.calibration)} to take ranges from, " if sample.calibration else ""
        words.append(f"images of {sample.folder}: {ranges}{len(sample.judged)} to judge by")
    return ", ".join(words)


def _result_text(result: ExportResult) -> str:
    """What was made, with its figures."""
    lines = []
    if result.comparison is not None:
        of = "errors of each output" if result.comparison.others else "largest and mean error of the logits"
        title = f"{of} against PyTorch float64:"
        lines.append(Table(title, *result.comparison.columns()).text())
        if result.info.precision_plan is not None:
            lines.append("(fp32 error: of the deploy form in float32; the limit: docs/precision.md)")
        lines.append("")
    plan = result.info.precision_plan
    if plan is not None:
        lines += [f"kept in higher precision: {clean(step)}" for step in plan.steps]
        lines += [f"{name:<10} {clean(value)}" for name, value in precision_rows(plan).items() if value]
        if result.info.recipe.integers:
            lines.append(f"{'this CPU':<10} {clean(describe_cpu())}")
        lines.append("")
    engine = result.info.engine
    if engine is not None:
        lines += [f"{name:<9} {clean(value)}" for name, value in engine_rows(engine).items() if value]
        if result.comparison is None and engine.source_verification is not None:
            lines.append(f"its ONNX  {clean(figures(engine.source_verification))}")
        lines += ["layers by stage and datatype, from the build's log:", layer_table(engine.layers), ""]
    if engine is not None and engine.not_run is not None:
        lines.append("to run it on its GPU, and to verify it there:")
        lines += [f"  {name:<8} {clean(value)}" for name, value in way_to_its_gpu(engine, result.path).items()] + [""]
    lines += [f"{name:<10} {clean(value)}" for name, value in record_rows(result.info).items()]
    if result.info.taps != Taps():
        lines.append(f"{'outputs':<10} {outputs(result.info)}")
    if result.info.assumed:
        lines += ["assumed, because neither the checkpoint nor a flag says it (--strict refuses instead):"]
        lines += [f"  {what:<14} {clean(value)}  ({ASSUMABLE[what]})" for what, value in result.info.assumed.items()]
    lines.append("")
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.seconds.items())
    mib = bytes_of(result.path) / _MIB
    lines.append(f"{clean(str(result.path))}: {result.info.model}, {mib:.1f} MiB, {_proof(result)} ({steps})")
    return "\n".join(lines)


def _proof(result: ExportResult) -> str:
    engine = result.info.engine
    if result.comparison is not None:
        return "verified"
    if engine is None or engine.source_verification is None:
        return "not verified"
    return f"its ONNX verified, its layers proved, not run here ({clean(engine.not_run or 'not asked')})"


def _as_json(result: ExportResult) -> dict[str, object]:
    """What was made, as plain values."""
    return {
        "path": str(Path(result.path).resolve()),
        "bytes": bytes_of(result.path),
        "seconds": result.seconds,
        "notes": list(result.notes),
        "info": result.info.to_dict(),
    }


main = command(_main, _parser, lambda arguments: arguments.json or arguments.dry_run)

if __name__ == "__main__":
    sys.exit(start("export"))
