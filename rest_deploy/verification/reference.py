"""What networks are measured against: a reference whose logits are computed once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.errors import VerificationError
from rest_deploy.specs import Precision
from rest_deploy.verification.cases import CASES, Case, synthetic_images
from rest_deploy.verification.comparison import CaseFigures, Comparison
from rest_deploy.verification.figures import measure_logits

Run = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class _Known:
    """A case, its images, their exact logits, and what the yardstick loses on them."""

    case: Case
    images: NDArray[np.float32]
    exact: NDArray[np.float64]
    lost: float | None


class Reference:
    """What a network must give on synthetic images.

    Args:
        exact: It in float64, or what stands for it; float32 (B, channels, H, W) -> (B, classes).
        yardstick: It in float32; None where there is none, and errors are then not told in its units.
        channels: Channels of the images.
        cases: Batches and sizes.
        seed: Of the images.
    """

    def __init__(
        self, exact: Run, yardstick: Run | None, *, channels: int, cases: Sequence[Case] = CASES, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        self._seed = seed
        self._known = []
        for case in cases:
            images = synthetic_images(rng, case, channels)
            logits = np.asarray(exact(images), np.float64)
            self._known.append(_Known(case, images, logits, loss(yardstick, images, logits)))

    def measured_by(self, yardstick: Run | None) -> Reference:
        """The same images and exact logits beside another yardstick."""
        other = copy(self)
        other._known = [replace(known, lost=loss(yardstick, known.images, known.exact)) for known in self._known]
        return other

    def images(self, case: Case) -> NDArray[np.float32] | None:
        """The images of a case; None where it is none of the reference's."""
        return next((known.images for known in self._known if known.case == case), None)

    def compare(
        self,
        candidate: Run,
        precision: Precision,
        *,
        spread: float | None = None,
        cases: Sequence[Case] | None = None,
    ) -> Comparison:
        """Measure a run.

        Args:
            candidate: float32 (B, channels, H, W) -> (B, classes).
            precision: By which the comparison is to be judged.
            spread: As of :class:`Comparison`.
            cases: Those of the reference's that the candidate takes; None for all.

        Raises:
            VerificationError: It gives logits of another shape.
        """
        figures = []
        for known in self._known:
            if cases is not None and known.case not in cases:
                continue
            with np.errstate(invalid="ignore", over="ignore"):  # an artifact that gives no numbers fails, without noise
                ours = np.asarray(candidate(known.images), np.float64)
            figures.append(_figures(known.case, ours, known.exact, known.lost))
        return Comparison(precision, self._seed, tuple(figures), spread)


def loss(yardstick: Run | None, images: NDArray[np.float32], exact: NDArray[np.float64]) -> float | None:
    """Largest error of a yardstick; None where there is none."""
    return float(np.abs(np.asarray(yardstick(images)) - exact).max()) if yardstick is not None else None


def measure(
    candidate: Run,
    reference: Run,
    yardstick: Run,
    *,
    channels: int,
    precision: Precision,
    cases: Sequence[Case] = CASES,
    seed: int = 0,
) -> Comparison:
    """Run an artifact, its reference and the yardstick on the same images; arguments as of :class:`Reference`."""
    return Reference(reference, yardstick, channels=channels, cases=cases, seed=seed).compare(candidate, precision)


def _figures(case: Case, ours: NDArray[np.float64], exact: NDArray[np.float64], lost: float | None) -> CaseFigures:
    try:
        return CaseFigures.of(case, measure_logits(ours, exact), lost)
    except VerificationError as exc:
        raise VerificationError(f"{case}: {exc}") from exc
