"""A file that says the class of each image: ``PATH CLASS`` on each line, or a JSON object of path to class."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from rest_deploy.errors import ConfigError
from rest_deploy.preprocess.classes import ClassWords, quoted, read_words, some

_MAX_MIB = 64
#: More characters than a path and a label have; a longer line belongs to another kind of file, such as JSON.
_MAX_LINE = 10_000
_FORM = (
    "needed: PATH CLASS on each line, separated by a tab, a comma or a space; before a class name with spaces, use a "
    "tab or a comma"
)


class _Entry(NamedTuple):
    where: str  # file and line, for an error
    path: str
    word: str


def read_ground_truth(
    path: Path, names: Collection[str], labels: Sequence[str] | None, num_classes: int
) -> tuple[dict[str, int], str]:
    """Classes of images, from a file that names exactly these images.

    A tab, a comma or a space separates path and class. If a line can be split in several places, the first whose path
    is an image counts. Either part may be in double quotes. Empty lines and lines that start with # are skipped.

    Args:
        path: UTF-8 text of at most 64 MiB; JSON if the name ends in .json.
        names: Of the images, relative to their folder, with forward slashes.
        labels: Of the artifact; see :func:`read_words`.
        num_classes: Of the artifact.

    Returns:
        Name -> class of each image, and the way in which classes were read.

    Raises:
        ConfigError: It cannot be read, a line has another form, names no image or no class, two lines disagree, or an
            image is missing.
    """
    known = frozenset(names)
    text = _read_text(path)
    found = _json_entries(path, text) if path.suffix.lower() == ".json" else _line_entries(path, text, known)
    entries = [entry._replace(path=_image_name(entry, known)) for entry in found]
    words = read_words((entry.word for entry in entries), labels, num_classes)
    classes = _classes(entries, words)
    missing = [name for name in names if name not in classes]
    if missing:
        raise ConfigError(f"{path}: no entry for {some(missing)}; every image of the folder needs an entry")
    return classes, words.way


def _classes(entries: Sequence[_Entry], words: ClassWords) -> dict[str, int]:
    classes: dict[str, int] = {}
    places: dict[str, str] = {}
    for where, name, word in entries:
        number = words.class_of(word, where)
        if classes.setdefault(name, number) != number:
            raise ConfigError(
                f"{where}: {quoted(name)} has class {number} here and class {classes[name]} in {places[name]}; "
                "keep one of them"
            )
        places.setdefault(name, where)
    return classes


def _image_name(entry: _Entry, known: Collection[str]) -> str:
    """The path in the form of image names; "./x.png" is "x.png"."""
    name = PurePosixPath(entry.path).as_posix()
    if name in known:
        return name
    windows = PureWindowsPath(entry.path)  # splits at the separators of both systems
    if windows.anchor or ".." in windows.parts:
        raise ConfigError(
            f"{entry.where}: {quoted(entry.path)} leaves the folder of the images; give paths relative to it"
        )
    raise ConfigError(
        f"{entry.where}: {quoted(entry.path)} is not an image of the folder; needed: its path relative to the folder, "
        "with suffix, and its class"
    )


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read((_MAX_MIB << 20) + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: ground truth cannot be read: {exc.strerror}") from exc
    if len(content) > _MAX_MIB << 20:
        raise ConfigError(f"{path}: more than the {_MAX_MIB} MiB that a ground-truth file may have")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}, line {line}: ground truth must be UTF-8 text") from exc


def _line_entries(path: Path, text: str, known: Collection[str]) -> Iterator[_Entry]:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if lines and all(re.fullmatch("[0-9]+", line) for _, line in lines):
        raise ConfigError(
            f"{path}: each line has only a number, as in ILSVRC2012_validation_ground_truth.txt; the file names no "
            f"images, and ILSVRC numbers have another order than the classes of networks; {_FORM}"
        )
    for number, line in lines:
        where = f"{path}, line {number}"
        if len(line) > _MAX_LINE:
            raise ConfigError(f"{where}: {len(line):,} characters; {_FORM} (JSON needs a file name that ends in .json)")
        parts = list(_partings(line))
        if not parts:
            raise ConfigError(f"{where}: {quoted(line)} is only one word; {_FORM}")
        yield _Entry(where, *next((pair for pair in parts if PurePosixPath(pair[0]).as_posix() in known), parts[0]))


def _partings(line: str) -> Iterator[tuple[str, str]]:
    """Ways to split a line into path and class: at its first tab, else at each comma and at its last space."""
    if "\t" in line:
        pairs = [line.split("\t", 1)]
    else:
        pairs = [[line[: comma.start()], line[comma.end() :]] for comma in re.finditer(",", line)]
        pairs.append(line.rsplit(None, 1))
    for pair in pairs:
        parts = tuple(_unquoted(part.strip()) for part in pair)
        if len(parts) == 2 and all(parts):
            yield parts[0], parts[1]


def _unquoted(part: str) -> str:
    """Without the quotes that a CSV file puts around a comma."""
    return part[1:-1].replace('""', '"') if len(part) > 1 and part[0] == part[-1] == '"' else part


def _json_entries(path: Path, text: str) -> Iterator[_Entry]:
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)  # lists stay lists; a duplicate key is kept twice
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path}: not JSON ({exc}); needed: an object of path to class") from exc
    if not isinstance(pairs, tuple):
        raise ConfigError(f"{path}: the JSON is not an object; needed: an object of path to class")
    for number, (name, word) in enumerate(pairs, 1):
        if not isinstance(word, (str, int)) or isinstance(word, bool):
            raise ConfigError(
                f"{path}, entry {number}: the class of {quoted(name)} is neither a whole number nor text; give either"
            )
        yield _Entry(f"{path}, entry {number}", name, str(word).strip())
