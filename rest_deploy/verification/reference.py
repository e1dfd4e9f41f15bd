"""What networks are measured against: answers to synthetic and to real images, computed once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.engine import CaseRecord
from rest_deploy.artifact.profile import InputSize, Profile, narrowest
from rest_deploy.errors import VerificationError
from rest_deploy.specs import ImageSize
from rest_deploy.verification.figures import LogitFigures, measure_logits
from rest_deploy.verification.limits import Limits, judge

#: float32 (B, channels, H, W) -> (B, classes)
Run = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]

#: A batch of images of one size.
Case = InputSize

#: Odd and even, square and not, tiny and large, one image and several, and no size that the exporter traces with.
CASES = (
    Case(1, ImageSize(224, 224)),
    Case(3, ImageSize(20, 27)),
    Case(1, ImageSize(1, 1)),
    Case(3, ImageSize(97, 131)),
    Case(1, ImageSize(200, 333)),
    Case(1, ImageSize(512, 544)),
)


def cases_within(profiles: Sequence[Profile]) -> tuple[Case, ...]:
    """Those of :data:`CASES` that an engine accepts, and the smallest and the tuned size of each of its profiles."""
    ends = [end for profile in profiles for end in (profile.min, profile.opt)]
    fitting = [case for case in CASES if narrowest(profiles, case) is not None]
    return tuple(dict.fromkeys([*fitting, *ends]))


def synthetic_images(rng: np.random.Generator, case: Case, channels: int) -> NDArray[np.float32]:
    """Normalised images with both coarse and fine structure, float32 of shape (B, channels, H, W)."""
    height, width = case.size.height, case.size.width
    shape = (case.batch, channels)
    coarse = rng.standard_normal((*shape, -(-height // 16), -(-width // 16)))
    coarse = coarse.repeat(16, axis=2).repeat(16, axis=3)[..., :height, :width]
    return (coarse + 0.5 * rng.standard_normal((*shape, height, width))).astype(np.float32)


@dataclass(frozen=True)
class CaseFigures(LogitFigures):
    """What was measured in one case."""

    case: Case

    def to_dict(self) -> dict[str, Any]:
        """What a record says of it."""
        sizes = dict(zip(("batch", "height", "width"), self.case.sizes, strict=True))
        return {name: sizes[name] if name in sizes else getattr(self, name) for name in CaseRecord.__annotations__}


@dataclass(frozen=True)
class Comparison:
    """Figures of all cases, and what judges them.

    Args:
        seed: Of the images.
        cases: The figures.
        limits: What is allowed of them.
    """

    seed: int
    cases: tuple[CaseFigures, ...]
    limits: Limits

    @property
    def failures(self) -> list[str]:
        """Cases that are past the limits, in words."""
        return [f"{figures.case}: {reason}" for figures in self.cases for reason in judge(figures, self.limits)]

    @property
    def passed(self) -> bool:
        """Whether every case is within the limits."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """What a record says of it."""
        cases = [figures.to_dict() for figures in self.cases]
        return {"reference": "PyTorch float64", "passed": self.passed, "seed": self.seed, "cases": cases}

    def require(self, name: str) -> None:
        """Raise unless every case is within the limits.

        Raises:
            VerificationError: Names the cases that are not.
        """
        if not self.passed:
            raise VerificationError(f"{name} disagrees with the PyTorch model; {'; '.join(self.failures)}")

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The figures as texts: names of the columns, and a row for each case."""
        head = ("batch x size", "max error", "mean error", "float32's", "times", "allowed", "cosine", "KL", "top-1",
                "top-5")  # fmt: skip
        return head, [self._row(figures) for figures in self.cases]

    def _row(self, own: CaseFigures) -> tuple[str, ...]:
        return (
            f"{own.case.batch} x {own.case.size}",
            f"{own.max_error:.2e}",
            f"{own.mean_error:.2e}",
            f"{own.reference_error:.2e}" if own.reference_error is not None else "-",
            f"{own.max_error / own.reference_error:.2f}" if own.reference_error else "-",
            f"{self.limits.allowed(own):.1e}",
            f"{own.cosine:.9f}",
            f"{own.kl_divergence:.1e}",
            f"{own.top1_agreement:.1%}",
            f"{own.top5_agreement:.1%}",
        )


@dataclass(frozen=True)
class _Known:
    """A case, its images, their exact logits, and the baseline error."""

    case: Case
    images: NDArray[np.float32]
    exact: NDArray[np.float64]
    lost: float | None


class Reference:
    """What a network must give on synthetic images.

    Args:
        exact: It in float64, or what stands for it.
        baseline: It in float32; None where there is none.
        channels: Of the images.
        cases: Batches and sizes.
        seed: Of the images.
    """

    def __init__(
        self, exact: Run, baseline: Run | None, *, channels: int, cases: Sequence[Case] = CASES, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        self._seed = seed
        self._known = []
        for case in cases:
            images = synthetic_images(rng, case, channels)
            logits = np.asarray(exact(images), np.float64)
            self._known.append(_Known(case, images, logits, loss(baseline, images, logits)))

    def measured_by(self, baseline: Run | None) -> Reference:
        """The same images and exact logits beside another baseline."""
        other = copy(self)
        other._known = [replace(known, lost=loss(baseline, known.images, known.exact)) for known in self._known]
        return other

    def images(self, case: Case) -> NDArray[np.float32] | None:
        """The images of a case; None where it is none of the reference's."""
        return next((known.images for known in self._known if known.case == case), None)

    def compare(self, candidate: Run, limits: Limits, *, cases: Sequence[Case] | None = None) -> Comparison:
        """Measure a network.

        Args:
            candidate: It.
            limits: What is allowed of it.
            cases: Those of the reference's that it takes; None for all.

        Raises:
            VerificationError: It gives logits of another shape.
        """
        wanted = [known for known in self._known if cases is None or known.case in cases]
        return Comparison(self._seed, tuple(_measured(known, candidate) for known in wanted), limits)


def _measured(known: _Known, candidate: Run) -> CaseFigures:
    with np.errstate(invalid="ignore", over="ignore"):  # an artifact that gives no numbers fails, without noise
        ours = np.asarray(candidate(known.images), np.float64)
    try:
        figures = measure_logits(ours, known.exact, known.lost)
    except VerificationError as exc:
        raise VerificationError(f"{known.case}: {exc}") from exc
    return CaseFigures(**vars(figures), case=known.case)


def loss(baseline: Run | None, images: NDArray[np.float32], exact: NDArray[np.float64]) -> float | None:
    """The baseline error; None where there is none."""
    return float(np.abs(np.asarray(baseline(images)) - exact).max()) if baseline is not None else None


class Pictures:
    """Real images with the FP32 network's answers, to measure narrower ones by.

    Args:
        reference: The FP32 network.
        batches: Images, those of a batch of one size; gone through again for every measurement.
    """

    def __init__(self, reference: Run, batches: Iterable[NDArray[np.float32]]) -> None:
        self._batches = batches
        self._logits = [np.asarray(reference(batch), np.float64) for batch in batches]

    def first(self, count: int) -> Pictures:
        """The first batches alone, held in memory."""
        some = copy(self)
        some._batches, some._logits = list(islice(self._batches, count)), self._logits[:count]
        return some

    def compare(self, candidate: Run) -> LogitFigures:
        """Measure a narrower network, errors in standard deviations of the FP32 network's logits."""
        with np.errstate(invalid="ignore", over="ignore"):  # what gives no numbers agrees with nothing, without noise
            ours = [np.asarray(candidate(batch), np.float64) for batch in self._batches]
        return measure_logits(np.concatenate(ours), np.concatenate(self._logits)).in_std()
