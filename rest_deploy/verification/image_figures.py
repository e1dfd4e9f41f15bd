"""What networks say of images: figures, accuracy where the classes are known, and the images they differ on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.specs import ImageSize
from rest_deploy.verification.comparison import Tolerance, limit
from rest_deploy.verification.figures import LogitFigures, best_classes, measure_logits

#: Of each artifact and size, how many images are listed.
MOST_FLIPS, MOST_WRONG, MOST_ERRORS = 24, 24, 8
#: How many pairs of a class and a wrong answer are listed: all that there can be of 20 classes.
MOST_CONFUSED = 400


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on images whose classes are known.

    Args:
        top1, top5: Share of images whose class is the best one, and is among the five best.
        by_class: (class, its images, how many of them are answered rightly), by class.
        confused: (class, wrong answer, how many images), the most first; without answers that are no numbers.
    """

    top1: float
    top5: float
    by_class: tuple[tuple[int, int, int], ...]
    confused: tuple[tuple[int, int, int], ...]

    def to_dict(self, name: Callable[[int], str]) -> dict[str, Any]:
        """Plain values for JSON, with the classes' names."""
        return {
            "top1_accuracy": self.top1,
            "top5_accuracy": self.top5,
            "by_class": [
                {"label": label, "label_name": name(label), "images": images, "right": right}
                for label, images, right in self.by_class
            ],
            "confused": [
                {"label": label, "artifact": answer, "artifact_name": name(answer), "images": images}
                for label, answer, images in self.confused[:MOST_CONFUSED]
            ],
        }


def accuracy_of(logits: NDArray[np.float64], classes: Sequence[int | None]) -> Accuracy | None:
    """Accuracy on images whose classes are known; None where one is not. Logits that are no numbers are wrong."""
    labels = [known for known in classes if known is not None]
    if len(labels) < len(classes):
        return None
    best, finite = best_classes(logits), _finite(logits)
    right = np.logical_and(best == np.asarray(labels)[:, None], finite[:, None])
    counts, rights = Counter(labels), Counter(label for label, hit in zip(labels, right[:, 0], strict=True) if hit)
    answers = zip(labels, best[:, 0].tolist(), finite, strict=True)
    confused = Counter((label, answer) for label, answer, is_one in answers if is_one and answer != label)
    return Accuracy(
        float(right[:, 0].mean()),
        float(right.any(axis=1).mean()),
        tuple((label, counts[label], rights[label]) for label in sorted(counts)),
        tuple((*pair, images) for pair, images in sorted(confused.items(), key=lambda own: (-own[1], own[0]))),
    )


def _finite(logits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of each image, whether all of its logits are numbers."""
    return np.logical_and.reduce(np.isfinite(logits), axis=1)


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
        wrong: Images with another best class than their own, those that the reference answers rightly first.
        worst: Images with the largest errors, the largest first.
    """

    size: ImageSize | None
    figures: LogitFigures
    reference_error: float | None
    accuracy: Accuracy | None
    flips: tuple[Difference, ...]
    wrong: tuple[Difference, ...]
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
    finite = _finite(ours)
    margins, errors = _margins(exact), np.abs(ours - exact).max(axis=1)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    differing = (best != best_exact) | ~finite | ~_finite(exact)

    def difference(i: int) -> Difference:
        return Difference(names[i], classes[i], int(best_exact[i]), int(best[i]), float(margins[i]), float(errors[i]))

    flips = sorted(np.flatnonzero(differing), key=lambda i: -margins[i])
    accuracy = accuracy_of(ours, classes)
    mistaken = [i for i, label in enumerate(classes) if accuracy is not None and (label != best[i] or not finite[i])]
    wrong = sorted(mistaken, key=lambda i: (classes[i] != best_exact[i], -margins[i]))
    worst = np.argsort(-errors, kind="stable")[:MOST_ERRORS]
    return ImageFigures(
        size,
        figures,
        reference_error,
        accuracy,
        tuple(difference(int(i)) for i in flips),
        tuple(difference(i) for i in wrong),
        tuple(difference(int(i)) for i in worst),
    )


def _margins(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Best logit minus the second, of each image; of a single class there is none to lose to, and it is 0."""
    if logits.shape[1] < 2:
        return np.zeros(len(logits))
    ordered = np.sort(logits, axis=1)
    margins: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return margins
