"""Names of classes: ImageNet-1k's, built in, or those of a file or a checkpoint, in the shapes that people have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rest_deploy.errors import ConfigError, counted, no_file
from rest_deploy.values import load_json

IMAGENET_CLASSES = 1000
_MAX_BYTES = 4 << 20

#: Entries of a JSON object, or of a checkpoint, that hold the names.
_KEYS = ("id2label", "label2id", "idx_to_class", "class_to_idx", "class_names", "classes", "CLASSES", "labels", "names")
_NUMBERED = re.compile(r"(\d{1,9})(?:\s*[:,\t]\s*|\s+)(\S.*)")
_SYNSET = re.compile(r"n\d{8}")
_ENTRY = re.compile(r"""\{?\s*(\d{1,9})\s*:\s*(?P<quote>['"])(.*)(?P=quote)\s*,?\s*\}?,?""")
_SHAPES = (
    'one name a line ("cat", "0 cat", "0: cat", "n02123045 tabby"), or JSON: a list, {name: number}, {number: name}, '
    '{number: [synset, name]}, or one of these under "id2label", "classes" or "class_to_idx"'
)


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k in the order of their synset ids, as WordNet's lemmas.

    The list is timm's (Apache-2.0, timm/data/_info); its words are WordNet 3.0's (Princeton University).
    """
    text = resources.files("rest_deploy").joinpath("data/imagenet_1k.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def default_labels(num_classes: int) -> tuple[str, ...] | None:
    """ImageNet's names where the number of classes is ImageNet's, else None."""
    return imagenet_labels() if num_classes == IMAGENET_CLASSES else None


def read_labels(path: str | Path, num_classes: int) -> tuple[str, ...]:
    """Read a file of labels, text or JSON, whatever its suffix.

    Raises:
        ConfigError: It cannot be read, has a shape that is not known or can be read two ways, or names another number
            of classes.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path}: too many bytes for labels; at most {_MAX_BYTES:,}")
        text = content.decode("utf-8-sig")
    except OSError as exc:
        reason = no_file(path) if isinstance(exc, IsADirectoryError) else exc.strerror
        raise ConfigError(f"{path}: labels cannot be read: {reason}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: labels must be UTF-8 text") from exc
    try:
        labels = _parse_text(text)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    if len(labels) != num_classes:
        given, needed = counted(len(labels), "label"), counted(num_classes, "class")
        raise ConfigError(f"{path}: {given} for a model of {needed}; one is needed for each")
    return labels


def _parse_text(text: str) -> tuple[str, ...]:
    start = text.lstrip()[:1]
    if start and start in "[{":
        try:
            values = load_json(text)
        except ValueError as exc:
            printed = [_ENTRY.fullmatch(line.strip()) for line in text.splitlines() if line.strip(" \t{}")]
            if not printed or not all(printed):  # not a dict as Python prints it, one entry a line
                raise ConfigError(f"it starts like JSON, but is not valid JSON ({exc}); needed: {_SHAPES}") from exc
            pairs = {int(m[1]): m[3].replace("\\'", "'") for m in printed if m}
            return _checked(_in_order(pairs, len(printed)))
        return parse_labels(values)
    lines = [line.strip() for line in text.splitlines()]
    return _checked(_without_synsets(_without_numbers(lines)))


def _without_numbers(lines: list[str]) -> list[str]:
    """Lines such as "3 cat" in the order of their numbers; names that begin with numbers as they are."""
    found = [_NUMBERED.fullmatch(line) for line in lines]
    if not lines or not all(found):
        return lines
    pairs = {int(m[1]): m[2] for m in found if m}
    if len(pairs) < len(lines) or max(pairs) - min(pairs) >= len(lines):
        return lines  # years, say
    return _in_order(pairs, len(lines))


def _without_synsets(lines: list[str]) -> list[str]:
    parts = [line.split(maxsplit=1) for line in lines]
    if lines and all(len(part) == 2 and _SYNSET.fullmatch(part[0]) for part in parts):
        return [name for _, name in parts]
    return lines


def _in_order(names: Mapping[int, Any], count: int) -> list[Any]:
    if sorted(names) != list(range(count)):
        raise ConfigError(
            f"its classes are numbered {min(names, default=0)} to {max(names, default=0)}, and it has {count}; needed: "
            "each number from 0 up, once"
        )
    return [names[number] for number in range(count)]


def parse_labels(values: Any) -> tuple[str, ...]:
    """Class names in the order of their numbers, out of plain Python values in any of the known shapes.

    Raises:
        ConfigError: The shape is another, or can be read two ways.
    """
    if isinstance(values, Mapping):
        named = [key for key in _KEYS if isinstance(values.get(key), (Mapping, list, tuple))]
        if named:
            parsed = {_parsed(values[key]) for key in named}
            if len(parsed) > 1:
                raise ConfigError(f"its {' and '.join(named)} name the classes differently; leave one")
            return next(iter(parsed))
    return _parsed(values)


def _parsed(values: Any) -> tuple[str, ...]:
    if isinstance(values, Mapping):
        return _checked(_of_mapping(values))
    if isinstance(values, (list, tuple)):
        return _checked([_name_of(value) for value in values])
    raise ConfigError(f"it is a {type(values).__name__}; needed: {_SHAPES}")


def _of_mapping(values: Mapping[Any, Any]) -> list[Any]:
    by_number = all(_number(key) is not None for key in values)
    to_number = all(_number(value) is not None for value in values.values())
    if to_number and by_number and values:  # then what is a number, and not text, is one
        to_number = all(isinstance(value, int) for value in values.values())
        by_number = all(isinstance(key, int) for key in values)
        if to_number == by_number:
            raise ConfigError(
                "both its keys and its values are numbers, so it can be read two ways; give a list of names"
            )
    if to_number:
        pairs = {_number(number): name for name, number in values.items()}
    elif by_number:
        pairs = {_number(number): _name_of(name) for number, name in values.items()}
    else:
        raise ConfigError(f"neither its keys nor its values are all numbers; needed: {_SHAPES}")
    return _in_order({number: name for number, name in pairs.items() if number is not None}, len(values))


def _number(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else None


def _name_of(value: Any) -> Any:
    """A name, or the second of [synset, name]."""
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return value[1] if pair and isinstance(value[0], str) and _SYNSET.fullmatch(value[0]) else value


def _checked(names: list[Any]) -> tuple[str, ...]:
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise ConfigError(f"the label of class {number} is a {type(name).__name__}, not text; needed: {_SHAPES}")
        if not (name.strip() and name.strip().isprintable()):
            raise ConfigError(f"the label of class {number} is {name[:40]!r}; it must be printable, not empty")
    return tuple(name.strip() for name in names)
