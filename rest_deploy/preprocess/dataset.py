"""The images of a folder: which files they are, what was left out, and their classes if they are known."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rest_deploy.errors import ConfigError, ImageError, PredictorError, counted, no_folder
from rest_deploy.preprocess.classes import ClassWords, quoted, read_words, some
from rest_deploy.preprocess.ground_truth import read_ground_truth
from rest_deploy.preprocess.images import is_image

ARRAY_SUFFIX = ".npy"
_LISTED = 10  # files that a message names as left out; the dataset has all


@dataclass(frozen=True)
class Dataset:
    """Images of a folder.

    Args:
        folder: The folder.
        images: Paths of the images, in order of name; or ``.npy`` files, if :func:`images_below` was asked for them.
        classes: The class (from 0) of each, or None.
        note: Where the classes come from, or why there are none.
        left_out: The other files of the folder, without hidden ones (``.name``).

    Raises:
        ConfigError: There are no images, or not one class for each.
    """

    folder: Path
    images: tuple[Path, ...]
    classes: tuple[int | None, ...]
    note: str = ""
    left_out: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.images or len(self.classes) != len(self.images):
            raise ConfigError(
                f"{len(self.images)} images with {len(self.classes)} classes; needed: one or more images, each with a "
                "class or None"
            )

    @property
    def labelled(self) -> bool:
        """Whether all classes are known."""
        return None not in self.classes

    @property
    def are_arrays(self) -> bool:
        """Whether the files are ``.npy`` files, which contain inputs of a network."""
        return is_array(self.images[0])

    @property
    def left_out_note(self) -> str:
        """How many files were left out and which, in words; empty if there were none."""
        return _left_out_note(self.folder, self.left_out, "images") if self.left_out else ""

    def name(self, path: Path) -> str:
        """Name relative to the folder, with forward slashes; bytes that are not UTF-8 as escapes."""
        return name_below(self.folder, path)

    def limited(self, count: int, seed: int) -> Dataset:
        """A random choice of ``count`` images in the same order; all of them if there are no more.

        All images are equally likely. If all classes are known, each class gets its share of the choice, rounded down
        or up: classes are shuffled, images within classes too, and every (n / count)-th image after a random start is
        chosen (systematic sampling; Cochran, Sampling Techniques, chapter 8).

        Raises:
            ConfigError: ``count`` is less than 1.
        """
        if count < 1:
            raise ConfigError(f"{count} images were requested; needed: 1 or more")
        total = len(self.images)
        if count >= total:
            return self
        rng = np.random.default_rng(seed)
        order = rng.permutation(total)
        if self.labelled:
            _, groups = np.unique(np.asarray(self.classes)[order], return_inverse=True)
            order = order[np.argsort(rng.permutation(groups.max() + 1)[groups], kind="stable")]
        places = (np.arange(count) * total + rng.integers(total)) // count  # whole numbers, so no image comes twice
        chosen = sorted(order[places].tolist())
        images, classes = tuple(self.images[i] for i in chosen), tuple(self.classes[i] for i in chosen)
        return replace(self, images=images, classes=classes)


def images_below(folder: str | Path, *, arrays: bool = False) -> Dataset:
    """Images of a folder and its subfolders, without classes.

    Hidden files and folders (``.name``) are left out. Links to folders are followed, and each folder is searched once,
    so that a link to a parent causes no loop. :func:`~rest_deploy.preprocess.images.is_image` decides what is an image.

    Args:
        folder: The folder.
        arrays: Whether ``.npy`` files are accepted too; a folder has images or ``.npy`` files, not both.

    Raises:
        ImageError: The folder does not exist, a folder in it cannot be read, or it has no images, or both kinds.
        PredictorError: No memory or no file handles are left.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise ImageError(f"{folder}: {no_folder(folder)}; give a folder with images")
    files = list(files_below(folder))
    images = [path for path in files if is_image_file(path)]
    found = [path for path in files if is_array(path) and _is_file(path)] if arrays else []
    if images and found:
        raise ImageError(
            f"{folder}: it has both {ARRAY_SUFFIX} files ({_names(folder, found)}) and images "
            f"({_names(folder, images)}); give a folder with one kind"
        )
    wanted = images or found
    taken = set(wanted)
    left_out = tuple(path for path in files if path not in taken)
    if not wanted:
        kinds = f"images or {ARRAY_SUFFIX} files" if arrays else "images"
        there = f"; {_left_out_note(folder, left_out, kinds)}" if left_out else ""
        raise ImageError(f"{folder}: no {kinds} in this folder or below it{there}")
    return Dataset(folder, tuple(wanted), (None,) * len(wanted), left_out=left_out)


def is_array(path: Path) -> bool:
    """Whether a file is an array, by its suffix."""
    return path.suffix.lower() == ARRAY_SUFFIX


def name_below(folder: Path, path: Path) -> str:
    """Name of a file relative to a folder, with forward slashes; bytes that are not UTF-8 as escapes."""
    return as_text(path.relative_to(folder).as_posix())


def as_text(name: str) -> str:
    """The name of a file, its bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def files_below(folder: Path) -> Iterator[Path]:
    """All files, those of a folder in order of name before those of its folders, without hidden ones.

    Raises:
        ImageError: A folder cannot be read.
        PredictorError: No memory or no file handles are left.
    """
    searched = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = _unsearched(place, folders, searched)
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(place, name)


def is_image_file(path: Path) -> bool:
    """Whether what is at a path is an image, as of a folder that is classified.

    Raises:
        ImageError, PredictorError: As of :func:`files_below`.
    """
    return _is_file(path) and is_image(path)


def _unsearched(place: str, folders: Iterable[str], searched: set[str]) -> list[str]:
    """Folders that were not searched yet, in order of name; a folder comes before a link to it."""
    new = []
    for _, name in sorted((os.path.islink(os.path.join(place, name)), name) for name in folders):
        real = os.path.realpath(os.path.join(place, name))
        if real not in searched and not name.startswith("."):
            searched.add(real)
            new.append(name)
    return sorted(new)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as exc:  # in a folder that may only be listed
        _refuse(exc)
        raise


def _refuse(error: OSError) -> None:
    """A folder that cannot be read is an error: its images would be missing without a message."""
    words = f"{os.fsdecode(error.filename or '')}: cannot be read: {error.strerror}"
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise PredictorError(f"{words}; run less in this process at a time, or raise its limits") from error
    raise ImageError(words) from error


def _left_out_note(folder: Path, left_out: Sequence[Path], kinds: str) -> str:
    files, names = counted(len(left_out), "file"), _names(folder, left_out, _LISTED)
    return f"{files} left out, not {kinds} that can be read here: {names}"


def _names(folder: Path, paths: Sequence[Path], most: int = 3) -> str:
    return some([name_below(folder, path) for path in paths], most)


def open_dataset(
    folder: str | Path, *, labels: Sequence[str] | None, num_classes: int, ground_truth: str | Path | None = None
) -> Dataset:
    """List the images of a folder and its subfolders, and find their classes.

    Classes come from the ground-truth file if it is given. Otherwise, if every image is in a subfolder, they come from
    the names of the top subfolders: label names, WordNet ids or class numbers, one kind for all
    (:func:`~rest_deploy.preprocess.classes.read_words`). If no subfolder names a class, classes are unknown. If only
    some do, that is an error, because an accuracy on a part would look like one on all.

    Args:
        folder: The folder of images; links are followed.
        labels: Names of the artifact's classes, if it has any.
        num_classes: Of the artifact.
        ground_truth: See :func:`~rest_deploy.preprocess.ground_truth.read_ground_truth`.

    Raises:
        ConfigError: The folder does not exist or has no images, a subfolder cannot be read, only some subfolders name
            classes, one names two, the order of numbered subfolders is not known, or the ground-truth file does not
            fit.
    """
    folder = Path(folder)
    if labels is not None and len(labels) != num_classes:
        raise ConfigError(f"{len(labels)} labels for {num_classes} classes; needed: one for each class, or no labels")
    try:
        found = images_below(folder)
    except ImageError as exc:
        raise ConfigError(f"data folder {exc}") from exc
    if ground_truth is not None:
        names = [found.name(path) for path in found.images]
        by_name, way = read_ground_truth(Path(ground_truth), names, labels, num_classes)
        classes: tuple[int | None, ...] = tuple(by_name[name] for name in names)
        return replace(found, classes=classes, note=f"classes: {way} in {ground_truth}")
    classes, note = _classes_by_folder(folder, found.images, labels, num_classes)
    return replace(found, classes=classes, note=note)


def _classes_by_folder(
    folder: Path, images: Sequence[Path], labels: Sequence[str] | None, num_classes: int
) -> tuple[tuple[int | None, ...], str]:
    """Classes of images by their top folders, and a note that says where they come from."""
    unknown = (None,) * len(images)
    parts = [path.relative_to(folder).parts for path in images]
    outside = [path for path, names in zip(images, parts, strict=True) if len(names) == 1]
    if outside:
        why = f"{quoted(name_below(folder, outside[0]))} is not in the folder of a class"
        return unknown, f"{why}; for accuracy put each class into a folder of its own, or give --ground-truth FILE"
    words = read_words((names[0] for names in parts), labels, num_classes)
    strange = [word for word, meanings in words.meanings.items() if not meanings]
    if not words.way:
        why = f"no folder has the name of a class ({some(strange)})"
        return unknown, f"{why}; accepted: {words.accepted}"
    if strange:
        raise ConfigError(
            f"data folder {folder}: folders {some(strange)} are not classes, while others are {words.way}; "
            f"accepted: {words.accepted}"
        )
    _refuse_ambiguous_numbers(folder, words, num_classes)
    classes = {word: words.class_of(word, f"data folder {folder}") for word in words.meanings}
    return tuple(classes[names[0]] for names in parts), f"classes: {words.way}, names of folders"


def _refuse_ambiguous_numbers(folder: Path, words: ClassWords, num_classes: int) -> None:
    """Refuse numbered folders that training may have numbered in the order of their names.

    torchvision's ImageFolder does: "10" comes before "2" there, so "2" is class 4 of twelve.
    """
    names = list(words.meanings)
    if not words.are_numbers or _in_one_order(names, num_classes):
        return
    raise ConfigError(
        f"data folder {folder}: folders {some(names)} are numbers, and with {num_classes} classes it is not known "
        'whether training ordered them by number or by name, as ImageFolder does ("10" before "2"); give the artifact '
        "labels that name them (rest-export --labels), or give --ground-truth FILE"
    )


def _in_one_order(numbers: Sequence[str], num_classes: int) -> bool:
    """Whether these folders have the same class by name and by number, in a set of folders for all classes.

    They may be a part of the set: "10" and "11" of twelve belong to a set that begins with "0" or with "00".
    """
    if any(len(number) > 1 and number[0] == "0" for number in numbers):
        lengths = {len(number) for number in numbers}
        return len(lengths) == 1 and lengths.pop() >= len(str(num_classes - 1))
    by_name = sorted(str(number) for number in range(num_classes))
    return all(by_name[int(number)] == number for number in numbers)
