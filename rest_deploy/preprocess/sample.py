"""A choice from a folder of images or arrays: some to calibrate with, others to judge by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.errors import ConfigError, ImageError, counted, one_line
from rest_deploy.preprocess.dataset import Dataset, images_below, name_below
from rest_deploy.preprocess.images import load_image
from rest_deploy.specs import LARGEST_INPUT

#: Default number of images to calibrate with, and of images on which answers are compared.
DEFAULT_IMAGES = 100
#: Fewer say too little about the ranges, and about how many answers change.
MIN_CALIBRATION, MIN_JUDGED = 16, 8

_THUMBNAIL = (16, 16)
#: Images are all alike if their thumbnails differ by less (standard deviation over images, of 255, mean over pixels).
_ALIKE = 4.0
#: The same for arrays, which have their own scale: a share of the standard deviation of all values of a channel. That
#: of pixels is 58 of 255 (ImageNet), so 4 of 255 is 0.07.
_ALIKE_ARRAYS = 0.07
#: Thumbnails that differ by less (mean absolute difference, of 255) count as copies of one image.
_SAME = 2.0


@dataclass(frozen=True)
class ArrayInput:
    """An input of a network in a ``.npy`` file, of shape (channels, height, width).

    Args:
        path: The file.
        row: Its index in an array of shape (N, channels, height, width); None if the array is the input.
    """

    path: Path
    row: int | None = None

    def check_channels(self, channels: int | None) -> None:
        """Check the number of channels, if it is known.

        Raises:
            ConfigError: The number differs, or the file is not such an array.
        """
        shape = _open_array(self.path).shape
        if channels is not None and shape[-3] != channels:
            raise ConfigError(
                f"{self.path}: its shape is {shape}, and the network takes {channels} channels; needed: "
                f"({channels}, height, width) or (N, {channels}, height, width)"
            )

    def load(self, channels: int | None = None, largest: float = LARGEST_INPUT) -> NDArray[np.float32]:
        """Read it.

        Args:
            channels: Of the network, if known.
            largest: Largest absolute value that is accepted.

        Raises:
            ConfigError: The file is not such an array, the number of channels differs, or values are not finite or too
                large.
        """
        self.check_channels(channels)
        whole = _open_array(self.path)
        with np.errstate(over="ignore"):  # from float64; checked below
            values = np.array(whole if self.row is None else whole[self.row], np.float32, order="C")
        if not np.isfinite(values).all():
            raise ConfigError(f"{self}: some values are not finite in float32; correct or remove it")
        if (most := float(np.abs(values).max())) > largest:
            raise ConfigError(
                f"{self}: values up to {most:.3g}; accepted: at most {largest:.6g}; normalise or remove it"
            )
        return values

    def __str__(self) -> str:
        return str(self.path) + (f", input {self.row}" if self.row is not None else "")


#: Source of an input.
SampleSource: TypeAlias = Path | ArrayInput


@dataclass(frozen=True)
class Sample:
    """A choice.

    Args:
        folder: The folder.
        calibration: Images to calibrate with, in order.
        judged: Other images, to compare answers on.
        sha256: Of names and content of ``calibration``.
        seed: Of the choice.
        left_out_note: Which files of the folder were left out, in words; empty if none were.
    """

    folder: Path
    calibration: tuple[SampleSource, ...]
    judged: tuple[SampleSource, ...]
    sha256: str
    seed: int
    left_out_note: str = ""

    def names(self, sources: Sequence[SampleSource]) -> tuple[str, ...]:
        """Names relative to the folder, with forward slashes; bytes that are not UTF-8 as escapes."""
        return tuple(_name(self.folder, source) for source in sources)


def choose_images(
    folder: str | Path,
    count: int | None,
    seed: int,
    *,
    calibrating: bool = True,
    largest: float = LARGEST_INPUT,
) -> Sample:
    """Choose images of a folder and its subfolders, or inputs from its ``.npy`` files.

    Copies count once, including images that were saved again. By default a hundred are used to calibrate with, or three
    quarters of a smaller folder; at most as many others are used to judge by.

    Args:
        folder: Of images; or of ``.npy`` files for networks whose inputs are not pictures: float16, float32 or float64
            of shape (channels, H, W) or (N, channels, H, W), already normalised.
        count: How many to calibrate with; None for a hundred.
        seed: Of the choice.
        calibrating: Whether some are used to calibrate with; else all of them, at most a hundred, are used to judge by.
        largest: Largest absolute value of an input in a ``.npy`` file.

    Raises:
        ConfigError: There are too few, they are all alike, images and ``.npy`` files are mixed, or a ``.npy`` file is
            not such an array.
        ImageError: An image cannot be read.
    """
    try:
        dataset = images_below(folder, arrays=True)
    except ImageError as exc:
        raise ConfigError(f"calibration folder {exc}") from exc
    sources: list[SampleSource] = list(dataset.images) if not dataset.are_arrays else list(_inputs_of(dataset.images))
    order = np.random.default_rng(seed).permutation(len(sources))
    most = 2 * (count or DEFAULT_IMAGES) if calibrating else DEFAULT_IMAGES
    shuffled = (sources[int(i)] for i in order)
    found = _different_arrays(shuffled, most, largest) if dataset.are_arrays else _different_images(shuffled, most)
    least = (count or MIN_CALIBRATION) if calibrating else 0
    kind = "inputs" if dataset.are_arrays else "images"
    if len(found) < least + MIN_JUDGED:
        ranges = f"{least} to calibrate with and {MIN_JUDGED} others" if calibrating else f"{MIN_JUDGED}"
        raise ConfigError(
            f"calibration folder {folder} has {counted(len(found), f'different {kind[:-1]}')}; needed: "
            f"{least + MIN_JUDGED} or more, {ranges} to judge by; add {kind} like those that the network will get"
        )
    _refuse_alike(dataset, [look for _, look in found])
    chosen = [source for source, _ in found]
    taken = (count or min(DEFAULT_IMAGES, max(MIN_CALIBRATION, len(found) * 3 // 4))) if calibrating else 0
    digest = _digest(dataset.folder, chosen[:taken])
    return Sample(dataset.folder, tuple(chosen[:taken]), tuple(chosen[taken:]), digest, seed, dataset.left_out_note)


def _inputs_of(paths: Iterable[Path]) -> Iterator[ArrayInput]:
    """Every input of some ``.npy`` files, all with the same number of channels."""
    first: tuple[Path, int] | None = None
    for path in paths:
        array = _open_array(path)
        channels = array.shape[-3]
        first = first or (path, channels)
        if channels != first[1]:
            raise ConfigError(
                f"{path}: its shape {array.shape} has {channels} channels, and {first[0].name} has {first[1]}; "
                "give inputs of one network"
            )
        yield from [ArrayInput(path)] if array.ndim == 3 else (ArrayInput(path, row) for row in range(len(array)))


def _open_array(path: Path) -> NDArray[np.floating[Any]]:
    """The array of a ``.npy`` file, mapped but not read.

    Raises:
        ConfigError: It cannot be read, or is not such an array.
    """
    needed = "needed: float16, float32 or float64 of shape (channels, height, width) or (N, channels, height, width)"
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise ValueError("an archive of arrays, .npz; save each array with numpy.save")
        array = np.lib.format.open_memmap(path, mode="r")
    except MemoryError:
        raise
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or one_line(exc)}") from exc
    except Exception as exc:  # Python objects, or a damaged header: NumPy's, ast's or tokenize's
        raise ConfigError(f"{path}: not a .npy file of numbers ({one_line(exc)}); {needed}") from exc
    if array.dtype.kind != "f" or array.ndim not in (3, 4) or array.size == 0:
        raise ConfigError(f"{path}: dtype {array.dtype} and shape {array.shape}; {needed}, already normalised")
    return array


def _name(folder: Path, source: SampleSource) -> str:
    if isinstance(source, Path):
        return name_below(folder, source)
    row = f"[{source.row}]" if source.row is not None else ""
    return name_below(folder, source.path) + row


_Looks: TypeAlias = list[tuple[SampleSource, NDArray[np.float32]]]


def _different_images(paths: Iterable[SampleSource], most: int) -> _Looks:
    """Images with their thumbnails, one of those that look alike, until there are enough."""
    found: _Looks = []
    for path in paths:
        assert isinstance(path, Path)
        thumbnail = _thumbnail(path)
        if all(float(np.abs(thumbnail - other).mean()) >= _SAME for _, other in found):
            found.append((path, thumbnail))
        if len(found) == most:
            break
    return found


def _different_arrays(inputs: Iterable[SampleSource], most: int, largest: float) -> _Looks:
    """Inputs with some of their values, one of those with the same content, until there are enough."""
    found: _Looks = []
    known = set()
    for source in inputs:
        assert isinstance(source, ArrayInput)
        values = source.load(largest=largest)
        content = _content(values)
        if content not in known:
            known.add(content)
            rows, columns = (np.linspace(0, side - 1, 16).round().astype(int) for side in values.shape[1:])
            found.append((source, values[:, rows[:, None], columns]))
        if len(found) == most:
            break
    return found


def _content(values: NDArray[np.float32]) -> str:
    return hashlib.sha256(repr(values.shape).encode() + values.astype("<f4").tobytes()).hexdigest()


def _refuse_alike(dataset: Dataset, looks: Sequence[NDArray[np.float32]]) -> None:
    values = np.stack(looks)
    if dataset.are_arrays:
        values = values.astype(np.float64)
        spreads, scales = values.std(axis=0).mean(axis=(1, 2)), values.std(axis=(0, 2, 3))
        spread = float(np.max(spreads / np.where(scales > 0, scales, 1.0)))
        least, told = _ALIKE_ARRAYS, f"they differ by {spread:.3f} of a channel's standard deviation"
    else:
        spread = float(values.std(axis=0).mean())
        least, told = _ALIKE, f"thumbnails differ by {spread:.1f} of 255"
    if spread < least:
        kind = "inputs" if dataset.are_arrays else "images"
        raise ConfigError(
            f"calibration folder {dataset.folder}: its {kind} are all alike ({told}; needed: {least:g}); their ranges "
            f"would not fit others; give {kind} like those that the network will get"
        )


def _digest(folder: Path, sources: Sequence[SampleSource]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        if isinstance(source, ArrayInput):
            name, content = os.fsencode(_name(folder, source)), _content(source.load())
        else:
            name = os.fsencode(source.relative_to(folder).as_posix())
            try:
                content = hashlib.sha256(source.read_bytes()).hexdigest()
            except OSError as exc:
                raise ConfigError(f"calibration image {source} cannot be read: {exc.strerror}") from exc
        digest.update(name + b"\0" + content.encode())
    return digest.hexdigest()


def _thumbnail(path: Path) -> NDArray[np.float32]:
    try:
        return np.asarray(load_image(path).resize(_THUMBNAIL, Image.Resampling.BOX), np.float32)
    except ImageError as exc:  # never skipped: a file must be calibrated with the given images
        raise ImageError(f"{exc}; repair it or remove it from the calibration folder") from exc
