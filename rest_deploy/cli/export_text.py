"""What rest-export prints: the plan of a dry run, and what was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rest_deploy.artifact.info import ASSUMABLE
from rest_deploy.cli.engine_text import engine_rows, layer_table, way_to_its_gpu
from rest_deploy.cli.precision_text import precision_rows
from rest_deploy.cli.tables import Table
from rest_deploy.cli.terminal import clean
from rest_deploy.cli.verification_text import assumed, figures, record_rows
from rest_deploy.export.formats import SOURCE
from rest_deploy.export.onnx_format import OnnxConfig
from rest_deploy.machine import describe_cpu
from rest_deploy.pipeline import ExportResult, Job, Prepared
from rest_deploy.specs import Precision

_MIB = 2**20


def plan_text(plans: Sequence[Mapping[str, str]]) -> str:
    """What a request would make, a line a fact."""
    lines = [f"  {name:<9} {clean(value)}" for plan in plans for name, value in plan.items()]
    return "\n".join(["would make:", *lines])


def plans_of(prepared: Prepared) -> list[dict[str, str]]:
    """The artifacts that a request would make, each in words."""
    return [_plan(prepared, job) for job in prepared.jobs]


def _plan(prepared: Prepared, job: Job) -> dict[str, str]:
    request, info = prepared.request, prepared.info
    onnx: OnnxConfig = request.configs[SOURCE]
    rows: dict[str, object] = {
        "model": info.model,
        "weights": info.weights,
        "format": f"{job.format}, {request.precision.value}, opset {onnx.opset}",
        "output": job.output,
        "input": f"{info.input.shape[1]} channels, any batch, height and width from 1 up",
        **record_rows(info),
        "assumed": assumed(info),
        "classes": info.num_classes,
        "simplify": "yes" if onnx.simplify else "no",
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


def result_text(result: ExportResult) -> str:
    """What was made, with its figures."""
    lines = []
    if result.comparison is not None:
        title = "largest and mean error of the logits against PyTorch float64:"
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
    if result.info.assumed:
        lines += ["assumed, because neither the checkpoint nor a flag says it (--strict refuses instead):"]
        lines += [f"  {what:<14} {clean(value)}  ({ASSUMABLE[what]})" for what, value in result.info.assumed.items()]
    lines.append("")
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.seconds.items())
    mib = result.path.stat().st_size / _MIB
    lines.append(f"{clean(str(result.path))}: {result.info.model}, {mib:.1f} MiB, {_proof(result)} ({steps})")
    return "\n".join(lines)


def _proof(result: ExportResult) -> str:
    engine = result.info.engine
    if result.comparison is not None:
        return "verified"
    if engine is None or engine.source_verification is None:
        return "not verified"
    return f"its ONNX verified, its layers proved, not run here ({clean(engine.not_run or 'not asked')})"


def as_json(result: ExportResult) -> dict[str, object]:
    """What was made, as plain values."""
    return {
        "path": str(Path(result.path).resolve()),
        "bytes": result.path.stat().st_size,
        "seconds": result.seconds,
        "notes": list(result.notes),
        "info": result.info.to_dict(),
    }
