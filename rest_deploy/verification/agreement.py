"""Do two networks give real images the same answer? Figures, and the budget that judges them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.specs import FACTOR, SHARE, Precision
from rest_deploy.values import hold
from rest_deploy.verification.figures import measure_logits
from rest_deploy.verification.reference import Run


@dataclass(frozen=True)
class Agreement:
    """What was measured on real images, against the FP32 network.

    Args:
        images: How many.
        top1_agreement: Share of them with the same best class.
        max_error: Largest difference of a logit, in standard deviations of the reference's logits.
        rms_error: Root of the mean squared difference, in the same unit.
        cosine: Smallest cosine between an image's logits and the reference's.
    """

    images: int
    top1_agreement: float
    max_error: float
    rms_error: float
    cosine: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Pictures:
    """Real images with the FP32 network's answers, to measure narrower ones by.

    Args:
        reference: The FP32 network; float32 (B, channels, H, W) -> (B, classes).
        batches: Images, those of a batch of one size; gone through again for every measurement.
    """

    def __init__(self, reference: Run, batches: Iterable[NDArray[np.float32]]) -> None:
        self._batches = batches
        self._logits = [np.asarray(reference(batch), np.float64) for batch in batches]

    def first(self, count: int) -> Pictures:
        """The first batches alone, held in memory."""
        some = Pictures(np.asarray, [])
        some._batches, some._logits = list(islice(self._batches, count)), self._logits[:count]
        return some

    def compare(self, candidate: Run) -> Agreement:
        """Measure a narrower network."""
        with np.errstate(invalid="ignore", over="ignore"):  # what gives no numbers agrees with nothing, without noise
            pairs = list(self._pairs(candidate))
        ours, exact = (np.concatenate(side) for side in zip(*pairs, strict=True))
        figures = measure_logits(ours, exact)
        std = figures.logit_std or 1.0
        return Agreement(
            images=figures.images,
            top1_agreement=figures.top1_agreement,
            max_error=figures.max_error / std,
            rms_error=figures.rms_error / std,
            cosine=figures.cosine,
        )

    def _pairs(self, candidate: Run) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        for batch, exact in zip(self._batches, self._logits, strict=True):
            yield np.asarray(candidate(batch), np.float64), exact


@dataclass(frozen=True)
class Budget:
    """What a narrower artifact may cost, judged on real images where there are any.

    Args:
        min_top1_agreement: Share of images with FP32's best class, 0 to 1; None asks nothing.
        max_error: Largest difference of a logit from FP32's, in standard deviations of FP32's logits.

    Raises:
        ConfigError: A figure out of range.
    """

    min_top1_agreement: Annotated[float, SHARE] | None
    max_error: Annotated[float, FACTOR]

    def __post_init__(self) -> None:
        hold(self)

    def failures(self, agreement: Agreement) -> list[str]:
        """What is over the budget, in words."""
        failures = []
        least = self.min_top1_agreement
        if least is not None and not agreement.top1_agreement >= least:
            failures.append(
                f"top-1 agreement {agreement.top1_agreement:.2%} of {agreement.images} images is under {least:.2%}"
            )
        if not agreement.max_error <= min(self.max_error, sys.float_info.max):  # so that NaN and infinity fail
            failures.append(
                f"largest error {agreement.max_error:.3g} is over {self.max_error:.3g} standard deviations of logits"
            )
        return failures


#: Precision -> its budget on real images. FP16's error is that of its tolerance; INT8 rounds to 1/127 of a range, which
#: comes to a cosine of some 0.99 (docs/precision.md). Agreement counts ties, so that not every image is asked for.
BUDGETS: Mapping[Precision, Budget] = MappingProxyType(
    {Precision.FP16: Budget(0.99, 0.05), Precision.INT8: Budget(0.98, 0.75)}
)
