"""What networks say of images: figures, accuracy where the classes are known, and the images they differ on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.specs import ImageSize
from rest_deploy.verification.comparison import Tolerance, limit
from rest_deploy.verification.figures import LogitFigures, best_classes, measure_logits

#: Of each artifact and size, how many images are listed.
MOST_FLIPS, MOST_ERRORS = 24, 8


@dataclass(frozen=True)
class Accuracy:
    """Share of images whose class is the best one, and is among the five best."""

    top1: float
    top5: float


def accuracy_of(logits: NDArray[np.float64], classes: Sequence[int | None]) -> Accuracy | None:
    """Accuracy on images whose classes are known; None where one is not. Logits that are no numbers are wrong."""
    if any(known is None for known in classes):
        return None
    best = best_classes(logits)
    known = np.asarray(classes, np.int64)[:, None]
    right: NDArray[np.bool_] = np.equal(best, known) & np.isfinite(logits).all(axis=1, keepdims=True)
    return Accuracy(float(right[:, 0].mean()), float(right.any(axis=1).mean()))


@dataclass(frozen=True)
class Difference:
    """One image on which an artifact differs from the reference.

    Args:
        image: Its name.
        label: Its class; None where that is not known.
        reference, artifact: Best class of either.
        margin: Between the reference's best and second logit: how sure it was.
        error: Largest difference of a logit.
    """

    image: str
    label: int | None
    reference: int
    artifact: int
    margin: float
    error: float

    def to_dict(self, name: Callable[[int], str], thumbnail: str | None = None) -> dict[str, Any]:
        """Plain values for JSON, with the classes' names."""
        return {
            **asdict(self),
            "label_name": name(self.label) if self.label is not None else None,
            "reference_name": name(self.reference),
            "artifact_name": name(self.artifact),
            "thumbnail": thumbnail,
        }


@dataclass(frozen=True)
class ImageFigures:
    """An artifact on all images, brought to one size.

    Args:
        size: In place of the transform's own; None for that.
        figures: Against the reference.
        reference_error: Largest, of the yardstick in float32; None where there is none.
        accuracy: Where the classes are known.
        flips: Images with another best class than the reference's, the surest of it first.
        worst: Images with the largest errors, the largest first.
    """

    size: ImageSize | None
    figures: LogitFigures
    reference_error: float | None
    accuracy: Accuracy | None
    flips: tuple[Difference, ...]
    worst: tuple[Difference, ...]

    def limit(self, tolerance: Tolerance) -> float:
        """Largest error that a tolerance allows here."""
        return limit(tolerance, self.reference_error, self.figures.logit_scale, self.figures.logit_std)


def image_figures(
    size: ImageSize | None,
    ours: NDArray[np.float64],
    exact: NDArray[np.float64],
    *,
    names: Sequence[str],
    classes: Sequence[int | None],
    reference_error: float | None,
) -> ImageFigures:
    """Measure logits of shape (images, classes) against the reference's.

    Raises:
        VerificationError: The shapes differ.
    """
    figures = measure_logits(ours, exact)
    best, best_exact = best_classes(ours)[:, 0], best_classes(exact)[:, 0]
    margins, errors = _margins(exact), np.abs(ours - exact).max(axis=1)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    differing = (best != best_exact) | ~np.isfinite(ours).all(axis=1) | ~np.isfinite(exact).all(axis=1)

    def difference(i: int) -> Difference:
        return Difference(names[i], classes[i], int(best_exact[i]), int(best[i]), float(margins[i]), float(errors[i]))

    flips = sorted(np.flatnonzero(differing), key=lambda i: -margins[i])
    worst = np.argsort(-errors, kind="stable")[:MOST_ERRORS]
    return ImageFigures(
        size,
        figures,
        reference_error,
        accuracy_of(ours, classes),
        tuple(difference(int(i)) for i in flips),
        tuple(difference(int(i)) for i in worst),
    )


def _margins(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Best logit minus the second, of each image; of a single class there is none to lose to, and it is 0."""
    if logits.shape[1] < 2:
        return np.zeros(len(logits))
    ordered = np.sort(logits, axis=1)
    margins: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return margins
