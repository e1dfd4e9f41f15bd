"""Sizes at which an artifact is checked, and images for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.profile import InputSize, Profile, narrowest
from rest_deploy.specs import ImageSize

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
