"""The images of a folder and, where they can be known, their classes: what accuracy is measured on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rest_deploy.errors import ConfigError
from rest_deploy.preprocess.classes import quoted, read_words, some
from rest_deploy.preprocess.ground_truth import read_ground_truth
from rest_deploy.preprocess.images import IMAGE_SUFFIXES
from rest_deploy.preprocess.sample import images_below, name_below


@dataclass(frozen=True)
class Dataset:
    """Images of a folder.

    Args:
        folder: Where they lie.
        images: Their paths, in order of name.
        classes: The class (from 0) of each, or None.
        note: How the classes were had, or why there are none.

    Raises:
        ConfigError: There are no images, or there is not one class for each.
    """

    folder: Path
    images: tuple[Path, ...]
    classes: tuple[int | None, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.images or len(self.classes) != len(self.images):
            raise ConfigError(
                f"{len(self.images)} images with {len(self.classes)} classes; needed: one image or more, each with a "
                "class or None"
            )

    @property
    def labelled(self) -> bool:
        """Whether the classes of all are known."""
        return None not in self.classes

    def name(self, path: Path) -> str:
        """Name below the folder, with forward slashes; bytes that are no UTF-8 as escapes."""
        return name_below(self.folder, path)

    def limited(self, count: int, seed: int) -> Dataset:
        """A random choice of ``count`` images in the same order; all of them where there are no more.

        Each image is as likely to be chosen as any other. Where all classes are known, each gets its share of the
        choice, rounded down or up: images in random order within classes, these in random order too, of which every
        (n / count)-th is taken from a random start on (systematic sampling; Cochran, Sampling Techniques, chapter 8).

        Raises:
            ConfigError: ``count`` is less than 1.
        """
        if count < 1:
            raise ConfigError(f"{count} images; needed: 1 or more")
        total = len(self.images)
        if count >= total:
            return self
        rng = np.random.default_rng(seed)
        order = rng.permutation(total)
        if self.labelled:
            _, groups = np.unique(np.asarray(self.classes)[order], return_inverse=True)
            order = order[np.argsort(rng.permutation(groups.max() + 1)[groups], kind="stable")]
        places = (np.arange(count) * total + rng.integers(total)) // count  # whole numbers, so that none comes twice
        chosen = sorted(order[places].tolist())
        images, classes = tuple(self.images[i] for i in chosen), tuple(self.classes[i] for i in chosen)
        return replace(self, images=images, classes=classes)


def open_dataset(
    folder: str | Path, *, labels: Sequence[str] | None, num_classes: int, ground_truth: str | Path | None = None
) -> Dataset:
    """List the images of a folder and its subfolders, and find their classes.

    They are taken from the ground-truth file where one is given. Else, where every image lies in a subfolder, from the
    names of the uppermost subfolders: label names, WordNet ids or class numbers, one kind for all
    (:func:`~rest_deploy.preprocess.classes.read_words`). If none of these stands for a class, they are taken for mere
    folders, and classes are unknown; if only some do, that is an error, since accuracy on a part would pass for all.

    Args:
        folder: Of images; links are followed.
        labels: Names of the artifact's classes, where it has any.
        num_classes: Of the artifact.
        ground_truth: See :func:`~rest_deploy.preprocess.ground_truth.read_ground_truth`.

    Raises:
        ConfigError: No such folder, no images in it, a subfolder that cannot be read, folders of which only some are
            classes or one is two, or a ground-truth file that does not fit.
    """
    folder = Path(folder)
    if labels is not None and len(labels) != num_classes:
        raise ConfigError(f"{len(labels)} labels for {num_classes} classes; needed: one for each, or none at all")
    images = tuple(images_below(folder, "data folder", onerror=_refuse))
    if not images:
        raise ConfigError(f"data folder {folder}: no images below it; looked for {', '.join(IMAGE_SUFFIXES)}")
    if ground_truth is not None:
        names = [name_below(folder, path) for path in images]
        by_name, way = read_ground_truth(Path(ground_truth), names, labels, num_classes)
        return Dataset(folder, images, tuple(by_name[name] for name in names), f"classes: {way} in {ground_truth}")
    return Dataset(folder, images, *_classes_by_folder(folder, images, labels, num_classes))


def _classes_by_folder(
    folder: Path, images: Sequence[Path], labels: Sequence[str] | None, num_classes: int
) -> tuple[tuple[int | None, ...], str]:
    """Classes of images by their uppermost folders, and a note of how they were had."""
    unknown = (None,) * len(images)
    parts = [path.relative_to(folder).parts for path in images]
    outside = [path for path, names in zip(images, parts, strict=True) if len(names) == 1]
    if outside:
        why = f"{quoted(name_below(folder, outside[0]))} lies in no folder of a class"
        return unknown, f"classes unknown: {why}; to give them, have a folder for each class or a ground-truth file"
    words = read_words((names[0] for names in parts), labels, num_classes)
    strange = [word for word, meanings in words.meanings.items() if not meanings]
    if not words.way:
        why = f"no folder is named as a class ({some(strange)})"
        return unknown, f"classes unknown: {why}; accepted: {words.accepted}"
    if strange:
        raise ConfigError(
            f"data folder {folder}: folders {some(strange)} are no classes, while others are read as {words.way}; "
            f"accepted: {words.accepted}"
        )
    classes = {word: words.class_of(word, f"data folder {folder}") for word in words.meanings}
    return tuple(classes[names[0]] for names in parts), f"classes: {words.way}, names of folders"


def _refuse(error: OSError) -> None:
    name = os.fsdecode(error.filename or "")
    raise ConfigError(f"data folder {name}: cannot be read: {error.strerror}") from error
