"""What tells of a network beside the shapes of its weights: a whole module, or the settings of its training.

A module says more than its weights do, pickled or alive, and its classes need not be imported for it. What it and the
settings say of a network, its family reads.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rest_deploy.artifact.info import ASSUMABLE
from rest_deploy.artifact.labels import parse_labels
from rest_deploy.errors import CheckpointError, ConfigError, listed
from rest_deploy.models.family import FAMILIES, NetworkConfig, family_of
from rest_deploy.models.inside import (
    WRAPPERS,
    attributes_of,
    children_of,
    class_of,
    entries_of,
    is_number,
    module_at,
    plain_of,
    short,
    value_of,
)
from rest_deploy.models.pickled import Inert
from rest_deploy.models.weights import SETTINGS
from rest_deploy.specs import ImageSize, Preprocessing, PreprocessingChange, Resize

_DEPTH = 4  # of settings in settings

#: Attributes of modules that change what they compute.
_COMPARED = ("eps", "stride", "padding", "dilation", "groups", "approximate")
#: Classes of whole modules that compute what ours do, by their full names.
_SAME: Mapping[str, frozenset[str]] = {
    "BatchNorm2d": frozenset({"torch.nn.modules.batchnorm.SyncBatchNorm"}),
    "LayerNorm": frozenset(
        {
            "apex.normalization.fused_layer_norm.FusedLayerNorm",
            "timm.layers.norm.LayerNorm",
            "timm.models.layers.norm.LayerNorm",
        }
    ),
}
#: Modules that do nothing in a network that is not trained, by the last part of their names.
_IDLE = frozenset("Dropout Dropout1d Dropout2d DropPath StochasticDepth Identity".split())  # noqa: SIM905

_CLASS_NAMES = frozenset(
    "classes class_names class_to_idx idx_to_class CLASSES id2label label2id labels classnames".split()  # noqa: SIM905
)
_LABELS = frozenset({"labels"})  # of the images too, where it stands by itself
#: Names of a transform of images -> what is called so here, a key of ASSUMABLE.
_TRANSFORM: Mapping[str, str] = {
    "input_size": "image size",
    "img_size": "image size",
    "image_size": "image size",
    "crop_pct": "crop ratio",
    "mean": "mean",
    "std": "std",
    "interpolation": "interpolation",
}
#: The same -> the field of a preprocessing.
_FIELDS: Mapping[str, str] = {
    "image size": "size",
    "crop ratio": "crop_ratio",
    "mean": "mean",
    "std": "std",
    "interpolation": "interpolation",
}
#: Fields of a preprocessing that have no effect.
_NO_EFFECT: Mapping[Resize | None, frozenset[str]] = {
    Resize.WARP: frozenset({"crop_ratio"}),
    Resize.NATIVE: frozenset({"crop_ratio", "interpolation", "size"}),
}
_BUDGET = 20_000  # entries of settings that are looked at

Setting = tuple[str, str, Any]  # where it stands, its name, its value


@dataclass(frozen=True)
class Evidence:
    """What there is.

    Args:
        module: The network as a module, pickled or alive; None where there are only weights.
        settings: Of the training.
    """

    module: Inert | nn.Module | None = None
    settings: tuple[Setting, ...] = ()

    def attribute(self, name: str, attribute: str) -> Any:
        """What a module in the module has; None where there is no such module, or it has none."""
        module = module_at(self.module, name)
        return None if module is None else attributes_of(module).get(attribute)

    def kind(self, name: str) -> str:
        """Full name of the class of a module in the module; empty where there is none."""
        module = module_at(self.module, name)
        return "" if module is None else class_of(module)

    def check(self, config: NetworkConfig, source: object) -> None:
        """Refuse a network that computes something else than ours of this config would.

        Raises:
            CheckpointError: Names the first difference.
        """
        problems = [*self._differences(config), *family_of(config).contradictions(config, self.settings)]
        if problems:
            raise CheckpointError(
                f"{source}: {problems[0]}; the network that is built here would compute something else than the one "
                "that was trained; if what it says is not of this network, save the bare weights: "
                'torch.save(model.state_dict(), "weights.pth")'
            )

    def _differences(self, config: NetworkConfig) -> Iterator[str]:
        if self.module is None:
            return
        family = family_of(config)
        with torch.device("meta"):
            ours = family.network()(config)
        for name, own in ours.named_modules():
            theirs = module_at(self.module, name)
            if theirs is None or isinstance(own, nn.Identity):  # ours is without it
                continue
            pickled = isinstance(theirs, Inert)  # what runs is compared by what it gives
            if pickled and not list(own.children()) and not _same_class(class_of(theirs), type(own)):
                yield f"its {name} is a {short(theirs)}, here it is a {type(own).__name__}"
            yield from _other_values(name, attributes_of(theirs), vars(own), (*_COMPARED, *family.attributes))
            for end, (kind, values) in family.operator_modules.items():
                parent, _, last = end.rpartition(".")
                part = children_of(theirs).get(last) if name.endswith(parent) else None
                if isinstance(part, Inert) and not _same_class(class_of(part), getattr(nn, kind)):
                    yield f"its {name}.{last} is a {short(part)}, here it is a {kind}"
                if part is not None:
                    yield from _other_values(f"{name}.{last}", attributes_of(part), values, tuple(values))

    def unknown(self, config: NetworkConfig, more: Iterable[str]) -> str:
        """What of a module that was pickled is taken to be as the authors': its code is not in the file.

        Args:
            config: Of the network.
            more: Modules that are known beside those of the network.
        """
        if not isinstance(self.module, Inert):
            return ""
        family = family_of(config)
        with torch.device("meta"):
            network = family.network()(config)
        ours, home = dict(network.named_modules()), type(network).__module__
        beside = {name.partition(".")[0] for name in more}
        foreign, others = [], []
        for name, own in ours.items():
            theirs = module_at(self.module, name)
            if theirs is None:
                continue
            kind = class_of(theirs)
            if type(own).__module__ == home and kind != f"{home}.{type(own).__qualname__}":
                foreign.append(kind)
            for last, part in children_of(theirs).items():
                full = f"{name}.{last}" if name else last
                known = full in ours or full.endswith(tuple(family.operator_modules)) or full in family.unused_modules
                known = known or full in beside
                if not known and last not in WRAPPERS and class_of(part).rsplit(".", 1)[-1] not in _IDLE:
                    others.append(f"{full} ({short(part)})")
        parts = []
        if foreign:
            parts.append(
                f"forward as the authors' (the code of the module's class {short(foreign[0])} is not imported)"
            )
        if others:
            parts.append(f"modules that are not the authors' do nothing: {listed(sorted(set(others)))}")
        return "; ".join(parts)

    def transform(self, given: Preprocessing | PreprocessingChange | None = None) -> tuple[str, ...]:
        """What settings say of the transform of images, and the caller does not say or says otherwise, in sentences.

        Args:
            given: What the caller says of it.
        """
        unsaid: dict[str, dict[str, Any]] = {}
        told = []
        for place, name, value in self._of_transform():
            subject = _TRANSFORM[name]
            field, resize = _FIELDS[subject], getattr(given, "resize", None)
            own, flag = getattr(given, field, None), ASSUMABLE[subject]
            if field in _NO_EFFECT.get(resize, ()):
                own, flag = resize, "--transform"
            if own is None:
                unsaid.setdefault(place, {})[name] = value
            elif not _says(value, own):
                told.append(f"transform: {place} say {name} {short(value)}, and {flag} {_as_flag(own)} was given")
        for place, values in unsaid.items():
            words = ", ".join(f"{name} {short(value)}" for name, value in values.items())
            flags = ", ".join(dict.fromkeys(ASSUMABLE[_TRANSFORM[name]] for name in values))
            told.append(f"transform: {place} say {words}: not used; give {flags}")
        return tuple(told)

    def beside(self, assumed: Mapping[str, str], steps: Preprocessing | None) -> dict[str, str]:
        """What is assumed of the transform of images, each in words, with what settings say of it.

        Args:
            assumed: Subject to value, in words.
            steps: The transform.
        """
        told = dict(assumed)
        for subject in assumed.keys() & _FIELDS.keys():
            own = getattr(steps, _FIELDS[subject])
            said = [(p, name, value) for p, name, value in self._of_transform() if _TRANSFORM[name] == subject]
            others = [one for one in said if not _says(one[2], own)]
            for place, name, value in (others or said)[:1]:
                told[subject] += f", {'but' if others else 'and'} {place} say {name} {short(value)}"
        return told

    def _of_transform(self) -> Iterator[Setting]:
        """Settings of the transform of images: what they stand in, their names, their values."""
        for place, name, given in self.settings:
            outer, _, last = place.rpartition(".")
            value = plain_of(given)
            if name in _TRANSFORM and outer and last == name and isinstance(value, (int, float, str, list)) and value:
                yield outer, name, value

    def class_names(self, num_classes: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        """Names of the classes that settings have, and what was done with them, in sentences."""
        found: dict[str, tuple[str, ...]] = {}
        told = []
        for place, name, value in self.settings:
            if name not in _CLASS_NAMES or not isinstance(value, (dict, list, tuple, Inert)):
                continue
            plain = plain_of(value)
            if name in _LABELS and "." not in place and not isinstance(plain, dict):
                told.append(f"class names: {place} is not used: a list by itself may be the labels of images")
                continue
            try:
                names = parse_labels(plain)
            except ConfigError as exc:
                told.append(f"class names: {place} is not used: {exc}")
                continue
            if len(set(names)) < len(names):
                twice = next(name for name, count in Counter(names).items() if count > 1)
                told.append(f"class names: {place} is not used: {short(twice)} stands there more than once")
            elif len(names) == num_classes:
                found[place] = names
            else:
                told.append(f"class names: {place} is not used: it has {len(names)}, the head {num_classes}")
        if len(set(found.values())) > 1:
            return None, (*told, f"class names: {listed(list(found))} are not used: they differ")
        if not found:
            return None, tuple(told)
        return next(iter(found.values())), (*told, f"class names: {num_classes} from {listed(list(found))}")


def settings_of(content: Any) -> tuple[Setting, ...]:
    """Settings in a content that say something of a network, its classes or its images.

    They are its own entries, and all that stands under the names that settings have. Each object is looked at once.
    """
    asked = {*_CLASS_NAMES, *_TRANSFORM}.union(*(family.settings for family in FAMILIES.values()))
    found: list[Setting] = []
    seen: set[int] = set()
    waiting: deque[tuple[str, Any, int]] = deque([("", content, 0)])
    left = _BUDGET
    while waiting and left > 0:
        place, values, depth = waiting.popleft()
        if id(values) in seen:
            continue
        seen.add(id(values))
        for name, given in entries_of(values).items():
            left -= 1
            value = value_of(given)
            where = f"{place}.{short(name)}" if place else short(name)
            if name in asked:
                found.append((where, name, value))
            inside = depth or name in (*SETTINGS, "dataset_meta")
            if inside and depth < _DEPTH and name not in _CLASS_NAMES and isinstance(value, (dict, Inert)):
                waiting.append((where, value, depth + 1))
            if left <= 0:
                break
    return tuple(found)


def _says(value: Any, own: Any) -> bool:
    """Whether a setting says what a preprocessing has.

    A size may have channels before it, one number may stand for all, and some libraries take images of 0 to 255.
    """
    values = value if isinstance(value, list) else [value]
    if isinstance(own, ImageSize):
        values, own = values[-2:], own.to_plain()
    if not isinstance(own, tuple):
        return _equal(value, getattr(own, "value", own))
    values = values * len(own) if len(values) == 1 else values
    scaled = [each / 255 for each in values if is_number(each)]
    return _equal(values, own) or _equal(scaled, own)


def _as_flag(own: Any) -> str:
    """A value of a preprocessing as it is given on a command line."""
    if isinstance(own, ImageSize) and own.height == own.width:
        return str(own.height)
    return " ".join(map(str, own)) if isinstance(own, tuple) else str(getattr(own, "value", own))


def _same_class(theirs: str, ours: type) -> bool:
    """By its full name, as another class of the same name may compute another thing; TorchScript mangles names."""
    plain = re.sub(r"___torch_mangle_\d+\.", "", theirs.removeprefix("__torch__."))
    return plain == f"{ours.__module__}.{ours.__qualname__}" or plain in _SAME.get(ours.__name__, ())


def _other_values(
    name: str, theirs: Mapping[Any, Any], ours: Mapping[str, Any], compared: tuple[str, ...]
) -> Iterator[str]:
    for attribute in compared:
        if attribute in theirs and attribute in ours and not _equal(theirs[attribute], ours[attribute]):
            yield f"its {name}.{attribute} is {short(theirs[attribute])}, here it is {ours[attribute]}"


def _equal(theirs: Any, ours: Any) -> bool:
    if is_number(theirs) and is_number(ours):
        return math.isclose(theirs, ours, rel_tol=1e-6)
    if isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)):
        pairs = zip(theirs, ours, strict=False)
        return len(theirs) == len(ours) and all(not isinstance(t, (list, tuple)) and _equal(t, o) for t, o in pairs)
    if isinstance(theirs, (str, int, bool)):
        return bool(theirs == ours)
    return False
