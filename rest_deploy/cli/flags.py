"""Flags: their types, those that dataclasses of options declare, those of images and of weights."""

from __future__ import annotations

import argparse
import functools
import typing
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from rest_deploy.errors import ConfigError, DeviceError
from rest_deploy.specs import CROP_RATIO, HEADS, MEAN, STD, Alpha, ImageSize, Interpolation, PreprocessingChange, Resize
from rest_deploy.values import number, rule_of

if TYPE_CHECKING:
    from rest_deploy.export.options import Declared  # the commands with options load it; rest-predict has none

_T = TypeVar("_T")


def typed(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """A type for argparse out of a parser of ours: wrong text is wrong usage."""

    def parsed(text: str) -> _T:
        try:
            return parse(text)
        except (ConfigError, DeviceError) as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc

    return parsed


def number_as(rule: Any) -> Callable[[str], Any]:
    """A type for argparse: a number that a rule, or a type that declares one, accepts."""
    return typed(functools.partial(number, rule=rule))


def number_of(kind: type, field: str) -> Callable[[str], Any]:
    """A type for argparse: a number as a field of a dataclass declares it."""
    return number_as(rule_of(kind, field))


# ---- dataclasses whose fields are options (``export/options.py``)


def add_options(group: argparse._ActionsContainer, kind: type) -> None:
    """The flags of a dataclass, as its fields declare them."""
    from rest_deploy.export.options import declared

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
    from rest_deploy.export.options import declared

    found: dict[str, Any] = {}
    for name, own in declared(kind).items():
        value = getattr(arguments, name)
        if value is None:
            continue
        if own.option.off and str(value).lower() == "none":
            found[own.option.off] = False
        else:
            try:
                found[name] = value if own.option.read is None else own.option.read(value)
            except ConfigError as exc:
                raise ConfigError(f"{own.flag}: {exc}") from exc
    return found


# ---- images, and weights


def add_preprocessing_flags(group: Any) -> None:
    """Those of :class:`PreprocessingChange`, from ``--transform`` to ``--alpha``."""
    add = group.add_argument
    add("--transform", choices=[r.value for r in Resize], help="crop, warp, or native: images at their own size")
    add("--image-size", metavar="HxW", type=typed(ImageSize.parse), help="size that crop or warp gives (default 224)")
    add(
        "--crop-ratio",
        type=number_as(CROP_RATIO),
        metavar="R",
        help="of crop: side of the cut over the resized short side (0.875)",
    )
    add("--interpolation", choices=[i.value for i in Interpolation], help="filter of the resize (default bicubic)")
    add("--alpha", choices=[a.value for a in Alpha], help="lay transparency over white, or drop it as ImageFolder does")
    add(
        "--mean",
        type=number_as(MEAN),
        nargs="+",
        metavar="M",
        help="of each channel, images scaled to 0-1 (default ImageNet's)",
    )
    add("--std", type=number_as(STD), nargs="+", metavar="S", help="of each channel (default ImageNet's)")


def add_weights_flags(group: Any) -> None:
    """Flags that choose the weights of a checkpoint, and say what the weights do not."""
    add = group.add_argument
    add(
        "--weights-key",
        metavar="KEY",
        help="entry of the checkpoint to take, as model_ema (default: chosen, and printed)",
    )
    add("--key-prefix", metavar="P", help="prefix of the network's weights, as backbone.")
    add(
        "--num-heads",
        metavar="N",
        nargs=4,
        type=number_as(HEADS),
        help="attention heads of each stage, if the weights do not tell them",
    )


def preprocessing_change(arguments: argparse.Namespace) -> PreprocessingChange | None:
    """The change of a file's preprocessing that the flags ask for; None without such flags."""
    change = PreprocessingChange(
        resize=Resize(arguments.transform) if arguments.transform else None,
        size=arguments.image_size,
        crop_ratio=arguments.crop_ratio,
        interpolation=Interpolation(arguments.interpolation) if arguments.interpolation else None,
        alpha=Alpha(arguments.alpha) if arguments.alpha else None,
        mean=tuple(arguments.mean) if arguments.mean else None,
        std=tuple(arguments.std) if arguments.std else None,
    )
    return None if change == PreprocessingChange() else change
