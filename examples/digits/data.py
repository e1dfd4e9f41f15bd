"""The digits of scikit-learn: a fixed split, and how an 8x8 digit becomes a picture of any size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LABELS = tuple(str(digit) for digit in range(10))
HELD_OUT = 360
_SPLIT_SEED = 20210528  # apart from the training seed, so that no run can move an image across the split
_BRIGHTEST = 16.0  # the data set counts the inked pixels of 4x4 blocks of a bitmap

Digits = NDArray[np.float64]
Labels = NDArray[np.int64]
Picture = NDArray[np.uint8]


def load_split() -> tuple[Digits, Labels, Digits, Labels]:
    """Load the data set (it comes with scikit-learn; nothing is downloaded) and split it, every class in proportion.

    Returns:
        Training images (1437, 8, 8) with values 0 to 16, their labels (1437,), and the same of the 360 held-out images.
    """
    try:  # here, as it takes two seconds
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as exc:
        raise SystemExit(
            "error: the digits come with scikit-learn, which is not installed; make demo installs it in .venv"
        ) from exc

    digits = load_digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        digits.images, digits.target, test_size=HELD_OUT, stratify=digits.target, random_state=_SPLIT_SEED
    )
    return train_images, train_labels.astype(np.int64), test_images, test_labels.astype(np.int64)


def render(image: Digits, size: tuple[int, int]) -> Picture:
    """(8, 8) with values 0 to 16 -> (height, width, 3) uint8: bicubic, stretched to the size, grey in three channels.

    Args:
        image: One image of :func:`load_split`.
        size: ``(height, width)`` in pixels.
    """
    height, width = size
    grey = Image.fromarray(np.rint(image * (255.0 / _BRIGHTEST)).astype(np.uint8))
    stretched = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC))
    return np.repeat(stretched[:, :, None], 3, axis=2)
