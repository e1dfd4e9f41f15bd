"""How far two networks are apart, in figures: of logits, of maps, of images, of blocks. Nothing is judged here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.errors import VerificationError
from rest_deploy.specs import LOGITS, ImageSize

_TOP = 5
_TINY = float(np.finfo(np.float64).tiny)

Values = NDArray[np.floating[Any]]
#: An output or a block by its name -> what it gives.
Outputs = Mapping[str, Values]

#: Of each artifact and size, how many images are listed.
MOST_FLIPS, MOST_WRONG, MOST_ERRORS = 24, 24, 8
#: How many pairs of a class and a wrong answer are listed: all that there can be of 20 classes.
MOST_CONFUSED = 400


@dataclass(frozen=True)
class LogitFigures:
    """What was measured on some images. Errors are absolute differences of logits from the reference's.

    Args:
        images: Number of them.
        max_error, mean_error, rms_error: Largest, mean, root of the mean square; over images and classes.
        reference_error: The baseline error: the largest of PyTorch in float32; None where the reference has none.
        logit_scale: Largest absolute logit of the reference.
        logit_std: Standard deviation of the reference's logits over images and classes.
        cosine: Smallest cosine between an image's logits and the reference's.
        kl_divergence, max_kl_divergence: Mean and largest over the images of KL(reference || network) of the softmax,
            in nats.
        top1_agreement: Share of images with the reference's best class.
        top5_agreement: Mean share of the reference's five best classes that are among the network's.
    """

    images: int
    max_error: float
    mean_error: float
    rms_error: float
    reference_error: float | None
    logit_scale: float
    logit_std: float
    cosine: float
    kl_divergence: float
    max_kl_divergence: float
    top1_agreement: float
    top5_agreement: float

    @property
    def scale(self) -> float:
        """As of other values."""
        return self.logit_scale

    @property
    def std(self) -> float:
        """As of other values."""
        return self.logit_std

    def in_std(self) -> LogitFigures:
        """Errors in standard deviations of the reference's logits; as they are where these do not differ."""
        std = self.logit_std or 1.0
        lost = self.reference_error / std if self.reference_error is not None else None
        own = {name: getattr(self, name) / std for name in ("max_error", "mean_error", "rms_error", "logit_scale")}
        return replace(self, reference_error=lost, logit_std=std / std, **own)


def measure_logits(
    ours: NDArray[np.float64], exact: NDArray[np.float64], reference_error: float | None = None
) -> LogitFigures:
    """Compare logits of shape (images, classes) with the reference's.

    Logits that are not finite, on either side, give errors that are not finite, and agree with nothing.

    Raises:
        VerificationError: The shapes differ.
    """
    if ours.shape != exact.shape:
        raise VerificationError(f"the artifact gives logits of shape {ours.shape}, the reference {exact.shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(ours - exact)
        cosines = _cosines(ours, exact, 1)
        kl = kl_divergences(ours, exact)
        top, top_exact = best_classes(ours), best_classes(exact)
        finite = _finite(ours) & _finite(exact)
        shared = [len(set(a) & set(b)) / len(b) for a, b in zip(top.tolist(), top_exact.tolist(), strict=True)]
        return LogitFigures(
            images=len(ours),
            max_error=float(error.max()),
            mean_error=float(error.mean()),
            rms_error=float(np.sqrt(np.square(error).mean())),
            reference_error=reference_error,
            logit_scale=float(np.abs(exact).max()),
            logit_std=float(exact.std()),
            cosine=float(cosines.min()),
            kl_divergence=float(kl.mean()),
            max_kl_divergence=float(kl.max()),
            top1_agreement=float(((top[:, 0] == top_exact[:, 0]) & finite).mean()),
            top5_agreement=float((np.asarray(shared) * finite).mean()),
        )


def best_classes(logits: NDArray[np.float64]) -> NDArray[np.intp]:
    """The five best classes of each image, or all if there are fewer; among equal ones the lower number is first."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :_TOP]


def kl_divergences(ours: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(reference || network) of each image's softmax, in nats."""
    p, q = _log_softmax(exact), _log_softmax(ours)
    divergences: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return np.maximum(divergences, 0.0)  # rounding may leave it a hair below; NaN stays NaN


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _finite(logits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of each image, whether all of its logits are numbers."""
    return np.asarray(np.isfinite(logits).all(axis=1))


# ---- images one by one


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on images whose classes are known.

    Args:
        top1, top5: Share of images whose class is the best one, and is among the five best.
        by_class: (class, its images, how many of them have the right answer), by class.
        confused: (class, wrong answer, how many images), the most frequent first; without answers that are not finite.
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
    """Accuracy on images whose classes are known; None if one is not. Logits that are not finite are wrong."""
    labels = [known for known in classes if known is not None]
    if len(labels) < len(classes):
        return None
    best, finite = best_classes(logits), _finite(logits)
    right = np.equal(best, np.asarray(labels)[:, None]) & finite[:, None]
    counts, rights = Counter(labels), Counter(label for label, hit in zip(labels, right[:, 0], strict=True) if hit)
    answers = zip(labels, best[:, 0].tolist(), finite, strict=True)
    confused = Counter((label, answer) for label, answer, is_one in answers if is_one and answer != label)
    return Accuracy(
        float(right[:, 0].mean()),
        float(right.any(axis=1).mean()),
        tuple((label, counts[label], rights[label]) for label in sorted(counts)),
        tuple((*pair, images) for pair, images in sorted(confused.items(), key=lambda own: (-own[1], own[0]))),
    )


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
    """An artifact on all images at one size.

    Args:
        size: None for the size of the transform.
        figures: Of the logits, against the reference's.
        maps: Of the other outputs, by name.
        accuracy: Where the classes are known.
        flips: Images whose best class differs from the reference's, surest first.
        wrong: Images with a wrong best class; those that the reference gets right come first.
        worst: Images with the largest errors, the largest first.
    """

    size: ImageSize | None
    figures: LogitFigures
    maps: Mapping[str, ValueFigures]
    accuracy: Accuracy | None
    flips: tuple[Difference, ...]
    wrong: tuple[Difference, ...]
    worst: tuple[Difference, ...]


def measure_images(
    size: ImageSize | None,
    ours: NDArray[np.float64],
    exact: NDArray[np.float64],
    *,
    names: Sequence[str],
    classes: Sequence[int | None],
    reference_error: float | None,
    maps: Mapping[str, ValueFigures],
) -> ImageFigures:
    """Measure logits of shape (images, classes) against the reference's, beside what is known of other outputs.

    Raises:
        VerificationError: The shapes differ.
    """
    figures = measure_logits(ours, exact, reference_error)
    best, best_exact = best_classes(ours)[:, 0], best_classes(exact)[:, 0]
    margins, errors = _margins(exact), np.abs(ours - exact).max(axis=1)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    finite = _finite(ours)
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
        maps,
        accuracy,
        tuple(difference(int(i)) for i in flips),
        tuple(difference(i) for i in wrong),
        tuple(difference(int(i)) for i in worst),
    )


def _margins(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Best logit minus the second, of each image; 0 if there is only one class."""
    if logits.shape[1] < 2:
        return np.zeros(len(logits))
    ordered = np.sort(logits, axis=1)
    margins: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return margins


# ---- maps and blocks


@dataclass(frozen=True)
class ValueFigures:
    """Values of a map, or of a block inside a network, against the reference's.

    Args:
        max_error, rms_error: Largest and root mean squared difference.
        reference_error: The baseline error: the largest of PyTorch in float32; None where the reference has none.
        scale: Largest absolute value of the reference's.
        std: Their standard deviation.
        cosine: Smallest cosine between the values of a position, over the channels, and the reference's.
    """

    max_error: float
    rms_error: float
    reference_error: float | None
    scale: float
    std: float
    cosine: float

    def in_std(self) -> ValueFigures:
        """Errors in standard deviations of the reference's values; as they are where these do not differ."""
        std = self.std or 1.0
        lost = self.reference_error / std if self.reference_error is not None else None
        own = {name: getattr(self, name) / std for name in ("max_error", "rms_error", "scale")}
        return replace(self, reference_error=lost, std=self.std / std, **own)


def measure_values(ours: Values, exact: Values, reference_error: float | None = None) -> ValueFigures:
    """Compare values with the reference's: (B, C, H, W), or with the channels last.

    Raises:
        VerificationError: The shapes differ.
    """
    if ours.shape != exact.shape:
        raise VerificationError(f"the artifact gives values of shape {ours.shape}, the reference {exact.shape}")
    wide = exact.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(ours.astype(np.float64) - wide)
        return ValueFigures(
            max_error=float(error.max()),
            rms_error=float(np.sqrt(np.square(error).mean())),
            reference_error=reference_error,
            scale=float(np.abs(wide).max()),
            std=float(wide.std()),
            cosine=float(_cosines(ours.astype(np.float64, copy=False), wide, 1 if wide.ndim == 4 else -1).min()),
        )


def _cosines(ours: NDArray[np.float64], exact: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Cosine between vectors along an axis."""
    norms = np.linalg.norm(ours, axis=axis) * np.linalg.norm(exact, axis=axis)
    cosines: NDArray[np.float64] = (ours * exact).sum(axis=axis) / np.maximum(norms, _TINY)
    return cosines


def measure_outputs(
    ours: Outputs, exact: Outputs, reference_errors: Mapping[str, float] | None
) -> dict[str, LogitFigures | ValueFigures]:
    """Compare every output with the reference's; only the output with that name counts as logits.

    Raises:
        VerificationError: The outputs or their shapes differ.
    """
    if ours.keys() != exact.keys():
        raise VerificationError(f"the artifact gives {', '.join(ours)}, the reference {', '.join(exact)}")
    found: dict[str, LogitFigures | ValueFigures] = {}
    for name, values in exact.items():
        measure = measure_logits if name == LOGITS else measure_values
        lost = reference_errors[name] if reference_errors is not None else None
        try:
            found[name] = measure(np.asarray(ours[name], np.float64), np.asarray(values, np.float64), lost)
        except VerificationError as exc:
            raise VerificationError(f"{name}: {exc}" if len(exact) > 1 else str(exc)) from exc
    return found


def largest_errors(ours: Outputs | None, exact: Outputs) -> dict[str, float] | None:
    """The largest difference of each output or block; None where there is nothing to compare."""
    if ours is None:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        return {
            name: float(np.abs(ours[name].astype(np.float64) - values.astype(np.float64, copy=False)).max())
            for name, values in exact.items()
        }


def summary(figures: Mapping[str, LogitFigures | ValueFigures]) -> LogitFigures | ValueFigures:
    """The figures of the logits; without logits the worst of each figure of the outputs.

    Args:
        figures: Output's name -> what was measured, in standard deviations.
    """
    if LOGITS in figures:
        return figures[LOGITS]
    maps = list(figures.values())
    errors = _largest(maps, "max_error"), _largest(maps, "rms_error")
    cosine = float(np.min([own.cosine for own in maps]))
    return ValueFigures(*errors, None, _largest(maps, "scale"), _largest(maps, "std"), cosine)


def _largest(figures: Sequence[LogitFigures | ValueFigures], name: str) -> float:
    return float(np.max([getattr(own, name) for own in figures]))  # NaN stays NaN


def joined(parts: Sequence[tuple[int, ValueFigures]]) -> ValueFigures:
    """Figures of values that were measured a part at a time: (how many values, figures). ``std`` is within a part."""
    counts, figures = zip(*parts, strict=True)

    def root_mean(name: str) -> float:
        return float(np.sqrt(np.average([getattr(part, name) ** 2 for part in figures], weights=counts)))

    lost = _largest(figures, "reference_error") if figures[0].reference_error is not None else None
    errors = _largest(figures, "max_error"), root_mean("rms_error")
    cosine = float(np.min([part.cosine for part in figures]))
    return ValueFigures(*errors, lost, _largest(figures, "scale"), root_mean("std"), cosine)
