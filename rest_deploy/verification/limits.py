"""What the user allows in place of the tables of tolerances and budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rest_deploy.specs import FACTOR, SHARE, Precision
from rest_deploy.values import hold
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

    max_error: Annotated[float, FACTOR] | None = None
    min_top1_agreement: Annotated[float, SHARE] | None = None
    max_accuracy_loss: Annotated[float, SHARE] | None = None

    def __post_init__(self) -> None:
        hold(self)

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
