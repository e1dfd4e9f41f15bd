"""Measuring runs of a network against a reference, whose logits are computed once for all of them."""

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

Run = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class _Known:
    """A case, its images, their exact logits, and what the yardstick loses on them."""

    case: Case
    images: NDArray[np.float32]
    exact: NDArray[np.float64]
    lost: float


class Reference:
    """What a network must give on synthetic images.

    Args:
        exact: It in float64; float32 (B, channels, H, W) -> (B, classes).
        yardstick: It in float32.
        channels: Channels of the images.
        cases: Batches and sizes.
        seed: Of the images.
    """

    def __init__(
        self, exact: Run, yardstick: Run, *, channels: int, cases: Sequence[Case] = CASES, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        self._seed = seed
        self._known = []
        for case in cases:
            images = synthetic_images(rng, case, channels)
            logits = np.asarray(exact(images), np.float64)
            self._known.append(_Known(case, images, logits, _loss(yardstick, images, logits)))

    def measured_by(self, yardstick: Run) -> Reference:
        """The same images and exact logits beside another yardstick."""
        other = copy(self)
        other._known = [replace(known, lost=_loss(yardstick, known.images, known.exact)) for known in self._known]
        return other

    def compare(self, candidate: Run, precision: Precision, *, spread: float | None = None) -> Comparison:
        """Measure a run.

        Args:
            candidate: float32 (B, channels, H, W) -> (B, classes).
            precision: By which the comparison is to be judged.
            spread: As of :class:`Comparison`.
        """
        figures = []
        for known in self._known:
            with np.errstate(invalid="ignore", over="ignore"):  # an artifact that gives no numbers fails, without noise
                ours = np.asarray(candidate(known.images), np.float64)
                figures.append(_figures(known.case, ours, known.exact, known.lost))
        return Comparison(precision, self._seed, tuple(figures), spread)


def _loss(yardstick: Run, images: NDArray[np.float32], exact: NDArray[np.float64]) -> float:
    return float(np.abs(np.asarray(yardstick(images)) - exact).max())


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


def _figures(case: Case, ours: NDArray[np.float64], exact: NDArray[np.float64], lost: float) -> CaseFigures:
    if ours.shape != exact.shape:
        raise VerificationError(f"{case}: the artifact gives logits of shape {ours.shape}, the reference {exact.shape}")
    error = np.abs(ours - exact)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(exact, axis=1)
    best = min(5, exact.shape[1])
    top, top_exact = np.argsort(-ours, axis=1)[:, :best], np.argsort(-exact, axis=1)[:, :best]
    shared = [len(set(a) & set(b)) / best for a, b in zip(top.tolist(), top_exact.tolist(), strict=True)]
    return CaseFigures(
        batch=case.batch,
        height=case.size.height,
        width=case.size.width,
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        reference_error=lost,
        logit_scale=float(np.abs(exact).max()),
        logit_std=float(exact.std()),
        cosine=float(((ours * exact).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)).min()),
        top1_agreement=float((top[:, 0] == top_exact[:, 0]).mean()),
        top5_agreement=float(np.mean(shared)),
    )
