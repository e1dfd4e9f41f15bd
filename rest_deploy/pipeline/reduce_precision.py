"""FP32 ONNX file -> the file of lower precision within its limits, with as little kept out of it as that takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.artifact.precision import AgreementFigures, CalibrationRecord, PrecisionRecord
from rest_deploy.errors import VerificationError, counted
from rest_deploy.export.checks import answers, checked_blockwise
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.export.precision.plan import Convert, ConvertInput, PrecisionPlan
from rest_deploy.models.family import config_of
from rest_deploy.pipeline.prepare import ImageInputs
from rest_deploy.pipeline.sensitivities import Sensitivity, write_sensitivities
from rest_deploy.preprocess.sample import Sample, SampleSource
from rest_deploy.recipes import Recipe
from rest_deploy.runtimes.ort import sums_saturate
from rest_deploy.specs import LOGITS, CalibrationMethod, ImageSize, Precision, StepProgress
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
from rest_deploy.verification.figures import LogitFigures, ValueFigures, summary
from rest_deploy.verification.limits import budget_record, judge, of_export, of_maps, of_one_class

if TYPE_CHECKING:
    import onnx

_log = logging.getLogger(__name__)

#: Real images that parts of a network are compared on, one by one; synthetic ones where there are none.
_PART_IMAGES = 16
_PART_CASES = ((48, 64), (96, 128), (160, 160), (224, 224))


@dataclass(frozen=True)
class Reducible:
    """A network in FP32, and what to make of it.

    Args:
        graph: Its ONNX graph, transposes folded into the weights.
        info: Record of its file.
        plan: All its parts in the precision asked for.
        recipe: Of that precision.
        config: How.
        sample: Images to calibrate with and to judge by; None where there are none.
    """

    graph: onnx.ModelProto
    info: ArtifactInfo
    plan: PrecisionPlan
    recipe: Recipe
    config: PrecisionConfig
    sample: Sample | None

    @property
    def reduced_range(self) -> bool:
        """Whether INT8 weights have 7 bits: asked for, or needed on this CPU."""
        return self.config.reduced_range or (self.recipe.integers and sums_saturate())

    @property
    def method(self) -> CalibrationMethod:
        """How ranges are taken."""
        return self.config.calibration_method or CalibrationMethod.MIN_MAX

    @property
    def fp32(self) -> Run:
        """It, to be run."""
        return candidate_of(self.graph, self.info.recipe)

    def inputs(self, sources: Sequence[SampleSource], sizes: Sequence[ImageSize] = ()) -> ImageInputs:
        """Images or arrays of the sample as inputs."""
        info, channels = self.info, int(self.info.input.shape[1])
        largest, config = self.recipe.largest_input, config_of(info)
        return ImageInputs(sources, info.preprocessing, sizes, channels, largest=largest, config=config)

    def converter(self, report: StepProgress) -> Convert:
        """What makes the graph of a plan; a recipe that takes ranges from images takes them here."""

        def ranges(names: Sequence[str]) -> Mapping[str, float]:
            from rest_deploy.export.precision.calibration import calibrate

            assert self.sample is not None  # PrecisionConfig.check has looked
            images = self.inputs(self.sample.calibration, self.config.calibration_sizes)
            return calibrate(
                self.graph, names, images, self.method, lambda done: report(done / len(images), "calibrating")
            )

        return self.recipe.convert(ConvertInput(self.graph, self.plan, self.config, ranges, self.reduced_range))

    def record(self, plan: PrecisionPlan, budget: Mapping[str, float | None]) -> PrecisionRecord:
        """What a file says of its precision before it is judged."""
        sample, recipe, calibration = self.sample, self.recipe, None
        if sample is not None and recipe.calibrated:
            sizes = tuple(str(size) for size in self.config.calibration_sizes)
            images = sample.names(sample.calibration)
            calibration = CalibrationRecord(self.method, images, sample.sha256, sample.seed, sizes)
        return PrecisionRecord(
            kept={plan.display(part): own for part, own in plan.kept(recipe.precision).items()},
            half_io=plan.half_io,
            int8_target=recipe.target,
            reduced_range=self.reduced_range if recipe.integers else None,
            calibration=calibration,
            budget=budget,
        )


@dataclass(frozen=True)
class Judged:
    """Figures, judged.

    Args:
        comparison: On synthetic images, against PyTorch in float64.
        figures: Of each output on real images, against FP32, in its standard deviations; empty where there are none.
        limits: What is allowed there of the logits.
        limits_of_maps: What is allowed there of outputs that are no logits.
        images: How many of them there are.
    """

    comparison: Comparison
    figures: Mapping[str, LogitFigures | ValueFigures]
    limits: Limits
    limits_of_maps: Limits
    images: int = 0

    @property
    def failures(self) -> list[str]:
        """What is over the limits, in words."""
        failures = self.comparison.failures
        for name, figures in self.figures.items():
            allowed = self.limits if isinstance(figures, LogitFigures) else self.limits_of_maps
            where = counted(self.images, "image") + (f" {name}" if len(self.figures) > 1 else "")
            failures += [f"{where}: {why}" for why in judge(figures, allowed)]
        return failures

    @property
    def agreement(self) -> LogitFigures | ValueFigures | None:
        """What the record says of real images; None where there are none."""
        return summary(self.figures) if self.figures else None

    @property
    def passed(self) -> bool:
        """Whether nothing is."""
        return not self.failures

    def change_to(self, other: Judged) -> str:
        """From these figures to another verdict's, in words."""
        if self.figures:
            return ", ".join(map(_change, self.figures, self.figures.values(), other.figures.values()))
        return f"largest error {_worst(self.comparison):.3g} -> {_worst(other.comparison):.3g}"


def _change(name: str, before: LogitFigures | ValueFigures, after: LogitFigures | ValueFigures) -> str:
    """From the figures of an output to other ones, in words."""
    if isinstance(before, LogitFigures) and isinstance(after, LogitFigures):
        agreement = f"agreement {before.top1_agreement:.1%} -> {after.top1_agreement:.1%}"
        return f"{agreement}, largest error {before.max_error:.3g} -> {after.max_error:.3g}"
    return f"{name} rms error {before.rms_error:.3g} -> {after.rms_error:.3g}"


def _worst(comparison: Comparison) -> float:
    """Largest error of an output, in standard deviations of it."""
    return max(own.max_error / (own.std or 1.0) for case in comparison.cases for own in case.outputs.values())


#: A plan that was tried, the verdict on its graph, and what was kept out of the precision until then, in words.
Tried = tuple[PrecisionPlan, Judged, tuple[str, ...]]


@dataclass(frozen=True)
class Reduction:
    """Makes the file of a network in lower precision: graphs by plan, each judged, until one is within the limits.

    Args:
        network: What is reduced.
        convert: Makes the graph of a plan.
        reference: Answers to synthetic images, beside the baseline error of the precision; None judges nothing.
        images: Real images with FP32's answers; None where there are none.
        limits: What is allowed on synthetic images, and on real ones.
        limits_of_maps: What is allowed on real ones of outputs that are no logits.
        report: Called as a search goes on.
    """

    network: Reducible
    convert: Convert
    reference: Reference | None
    images: Pictures | None
    limits: tuple[Limits, Limits]
    limits_of_maps: Limits
    report: StepProgress

    @classmethod
    def of(cls, network: Reducible, reference: Reference | None, report: StepProgress) -> Reduction:
        """Open the images, and take ranges from some where the recipe does."""
        config, sample, images = network.config, network.sample, None
        convert = network.converter(report)
        if sample is not None and (reference is not None or config.sensitivity is not None):
            images = Pictures(network.fp32, network.inputs(sample.judged))
        asked, random = Limits(config.max_error, config.min_top1_agreement), network.info.weights.random
        judged = images is not None and reference is not None
        limits = of_export(network.recipe, asked, images=judged, random=random)
        if not network.info.num_classes:
            limits = limits[0], replace(limits[1], min_top1_agreement=None)
        if network.info.num_classes == 1:
            limits = of_one_class(limits[0]), limits[1]
        return cls(network, convert, reference, images, limits, of_maps(network.recipe, asked), report)

    def make(self, path: Path, info: ArtifactInfo) -> tuple[ArtifactInfo, Comparison | None]:
        """Write the file with everything in the precision asked for; where that is over the limits, with the worst
        parts kept out of it. What is judged is the file as it lies on disk.

        Args:
            path: File to write, with its record as far as it is known before it is judged.
            info: That record.

        Returns:
            Its record, and the figures that it passed with; None where it was not judged.

        Raises:
            VerificationError: No plan is within the limits.
        """
        plan, steps = self.network.plan, tuple[str, ...]()
        info = self._write(plan, path, info)
        verdict = self._judge_file(path)
        if verdict is not None and not verdict.passed:
            plan, _, steps = self._search(verdict)
            info = self._write(plan, path, info)
            verdict = self._judge_file(path)
        elif self.network.config.sensitivity is not None:
            self._sensitivities(plan)
        if verdict is None:
            return info, None
        if not verdict.passed:
            raise VerificationError(f"{path.name} (not kept): {'; '.join(verdict.failures)}")
        assert info.precision_plan is not None  # it was written
        record, sample, agreement = replace(info.precision_plan, steps=steps), self.network.sample, verdict.agreement
        if sample is not None and agreement is not None:
            known = [name for name in AgreementFigures.__annotations__ if hasattr(agreement, name)]
            figures = {"images": verdict.images, **{name: getattr(agreement, name) for name in known}}
            record = replace(record, agreement=figures, judged_images=sample.names(sample.judged))
        return replace(info, precision_plan=record, verification=verdict.comparison.to_dict()), verdict.comparison

    def _write(self, plan: PrecisionPlan, path: Path, info: ArtifactInfo) -> ArtifactInfo:
        import onnx

        model = self.convert(plan)
        del model.metadata_props[:]  # the record and the seal of the FP32 file
        extra = {**info.extra, "nodes": len(model.graph.node)}
        if info.map_block:
            model = checked_blockwise(model, self.network.recipe.logits_tolerance, answers(model))
        record = self.network.record(plan, budget_record(self.network.recipe, *self.limits))
        info = replace(info, extra=extra, precision_plan=record)
        with replacing(path) as target:
            onnx.save(model, str(target))
            write_record(target, info)
        return info

    def _judge_file(self, path: Path) -> Judged | None:
        if self.reference is None:
            return None
        with open_candidate(path) as (run, _):
            return self._judge(run)

    def _judge(self, run: Run) -> Judged:
        assert self.reference is not None  # without it nothing is judged
        synthetic, images = self.limits
        comparison = self.reference.compare(run, synthetic)
        found, count = (self.images.compare(run), self.images.count) if self.images is not None else ({}, 0)
        return Judged(comparison, found, images, self.limits_of_maps, count)

    def _run(self, plan: PrecisionPlan) -> Run:
        return candidate_of(self.convert(plan), self.network.recipe)

    def _search(self, failed: Judged) -> Tried:
        """The plan within the limits, where everything in the precision asked for is not.

        INT8 for TensorRT falls back to FP16, part by part, and to FP32 where not even FP16 will do; others to FP32.

        Raises:
            VerificationError: There is none.
        """
        _log.info("over the limits (%s); looking for the parts to blame", "; ".join(failed.failures))
        plan, kept_in = self.network.plan, self.network.recipe.kept_in
        steps: tuple[str, ...] = ()
        if kept_in is not Precision.FP32:  # which must be within them first
            higher = plan.changed(plan.lowered(), kept_in)
            verdict = self._judge(self._run(higher))
            if not verdict.passed:
                table = self._part_errors(higher, Precision.FP32)
                found, _, steps = self._keep(higher, Precision.FP32, verdict, table)
                plan = plan.changed(found.kept(kept_in), Precision.FP32)
                failed = self._judge(self._run(plan))
        table = self._sensitivities(plan)
        if failed.passed:
            return plan, failed, steps
        plan, verdict, more = self._keep(plan, kept_in, failed, table)
        return plan, verdict, (*steps, *more)

    def _keep(self, plan: PrecisionPlan, kept_in: Precision, failed: Judged, worst_first: Iterable[str]) -> Tried:
        done, parts = count(), list(worst_first)

        def judged(plan: PrecisionPlan) -> Judged:
            self.report(next(done) / len(parts), "keeping the worst parts in higher precision")
            return self._judge(self._run(plan))

        return keep_worst(plan, kept_in, parts, failed, judged)

    def _sensitivities(self, plan: PrecisionPlan) -> dict[str, Sensitivity]:
        """What each part costs alone, the worst first; written where that was asked for."""
        recipe, file = self.network.recipe, self.network.config.sensitivity
        table = self._part_errors(plan, recipe.kept_in)
        if file is not None:
            write_sensitivities(file, list(table.values()), recipe.precision, recipe.kept_in)
        return table

    def _part_errors(self, plan: PrecisionPlan, kept_in: Precision) -> dict[str, Sensitivity]:
        if self.images is not None:
            images = self.images.first(_PART_IMAGES)
        else:
            rng, channels = np.random.default_rng(0), int(self.network.info.input.shape[1])
            cases = [Case(2, ImageSize(*size)) for size in _PART_CASES]
            images = Pictures.held(self.network.fp32, [synthetic_images(rng, case, channels) for case in cases])
        done, parts = count(), len(plan.lowered())

        def measure(plan: PrecisionPlan) -> tuple[float, float | None]:
            self.report(next(done) / parts, "what each part costs")
            found = images.compare(self._run(plan))
            error = float(np.max([own.rms_error for own in found.values()]))  # NaN stays NaN
            return error, getattr(found.get(LOGITS), "top1_agreement", None)

        return sensitivities(plan, kept_in, measure)


def sensitivities(
    plan: PrecisionPlan, kept_in: Precision, measure: Callable[[PrecisionPlan], tuple[float, float | None]]
) -> dict[str, Sensitivity]:
    """What each part in lower precision costs alone, the worst first.

    Args:
        plan: Its parts in lower precision are looked at.
        kept_in: Precision of all the others meanwhile.
        measure: Plan -> root mean squared error, and top-1 agreement of logits.
    """
    lowered = [part for part in plan.lowered() if plan.parts[part] is not kept_in]
    found = {}
    for part in lowered:
        error, agreement = measure(plan.changed([other for other in lowered if other != part], kept_in))
        found[part] = Sensitivity(plan.display(part), error if math.isfinite(error) else math.inf, agreement)
    return dict(sorted(found.items(), key=lambda item: -item[1].error))


def keep_worst(
    plan: PrecisionPlan,
    kept_in: Precision,
    worst_first: Sequence[str],
    failed: Judged,
    judge: Callable[[PrecisionPlan], Judged],
) -> Tried:
    """Keep parts in a higher precision, the worst first, until the plan is within the limits.

    Args:
        plan: That is over the limits.
        kept_in: Precision that parts are kept in.
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
        before, verdict = verdict, judge(plan.changed(kept, kept_in))
        words.append(f"{plan.display(part)} {kept_in.value.upper()}: {before.change_to(verdict)}")
        if verdict.passed:
            return plan.changed(kept, kept_in), verdict, tuple(words)
    precision = next(own for own in plan.parts.values() if own is not Precision.FP32)
    raise VerificationError(
        f"{precision.value} does not hold the budget, whatever parts are kept in {kept_in.value}: "
        f"{'; '.join(verdict.failures)}; allow more by --max-error or --min-top1-agreement, or export in "
        f"{kept_in.value}"
    )
