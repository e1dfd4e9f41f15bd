"""What a checkpoint may say of itself, so that it has to be said once: name, classes, how images become its input.

JSON under the key ``rest_deploy``: beside the weights in a ``.pth`` file, in the metadata of a ``.safetensors`` file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from rest_deploy.errors import CheckpointError
from rest_deploy.specs import Preprocessing

CARD_KEY = "rest_deploy"
_MAX_CARD = 16 << 20  # characters; labels of a thousand classes take 22 KiB


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself beside its weights; every field may be absent."""

    name: str | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    activation: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", self.name):
            raise CheckpointError(
                f"the checkpoint calls its model {self.name[:40]!r}; a name must be 1 to 100 letters, digits, '_', '-' "
                "and '.', as files are named after it"
            )

    def to_json(self) -> str:
        """JSON text; the inverse of :meth:`from_json`."""
        return json.dumps(
            {
                "name": self.name,
                "labels": self.labels,
                "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read what :meth:`to_json` gave.

        Raises:
            CheckpointError: The text is no card.
        """
        if len(text) > _MAX_CARD:
            raise CheckpointError(
                f"the checkpoint's {CARD_KEY!r} entry has {len(text):,} characters; at most {_MAX_CARD:,}"
            )
        try:
            values = json.loads(text)
            labels, preprocessing = values["labels"], values["preprocessing"]
            if labels is not None and not all(isinstance(label, str) and label.isprintable() for label in labels):
                raise ValueError("its labels are not all printable text")
            return cls(
                name=None if values["name"] is None else str(values["name"]),
                labels=None if labels is None else tuple(str(label) for label in labels),
                preprocessing=None if preprocessing is None else Preprocessing.from_dict(preprocessing),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
            raise CheckpointError(f"the checkpoint's {CARD_KEY!r} entry is no model card: {exc}") from exc
