"""What a checkpoint may say of itself, so that nobody has to repeat it: its name, its network, its classes, how images
become its input, what its logits are.

JSON under the key ``rest_deploy``: beside the weights in a ``.pth`` file, in the metadata of a ``.safetensors`` file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rest_deploy.errors import CheckpointError, ConfigError, one_line
from rest_deploy.models.family import NetworkConfig, family_named, family_of
from rest_deploy.specs import Activation, Preprocessing
from rest_deploy.values import check, load_json, shown

CARD_KEY = "rest_deploy"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_MAX_CARD = 16 << 20  # characters; labels of a thousand classes take 22 KiB


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself beside its weights; every field may be absent.

    Raises:
        ConfigError: A value that is not accepted.
    """

    name: str | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    config: NetworkConfig | None = None
    activation: str | Activation | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ConfigError(
                f"the model's name is {shown(self.name)}; accepted: 1 to 100 letters, digits, '_', '-' and '.', as "
                "files are named after it"
            )
        if self.config is not None:
            family_of(self.config)
        if self.labels is not None:
            object.__setattr__(self, "labels", _printable(self.labels))
        for name, kind in (("preprocessing", Preprocessing), ("activation", Activation)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check(kind, getattr(self, name), name))

    def to_json(self) -> str:
        """JSON text; the inverse of :meth:`from_json`."""
        values: dict[str, Any] = {
            "name": self.name,
            "labels": self.labels,
            "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
        }
        if self.config is not None:
            values |= {"family": family_of(self.config).name, "config": self.config.to_dict()}
        if self.activation is not None:
            values["activation"] = Activation(self.activation).value
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read what :meth:`to_json` gave.

        Raises:
            CheckpointError: The text is not a card.
        """
        if len(text) > _MAX_CARD:
            raise CheckpointError(
                f"the checkpoint's {CARD_KEY!r} entry has {len(text):,} characters; at most {_MAX_CARD:,}"
            )
        try:
            values = load_json(text)
            config = values.get("config")  # older cards have none, and no activation
            family = values.get("family", "rest")  # nor this, from when there was no other
            return cls(
                name=values["name"],
                labels=values["labels"],
                preprocessing=values["preprocessing"],
                config=None if config is None else family_named(family).config.from_dict(config),
                activation=values.get("activation"),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
            raise CheckpointError(f"the checkpoint's {CARD_KEY!r} entry is not a model card: {one_line(exc)}") from exc


def _printable(labels: Any) -> tuple[str, ...]:
    if isinstance(labels, (str, bytes, Mapping)) or not isinstance(labels, Iterable):
        raise ConfigError(f"the labels are of type {type(labels).__name__}; needed: a list of text")
    labels = tuple(labels)
    if not all(isinstance(label, str) and label.isprintable() for label in labels):
        raise ConfigError("the labels are not all printable text")
    return labels
