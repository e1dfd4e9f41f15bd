"""The verdict on a narrowed network: synthetic images at all sizes against PyTorch, real ones against FP32."""

from __future__ import annotations

from dataclasses import dataclass

from rest_deploy.specs import Precision
from rest_deploy.verification import Agreement, Budget, Comparison, Reference, Run
from rest_deploy.verification.agreement import Pictures


@dataclass(frozen=True)
class Verdict:
    """Figures, judged.

    Args:
        comparison: On synthetic images, against PyTorch in float64; None where that was not asked for.
        agreement: On real images, against FP32; None where there are none.
        budget: What judges the agreement.
    """

    comparison: Comparison | None
    agreement: Agreement | None
    budget: Budget

    @property
    def failures(self) -> list[str]:
        """What is over the budget or past the tolerance, in words."""
        failures = self.comparison.failures if self.comparison is not None else []
        return failures + (self.budget.failures(self.agreement) if self.agreement is not None else [])

    @property
    def passed(self) -> bool:
        """Whether nothing is."""
        return not self.failures

    def change_to(self, other: Verdict) -> str:
        """From these figures to another verdict's, in words."""
        words = []
        if self.agreement is not None and other.agreement is not None:
            before, after = self.agreement, other.agreement
            words.append(f"agreement {before.top1_agreement:.1%} -> {after.top1_agreement:.1%}")
            words.append(f"largest error {before.max_error:.3g} -> {after.max_error:.3g}")
        elif self.comparison is not None and other.comparison is not None:
            words.append(f"largest error {_worst(self.comparison):.3g} -> {_worst(other.comparison):.3g}")
        return ", ".join(words)


def _worst(comparison: Comparison) -> float:
    """Largest error, in standard deviations of the logits."""
    return max(case.max_error / (case.logit_std or 1.0) for case in comparison.cases)


class Judge:
    """Judges runs of one network.

    Args:
        precision: Whose tolerance judges synthetic images.
        budget: Judges real ones.
        reference: Answers to synthetic images; None leaves them out.
        pictures: Real images; None where there are none, and then ``spread`` stands for the budget.
        spread: Largest error on synthetic images, in standard deviations; None for the tolerance's own.
    """

    def __init__(
        self,
        precision: Precision,
        budget: Budget,
        reference: Reference | None,
        pictures: Pictures | None,
        spread: float | None,
    ) -> None:
        self._precision, self._budget, self._spread = precision, budget, spread
        self._reference, self._pictures = reference, pictures

    def __call__(self, run: Run) -> Verdict:
        """Judge a run; float32 (B, channels, H, W) -> (B, classes)."""
        comparison = agreement = None
        if self._reference is not None:
            comparison = self._reference.compare(run, self._precision, spread=self._spread)
        if self._pictures is not None:
            agreement = self._pictures.compare(run)
        return Verdict(comparison, agreement, self._budget)
