"""FP32 ONNX file -> the graph of a narrower precision that holds its budget."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.precision import CalibrationRecord, PrecisionRecord
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.pipeline.judge import Judge, Verdict
from rest_deploy.pipeline.pictures import ImageInputs
from rest_deploy.pipeline.search import Found, Sensitivity, keep_worst, sensitivities
from rest_deploy.pipeline.sensitivity_table import write_sensitivities
from rest_deploy.pipeline.speed import Speed
from rest_deploy.preprocess.sample import Sample, Source
from rest_deploy.runtimes.saturation import sums_saturate
from rest_deploy.specs import CalibrationMethod, ImageSize, Int8Target, Precision, largest_input
from rest_deploy.verification import TOLERANCES, Case, Reference, candidate_of, synthetic_images
from rest_deploy.verification.agreement import BUDGETS, Budget, Pictures

if TYPE_CHECKING:
    import onnx

    from rest_deploy.export.precision.plan import PrecisionPlan

_log = logging.getLogger(__name__)

#: Real images that parts of a network are compared on, one by one; synthetic ones where there are none.
_BLAME_IMAGES = 16
_BLAME_CASES = ((48, 64), (96, 128), (160, 160), (224, 224))


@dataclass(frozen=True)
class Network:
    """What is to be narrowed.

    Args:
        base: FP32 ONNX graph.
        plan: All its parts in the precision that was asked for.
        info: Record of the FP32 file.
        target: Of INT8; None for FP16.
        sample: Images to calibrate with and to judge by; None where there are none.
    """

    base: onnx.ModelProto
    plan: PrecisionPlan
    info: ArtifactInfo
    target: Int8Target | None
    sample: Sample | None


class Narrowing:
    """Graphs of one network in one precision, made by plan and judged.

    Args:
        network: What.
        precision: To what.
        config: How.
        reference: PyTorch's answers to synthetic images, with the yardstick of the precision; None judges nothing.
        report: Called with the share of a long step that is done, and what it is.
    """

    def __init__(
        self,
        network: Network,
        precision: Precision,
        config: PrecisionConfig,
        *,
        reference: Reference | None,
        report: Callable[[float, str], None] | None = None,
    ) -> None:
        from rest_deploy.export.precision.weights import fold_transposes

        self._network, self._precision, self._config = network, precision, config
        self._report = report or (lambda share, step: None)
        self._base = fold_transposes(network.base)
        self.target = network.target
        self._sample = network.sample
        self._fp32 = candidate_of(self._base)
        self._pictures = self._judged_pictures() if reference is not None or self.wants_sensitivities else None
        self.budget = _budget(config, precision, random=network.info.weights.random)
        judged = self._pictures if reference is not None else None
        self._spread = _spread(config.max_error, precision, on_images=judged is not None)
        self.judge = Judge(precision, self.budget, reference, judged, self._spread)
        self.make: Callable[[PrecisionPlan], onnx.ModelProto] = self._maker()  # the graph of a plan

    @property
    def plan(self) -> PrecisionPlan:
        """Everything narrowed."""
        return self._network.plan

    @property
    def wants_sensitivities(self) -> bool:
        """Whether they are to be written, needed or not."""
        return self._config.sensitivity is not None

    def search(self, failed: Verdict) -> Found:
        """The plan that holds the budget where everything narrowed does not.

        INT8 for TensorRT falls back to FP16, part by part; the others to FP32.

        Raises:
            VerificationError: There is none.
        """
        _log.info("over the budget (%s); looking for the parts to blame", "; ".join(failed.failures))
        plan = self.plan
        steps: tuple[str, ...] = ()
        if self.target is Int8Target.TRT:  # what is not INT8 is FP16, which must hold first
            plan, steps, failed = self._within_half(plan, failed)
        table = self.sensitivities(plan)
        if failed.passed:
            return Found(plan, failed, steps)
        found = keep_worst(plan, self._wider, list(table), failed, self._judged_of(len(table)))
        return replace(found, steps=(*steps, *found.steps))

    def _within_half(self, plan: PrecisionPlan, failed: Verdict) -> tuple[PrecisionPlan, tuple[str, ...], Verdict]:
        """An INT8 plan with those parts in FP32 that not even FP16 can hold."""
        half = plan.changed(plan.narrowed(), Precision.FP16)
        verdict = self._judged(half)
        if verdict.passed:
            return plan, (), failed
        worst_first = list(self._blamed(half, Precision.FP32))
        found = keep_worst(half, Precision.FP32, worst_first, verdict, self._judged_of(len(worst_first)))
        plan = plan.changed(found.plan.kept(Precision.FP16), Precision.FP32)
        return plan, found.steps, self._judged(plan)

    @property
    def _wider(self) -> Precision:
        return Precision.FP16 if self.target is Int8Target.TRT else Precision.FP32

    def sensitivities(self, plan: PrecisionPlan | None = None) -> dict[str, Sensitivity]:
        """What each part of a plan, or of the network, costs alone, the worst first; written where it was asked for."""
        table = self._blamed(plan or self.plan, self._wider)
        if self._config.sensitivity is not None:
            write_sensitivities(self._config.sensitivity, list(table.values()), self._precision, self._wider)
        return table

    def _blamed(self, plan: PrecisionPlan, wider: Precision) -> dict[str, Sensitivity]:
        pictures = self._pictures.first(_BLAME_IMAGES) if self._pictures is not None else self._synthetic_pictures()

        done, parts = count(), len(plan.narrowed())

        def measure(plan: PrecisionPlan) -> tuple[float, float]:
            self._report(next(done) / parts, "what each part costs")
            agreement = pictures.compare(candidate_of(self.make(plan)))
            return agreement.rms_error, agreement.top1_agreement

        return sensitivities(plan, wider, measure)

    def record(
        self,
        plan: PrecisionPlan,
        verdict: Verdict | None = None,
        steps: tuple[str, ...] = (),
        speed: Speed | None = None,
    ) -> PrecisionRecord:
        """What the artifact says of its precision."""
        from rest_deploy.export.precision.plan import display

        sample, agreement = self._sample, verdict.agreement if verdict is not None else None
        return PrecisionRecord(
            kept={display(part): own for part, own in plan.kept(self._precision).items()},
            half_io=plan.half_io,
            int8_target=self.target,
            reduced_range=self._reduced_range if self.target is Int8Target.CPU else None,
            calibration=self._calibration_record(),
            budget={
                "min_top1_agreement": self.budget.min_top1_agreement,
                "max_error": self.budget.max_error,
                "synthetic_max_error": self._spread,
            },
            agreement=agreement.to_dict() if agreement is not None else None,
            judged_images=sample.names(sample.judged) if sample is not None and agreement is not None else (),
            steps=steps,
            speed=speed.to_dict() if speed is not None else None,
        )

    def _judged(self, plan: PrecisionPlan) -> Verdict:
        return self.judge(candidate_of(self.make(plan)))

    def _judged_of(self, parts: int) -> Callable[[PrecisionPlan], Verdict]:
        """As :meth:`_judged`, told of as the search goes through parts."""
        done = count()

        def judged(plan: PrecisionPlan) -> Verdict:
            self._report(next(done) / parts, "keeping the worst parts wider")
            return self._judged(plan)

        return judged

    def _maker(self) -> Callable[[PrecisionPlan], onnx.ModelProto]:
        from rest_deploy.export.precision.dynamic import to_dynamic_int8
        from rest_deploy.export.precision.half import to_half
        from rest_deploy.export.precision.qdq import to_qdq

        if self.target is Int8Target.CPU:
            return lambda plan: to_dynamic_int8(self._base, plan, reduced_range=self._reduced_range)
        if self.target is Int8Target.TRT:
            ranges = self._ranges()
            return lambda plan: to_half(to_qdq(self._base, plan, ranges), plan)
        return lambda plan: to_half(self._base, plan)

    @property
    def _reduced_range(self) -> bool:
        return self._config.reduced_range or sums_saturate()

    def _ranges(self) -> dict[str, float]:
        from rest_deploy.export.precision.calibration import calibrate
        from rest_deploy.export.precision.qdq import quantized_inputs

        assert self._sample is not None  # PrecisionConfig.check has looked
        names = quantized_inputs(self._base, self._network.plan)
        inputs = self._inputs(self._sample.calibration, self._config.calibration_sizes)
        return calibrate(
            self._base, names, inputs, self._method(), lambda done: self._report(done / len(inputs), "calibrating")
        )

    def _method(self) -> CalibrationMethod:
        return self._config.calibration_method or CalibrationMethod.MIN_MAX

    def _calibration_record(self) -> CalibrationRecord | None:
        sample = self._sample
        if sample is None or self.target is not Int8Target.TRT:
            return None
        return CalibrationRecord(
            method=self._method(),
            images=sample.names(sample.calibration),
            sha256=sample.sha256,
            seed=sample.seed,
            sizes=tuple(str(size) for size in self._config.calibration_sizes),
        )

    def _judged_pictures(self) -> Pictures | None:
        if self._sample is None:
            return None
        return Pictures(self._fp32, self._inputs(self._sample.judged))

    def _inputs(self, sources: Sequence[Source], sizes: Sequence[ImageSize] = ()) -> ImageInputs:
        info = self._network.info
        largest = largest_input(self._precision, self.target)
        channels = int(info.input.shape[1])
        return ImageInputs(sources, info.preprocessing, sizes, channels, largest=largest, config=info.config)

    def _synthetic_pictures(self) -> Pictures:
        rng, channels = np.random.default_rng(0), int(self._network.info.input.shape[1])
        cases = [Case(2, ImageSize(*size)) for size in _BLAME_CASES]
        return Pictures(self._fp32, [synthetic_images(rng, case, channels) for case in cases])


def _spread(max_error: float | None, precision: Precision, *, on_images: bool) -> float | None:
    """Largest error on synthetic images, where another than the tolerance's own was asked for.

    A tighter one is meant of real images where there are any: INT8 loses more on noise, which its ranges are not for.
    """
    if max_error is None or (on_images and max_error < TOLERANCES[precision].spread):
        return None
    return max_error


def _budget(config: PrecisionConfig, precision: Precision, *, random: bool) -> Budget:
    """What was asked for, else the precision's own; of random weights, whose classes mean nothing, no agreement."""
    own = BUDGETS[precision]
    agreement = config.min_top1_agreement
    if agreement is None and not random:
        agreement = own.min_top1_agreement
    return Budget(agreement, config.max_error if config.max_error is not None else own.max_error)
