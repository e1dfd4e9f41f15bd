"""The steps of an export, in order: load, trace and write, prove, narrow, prove, build, prove, move into place."""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.engine_files import replacing_engine
from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.manifest import manifest_path, write_manifest
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.artifact.workspace import workspace
from rest_deploy.errors import DeviceError, MissingPackageError
from rest_deploy.export.engine.site import BuildSite
from rest_deploy.export.formats import get_format
from rest_deploy.nvidia import find_gpu
from rest_deploy.pipeline.command import as_arguments
from rest_deploy.pipeline.jobs import Job, in_fp32, prepare, source_job
from rest_deploy.pipeline.narrowed_file import NarrowedFile
from rest_deploy.pipeline.narrowing import Narrowing, Network
from rest_deploy.pipeline.request import ExportRequest
from rest_deploy.pipeline.result import Clock, ExportResult
from rest_deploy.pipeline.speed import advice, check_onnx_speed, compare_speed, require_speedup
from rest_deploy.pipeline.vector import make_test_vector
from rest_deploy.specs import Int8Target, Precision
from rest_deploy.verification import Comparison, Reference, cases_within, open_candidate, require

if TYPE_CHECKING:
    from rest_deploy.models.deploy import DeployResT

_log = logging.getLogger(__name__)

#: Called with the share of a step that is done, 0 to 1, and its name.
Progress = Callable[[float, str], None]


class Making:
    """One request being answered."""

    def __init__(self, request: ExportRequest, report: Progress | None) -> None:
        self._request, self._report = request, report
        self._clock = Clock()
        self._known: Reference | None = None
        self._traced_notes: tuple[str, ...] = ()  # of the graph, whatever is made from it

    def make(self) -> tuple[ExportResult, ...]:
        """Make what was asked for, in the order of the formats."""
        with self._clock("load"):
            self._loaded, jobs = prepare(self._request)
        sample = jobs[0].sample
        notes = _notes_on_weights(jobs)
        if sample is not None and sample.left_out_note:
            notes = (*notes, f"calibration folder {sample.folder}: {sample.left_out_note}")
        made: dict[str, ExportResult] = {}
        with ExitStack() as stack:
            self._folder = stack.enter_context(workspace(tempfile.gettempdir(), "rest-export"))
            if "onnx" not in self._request.formats:
                jobs = (source_job(self._request, self._loaded, self._folder, jobs[0].sample), *jobs)
            for job in sorted(jobs, key=lambda job: get_format(job.format).source is not None):
                result = self._onnx(job) if job.site is None else self._engine(job, job.site, made["onnx"])
                made[job.format] = replace(result, notes=tuple(dict.fromkeys((*notes, *result.notes))))
        return tuple(made[name] for name in self._request.formats)

    def _onnx(self, job: Job) -> ExportResult:
        """Write and prove an ONNX file in the precision that was asked for."""
        from rest_deploy.models.deploy import to_deploy

        deploy = to_deploy(self._loaded.model)
        if self._request.precision is Precision.FP32:
            return self._fp32(job, deploy)
        self._base = self._folder / "fp32" / f"{self._loaded.name}.onnx"
        self._base.parent.mkdir()
        source = self._fp32(replace(job, info=in_fp32(job.info), output=self._base), deploy)
        self._base_info = source.info
        return self._narrowed(job, source, deploy)

    def _fp32(self, job: Job, deploy: DeployResT) -> ExportResult:
        exporter = importlib.import_module(get_format(job.format).module)
        config = self._request.configs[job.format]
        with replacing(job.output) as target:
            with self._clock("export"):
                written = exporter.export(deploy, job.info.input, job.info.output, target, config)
            info = replace(job.info, extra=asdict(written))
            write_record(target, info)
            comparison = None
            if self._request.verify:
                with self._clock("verify"):
                    comparison = self._compare(target, self._reference())
                    vector = _test_vector(target)
                info = replace(info, verification=comparison.to_dict(), test_vector=vector)
                write_record(target, info)
        if written.not_simplified_why is not None:
            self._traced_notes = (f"not simplified: {written.not_simplified_why}",)
        return ExportResult(job.output, info, comparison, self._clock.taken(), self._traced_notes)

    def _narrowed(self, job: Job, source: ExportResult, deploy: DeployResT) -> ExportResult:
        """Write and prove an ONNX file in FP16 or INT8, made from one in FP32 that has been proved."""
        narrowing = self._narrowing(job, source, deploy)
        with replacing(job.output) as target:
            wanted = job.info.precision.value
            file = NarrowedFile(target, replace(job.info, extra=source.info.extra), narrowing)
            with self._clock(f"{wanted} and verify" if self._request.verify else wanted):
                verdict = file.write_within_budget(verify=self._request.verify)
            speed, notes = None, source.notes
            if job.format in self._request.formats:
                with self._clock("compare speed"):
                    config, alone = self._request.narrowing, not self._request.makes_engine
                    speed, note = check_onnx_speed(config, self._base, target, file.info, required=alone)
                notes = (*notes, *note)
            info = file.stamp(verdict, speed, _test_vector(target) if verdict is not None else None)
        comparison = verdict.comparison if verdict is not None else None
        seconds = {**source.seconds, **self._clock.taken()}
        return ExportResult(job.output, info, comparison, seconds, notes)

    def _narrowing(self, job: Job, source: ExportResult, deploy: DeployResT) -> Narrowing:
        import onnx

        from rest_deploy.export.precision.plan import plan_for
        from rest_deploy.models.reference import reference_runs

        request, reference = self._request, None
        if request.verify:
            _, yardstick = reference_runs(self._loaded.model, request.precision)
            reference = self._reference().measured_by(yardstick)
        plan = plan_for(deploy, request.precision, half_io=request.narrowing.half_io)
        target = request.narrowing.target_for(request.makes_engine) if request.precision is Precision.INT8 else None
        network = Network(onnx.load(str(self._base)), plan, source.info, target, job.sample)
        with self._clock("calibrate" if target is Int8Target.TRT else "prepare"):
            return Narrowing(network, request.precision, request.narrowing, reference=reference, report=self._report)

    def _engine(self, job: Job, site: BuildSite, source: ExportResult) -> ExportResult:
        """Build and prove an engine from an ONNX file that has been proved; plan and manifest appear together."""
        with replacing_engine(job.output) as (target, manifest):
            with self._clock("build"):
                info, warnings = self._build(job, site, source.path, source.info, target)
            comparison, notes = None, (*self._traced_notes, *warnings)
            if info.precision_plan is not None:  # what the ONNX file's speed is says nothing of the engine's
                info = replace(info, precision_plan=replace(info.precision_plan, speed=None))
            if self._request.verify:
                write_manifest(manifest, info)  # it is opened as any other engine is
                info, comparison = self._verified(info, target, self._gpu(job))
            if info.precision is not Precision.FP32:
                write_manifest(manifest, info)
                info, more = self._compared(job, site, info, target)
                notes = (*notes, *more)
            write_manifest(manifest, info)
        seconds = self._clock.taken()
        if "onnx" not in self._request.formats:
            seconds = {**source.seconds, **seconds}
        if site.unexpected:
            notes = (*notes, f"built with {site.library}: {site.why}")
        return ExportResult(job.output, info, comparison, seconds, notes)

    def _build(
        self, job: Job, site: BuildSite, source: Path, info: ArtifactInfo, target: Path
    ) -> tuple[ArtifactInfo, tuple[str, ...]]:
        exporter = importlib.import_module(get_format(job.format).module)
        config, command = self._request.configs[job.format], as_arguments(self._request)
        made: tuple[ArtifactInfo, tuple[str, ...]] = exporter.export(
            source, info, target, site=site, config=config, command=command, report=self._report
        )
        return made

    def _gpu(self, job: Job) -> int:
        return self._request.configs[job.format].gpu or 0

    def _verified(self, info: ArtifactInfo, target: Path, gpu: int) -> tuple[ArtifactInfo, Comparison | None]:
        """Run an engine where there is a GPU that can, else say in its record why not."""
        assert info.engine is not None  # the exporter has just made it
        why = _why_not_run(info.engine, gpu)
        if why is not None:
            _log.info("the engine is not run: %s", why)
            return replace(info, engine=replace(info.engine, not_run=why)), None
        with self._clock("verify on the GPU"):
            comparison = self._compare(target, self._reference_for(info), f"cuda:{gpu}")
        return replace(info, verification=comparison.to_dict()), comparison

    def _compared(
        self, job: Job, site: BuildSite, info: ArtifactInfo, target: Path
    ) -> tuple[ArtifactInfo, tuple[str, ...]]:
        """Time a narrowed engine against one in FP32, made for that, where a GPU can run both."""
        config = self._request.narrowing
        assert info.engine is not None
        why_not = "it was left out" if not config.compare_speed else _why_not_run(info.engine, self._gpu(job))
        if why_not is not None:
            require_speedup(None, config.require_speedup, why_not)
            return info, ()
        with self._clock("compare speed"):
            wide = self._folder / "fp32" / "fp32.engine"
            made, _ = self._build(job, site, self._base, self._base_info, wide)
            write_manifest(manifest_path(wide), made)
            opt = info.engine.profiles[0].opt
            speed = compare_speed(wide, target, f"cuda:{self._gpu(job)}", opt)
        require_speedup(speed, config.require_speedup, "")
        assert info.precision_plan is not None  # of all that is narrowed
        plan = replace(info.precision_plan, speed=speed.to_dict())
        return replace(info, precision_plan=plan), advice(speed, info.precision)

    def _reference(self) -> Reference:
        """PyTorch's answers at all sizes; float64 takes a while, so they are kept."""
        if self._known is None:
            from rest_deploy.models.reference import reference_runs

            exact, plain = reference_runs(self._loaded.model)
            self._known = Reference(exact, plain, channels=self._loaded.model.config.in_channels)
        return self._known

    def _reference_for(self, info: ArtifactInfo) -> Reference:
        """PyTorch's answers at the sizes that an engine takes."""
        from rest_deploy.models.reference import reference_runs

        assert info.engine is not None
        exact, yardstick = reference_runs(self._loaded.model, info.precision)
        cases = cases_within(info.engine.profiles)
        return Reference(exact, yardstick, channels=self._loaded.model.config.in_channels, cases=cases)

    def _compare(self, artifact: Path, reference: Reference, device: str | None = None) -> Comparison:
        """Measure an artifact against its model.

        Raises:
            VerificationError: It disagrees.
        """
        with open_candidate(artifact, device) as (run, info):
            plan = info.precision_plan
            comparison = reference.compare(run, info.precision, spread=plan.spread if plan is not None else None)
        require(comparison, f"{artifact.name} (not kept)")
        return comparison


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


def _test_vector(artifact: Path) -> dict[str, Any]:
    """What a file that has been proved gives for one picture."""
    with open_candidate(artifact) as (run, info):
        return make_test_vector(info, run)


def _why_not_run(engine: EngineRecord, gpu_index: int) -> str | None:
    """Why an engine cannot be run here, or None where it can."""
    try:
        gpu = find_gpu(gpu_index)
    except (DeviceError, MissingPackageError) as exc:
        return str(exc)
    if str(gpu.compute_capability) not in engine.targets:
        return f"the GPU here, {gpu}, is none of its targets {', '.join(engine.targets)}"
    return None
