"""One object in front of every artifact: images in, labels and scores out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import ConfigError, ImageError, RestDeployError
from rest_deploy.preprocess.dataset import images_below
from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.transform import transform
from rest_deploy.runtimes.registry import open_runtime

ImageSource: TypeAlias = str | Path | Image.Image | NDArray[np.uint8]
Progress = Callable[[int, int], None]

#: Pixels of input that one call of the network takes at most, unless one image alone is more: 16 at 224x224.
_PIXELS_A_CALL = 16 * 224 * 224


@dataclass(frozen=True)
class Prediction:
    """A class, its name, and its probability (softmax of the logits)."""

    label: str
    index: int
    score: float


class Predictor:
    """Classify images with an artifact: ``.onnx``, ``.engine``, or a ``.pth``, ``.pt`` or ``.safetensors`` checkpoint.

    May be used from several threads at once, and as a context manager.

    Args:
        path: The artifact.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; never another than asked. None takes the CPU, for an engine the
            first GPU.
        threads: CPU threads for one call; None takes one for each physical core that this process may use.

    Raises:
        ArtifactError: The file is missing, damaged, or not one of ours.
        CheckpointError: The checkpoint cannot be read.
        DeviceError: The device is not there.
        MissingPackageError: The runtime's package is not installed.
    """

    def __init__(self, path: str | Path, device: str | None = None, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; it must be at least 1")
        self._runtime = open_runtime(path, device, threads)

    @property
    def info(self) -> ArtifactInfo:
        """What the artifact says of itself."""
        return self._runtime.info

    @overload
    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]: ...
    @overload
    def logits(self, batch: Any) -> Any: ...

    def logits(self, batch: Any) -> Any:
        """Logits of a batch that is already normalised.

        Args:
            batch: float32 of shape (B, channels, H, W), any height and width from 1 up, of an engine within its
                profiles. An engine also takes arrays that lie on its GPU (``__dlpack__`` or
                ``__cuda_array_interface__``), without a copy.

        Returns:
            A new float32 array of shape (B, classes); for an array on a GPU one on that GPU.

        Raises:
            InputError: Wrong type, dtype, rank or size.
        """
        return self._runtime.run(batch)

    @overload
    def classify(
        self, image: list[Any] | tuple[Any, ...], top_k: int = ..., *, progress: Progress | None = ...
    ) -> list[list[Prediction]]: ...
    @overload
    def classify(
        self, image: Image.Image | NDArray[np.uint8], top_k: int = ..., *, progress: Progress | None = ...
    ) -> list[Prediction]: ...
    @overload
    def classify(  # a path may be a folder's
        self, image: str | Path, top_k: int = ..., *, progress: Progress | None = ...
    ) -> Any: ...

    def classify(self, image: Any, top_k: int = 5, *, progress: Progress | None = None) -> Any:
        """Classify an image, a list of images, or the images of a folder.

        Images of different sizes may be mixed; those that the network sees at one size run together.

        Args:
            image: A path, a Pillow image, an (H, W, 3) uint8 RGB array, a list of these, or the path of a folder.
            top_k: Predictions for each image, best first; at most the number of classes are given.
            progress: Called with (images done, images in all).

        Returns:
            For one image a list of predictions; for a list a list of such lists, in order; for a folder a dict of path
            to predictions.

        Raises:
            ImageError: An image cannot be read; it names the image.
        """
        _check_top_k(top_k)
        if isinstance(image, (list, tuple)):
            return self._classify_all(image, top_k, progress)
        if isinstance(image, (str, Path)) and os.path.isdir(image):
            paths = images_below(image).images
            return dict(zip(paths, self._classify_all(paths, top_k, progress), strict=True))
        return self._classify_all([image], top_k, progress)[0]

    def stream(
        self, images: Sequence[ImageSource], top_k: int = 5
    ) -> Iterator[tuple[int, list[Prediction] | ImageError]]:
        """Classify many images, a bad one being no end of the others.

        Args:
            images: As :meth:`classify` takes them, no folders.
            top_k: Predictions for each image, best first.

        Yields:
            (index of the image, its predictions or what was wrong with it), as they are done, each index once.
        """
        _check_top_k(top_k)
        waiting: dict[tuple[int, ...], list[tuple[int, NDArray[np.float32]]]] = defaultdict(list)
        for index, source in enumerate(images):
            try:
                pixels = transform(load_image(source, self.info.preprocessing.alpha), self.info.preprocessing)
            except ImageError as exc:
                yield index, exc
                continue
            group = waiting[pixels.shape]
            group.append((index, pixels))
            if len(group) == self._images_a_call(pixels.shape[1], pixels.shape[2]):
                yield from self._run_group(waiting.pop(pixels.shape), top_k)
            elif (
                sum(p.size for g in waiting.values() for _, p in g) > 4 * 3 * _PIXELS_A_CALL
            ):  # many sizes: bound memory
                yield from self._run_group(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))), top_k)
        for group in waiting.values():
            yield from self._run_group(group, top_k)

    def _images_a_call(self, height: int, width: int) -> int:
        """How many images of a size run together: as many as memory and the artifact allow."""
        fitting = max(1, _PIXELS_A_CALL // (height * width))
        most = self._runtime.max_batch(height, width)
        return fitting if most is None else min(fitting, most)

    def _run_group(
        self, group: list[tuple[int, NDArray[np.float32]]], top_k: int
    ) -> Iterator[tuple[int, list[Prediction] | ImageError]]:
        try:
            logits = self.logits(np.stack([pixels for _, pixels in group]))
        except RestDeployError as exc:
            if self._runtime.closed:
                raise
            if len(group) == 1:
                yield group[0][0], ImageError(f"image {group[0][0]} of the list: {exc}")
            else:  # one by one, so that the others are answered
                for one in group:
                    yield from self._run_group([one], top_k)
            return
        for (index, _), row in zip(group, logits, strict=True):
            yield index, self._top(row, top_k)

    def _classify_all(
        self, images: Sequence[ImageSource], top_k: int, progress: Progress | None
    ) -> list[list[Prediction]]:
        answers: list[list[Prediction]] = [[] for _ in images]
        for done, (index, answer) in enumerate(self.stream(images, top_k), 1):
            if isinstance(answer, ImageError):
                raise answer
            answers[index] = answer
            if progress is not None:
                progress(done, len(images))
        return answers

    def _top(self, logits: NDArray[np.float32], top_k: int) -> list[Prediction]:
        shifted = np.exp(logits.astype(np.float64) - logits.max())
        scores = shifted / shifted.sum()
        best = np.argsort(-logits, kind="stable")[:top_k]  # ties: the lower class number first
        return [Prediction(self.info.label(int(i)), int(i), float(scores[i])) for i in best]

    def close(self) -> None:
        """Let go of the network; may be called again without harm."""
        self._runtime.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1:
        raise ConfigError(f"top_k is {top_k!r}; it must be a whole number of at least 1")
