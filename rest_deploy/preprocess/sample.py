"""A choice of images out of a folder: some to take ranges from, others to judge by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.errors import ConfigError, ImageError, no_folder
from rest_deploy.preprocess.images import is_image_name, load_image

#: Images that ranges are taken from where no number was asked for, and that answers are compared on.
DEFAULT_IMAGES = 100
#: Fewer say too little: of the ranges, and of how many answers change.
MIN_CALIBRATION, MIN_JUDGED = 16, 8

_THUMBNAIL = (16, 16)
#: Images whose thumbnails differ by less (standard deviation over images, of 255, mean over pixels) are all alike.
_ALIKE = 4.0
#: Thumbnails that differ by less (mean absolute difference, of 255) are taken for copies of one image.
_SAME = 2.0


@dataclass(frozen=True)
class Sample:
    """A choice.

    Args:
        folder: Where they lie.
        calibration: To take ranges from, in order.
        judged: To compare answers on; none of them is among the others.
        sha256: Of names and bytes of ``calibration``.
        seed: Of the choice.
    """

    folder: Path
    calibration: tuple[Path, ...]
    judged: tuple[Path, ...]
    sha256: str
    seed: int

    def names(self, paths: Sequence[Path]) -> tuple[str, ...]:
        """Names below the folder, with forward slashes; bytes that are no UTF-8 as escapes."""
        return tuple(name_below(self.folder, path) for path in paths)


def choose_images(folder: str | Path, count: int | None, seed: int, *, calibrating: bool = True) -> Sample:
    """Choose images of a folder and its subfolders.

    Copies count once, those too that were saved anew. Where no number is given, a hundred are taken to calibrate with,
    or three quarters of a smaller folder; as many others at most are taken to judge by.

    Args:
        folder: Of images.
        count: How many to calibrate with; None for a hundred.
        seed: Of the choice.
        calibrating: Whether ranges are taken from some; else all of them, a hundred at most, are to judge by.

    Raises:
        ConfigError: There are too few, or they are all alike.
        ImageError: One cannot be read.
    """
    folder = Path(folder)
    paths = images_below(folder, "calibration folder")
    order = np.random.default_rng(seed).permutation(len(paths))
    most = 2 * (count or DEFAULT_IMAGES) if calibrating else DEFAULT_IMAGES
    found = _different((paths[int(i)] for i in order), most)
    least = (count or MIN_CALIBRATION) if calibrating else 0
    if len(found) < least + MIN_JUDGED:
        ranges = f"{least} to take ranges from and {MIN_JUDGED} others" if calibrating else f"{MIN_JUDGED}"
        raise ConfigError(
            f"calibration folder {folder} has {len(found)} different images; needed: {least + MIN_JUDGED} or more, "
            f"{ranges} to judge by; add images of the kind that the network will see"
        )
    _refuse_alike(folder, found)
    chosen = [path for path, _ in found]
    taken = (count or min(DEFAULT_IMAGES, max(MIN_CALIBRATION, len(found) * 3 // 4))) if calibrating else 0
    return Sample(folder, tuple(chosen[:taken]), tuple(chosen[taken:]), _digest(folder, chosen[:taken]), seed)


def name_below(folder: Path, path: Path) -> str:
    """Name of a file below a folder, with forward slashes; bytes that are no UTF-8 as escapes."""
    name = path.relative_to(folder).as_posix()
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def images_below(folder: Path, what: str, onerror: Callable[[OSError], None] | None = None) -> list[Path]:
    """Images of a folder and its subfolders, hidden files and folders (``.name``) left out, in order of name.

    Links to folders are followed, and each folder is searched once, so that a link to a parent ends somewhere.

    Args:
        folder: Of images.
        what: It is, as an error names it.
        onerror: Called with the error of a subfolder that cannot be read; without it such a one is left out.

    Raises:
        ConfigError: There is no such folder, or files in it may not be looked at.
    """
    if not folder.is_dir():
        raise ConfigError(f"{what} {folder}: {no_folder(folder)}; give one that holds images")
    found = []
    searched = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        folders[:] = _unsearched(place, folders, searched)
        found += [Path(place, name) for name in sorted(names) if is_image_name(name)]
    try:
        return [path for path in found if path.is_file()]
    except OSError as exc:  # a folder that may be listed, and no more
        raise ConfigError(f"{what} {folder}: {exc.filename} cannot be read: {exc.strerror}") from exc


def _unsearched(place: str, folders: Iterable[str], searched: set[str]) -> list[str]:
    """Folders not met before, in order of name; of a folder and a link to it side by side the folder."""
    new = []
    for _, name in sorted((os.path.islink(os.path.join(place, name)), name) for name in folders):
        real = os.path.realpath(os.path.join(place, name))
        if real not in searched and not name.startswith("."):
            searched.add(real)
            new.append(name)
    return sorted(new)


def _different(paths: Iterable[Path], most: int) -> list[tuple[Path, NDArray[np.float32]]]:
    """Images with their thumbnails, of those that look the same one, until there are enough."""
    found: list[tuple[Path, NDArray[np.float32]]] = []
    for path in paths:
        thumbnail = _thumbnail(path)
        if all(float(np.abs(thumbnail - other).mean()) >= _SAME for _, other in found):
            found.append((path, thumbnail))
        if len(found) == most:
            break
    return found


def _refuse_alike(folder: Path, found: Sequence[tuple[Path, NDArray[np.float32]]]) -> None:
    spread = float(np.stack([thumbnail for _, thumbnail in found]).std(axis=0).mean())
    if spread < _ALIKE:
        raise ConfigError(
            f"calibration folder {folder}: its images are all alike (thumbnails differ by {spread:.1f} of 255; needed: "
            f"{_ALIKE:g}); ranges taken from them would not hold for others; give images of the kind that the network "
            "will see"
        )


def _digest(folder: Path, paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as exc:
            raise ConfigError(f"calibration image {path} cannot be read: {exc.strerror}") from exc
        digest.update(os.fsencode(path.relative_to(folder).as_posix()) + b"\0" + content.encode())
    return digest.hexdigest()


def _thumbnail(path: Path) -> NDArray[np.float32]:
    try:
        return np.asarray(load_image(path).resize(_THUMBNAIL, Image.Resampling.BOX), np.float32)
    except ImageError as exc:  # none is left out unasked: what a file was calibrated with must be what was given
        raise ImageError(f"{exc}; mend it or take it out of the calibration folder") from exc
