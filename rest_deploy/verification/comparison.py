"""Is an artifact the model it was made from? Figures of a comparison, and the table of tolerances that judges them.

The reference is the PyTorch model, as its authors wrote it, in float64. The yardstick is what the same model loses in
float32, measured in the same run on the same images: some weights amplify rounding a thousandfold, and an artifact is
not to blame for what its model does too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from rest_deploy.errors import VerificationError
from rest_deploy.specs import Precision
from rest_deploy.verification.cases import Case
from rest_deploy.verification.figures import LogitFigures


@dataclass(frozen=True)
class Tolerance:
    """How far from the reference is near enough.

    Args:
        noise_factor: Largest error allowed, in units of the yardstick's largest error on the same images. The yardstick
            is the PyTorch model in float32 as written; for less than FP32 its deploy form, as it is what was narrowed.
        floor: Largest error always allowed, relative to the largest logit or to 1, whichever is more.
        reason: Why these.
        spread: Largest error always allowed, in standard deviations of the reference's logits.
        block_rms: Root mean squared error allowed of the output of a block inside the network, in its standard
            deviations, in place of its largest error; None where the largest judges it, as it does the logits.
    """

    noise_factor: float
    floor: float
    reason: str
    spread: float = 0.0
    block_rms: float | None = None


TOLERANCES: Mapping[Precision, Tolerance] = MappingProxyType(
    {
        Precision.FP32: Tolerance(
            2.0,
            5e-5,
            "two float32 computations of one function differ by rounding alone, so by about what either loses; the "
            "floor is for cases in which PyTorch is exact by luck, as on an image of one pixel, and grows with the "
            "logits because float32's steps do",
        ),
        Precision.FP16: Tolerance(
            1.5 * 2**13,
            0.0,
            "half has 13 bits fewer than float32, so a network that loses e there loses some 2**13 e in half; where it "
            "is exact in float32 by luck, 2% of what tells one class from another",
            spread=0.02,
        ),
        Precision.INT8: Tolerance(
            0.0,
            0.0,
            "images made of noise lie outside of what ranges were taken from; this finds graphs that are wrong, and "
            "the budget judges on real images; of a block's thousands of values some are then cut off far away, so a "
            "block is judged by the root mean square of its errors: up to 0.46 of a standard deviation was measured "
            "where the graph is right, and zeros are 1 away",
            spread=1.5,
            block_rms=0.75,
        ),
    }
)


def limit(tolerance: Tolerance, reference_error: float | None, scale: float, std: float) -> float:
    """Largest error that a tolerance allows of values of a scale and a standard deviation.

    NaN, which no error is within, where one of them is not finite: what the reference cannot say is not confirmed by
    saying it too. No limit lets an infinite error pass.

    Args:
        tolerance: What allows it.
        reference_error: Largest error of the yardstick on the same values; None where there is no yardstick.
        scale: Largest absolute value of the reference.
        std: Standard deviation of the reference's values.
    """
    if not all(math.isfinite(value) for value in (reference_error or 0.0, scale, std)):
        return math.nan
    allowed = max(
        tolerance.noise_factor * (reference_error or 0.0), tolerance.floor * max(1.0, scale), tolerance.spread * std
    )
    return min(allowed, sys.float_info.max)


def past(error: float, allowed: float) -> str | None:
    """What is wrong with a largest error, in words; None where it is within what is allowed."""
    if error <= allowed:
        return None
    if math.isnan(allowed):
        return f"largest error {error:.3g}: the reference's logits, or what float32 loses of them, are not finite"
    return f"largest error {error:.3g} is over {allowed:.3g}"


@dataclass(frozen=True)
class CaseFigures:
    """What was measured in one case. Errors are absolute differences of logits from the reference's.

    Args:
        batch, height, width: The case.
        max_error, mean_error: Of the artifact.
        reference_error: Largest, of the yardstick in float32; None where the reference has none.
        logit_scale, logit_std, cosine, kl_divergence, top1_agreement, top5_agreement: As of :class:`LogitFigures`.
    """

    batch: int
    height: int
    width: int
    max_error: float
    mean_error: float
    reference_error: float | None
    logit_scale: float
    logit_std: float
    cosine: float
    kl_divergence: float
    top1_agreement: float
    top5_agreement: float

    @classmethod
    def of(cls, case: Case, figures: LogitFigures, reference_error: float | None) -> CaseFigures:
        """Figures of a case."""
        batch, height, width = case.sizes
        shared = {field.name for field in fields(cls)} & {field.name for field in fields(LogitFigures)}
        own = {name: getattr(figures, name) for name in shared}
        return cls(batch=batch, height=height, width=width, reference_error=reference_error, **own)

    def limit(self, tolerance: Tolerance) -> float:
        """Largest error that a tolerance allows here."""
        return limit(tolerance, self.reference_error, self.logit_scale, self.logit_std)

    def passes(self, tolerance: Tolerance) -> bool:
        """Whether the largest error is within it; one that is no number is not."""
        return self.max_error <= self.limit(tolerance)

    def to_dict(self, tolerance: Tolerance) -> dict[str, Any]:
        """Plain values for JSON, with the judgement."""
        return {**asdict(self), "limit": self.limit(tolerance), "passed": self.passes(tolerance)}


@dataclass(frozen=True)
class Comparison:
    """Figures of all cases, and the judgement of a tolerance on them.

    Args:
        precision: Whose tolerance judges.
        seed: Of the images.
        cases: The figures.
        spread: In place of the tolerance's own.
    """

    precision: Precision
    seed: int
    cases: tuple[CaseFigures, ...]
    spread: float | None = None

    @property
    def tolerance(self) -> Tolerance:
        """What judges."""
        tolerance = TOLERANCES[self.precision]
        return tolerance if self.spread is None else replace(tolerance, noise_factor=0.0, floor=0.0, spread=self.spread)

    @property
    def failures(self) -> list[str]:
        """Cases past the tolerance of the precision, in words."""
        tolerance = self.tolerance
        judged = ((c, past(c.max_error, c.limit(tolerance))) for c in self.cases)
        return [f"{c.batch}x{c.height}x{c.width}: {words}" for c, words in judged if words is not None]

    @property
    def passed(self) -> bool:
        """Whether every case is within the tolerance."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "reference": "PyTorch float64",
            "passed": self.passed,
            "seed": self.seed,
            "cases": [asdict(case) for case in self.cases],
        }

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The figures as texts: names of the columns, and a row for each case."""
        head = (
            "batch x size",
            "max error",
            "mean error",
            "float32's",
            "times",
            "allowed",
            "cosine",
            "KL",
            "top-1",
            "top-5",
        )
        return head, [self._row(case) for case in self.cases]

    def _row(self, c: CaseFigures) -> tuple[str, ...]:
        return (
            f"{c.batch} x {c.height}x{c.width}",
            f"{c.max_error:.2e}",
            f"{c.mean_error:.2e}",
            f"{c.reference_error:.2e}" if c.reference_error is not None else "-",
            f"{c.max_error / c.reference_error:.2f}" if c.reference_error else "-",
            f"{c.limit(self.tolerance):.1e}",
            f"{c.cosine:.9f}",
            f"{c.kl_divergence:.1e}",
            f"{c.top1_agreement:.1%}",
            f"{c.top5_agreement:.1%}",
        )


def require(comparison: Comparison, name: str) -> None:
    """Raise unless a comparison passed.

    Raises:
        VerificationError: Names the cases that are past the tolerance.
    """
    if not comparison.passed:
        raise VerificationError(f"{name} disagrees with the PyTorch model; {'; '.join(comparison.failures)}")
