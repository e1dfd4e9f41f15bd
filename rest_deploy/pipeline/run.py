"""The steps of an export, in order: load, trace and write, prove, build, prove again, move into place."""

from __future__ import annotations

import importlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.files import replacing, replacing_all
from rest_deploy.artifact.info import METADATA_KEY, ArtifactInfo
from rest_deploy.artifact.manifest import manifest_path, write_manifest
from rest_deploy.artifact.onnx_metadata import stamp
from rest_deploy.errors import ConfigError, DeviceError, MissingPackageError
from rest_deploy.export.engine.site import BuildSite
from rest_deploy.export.formats import get_format
from rest_deploy.models.config import ResTConfig
from rest_deploy.nvidia.gpus import find_gpu
from rest_deploy.pipeline.command import as_arguments
from rest_deploy.pipeline.jobs import Job, prepare, source_job
from rest_deploy.pipeline.request import ExportRequest
from rest_deploy.specs import Precision
from rest_deploy.verification import CASES, Case, Comparison, cases_within, measure, require

if TYPE_CHECKING:
    from rest_deploy.models.factory import LoadedModel

_log = logging.getLogger(__name__)

#: Called with the share of a step that is done, 0 to 1, and its name.
Progress = Callable[[float, str], None]


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
    model: str | ResTConfig | None,
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
        output: File to write; None names it after the model, in the current folder.
        checkpoint: ``.pth``, ``.pt`` or ``.safetensors``; without one the weights are random, and the artifact says so.
        format: ``"onnx"``, ``"trt"`` or ``"trt-rtx"``.
        precision: ``"fp32"``.
        **options: The other fields of :class:`ExportRequest`, and those of the format's config: ``opset`` and
            ``simplify`` of ``OnnxConfig``; ``max_size``, ``targets``, ... of ``EngineConfig``.

    Returns:
        Path of the artifact, which exists only if it agrees with the PyTorch model (unless ``verify=False``). An engine
        that no GPU here can run is proved by the ONNX file it was built from and by the layers that were built; its
        record says so.

    Raises:
        ConfigError: Something that cannot be meant.
        CheckpointError: The checkpoint cannot be read or does not fit.
        ExportError: The artifact could not be made; :class:`VerificationError` where it disagreed.
    """
    own = {name: options.pop(name) for name in _REQUEST_FIELDS & set(options)}
    request = ExportRequest(model, output, checkpoint, format, Precision.parse(precision), options=options, **own)
    return run_export(request).path


_REQUEST_FIELDS = {f.name for f in fields(ExportRequest) if f.init} - {"options"}


def run_export(request: ExportRequest, report: Progress | None = None) -> ExportResult:
    """Make the one artifact that was asked for, and tell what was made.

    Raises:
        ConfigError: Several formats were asked for.
    """
    if len(request.formats) != 1:
        raise ConfigError(f"format {request.format}: one format a call makes one artifact; run_exports makes several")
    return run_exports(request, report)[0]


def run_exports(request: ExportRequest, report: Progress | None = None) -> tuple[ExportResult, ...]:
    """Make what was asked, as :func:`export`, in the order of the formats.

    Args:
        request: What.
        report: Called as long steps go on.
    """
    return _Run(request, report).make()


class _Run:
    """One request being answered."""

    def __init__(self, request: ExportRequest, report: Progress | None) -> None:
        self._request, self._report = request, report
        self._clock = _Clock()

    def make(self) -> tuple[ExportResult, ...]:
        with self._clock("load"):
            self._loaded, jobs = prepare(self._request)
        notes = _notes_on_weights(jobs)
        made: dict[str, ExportResult] = {}
        with ExitStack() as stack:
            if "onnx" not in self._request.formats:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rest-export-"))
                jobs = (source_job(self._request, self._loaded, Path(folder)), *jobs)
            for job in sorted(jobs, key=lambda job: get_format(job.format).source is not None):
                result = self._onnx(job) if job.site is None else self._engine(job, job.site, made["onnx"])
                made[job.format] = replace(result, notes=tuple(dict.fromkeys((*notes, *result.notes))))
        return tuple(made[name] for name in self._request.formats)

    def _onnx(self, job: Job) -> ExportResult:
        """Write and prove an ONNX file."""
        from rest_deploy.models.deploy import to_deploy

        exporter = importlib.import_module(get_format(job.format).module)
        config = self._request.configs[job.format]
        with replacing(job.output) as target:
            with self._clock("export"):
                deploy = to_deploy(self._loaded.model)
                written = exporter.export(deploy, job.info.input, job.info.output, target, config)
            info = replace(job.info, extra=asdict(written))
            graph_bytes = target.stat().st_size
            stamp(target, graph_bytes, METADATA_KEY, info.to_json())
            comparison = None
            if self._request.verify:
                with self._clock("verify"):
                    comparison = _verify(self._loaded, target, info)
                info = replace(info, verification=comparison.to_dict())
                stamp(target, graph_bytes, METADATA_KEY, info.to_json())
        notes = () if written.not_simplified_why is None else (f"not simplified: {written.not_simplified_why}",)
        return ExportResult(job.output, info, comparison, self._clock.taken(), notes)

    def _engine(self, job: Job, site: BuildSite, source: ExportResult) -> ExportResult:
        """Build and prove an engine from an ONNX file that has been proved; plan and manifest appear together."""
        exporter = importlib.import_module(get_format(job.format).module)
        config = self._request.configs[job.format]
        with replacing_all([job.output, manifest_path(job.output)]) as (target, manifest):
            with self._clock("build"):
                command = as_arguments(self._request)
                info, warnings = exporter.export(
                    source.path, source.info, target, site=site, config=config, command=command, report=self._report
                )
            comparison = None
            if self._request.verify:
                write_manifest(manifest, info)  # it is opened as any other engine is
                info, comparison = self._verified(info, target, config.gpu or 0)
            write_manifest(manifest, info)
        seconds = self._clock.taken()
        if "onnx" not in self._request.formats:
            seconds = {**source.seconds, **seconds}
        notes = (*source.notes, *warnings, *((f"built with {site.library}: {site.why}",) if site.unexpected else ()))
        return ExportResult(job.output, info, comparison, seconds, notes)

    def _verified(self, info: ArtifactInfo, target: Path, gpu: int) -> tuple[ArtifactInfo, Comparison | None]:
        """Run an engine where there is a GPU that can, else say in its record why not."""
        assert info.engine is not None  # the exporter has just made it
        why = _why_not_run(info.engine, gpu)
        if why is not None:
            _log.info("the engine is not run: %s", why)
            return replace(info, engine=replace(info.engine, not_run=why)), None
        with self._clock("verify on the GPU"):
            comparison = _verify(self._loaded, target, info, f"cuda:{gpu}")
        return replace(info, verification=comparison.to_dict()), comparison


def _notes_on_weights(jobs: tuple[Job, ...]) -> tuple[str, ...]:
    weights = jobs[0].info.weights
    if not weights.random:
        return ()
    files = " and ".join(str(job.output) for job in jobs)
    note = (
        f"RANDOM WEIGHTS: no checkpoint was given, so the weights in {files} are random (seed {weights.seed}) and "
        "predictions mean nothing; give --checkpoint FILE"
    )
    _log.warning(note)
    return (note,)


def _why_not_run(engine: EngineRecord, gpu_index: int) -> str | None:
    """Why an engine cannot be run here, or None where it can."""
    try:
        gpu = find_gpu(gpu_index)
    except (DeviceError, MissingPackageError) as exc:
        return str(exc)
    if str(gpu.compute_capability) not in engine.targets:
        return f"the GPU here, {gpu}, is none of its targets {', '.join(engine.targets)}"
    return None


def _verify(loaded: LoadedModel, artifact: Path, info: ArtifactInfo, device: str | None = None) -> Comparison:
    """Measure an artifact against its model.

    Raises:
        VerificationError: It disagrees.
    """
    from rest_deploy.models.reference import reference_runs
    from rest_deploy.runtimes.registry import open_runtime

    exact, plain = reference_runs(loaded.model)
    cases: tuple[Case, ...] = CASES if info.engine is None else cases_within(info.engine.profiles)
    with open_runtime(artifact, device) as runtime:
        channels = loaded.model.config.in_channels
        comparison = measure(runtime.run, exact, plain, channels=channels, precision=info.precision, cases=cases)
    require(comparison, f"{artifact.name} (not kept)")
    return comparison


class _Clock:
    """Seconds of named steps."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        _log.info("%s ...", step)
        yield
        self._seconds[step] = time.perf_counter() - start

    def taken(self) -> dict[str, float]:
        """Steps since the last call."""
        taken, self._seconds = self._seconds, {}
        return taken
