"""A choice of images out of a folder: some to take ranges from, others to judge by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.errors import ConfigError
from rest_deploy.preprocess.images import IMAGE_SUFFIXES, load_image

#: Images that ranges are taken from where no number was asked for, and that answers are compared on.
DEFAULT_IMAGES = 100
#: Fewer say too little: of the ranges, and of how many answers change.
MIN_CALIBRATION, MIN_JUDGED = 16, 8

_THUMBNAIL = (16, 16)
#: Images whose thumbnails differ by less (standard deviation over images, of 255, mean over pixels) are all alike.
_ALIKE = 4.0


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
        """Names below the folder, with forward slashes."""
        return tuple(path.relative_to(self.folder).as_posix() for path in paths)


def choose_images(folder: str | Path, count: int | None, seed: int) -> Sample:
    """Choose images of a folder and its subfolders.

    Equal files count once. Where no number is given, a hundred are taken to calibrate with, or three quarters of a
    smaller folder; as many others at most are taken to judge by.

    Args:
        folder: Of images.
        count: How many to calibrate with; None for a hundred.
        seed: Of the choice.

    Raises:
        ConfigError: There are too few, or they are all alike.
        ImageError: One cannot be read.
    """
    folder = Path(folder)
    paths = _images_below(folder)
    order = np.random.default_rng(seed).permutation(len(paths))
    found = _distinct((paths[int(i)] for i in order), 2 * (count or DEFAULT_IMAGES))
    needed = (count or MIN_CALIBRATION) + MIN_JUDGED
    if len(found) < needed:
        raise ConfigError(
            f"calibration folder {folder} has {len(found)} different images; needed: {needed} or more, "
            f"{needed - MIN_JUDGED} to take ranges from and {MIN_JUDGED} others to judge by; add images of the kind "
            "that the network will see"
        )
    taken = count or min(DEFAULT_IMAGES, max(MIN_CALIBRATION, len(found) * 3 // 4))
    chosen, judged = found[:taken], found[taken:]
    _refuse_alike(folder, [path for path, _ in chosen])
    digest = hashlib.sha256()
    for path, content in chosen:
        digest.update(os.fsencode(path.relative_to(folder).as_posix()) + b"\0" + content.encode())
    return Sample(folder, tuple(p for p, _ in chosen), tuple(p for p, _ in judged), digest.hexdigest(), seed)


def _images_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"calibration folder {folder}: no such folder; give one that holds images")
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(place, name) for name in sorted(names) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return [path for path in found if path.is_file()]


def _distinct(paths: Iterable[Path], most: int) -> list[tuple[Path, str]]:
    """Files with their digests, each content once, until there are enough."""
    first: dict[str, Path] = {}
    for path in paths:
        try:
            first.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        except OSError as exc:
            raise ConfigError(f"calibration image {path} cannot be read: {exc.strerror}") from exc
        if len(first) == most:
            break
    return [(path, digest) for digest, path in first.items()]


def _refuse_alike(folder: Path, paths: Sequence[Path]) -> None:
    thumbnails = np.stack([_thumbnail(path) for path in paths])
    spread = float(thumbnails.std(axis=0).mean())
    if spread < _ALIKE:
        raise ConfigError(
            f"calibration folder {folder}: its images are all alike (thumbnails differ by {spread:.1f} of 255; needed: "
            f"{_ALIKE:g}); ranges taken from them would not hold for others; give images of the kind that the network "
            "will see"
        )


def _thumbnail(path: Path) -> NDArray[np.float32]:
    return np.asarray(load_image(path).resize(_THUMBNAIL, Image.Resampling.BOX), np.float32)
