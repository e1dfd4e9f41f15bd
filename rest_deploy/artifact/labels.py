"""Names of classes: ImageNet-1k's, built in, or those of a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from rest_deploy.errors import ConfigError

IMAGENET_CLASSES = 1000
_MAX_BYTES = 4 << 20


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
    """Read a file of labels: one a line, or JSON, a list or an object of class number to name.

    Raises:
        ConfigError: It cannot be read, or names another number of classes.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path}: too many bytes for labels; at most {_MAX_BYTES:,}")
        text = content.decode("utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"{path}: labels cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: labels must be UTF-8 text") from exc
    labels = _parse_json(path, text) if path.suffix.lower() == ".json" else tuple(text.splitlines())
    labels = tuple(label.strip() for label in labels)
    if len(labels) != num_classes:
        raise ConfigError(f"{path}: {len(labels)} labels for a model of {num_classes} classes; one is needed for each")
    for number, label in enumerate(labels):
        if not (label and label.isprintable()):
            raise ConfigError(f"{path}: the label of class {number} is {label[:40]!r}; it must be printable, not empty")
    return labels


def _parse_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        values = json.loads(text)
        if isinstance(values, Mapping):
            values = [values[str(index)] for index in range(len(values))]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise TypeError("some are no text")
        return tuple(values)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ConfigError(f"{path}: needed: a JSON list of names, or an object of number to name ({exc})") from exc
