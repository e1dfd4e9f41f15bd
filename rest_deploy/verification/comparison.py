"""Is an artifact the model it was made from? Figures of a comparison, and the table of tolerances that judges them.

The reference is the PyTorch model, as its authors wrote it, in float64. The yardstick is what the same model loses in
float32, measured in the same run on the same images: some weights amplify rounding a thousandfold, and an artifact is
not to blame for what its model does too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from rest_deploy.errors import VerificationError
from rest_deploy.specs import Precision


@dataclass(frozen=True)
class Tolerance:
    """How far from the reference is near enough.

    Args:
        noise_factor: Largest error allowed, in units of the yardstick's largest error on the same images. The yardstick
            is the PyTorch model in float32 as written; for less than FP32 its deploy form, as it is what was narrowed.
        floor: Largest error always allowed, relative to the largest logit or to 1, whichever is more.
        reason: Why these.
        spread: Largest error always allowed, in standard deviations of the reference's logits.
    """

    noise_factor: float
    floor: float
    reason: str
    spread: float = 0.0


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
            "the budget judges on real images",
            spread=1.5,
        ),
    }
)


@dataclass(frozen=True)
class CaseFigures:
    """What was measured in one case. Errors are absolute differences of logits from the float64 reference.

    Args:
        batch, height, width: The case.
        max_error, mean_error: Of the artifact.
        reference_error: Largest, of the yardstick in float32.
        logit_scale: Largest absolute logit of the reference.
        logit_std: Standard deviation of the reference's logits over images and classes.
        cosine: Smallest cosine between an image's logits and the reference's.
        top1_agreement: Share of images with the reference's best class.
        top5_agreement: Mean share of the reference's five best classes that are among the artifact's.
    """

    batch: int
    height: int
    width: int
    max_error: float
    mean_error: float
    reference_error: float
    logit_scale: float
    logit_std: float
    cosine: float
    top1_agreement: float
    top5_agreement: float

    def limit(self, tolerance: Tolerance) -> float:
        """Largest error that a tolerance allows here."""
        return max(
            tolerance.noise_factor * self.reference_error,
            tolerance.floor * max(1.0, self.logit_scale),
            tolerance.spread * self.logit_std,
        )


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
        return tolerance if self.spread is None else replace(tolerance, noise_factor=0.0, spread=self.spread)

    @property
    def failures(self) -> list[str]:
        """Cases past the tolerance of the precision, in words."""
        tolerance = self.tolerance
        return [
            f"{c.batch}x{c.height}x{c.width}: largest error {c.max_error:.3g} is over {c.limit(tolerance):.3g}"
            for c in self.cases
            if not c.max_error <= c.limit(tolerance)  # so that NaN fails
        ]

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

    def table(self) -> str:
        """The figures as text, a line a case."""
        tolerance = self.tolerance
        head = "  batch x size  max error mean error  float32's   allowed      cosine  top-1  top-5"
        rows = [
            f"{f'{c.batch} x {c.height}x{c.width}':>14} {c.max_error:10.2e} {c.mean_error:10.2e} "
            f"{c.reference_error:12.2e} {c.limit(tolerance):9.1e} {c.cosine:11.9f} "
            f"{c.top1_agreement:6.1%} {c.top5_agreement:6.1%}"
            for c in self.cases
        ]
        return "\n".join([head, *rows])


def require(comparison: Comparison, name: str) -> None:
    """Raise unless a comparison passed.

    Raises:
        VerificationError: Names the cases that are past the tolerance.
    """
    if not comparison.passed:
        raise VerificationError(f"{name} disagrees with the PyTorch model; {'; '.join(comparison.failures)}")
