"""FP32 ONNX file -> the file in FP16 or INT8 that is within its limits, with as little kept wider as that takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.artifact.precision import AgreementFigures, CalibrationRecord, PrecisionRecord
from rest_deploy.errors import VerificationError
from rest_deploy.export.formats import Progress
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.export.precision.plan import PrecisionPlan, display
from rest_deploy.pipeline.prepare import ImageInputs
from rest_deploy.pipeline.sensitivities import Sensitivity, write_sensitivities
from rest_deploy.preprocess.sample import Sample, Source
from rest_deploy.runtimes.ort import sums_saturate
from rest_deploy.specs import CalibrationMethod, ImageSize, Int8Target, Precision, largest_input
from rest_deploy.verification import (
    Case,
    Comparison,
    Limits,
    Pictures,
    Reference,
    Run,
    candidate_of,
    open_candidate,
    synthetic_images,
)
from rest_deploy.verification.figures import LogitFigures
from rest_deploy.verification.limits import budget_record, judge, of_export

if TYPE_CHECKING:
    import onnx

_log = logging.getLogger(__name__)

#: Real images that parts of a network are compared on, one by one; synthetic ones where there are none.
_PART_IMAGES = 16
_PART_CASES = ((48, 64), (96, 128), (160, 160), (224, 224))


@dataclass(frozen=True)
class Network:
    """A network in FP32, and what to make of it.

    Args:
        graph: Its ONNX graph, transposes folded into the weights.
        info: Record of its file.
        plan: All its parts in the precision asked for.
        precision: That precision.
        target: Of INT8; None for FP16.
        config: How.
        sample: Images to calibrate with and to judge by; None where there are none.
    """

    graph: onnx.ModelProto
    info: ArtifactInfo
    plan: PrecisionPlan
    precision: Precision
    target: Int8Target | None
    config: PrecisionConfig
    sample: Sample | None

    @property
    def wider(self) -> Precision:
        """What a part is in that cannot be in the precision asked for: FP16 of INT8 for TensorRT, else FP32."""
        return Precision.FP16 if self.target is Int8Target.TRT else Precision.FP32

    @property
    def reduced_range(self) -> bool:
        """Whether INT8 weights have 7 bits: asked for, or needed on this CPU."""
        return self.config.reduced_range or sums_saturate()

    @property
    def method(self) -> CalibrationMethod:
        """How ranges are taken."""
        return self.config.calibration_method or CalibrationMethod.MIN_MAX

    def calibration_record(self) -> CalibrationRecord | None:
        """Where ranges come from; None where none were taken."""
        if self.sample is None or self.target is not Int8Target.TRT:
            return None
        return CalibrationRecord(
            method=self.method,
            images=self.sample.names(self.sample.calibration),
            sha256=self.sample.sha256,
            seed=self.sample.seed,
            sizes=tuple(str(size) for size in self.config.calibration_sizes),
        )

    def inputs(self, sources: Sequence[Source], sizes: Sequence[ImageSize] = ()) -> ImageInputs:
        """Images or arrays of the sample as inputs."""
        largest, channels = largest_input(self.precision, self.target), int(self.info.input.shape[1])
        return ImageInputs(sources, self.info.preprocessing, sizes, channels, largest=largest, config=self.info.config)


#: Makes the graph of a plan.
Convert = Callable[[PrecisionPlan], "onnx.ModelProto"]


def _converter(network: Network, report: Progress) -> Convert:
    """INT8 for TensorRT is calibrated here, once for all plans."""
    from rest_deploy.export.precision.dynamic import to_dynamic_int8
    from rest_deploy.export.precision.half import to_half
    from rest_deploy.export.precision.qdq import to_qdq

    graph = network.graph
    if network.target is Int8Target.CPU:
        return lambda plan: to_dynamic_int8(graph, plan, reduced_range=network.reduced_range)
    if network.target is Int8Target.TRT:
        ranges = _ranges(network, report)
        return lambda plan: to_half(to_qdq(graph, plan, ranges), plan)
    return lambda plan: to_half(graph, plan)


def _ranges(network: Network, report: Progress) -> dict[str, float]:
    from rest_deploy.export.precision.calibration import calibrate
    from rest_deploy.export.precision.qdq import quantized_inputs

    assert network.sample is not None  # PrecisionConfig.check has looked
    names = quantized_inputs(network.graph, network.plan)
    inputs = network.inputs(network.sample.calibration, network.config.calibration_sizes)
    return calibrate(
        network.graph, names, inputs, network.method, lambda done: report(done / len(inputs), "calibrating")
    )


@dataclass(frozen=True)
class Verdict:
    """Figures, judged.

    Args:
        comparison: On synthetic images, against PyTorch in float64; None where that was not asked for.
        agreement: On real images, against FP32, in standard deviations of its logits; None where there are none.
        limits: What is allowed on real images.
    """

    comparison: Comparison | None
    agreement: LogitFigures | None
    limits: Limits

    @property
    def failures(self) -> list[str]:
        """What is over the limits, in words."""
        failures = self.comparison.failures if self.comparison is not None else []
        if self.agreement is not None:
            failures += [f"{self.agreement.images} images: {why}" for why in judge(self.agreement, self.limits)]
        return failures

    @property
    def passed(self) -> bool:
        """Whether nothing is."""
        return not self.failures

    def change_to(self, other: Verdict) -> str:
        """From these figures to another verdict's, in words."""
        if self.agreement is not None and other.agreement is not None:
            before, after = self.agreement, other.agreement
            return (
                f"agreement {before.top1_agreement:.1%} -> {after.top1_agreement:.1%}, "
                f"largest error {before.max_error:.3g} -> {after.max_error:.3g}"
            )
        if self.comparison is not None and other.comparison is not None:
            return f"largest error {_worst(self.comparison):.3g} -> {_worst(other.comparison):.3g}"
        return ""


def _worst(comparison: Comparison) -> float:
    """Largest error of an output, in standard deviations of it."""
    return max(own.max_error / (own.std or 1.0) for case in comparison.cases for own in case.outputs.values())


@dataclass(frozen=True)
class Judge:
    """Judges runs of a network in lower precision.

    Args:
        reference: Answers to synthetic images, beside the baseline error of the precision; None leaves them out.
        images: Real images with FP32's answers; None where there are none.
        on_synthetic, on_images: What is allowed.
    """

    reference: Reference | None
    images: Pictures | None
    on_synthetic: Limits
    on_images: Limits

    def __call__(self, run: Run) -> Verdict:
        comparison = agreement = None
        if self.reference is not None:
            comparison = self.reference.compare(run, self.on_synthetic)
            if self.images is not None:
                agreement = self.images.compare(run)
        return Verdict(comparison, agreement, self.on_images)


def _judge_of(network: Network, reference: Reference | None) -> Judge:
    """What judges a network: without a reference nothing, but parts are still compared on the images."""
    config, sample, images = network.config, network.sample, None
    if sample is not None and (reference is not None or config.sensitivity is not None):
        images = Pictures(candidate_of(network.graph), network.inputs(sample.judged))
    asked, random = Limits(config.max_error, config.min_top1_agreement), network.info.weights.random
    judged = images is not None and reference is not None
    return Judge(reference, images, *of_export(network.precision, asked, images=judged, random=random))


@dataclass(frozen=True)
class TriedPlan:
    """A plan that was tried.

    Args:
        plan: The plan.
        verdict: On its graph.
        steps: What was kept wider, in order, and what that bought, in words.
    """

    plan: PrecisionPlan
    verdict: Verdict
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reduction:
    """Makes the file of a network in lower precision: graphs by plan, each judged, until one is within the limits.

    Args:
        network: What is reduced.
        convert: Makes the graph of a plan.
        judge: Judges it.
        report: Called as a search goes on.
    """

    network: Network
    convert: Convert
    judge: Judge
    report: Progress

    @classmethod
    def of(cls, network: Network, reference: Reference | None, report: Progress) -> Reduction:
        """Open the images, and take the ranges of INT8 for TensorRT.

        Args:
            network: What is reduced.
            reference: PyTorch's answers to synthetic images, beside the baseline error of the precision; None judges
                nothing.
            report: Called as it goes on.
        """
        return cls(network, _converter(network, report), _judge_of(network, reference), report)

    def make(self, path: Path, info: ArtifactInfo) -> tuple[ArtifactInfo, Comparison | None]:
        """Write the file with everything in the precision asked for; where that is over the limits, with the worst
        parts kept wider. What is judged is the file as it lies on disk.

        Args:
            path: File to write, with its record as far as it is known before it is judged.
            info: That record.

        Returns:
            Its record, and the figures that it passed with; None where it was not judged.

        Raises:
            VerificationError: No plan is within the limits.
        """
        plan = self.network.plan
        steps: tuple[str, ...] = ()
        info = self._write(plan, path, info)
        verdict = self._judge_file(path)
        if verdict is not None and not verdict.passed:
            found = self._search(verdict)
            plan, steps = found.plan, found.steps
            info = self._write(plan, path, info)
            verdict = self._judge_file(path)
        elif self.network.config.sensitivity is not None:
            self._sensitivities(plan)
        if verdict is None:
            return info, None
        if not verdict.passed:
            raise VerificationError(f"{path.name} (not kept): {'; '.join(verdict.failures)}")
        comparison = verdict.comparison
        figures = comparison.to_dict() if comparison is not None else None
        info = replace(info, precision_plan=self._record(plan, verdict, steps), verification=figures)
        return info, comparison

    def _write(self, plan: PrecisionPlan, path: Path, info: ArtifactInfo) -> ArtifactInfo:
        import onnx

        model = self.convert(plan)
        del model.metadata_props[:]  # the record and the seal of the FP32 file
        extra = {**info.extra, "nodes": len(model.graph.node)}
        info = replace(info, extra=extra, precision_plan=self._record(plan))
        with replacing(path) as target:
            onnx.save(model, str(target))
            write_record(target, info)
        return info

    def _judge_file(self, path: Path) -> Verdict | None:
        if self.judge.reference is None:
            return None
        with open_candidate(path) as (run, _):
            return self.judge(run)

    def _try(self, plan: PrecisionPlan) -> Verdict:
        return self.judge(candidate_of(self.convert(plan)))

    def _record(
        self, plan: PrecisionPlan, verdict: Verdict | None = None, steps: tuple[str, ...] = ()
    ) -> PrecisionRecord:
        """What the file says of its precision."""
        network, agreement = self.network, verdict.agreement if verdict is not None else None
        sample, figures = network.sample, AgreementFigures.__annotations__
        return PrecisionRecord(
            kept={display(part): own for part, own in plan.kept(network.precision).items()},
            half_io=plan.half_io,
            int8_target=network.target,
            reduced_range=network.reduced_range if network.target is Int8Target.CPU else None,
            calibration=network.calibration_record(),
            budget=budget_record(self.judge.on_synthetic, self.judge.on_images),
            agreement={name: getattr(agreement, name) for name in figures} if agreement is not None else None,
            judged_images=sample.names(sample.judged) if sample is not None and agreement is not None else (),
            steps=steps,
        )

    def _search(self, failed: Verdict) -> TriedPlan:
        """The plan within the limits, where everything in the precision asked for is not.

        INT8 for TensorRT falls back to FP16, part by part, and to FP32 where not even FP16 will do; the others to FP32.

        Raises:
            VerificationError: There is none.
        """
        _log.info("over the limits (%s); looking for the parts to blame", "; ".join(failed.failures))
        plan, wider = self.network.plan, self.network.wider
        steps: tuple[str, ...] = ()
        if wider is Precision.FP16:  # which must be within them first
            half = plan.changed(plan.narrowed(), Precision.FP16)
            verdict = self._try(half)
            if not verdict.passed:
                found = self._kept(half, Precision.FP32, verdict, self._part_errors(half, Precision.FP32))
                steps = found.steps
                plan = plan.changed(found.plan.kept(Precision.FP16), Precision.FP32)
                failed = self._try(plan)
        table = self._sensitivities(plan)
        if failed.passed:
            return TriedPlan(plan, failed, steps)
        found = self._kept(plan, wider, failed, table)
        return replace(found, steps=(*steps, *found.steps))

    def _kept(self, plan: PrecisionPlan, wider: Precision, failed: Verdict, worst_first: Iterable[str]) -> TriedPlan:
        done, parts = count(), list(worst_first)

        def judged(plan: PrecisionPlan) -> Verdict:
            self.report(next(done) / len(parts), "keeping the worst parts wider")
            return self._try(plan)

        return keep_worst(plan, wider, parts, failed, judged)

    def _sensitivities(self, plan: PrecisionPlan) -> dict[str, Sensitivity]:
        """What each part costs alone, the worst first; written where that was asked for."""
        network = self.network
        table = self._part_errors(plan, network.wider)
        if network.config.sensitivity is not None:
            write_sensitivities(network.config.sensitivity, list(table.values()), network.precision, network.wider)
        return table

    def _part_errors(self, plan: PrecisionPlan, wider: Precision) -> dict[str, Sensitivity]:
        if self.judge.images is not None:
            images = self.judge.images.first(_PART_IMAGES)
        else:
            rng, channels = np.random.default_rng(0), int(self.network.info.input.shape[1])
            cases = [Case(2, ImageSize(*size)) for size in _PART_CASES]
            noise = [synthetic_images(rng, case, channels) for case in cases]
            images = Pictures(candidate_of(self.network.graph), noise)
        done, parts = count(), len(plan.narrowed())

        def measure(plan: PrecisionPlan) -> tuple[float, float]:
            self.report(next(done) / parts, "what each part costs")
            agreement = images.compare(candidate_of(self.convert(plan)))
            return agreement.rms_error, agreement.top1_agreement

        return sensitivities(plan, wider, measure)


def sensitivities(
    plan: PrecisionPlan, wider: Precision, measure: Callable[[PrecisionPlan], tuple[float, float]]
) -> dict[str, Sensitivity]:
    """What each part in lower precision costs alone, the worst first.

    Args:
        plan: Its parts in lower precision are looked at.
        wider: Precision of all the others meanwhile.
        measure: Plan -> root mean squared error and top-1 agreement.
    """
    lowered = [part for part in plan.narrowed() if plan.parts[part] is not wider]
    found = {}
    for part in lowered:
        error, agreement = measure(plan.changed([other for other in lowered if other != part], wider))
        found[part] = Sensitivity(display(part), error if math.isfinite(error) else math.inf, agreement)
    return dict(sorted(found.items(), key=lambda item: -item[1].error))


def keep_worst(
    plan: PrecisionPlan,
    wider: Precision,
    worst_first: Sequence[str],
    failed: Verdict,
    judge: Callable[[PrecisionPlan], Verdict],
) -> TriedPlan:
    """Keep parts wider, the worst first, until the plan is within the limits.

    Args:
        plan: That is over the limits.
        wider: Precision that parts are kept in.
        worst_first: Parts of the plan.
        failed: Verdict on it.
        judge: Plan -> verdict.

    Raises:
        VerificationError: It is not even with all parts but one kept.
    """
    verdict, kept = failed, []
    words: list[str] = []
    for part in worst_first[:-1]:
        kept.append(part)
        before, verdict = verdict, judge(plan.changed(kept, wider))
        words.append(f"{display(part)} {wider.value.upper()}: {before.change_to(verdict)}")
        if verdict.passed:
            return TriedPlan(plan.changed(kept, wider), verdict, tuple(words))
    precision = next(own for own in plan.parts.values() if own is not Precision.FP32)
    raise VerificationError(
        f"{precision.value} does not hold the budget, whatever parts are kept in {wider.value}: "
        f"{'; '.join(verdict.failures)}; allow more by --max-error or --min-top1-agreement, or export in {wider.value}"
    )
