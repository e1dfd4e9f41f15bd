"""Words that name classes: names of folders, or the classes in a ground-truth file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

from rest_deploy.errors import ConfigError


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """WordNet 3.0 ids (n and 8 digits) of the 1000 classes of ImageNet-1k, in the order of ``imagenet_labels()``.

    The list is from timm (Apache-2.0, timm/data/_info/imagenet_synsets.txt), in the order of the ids.
    """
    text = resources.files("rest_deploy").joinpath("data/imagenet_synsets.txt").read_text(encoding="ascii")
    return tuple(text.splitlines())


_NUMBERS = "class numbers"


@dataclass(frozen=True)
class ClassWords:
    """Words that name classes, all read in the same way.

    Args:
        way: "label names", "WordNet ids" or "class numbers"; empty if no word is one of these.
        meanings: Word -> classes that it may name: one, none, or several that share a name.
        accepted: What would be accepted.
    """

    way: str
    meanings: Mapping[str, tuple[int, ...]]
    accepted: str

    @property
    def are_numbers(self) -> bool:
        """Whether they are class numbers."""
        return self.way == _NUMBERS

    def class_of(self, word: str, where: str) -> int:
        """The class that a word names.

        Raises:
            ConfigError: It names no class, or several; the message starts with ``where``.
        """
        classes = self.meanings[word]
        if len(classes) > 1:
            raise ConfigError(
                f"{where}: {quoted(word)} names the classes {' and '.join(map(str, classes))}; name all classes in "
                f"another way; accepted: {self.accepted}"
            )
        if not classes:
            beside = f"; others are {self.way}" if self.way else ""
            raise ConfigError(f"{where}: {quoted(word)} is not a class{beside}; accepted: {self.accepted}")
        return classes[0]


class _Way(NamedTuple):
    name: str
    accepted: str
    find: Callable[[str], tuple[int, ...]]


def read_words(words: Iterable[str], labels: Sequence[str] | None, num_classes: int) -> ClassWords:
    """Read words in the first way in which any of them names a class.

    The ways are label names, WordNet ids (only for 1000 classes), and numbers from 0. Labels come first, so that a
    model of digits reads "3" as its label. Ways are not mixed: if the labels are "1" to "9" and "none", then "0" is not
    a label, and must not become the first class beside "1".

    Args:
        words: Names of folders, or the classes in a file.
        labels: Of the artifact; matched exactly, then in any case, then with spaces, underscores and hyphens equal.
        num_classes: Of the artifact.
    """
    words = list(dict.fromkeys(words))
    ways = _ways(labels, num_classes)
    accepted = ", or ".join(way.accepted for way in ways) + ("; one kind for all" if len(ways) > 1 else "")
    for way in ways:
        meanings = {word: way.find(word) for word in words}
        if any(meanings.values()):
            return ClassWords(way.name, meanings, accepted)
    return ClassWords("", dict.fromkeys(words, ()), accepted)


def _ways(labels: Sequence[str] | None, num_classes: int) -> list[_Way]:
    ways = []
    if labels:
        ways.append(_Way("label names", f"label names such as {quoted(labels[0])}", _label_finder(labels)))
    synsets = {synset: (number,) for number, synset in enumerate(imagenet_synsets())}
    if num_classes == len(synsets):
        ways.append(_Way("WordNet ids", f"WordNet ids such as {next(iter(synsets))}", lambda w: synsets.get(w, ())))
    numbers = f"class numbers from 0 to {num_classes - 1}"
    ways.append(_Way(_NUMBERS, numbers, lambda word: _number(word, num_classes)))
    return ways


def _number(word: str, num_classes: int) -> tuple[int, ...]:
    return (int(word),) if re.fullmatch(r"[0-9]{1,9}", word) and int(word) < num_classes else ()


def _label_finder(labels: Sequence[str]) -> Callable[[str], tuple[int, ...]]:
    folds: tuple[Callable[[str], str], ...] = (_composed, _any_case, _any_gap)
    tables: list[dict[str, tuple[int, ...]]] = [{} for _ in folds]
    for fold, table in zip(folds, tables, strict=True):
        for number, label in enumerate(labels):
            table[fold(label)] = (*table.get(fold(label), ()), number)

    def find(word: str) -> tuple[int, ...]:
        found = (table.get(fold(word), ()) for fold, table in zip(folds, tables, strict=True))
        return next(filter(None, found), ())

    return find


def _composed(text: str) -> str:
    """With each letter and its accent as one character; file systems of macOS separate them."""
    return unicodedata.normalize("NFC", text)


def _any_case(text: str) -> str:
    return _composed(text).casefold()


def _any_gap(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", _any_case(text)).strip()


def quoted(text: str) -> str:
    """Text of others for a message: in quotes, with escapes, at most 80 characters."""
    return repr(text if len(text) <= 80 else text[:80] + "...")


def some(words: Sequence[str], most: int = 3) -> str:
    """The first of some words for a message, and the number of others."""
    others = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(map(quoted, words[:most])) + others
