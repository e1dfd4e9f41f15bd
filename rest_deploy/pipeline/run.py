"""The steps of an export, in order: load, write the graph, prove it, reduce its precision, prove, make, prove, place.

Each takes what the last one made and gives the next. Only this module knows the order, and it knows no format by name.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.artifact.workspace import workspace
from rest_deploy.errors import ConfigError
from rest_deploy.export.formats import SOURCE, Made, Trial
from rest_deploy.models.family import NetworkConfig
from rest_deploy.pipeline.prepare import Job, Prepared, prepare
from rest_deploy.pipeline.request import ExportRequest
from rest_deploy.pipeline.speed import measure_speed
from rest_deploy.pipeline.vector import make_test_vector
from rest_deploy.specs import LOGITS, InputKind, Precision, StepProgress
from rest_deploy.verification import (
    CASES,
    Comparison,
    Reference,
    cases_of,
    cases_within,
    open_candidate,
    pictures_of,
)
from rest_deploy.verification.limits import of_artifact

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult:
    """What was made.

    Args:
        path: The artifact.
        info: What it says of itself.
        comparison: Figures of the check, or None where it was skipped or could not be done here.
        seconds: Time of each step.
        notes: What the user should know.
    """

    path: Path
    info: ArtifactInfo
    comparison: Comparison | None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def export(
    model: str | NetworkConfig | None,
    output: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    format: str = "onnx",
    precision: str | Precision = "fp32",
    **options: Any,
) -> Path:
    """Make a verified artifact.

    Args:
        model: A name of :func:`list_models`, a config, or None to read the architecture off the checkpoint.
        output: File to write; None names it after the model, or where that is not a published one after
            the checkpoint, in the current folder.
        checkpoint: ``.pth``, ``.pt`` or ``.safetensors``; without one the weights are random, and the artifact says so.
        format: A row of ``export/formats.py``, such as ``"onnx"`` or ``"trt"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        **options: The other fields of :class:`ExportRequest`, and those of the configs: ``opset`` and ``simplify``
            of ``OnnxConfig``; ``max_size``, ``targets``, ... of ``EngineConfig``; ``calibration``, ``half_io``, ... of
            ``PrecisionConfig``.

    Returns:
        Path of the artifact, which exists only if it agrees with the PyTorch model (unless ``verify=False``). An engine
        that no GPU here can run is proved by the ONNX file it was built from and by the layers that were built; its
        record says so.

    Raises:
        ConfigError: A value that is not accepted, or two that contradict each other.
        CheckpointError: The checkpoint cannot be read or does not fit.
        ExportError: The artifact could not be made; :class:`VerificationError` where it disagreed.
    """
    own = {name: options.pop(name) for name in _REQUEST_FIELDS & set(options)}
    request = ExportRequest(model, output, checkpoint, format, Precision.parse(precision), options=options, **own)
    return run_export(request).path


_REQUEST_FIELDS = {f.name for f in fields(ExportRequest) if f.init} - {"options"}


def run_export(request: ExportRequest, report: StepProgress | None = None) -> ExportResult:
    """Make the one artifact that was asked for, and tell what was made.

    Raises:
        ConfigError: Several formats were asked for.
    """
    if len(request.formats) != 1:
        raise ConfigError(f"format {request.format}: one format a call makes one artifact; run_exports makes several")
    return run_exports(request, report)[0]


def run_exports(request: ExportRequest, report: StepProgress | None = None) -> tuple[ExportResult, ...]:
    """Make what was asked, as :func:`export`, in the order of the formats.

    Args:
        request: What.
        report: Called as long steps go on.
    """
    loading: dict[str, float] = {}
    with _timed(loading, "load", report):
        prepared = prepare(request, report)
    with workspace(tempfile.gettempdir(), "rest-export") as folder:
        fp32 = _export(prepared, folder)
        fp32 = replace(fp32, seconds={**loading, **fp32.seconds}, notes=(*_notes(prepared), *fp32.notes))
        fp32, reference = _prove(prepared, fp32)
        proved = fp32
        if request.precision is not Precision.FP32:
            proved = _reduce(prepared, fp32, reference, folder)
        if request.verify and LOGITS in proved.info.taps.names:
            proved = replace(proved, info=replace(proved.info, test_vector=_test_vector(proved.path)))
        made = _make(prepared, prepared.source, proved, fp32, folder)
        asked = any(job is prepared.source for job in prepared.jobs)  # then its result tells what its steps took
        source = replace(proved, seconds={} if asked else proved.seconds)
        if prepared.source.input is InputKind.FLOAT:
            source = replace(source, path=made.path, info=made.info)
        return tuple(
            made if job is prepared.source else _make(prepared, job, source, fp32, folder) for job in prepared.jobs
        )


def _export(prepared: Prepared, folder: Path) -> ExportResult:
    """Model -> deploy form -> ONNX file in FP32."""
    from rest_deploy.export import onnx_exporter

    info, seconds = prepared.info, dict[str, float]()
    image = replace(info.input, dtype="float32")
    outputs = tuple(replace(output, dtype="float32") for output in info.outputs)
    path = _new(folder / "fp32") / prepared.file
    with _timed(seconds, "export", prepared.report), replacing(path) as target:
        model, config = prepared.loaded.model, prepared.request.onnx_config
        written = onnx_exporter.export(model.to_deploy(), image, outputs, target, config)
        info = replace(
            info, precision=Precision.FP32, precision_plan=None, input=image, outputs=outputs, extra=asdict(written)
        )
        write_record(target, info)
    why = written.not_simplified_why
    return ExportResult(path, info, None, seconds, (f"not simplified: {why}",) if why is not None else ())


def _prove(prepared: Prepared, fp32: ExportResult) -> tuple[ExportResult, Reference | None]:
    """Compare the FP32 file with PyTorch; with it go PyTorch's answers, which took a while.

    Raises:
        VerificationError: They disagree.
    """
    if not prepared.request.verify:
        return fp32, None
    seconds = dict(fp32.seconds)
    with _timed(seconds, "verify", prepared.report):
        reference = _reference(prepared, Precision.FP32)
        comparison = _compare(fp32.path, reference)
    info = replace(fp32.info, verification=comparison.to_dict())
    return replace(fp32, info=info, comparison=comparison, seconds=seconds), reference


def _reduce(prepared: Prepared, fp32: ExportResult, reference: Reference | None, folder: Path) -> ExportResult:
    """FP32 file that has been proved -> file of lower precision that has been proved."""
    import onnx

    from rest_deploy.export.blockwise import whole
    from rest_deploy.export.precision.int8 import fold_transposes
    from rest_deploy.export.precision.plan import plan_for
    from rest_deploy.models.reference import reference_runs
    from rest_deploy.pipeline.reduce_precision import Reducible, Reduction

    request = prepared.request
    precision, recipe, config = request.precision, request.recipe, request.precision_config
    model, seconds = prepared.loaded.model, dict(fp32.seconds)
    if reference is not None:
        reference = reference.measured_by(reference_runs(model, precision)[1])
    plan = plan_for(model.to_deploy(), precision, half_io=config.half_io)
    graph = fold_transposes(whole(onnx.load(str(fp32.path))))
    network = Reducible(graph, fp32.info, plan, recipe, config, prepared.sample)
    with _timed(seconds, "calibrate" if recipe.calibrated else "prepare", prepared.report):
        reduction = Reduction.of(network, reference, prepared.report)
    path = _new(folder / precision.value) / prepared.file
    with _timed(seconds, f"{precision.value} and verify" if request.verify else precision.value, prepared.report):
        info, comparison = reduction.make(path, replace(prepared.info, extra=fp32.info.extra))
    return replace(fp32, path=path, info=info, comparison=comparison, seconds=seconds)


def _make(prepared: Prepared, job: Job, source: ExportResult, fp32: ExportResult, folder: Path) -> ExportResult:
    """Proved ONNX file -> file of a format, proved and timed where it can be run here, in place."""
    source = _taking_pictures(prepared, job, source, folder)
    seconds = dict(source.seconds)
    with _timed(seconds, job.exporter.step, prepared.report):
        file = job.exporter.make(source.path, source.info, _new(folder / "made" / job.format))
    comparison = source.comparison if file.info.verification is not None else None
    made = ExportResult(file.path, file.info, comparison, seconds, (*source.notes, *file.notes))
    if prepared.request.verify and made.info.verification is None:
        made = _prove_made(prepared, job, made)
    if made.info.precision_plan is not None:
        made = _measure(prepared, job, made, fp32, folder)
    output = job.output if job.output is not None else _new(folder / "source") / prepared.file
    notes = job.exporter.place(Made(made.path, made.info), output)
    return replace(made, path=output, notes=tuple(dict.fromkeys((*made.notes, *notes))))


def _taking_pictures(prepared: Prepared, job: Job, network: ExportResult, folder: Path) -> ExportResult:
    """Proved ONNX file -> the same behind what makes its input from pictures, where asked for, still to be proved.

    Raises:
        ExportError: That makes other inputs than Pillow does.
    """
    kind, steps = job.input, network.info.preprocessing
    if kind is InputKind.FLOAT or job.output is None:  # a file that others are made from alone
        return network
    import onnx

    from rest_deploy.export.pixels import check_levels, with_pixels

    assert steps is not None  # seen to before
    seconds, exact = dict(network.seconds), job.exporter.float64
    place = folder / "pictures" / job.format / network.info.precision.value
    with _timed(seconds, "take pictures", prepared.report):
        levels = check_levels(steps, kind, exact=exact)
        path = _new(place) / prepared.file
        with replacing(path) as target:
            onnx.save(with_pixels(onnx.load(str(network.path)), steps, kind, exact=exact), str(target))
            info = replace(network.info.taking(kind), levels=levels)
            if not exact:  # not run itself
                info = replace(info, verification=network.info.verification)
            write_record(target, info)
    return replace(network, path=path, info=info, comparison=None, seconds=seconds)


def _prove_made(prepared: Prepared, job: Job, made: ExportResult) -> ExportResult:
    """Compare a made file with PyTorch where it can be run here; else that is said."""
    trial = job.exporter.trial(made.info)
    if made.info.format == SOURCE:  # which is computed here whatever it is for
        trial = replace(trial, device="cpu")
    if trial.device is None:
        note = f"{made.path.name} was not run here: {trial.why_not}; the ONNX file it is made from was verified"
        _log.info(note)
        said = made.info.engine is not None and made.info.engine.not_run is not None  # in its record
        return made if said else replace(made, notes=(*made.notes, note))
    seconds = dict(made.seconds)
    step = "verify on the GPU" if trial.device != "cpu" else "verify from pictures"
    with _timed(seconds, step, prepared.report):
        reference = _reference(prepared, made.info.precision, made.info, trial)
        comparison = _compare(made.path, reference, trial.device)
    info = replace(made.info, verification=comparison.to_dict())
    return replace(made, info=info, comparison=comparison, seconds=seconds)


def _measure(prepared: Prepared, job: Job, made: ExportResult, fp32: ExportResult, folder: Path) -> ExportResult:
    """Time a file in lower precision against the same in FP32; what was said of the file it is made from goes."""
    assert made.info.precision_plan is not None  # of all that is in lower precision
    speed, advice, seconds = None, tuple[str, ...](), dict(made.seconds)
    if job.output is not None:

        def in_fp32() -> Path:
            source = _taking_pictures(prepared, job, fp32, folder)
            return job.exporter.make(source.path, source.info, _new(folder / "made in fp32" / job.format)).path

        config = prepared.request.precision_config
        required = job is not prepared.source or len(prepared.jobs) == 1
        with _timed(seconds, "compare speed", prepared.report):
            speed, advice = measure_speed(config, made.info, made.path, in_fp32, job.exporter.trial, required=required)
    plan = replace(made.info.precision_plan, speed=speed.to_dict() if speed is not None else None)
    info = replace(made.info, precision_plan=plan)
    taken = seconds if speed is not None else made.seconds  # what was not timed took no step
    return replace(made, info=info, seconds=taken, notes=(*made.notes, *advice))


def _reference(
    prepared: Prepared, precision: Precision, info: ArtifactInfo | None = None, trial: Trial | None = None
) -> Reference:
    """PyTorch's answers, in float64 and beside them in the baseline of a precision, at the sizes that a file takes."""
    from rest_deploy.models.reference import reference_runs

    model = prepared.loaded.model
    exact, baseline = reference_runs(model, precision)
    cases = cases_of(info) if info is not None else CASES
    if trial is not None and trial.profiles:
        cases = cases_within(trial.profiles, cases)
    padded = bool(model.taps.stages)
    pictures = pictures_of(info) if info is not None else None
    return Reference(exact, baseline, channels=model.config.in_channels, cases=cases, padded=padded, pictures=pictures)


def _compare(artifact: Path, reference: Reference, device: str | None = None) -> Comparison:
    """Measure an artifact against its model.

    Raises:
        VerificationError: It disagrees.
    """
    with open_candidate(artifact, device) as (run, info):
        comparison = reference.compare(run, of_artifact(info))
    comparison.require(f"{artifact.name} (not kept)")
    return comparison


def _test_vector(artifact: Path) -> dict[str, Any]:
    """What a file that has been proved gives for one picture."""
    with open_candidate(artifact) as (run, info):
        return make_test_vector(info, run)


def _notes(prepared: Prepared) -> tuple[str, ...]:
    """What the user should know of the weights and of the images."""
    notes, weights, sample = [], prepared.info.weights, prepared.sample
    if weights.random:
        files = " and ".join(str(job.output) for job in prepared.jobs)
        notes.append(
            f"RANDOM WEIGHTS: no checkpoint was given, so the weights in {files} are random (seed {weights.seed}) and "
            "predictions mean nothing; give --checkpoint FILE"
        )
        _log.warning(notes[0])
    if sample is not None and sample.left_out_note:
        notes.append(f"calibration folder {sample.folder}: {sample.left_out_note}")
    return tuple(notes)


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@contextmanager
def _timed(seconds: dict[str, float], step: str, report: StepProgress | None) -> Iterator[None]:
    """Add the time of a step, and report that it begins; one without a name takes none to speak of."""
    start = time.perf_counter()
    if step:
        _log.info("%s ...", step)
        if report is not None:
            report(0.0, step)
    yield
    if step:
        seconds[step] = time.perf_counter() - start
