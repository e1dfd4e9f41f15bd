"""Images of a folder as inputs of a network, read again whenever they are asked for, so that none stay in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.transform import transform
from rest_deploy.specs import ImageSize, Preprocessing


@dataclass(frozen=True)
class ImageInputs:
    """float32 (1, channels, H, W) of each image, at each of some sizes.

    Args:
        paths: The images.
        preprocessing: What the artifact itself would do with them.
        sizes: In place of the preprocessing's own; images that would be fed at their own size are warped to them.
    """

    paths: Sequence[Path]
    preprocessing: Preprocessing
    sizes: Sequence[ImageSize] = ()

    def __len__(self) -> int:
        return len(self.paths) * max(1, len(self.sizes))

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for path in self.paths:
            image = load_image(path)
            for steps in self._steps():
                yield transform(image, steps)[None]

    def _steps(self) -> list[Preprocessing]:
        return [self.preprocessing.at(size) for size in self.sizes] or [self.preprocessing]
