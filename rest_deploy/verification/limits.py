"""What the user allows in place of the tables of tolerances and budgets."""

from __future__ import annotations

from dataclasses import dataclass

from rest_deploy.errors import ConfigError
from rest_deploy.specs import Precision
from rest_deploy.verification.agreement import BUDGETS
from rest_deploy.verification.comparison import Tolerance


@dataclass(frozen=True)
class Limits:
    """What is allowed in place of the tables of tolerances and budgets; None leaves those.

    Args:
        max_error: Largest difference of a logit, in standard deviations of the reference's logits.
        min_top1_agreement: Share of images with the reference's best class, 0 to 1.
        max_accuracy_loss: Of top-1 accuracy against the reference's, as a share: 0.005 is half a point. Without it
            accuracy is told and not judged.

    Raises:
        ConfigError: A figure out of range.
    """

    max_error: float | None = None
    min_top1_agreement: float | None = None
    max_accuracy_loss: float | None = None

    def __post_init__(self) -> None:
        if self.max_error is not None and not self.max_error > 0:
            raise ConfigError(
                f"max_error {self.max_error}; it must be over 0, in standard deviations of the logits, as 0.02"
            )
        for name in ("min_top1_agreement", "max_accuracy_loss"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} {value}; it must be from 0 to 1, as 0.99")

    def on_images(self, precision: Precision) -> tuple[Tolerance | None, float | None]:
        """What judges images: a tolerance of the largest error, or None for that of the precision, and the least
        agreement.
        """
        budget = BUDGETS.get(precision)
        agreement, error = self.min_top1_agreement, self.max_error
        if agreement is None and budget is not None:
            agreement = budget.min_top1_agreement
        if error is None and budget is not None:
            error = budget.max_error
        if error is None:
            return None, agreement
        return Tolerance(0.0, 0.0, "the budget of the precision, or what was asked for", spread=error), agreement
