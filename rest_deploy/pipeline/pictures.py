"""Images or arrays of a folder as inputs of a network, read again whenever asked for, so that none stay in memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.errors import ConfigError
from rest_deploy.models.memory import check_image
from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.sample import ArrayInput, Source
from rest_deploy.preprocess.transform import fed_size, transform
from rest_deploy.specs import LARGEST_INPUT, Alpha, ImageSize, Preprocessing


@dataclass(frozen=True)
class ImageInputs:
    """float32 (1, channels, H, W) of each source, of images at each of some sizes.

    Args:
        paths: Images, or arrays that are inputs already.
        preprocessing: What the artifact itself would do with images; None where it leaves that to its caller.
        sizes: In place of the preprocessing's own; images that would be fed at their own size are warped to them.
        channels: Of the network; None checks no arrays for it.
        largest: Absolute value that no input may be over, as the file would not answer it.
        config: Of the network, to refuse an image that it has no memory for; None checks none.

    Raises:
        ConfigError: The network takes no pictures and these are some, an array does not fit, or arrays are to be
            resized; later, an input is too large.
    """

    paths: Sequence[Source]
    preprocessing: Preprocessing | None
    sizes: Sequence[ImageSize] = ()
    channels: int | None = None
    largest: float = LARGEST_INPUT
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        arrays = {source.path: source for source in self.paths if isinstance(source, ArrayInput)}
        for source in arrays.values():  # those of a file have one shape
            source.check_channels(self.channels)
        if arrays and self.sizes:
            raise ConfigError(
                f"calibration_sizes {', '.join(map(str, self.sizes))}: .npy files are inputs as they are, and are not "
                "resized; leave it out, or save them at these sizes"
            )
        if self.paths and not arrays:
            self._check_pictures(self.preprocessing)

    def _check_pictures(self, preprocessing: Preprocessing | None) -> None:
        if preprocessing is not None and preprocessing.takes_pictures:
            return
        why = "the artifact leaves preprocessing to its caller"
        if preprocessing is not None:
            why = f"the network takes {len(preprocessing.mean)} channels, and pictures have 1 or 3"
        raise ConfigError(
            f"{self.paths[0]}: a picture, and {why}; give a folder of .npy files: float32 of shape (channels, height, "
            "width) or (N, channels, height, width), already normalised"
        )

    def __len__(self) -> int:
        return len(self.paths) * max(1, len(self.sizes))

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for source in self.paths:
            if isinstance(source, ArrayInput):
                yield source.load(self.channels, self.largest)[None]
                continue
            alpha = self.preprocessing.alpha if self.preprocessing is not None else Alpha.WHITE
            image = load_image(source, alpha, functools.partial(self._check_memory, str(source)))
            for steps in self._steps():
                yield self._checked(source, transform(image, steps)[None])

    def _checked(self, source: Source, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """An input made from a picture."""
        if not (most := float(np.abs(values).max())) <= self.largest:
            raise ConfigError(
                f"{source}: mean and std make an input with values up to {most:.3g} of it, and the file would take at "
                f"most {self.largest:.6g}; mend --mean and --std, or export fp32"
            )
        return values

    def _check_memory(self, name: str, height: int, width: int) -> None:
        for steps in self._steps():
            if steps is None or self.config is None:
                continue
            size = fed_size(steps, height, width, name)
            check_image(self.config, size.height, size.width, name)

    def _steps(self) -> Sequence[Preprocessing | None]:
        if self.preprocessing is None or not self.sizes:
            return [self.preprocessing]
        return [self.preprocessing.at(size) for size in self.sizes]
