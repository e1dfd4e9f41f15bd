"""How far two networks' logits are apart, in figures. Nothing is judged here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rest_deploy.errors import VerificationError

_TOP = 5
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class LogitFigures:
    """What was measured on some images. Errors are absolute differences of logits from the reference's.

    Args:
        images: How many.
        max_error, mean_error, rms_error: Largest, mean, root of the mean square; over images and classes.
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
    logit_scale: float
    logit_std: float
    cosine: float
    kl_divergence: float
    max_kl_divergence: float
    top1_agreement: float
    top5_agreement: float


def measure_logits(ours: NDArray[np.float64], exact: NDArray[np.float64]) -> LogitFigures:
    """Compare logits of shape (images, classes) with the reference's.

    Logits that are no numbers, on either side, give errors that are none, and agree with nothing.

    Raises:
        VerificationError: The shapes differ.
    """
    if ours.shape != exact.shape:
        raise VerificationError(f"the artifact gives logits of shape {ours.shape}, the reference {exact.shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(ours - exact)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(exact, axis=1)
        cosines = (ours * exact).sum(axis=1) / np.maximum(norms, _TINY)
        kl = kl_divergences(ours, exact)
        top, top_exact = best_classes(ours), best_classes(exact)
        finite = np.isfinite(ours).all(axis=1) & np.isfinite(exact).all(axis=1)
        shared = [len(set(a) & set(b)) / len(b) for a, b in zip(top.tolist(), top_exact.tolist(), strict=True)]
        return LogitFigures(
            images=len(ours),
            max_error=float(error.max()),
            mean_error=float(error.mean()),
            rms_error=float(np.sqrt(np.square(error).mean())),
            logit_scale=float(np.abs(exact).max()),
            logit_std=float(exact.std()),
            cosine=float(cosines.min()),
            kl_divergence=float(kl.mean()),
            max_kl_divergence=float(kl.max()),
            top1_agreement=float(((top[:, 0] == top_exact[:, 0]) & finite).mean()),
            top5_agreement=float((np.asarray(shared) * finite).mean()),
        )


def best_classes(logits: NDArray[np.float64]) -> NDArray[np.intp]:
    """The five best classes of each image, or all where there are fewer; of ties the lower number first."""
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
