"""Flags of dataclasses whose fields are options (``export/options.py``), and their values in what was parsed."""

from __future__ import annotations

import argparse
import typing
from enum import Enum
from typing import Annotated, Any

from rest_deploy.cli.preprocessing_flags import number_as, typed
from rest_deploy.export.options import Declared, declared


def add_options(group: argparse._ActionsContainer, kind: type) -> None:
    """The flags of a dataclass, as its fields declare them."""
    for name, own in declared(kind).items():
        if own.option.help:
            group.add_argument(own.flag, dest=name, help=own.option.help, **_arguments(own))


def _arguments(own: Declared) -> dict[str, Any]:
    """What argparse takes of an option: what the type says, and what it declares beside."""
    kind, option = own.kind, own.option
    if kind is bool:
        return {"action": "store_const", "const": not own.default}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"choices": [member.value for member in kind if member is not own.default], **option.arguments}
    found: dict[str, Any] = {"metavar": option.metavar}
    one = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
    if typing.get_origin(one) is Annotated:
        found["type"] = number_as(one)
    elif hasattr(one, "parse") and option.read is None:
        found["type"] = one.parse
    found |= option.arguments
    if "type" in found:  # argparse would put words of its own in place of an error's
        found["type"] = typed(found["type"])
    return found


def given_options(arguments: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Values of a dataclass's options that the arguments give."""
    found: dict[str, Any] = {}
    for name, own in declared(kind).items():
        value = getattr(arguments, name)
        if value is None:
            continue
        if own.option.off and str(value).lower() == "none":
            found[own.option.off] = False
        else:
            found[name] = value if own.option.read is None else own.option.read(value)
    return found
