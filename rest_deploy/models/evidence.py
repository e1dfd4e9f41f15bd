"""What tells of a network beside the shapes of its weights: a whole module, or the settings of its training.

Weights do not tell the number of heads that do not interact, the factor of the logits, the epsilon of a LayerNorm or
which GELU it was. A module does, pickled or alive, and its classes need not be imported for it. Settings are only good
for a contradiction: that a script had an option does not say that its network took it.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rest_deploy.artifact.labels import parse_labels
from rest_deploy.errors import CheckpointError, ConfigError, listed
from rest_deploy.models.config import STAGES, ResTConfig
from rest_deploy.models.pickled import Inert
from rest_deploy.models.rest import ResT
from rest_deploy.models.weights import SETTINGS, attributes_of, children_of, class_of, mapping_of

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_DEPTH = 4  # of settings in settings

#: Attributes of modules that change what they compute.
_COMPARED = ("eps", "stride", "padding", "dilation", "groups", "approximate", "num_heads", "scale", "sr_ratio")
#: Modules of the authors' classes that ours has as operators: by the end of their names, class and attributes.
_OPERATORS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "stem.act": ("ReLU", {}),
    "pos.sigmoid": ("Sigmoid", {}),
    "attn.transform_norm": ("InstanceNorm2d", {"eps": 1e-5, "affine": False, "track_running_stats": False}),
}

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
_EPS = frozenset("norm_eps layer_norm_eps layernorm_eps ln_eps".split())  # noqa: SIM905
#: Names that can only be the activation of the MLPs, and names that may be of another thing.
_OWN_ACTIVATIONS = frozenset({"act_layer", "hidden_act"})
_ACTIVATIONS = frozenset({*_OWN_ACTIVATIONS, "activation", "act", "act_fn", "act_type"})
_GELUS = frozenset(
    {
        "gelu_python",
        "timm.layers.activations.gelu",
        "timm.models.layers.activations.gelu",
        "gelu",
        "torch.nn.gelu",
        "nn.gelu",
        "torch.nn.functional.gelu",
        "f.gelu",
        "torch._c._nn.gelu",
    }
)
_OTHER_ACTIVATIONS = frozenset(
    "relu relu6 leakyrelu leaky_relu silu swish hardswish hard_swish hswish mish elu selu celu prelu gelu_tanh "  # noqa: SIM905
    "gelutanh gelu_new gelu_pytorch_tanh gelu_fast quick_gelu quickgelu geluapprox".split()
)
_HEADS = frozenset({"num_heads", "heads"})
#: Names of a transform of images -> the flags that say it here.
_TRANSFORM: Mapping[str, str] = {
    "input_size": "--image-size",
    "img_size": "--image-size",
    "image_size": "--image-size",
    "crop_pct": "--crop-ratio",
    "mean": "--mean",
    "std": "--std",
    "interpolation": "--interpolation",
}
_ASKED = frozenset({"qk_scale", "norm_layer", *_CLASS_NAMES, *_EPS, *_ACTIVATIONS, *_HEADS, *_TRANSFORM})
_BUDGET = 20_000  # entries of settings that are looked at
_SHOWN = 60  # characters of a value in a message

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

    def heads(self) -> tuple[int, ...] | None:
        """Heads of each stage, as the module has them."""
        found = [self._first(f"stage{stage}.0.attn", "num_heads") for stage in range(1, STAGES + 1)]
        return tuple(found) if all(isinstance(heads, int) for heads in found) else None

    def refine(self, config: ResTConfig) -> tuple[dict[str, Any], bool]:
        """What the module says of the fields that weights do not tell, and whether it says them all."""
        changes: dict[str, Any] = {}
        eps, scale = self._first("stage1.0.norm1", "eps"), self._first("stage1.0.attn", "scale")
        if isinstance(eps, float):
            changes["norm_eps"] = eps
        if isinstance(scale, float) and not math.isclose(scale, (config.embed_dims[0] // config.num_heads[0]) ** -0.5):
            changes["qk_scale"] = scale
        gelu = _at(self.module, "stage1.0.mlp.act")
        known = gelu is not None and not class_of(gelu).startswith("__torch__.")
        return changes, known and isinstance(eps, float) and isinstance(scale, float)

    def _first(self, name: str, attribute: str) -> Any:
        module = _at(self.module, name)
        return None if module is None else attributes_of(module).get(attribute)

    def heads_in_settings(self) -> str:
        """Where settings name the heads of four stages, for a message."""
        for place, name, value in self.settings:
            heads = _heads_of(value) if name in _HEADS else None
            if heads is not None:
                return f"; {place} says {' '.join(map(str, heads))}"
        return ""

    def check(self, config: ResTConfig, source: object) -> None:
        """Refuse a network that computes something else than ours of this config would.

        Raises:
            CheckpointError: Names the first difference.
        """
        problems = [*self._differences(config), *(self._contradictions(config))]
        if problems:
            raise CheckpointError(
                f"{source}: {problems[0]}; the network that is built here would compute something else than the one "
                "that was trained; if what it says is not of this network, save the bare weights: "
                'torch.save(model.state_dict(), "weights.pth")'
            )

    def _differences(self, config: ResTConfig) -> Iterator[str]:
        if self.module is None:
            return
        with torch.device("meta"):
            ours = ResT(config)
        for name, own in ours.named_modules():
            theirs = _at(self.module, name)
            if theirs is None:
                continue
            pickled = isinstance(theirs, Inert)  # what runs is compared by what it gives
            if pickled and not list(own.children()) and not _same_class(class_of(theirs), type(own)):
                yield f"its {name} is a {_shown(theirs)}, here it is a {type(own).__name__}"
            yield from _other_values(name, attributes_of(theirs), {k: v for k, v in vars(own).items()})  # noqa: C416
            for end, (kind, values) in _OPERATORS.items():
                parent, _, last = end.rpartition(".")
                part = children_of(theirs).get(last) if name.endswith(parent) else None
                if isinstance(part, Inert) and not _same_class(class_of(part), getattr(nn, kind)):
                    yield f"its {name}.{last} is a {_shown(part)}, here it is a {kind}"
                if part is not None:
                    yield from _other_values(f"{name}.{last}", attributes_of(part), values, tuple(values))

    def _contradictions(self, config: ResTConfig) -> Iterator[str]:
        for place, name, value in self.settings:
            if name == "qk_scale" and _is_number(value) and value:
                scales = [
                    config.qk_scale or (width // heads) ** -0.5
                    for width, heads in zip(config.embed_dims, config.num_heads, strict=True)
                ]
                if not all(math.isclose(value, scale) for scale in scales):
                    yield f"{place} is {_shown(value)}, here logits are scaled by {scales[0]:.6g} in stage 1"
            elif name in _EPS and _is_number(value) and not math.isclose(value, config.norm_eps):
                yield f"{place} is {_shown(value)}, here the eps of LayerNorm is {config.norm_eps}"
            elif name == "norm_layer":
                yield from _other_norm(place, value, config)
            elif name in _ACTIVATIONS:
                other = _other_activation(name, value)
                if other:
                    yield f"{place} is {other}, here the activation of the MLPs is exact GELU"
            elif name in _HEADS and _heads_of(value) not in (None, config.num_heads):
                yield f"{place} is {list(_heads_of(value) or ())}, here the heads are {list(config.num_heads)}"

    def unknown(self, config: ResTConfig) -> str:
        """What of a module that was pickled is taken to be as the authors': its code is not in the file."""
        if not isinstance(self.module, Inert):
            return ""
        with torch.device("meta"):
            ours = dict(ResT(config).named_modules())
        foreign, more = [], []
        for name, own in ours.items():
            theirs = _at(self.module, name)
            if theirs is None:
                continue
            kind = class_of(theirs)
            if type(own).__module__ == ResT.__module__ and kind != f"{ResT.__module__}.{type(own).__qualname__}":
                foreign.append(kind)
            for last, part in children_of(theirs).items():
                full = f"{name}.{last}" if name else last
                known = full in ours or any(full.endswith(end) for end in _OPERATORS) or full == "avg_pool"
                if not known and last not in _WRAPPERS and class_of(part).rsplit(".", 1)[-1] not in _IDLE:
                    more.append(f"{full} ({_shown(part)})")
        parts = []
        if foreign:
            parts.append(
                f"forward as the authors' (the code of the module's class {_shown(foreign[0])} is not imported)"
            )
        if more:
            parts.append(f"modules that are not the authors' do nothing: {listed(sorted(set(more)))}")
        return "; ".join(parts)

    def transform(self) -> tuple[str, ...]:
        """What settings say of the transform of images, which is not taken, in a sentence for each place."""
        said: dict[str, dict[str, Any]] = {}
        for place, name, given in self.settings:
            outer, _, last = place.rpartition(".")
            value = _plain(given)
            if name in _TRANSFORM and outer and last == name and isinstance(value, (int, float, str, list)):
                said.setdefault(outer, {})[name] = value
        return tuple(
            f"transform: {outer} says {', '.join(f'{n} {_shown(v)}' for n, v in values.items())}: not used; give "
            f"{', '.join(dict.fromkeys(_TRANSFORM[n] for n in values))}"
            for outer, values in said.items()
        )

    def class_names(self, num_classes: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        """Names of the classes that settings have, and what was done with them, in sentences."""
        found: dict[str, tuple[str, ...]] = {}
        told = []
        for place, name, value in self.settings:
            if name not in _CLASS_NAMES or not isinstance(value, (dict, list, tuple, Inert)):
                continue
            plain = _plain(value)
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
                told.append(f"class names: {place} is not used: {_shown(twice)} stands there more than once")
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
    found: list[Setting] = []
    seen: set[int] = set()
    waiting: deque[tuple[str, Any, int]] = deque([("", content, 0)])
    left = _BUDGET
    while waiting and left > 0:
        place, values, depth = waiting.popleft()
        if id(values) in seen:
            continue
        seen.add(id(values))
        for name, given in _entries(values).items():
            left -= 1
            value = _value(given)
            where = f"{place}.{_shown(name)}" if place else _shown(name)
            if name in _ASKED:
                found.append((where, name, value))
            inside = depth or name in (*SETTINGS, "dataset_meta")
            if inside and depth < _DEPTH and name not in _CLASS_NAMES and isinstance(value, (dict, Inert)):
                waiting.append((where, value, depth + 1))
            if left <= 0:
                break
    return tuple(found)


def _shown(value: Any) -> str:
    """A value of a file, short: its text only where it is plain, as others may be endless or hold themselves."""
    if isinstance(value, Inert):
        value = value.name
    if isinstance(value, str):
        return value[:_SHOWN] if value.isprintable() else ascii(value[:_SHOWN])
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < _SHOWN else "a number of many digits"
    if isinstance(value, (list, tuple)):
        parts = [_shown(v) if not isinstance(v, (list, tuple)) else type(v).__name__ for v in value[:8]]
        text = ", ".join([*parts, *(["..."] if len(value) > len(parts) else [])])
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    return f"a {type(value).__name__}"


def _entries(values: Any) -> dict[str, Any]:
    """Of a mapping or of an object with attributes, such as argparse's Namespace or OmegaConf's DictConfig."""
    if not isinstance(values, Inert):
        return mapping_of(values)
    inner = values.attributes.get("_content")
    if isinstance(inner, dict):
        return mapping_of(inner)
    return {**{n: v for n, v in values.attributes.items() if isinstance(n, str)}, **mapping_of(values)}


def _value(value: Any) -> Any:
    """A node of OmegaConf is its value."""
    return value.attributes["_val"] if isinstance(value, Inert) and "_val" in value.attributes else value


def _plain(value: Any) -> Any:
    """Containers of any class as dicts and lists, two levels deep."""

    def opened(given: Any) -> Any:
        given = _value(given)
        if isinstance(given, Inert):
            inner = given.attributes.get("_content")
            if isinstance(inner, (dict, list)):
                return inner
            return dict_of(given.pairs) if given.pairs else list(given.values) or given
        return list(given) if isinstance(given, tuple) else given

    def dict_of(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        return {key: entry for key, entry in pairs if isinstance(key, (str, int))}

    outer = opened(value)
    if isinstance(outer, dict):
        return {key: opened(entry) for key, entry in outer.items()}
    return [opened(entry) for entry in outer] if isinstance(outer, list) else outer


def network_at(module: Any, prefix: str) -> Any:
    """The part of a module whose tensors have a prefix before the authors' names."""
    return _at(module, prefix.rstrip("."))


def _at(module: Any, name: str) -> Any:
    """A module in a module by its dotted name, through wrappers; None where there is none."""
    for part in name.split(".") if name else ():
        module = None if module is None else children_of(_unwrapped(module)).get(part)
    return None if module is None else _unwrapped(module)


def unwrapped(module: nn.Module) -> nn.Module:
    """What stands in torch.compile's wrapper, in those of FSDP and in DataParallel's."""
    while isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    inner: nn.Module = _unwrapped(module)
    return inner


def _unwrapped(module: Any) -> Any:
    for _ in range(len(_WRAPPERS) + 1):
        inner = next((c for n, c in children_of(module).items() if n in _WRAPPERS), None)
        if inner is None:
            break
        module = inner
    return module


def _same_class(theirs: str, ours: type) -> bool:
    """By its full name, as another class of the same name may compute another thing; TorchScript mangles names."""
    plain = re.sub(r"___torch_mangle_\d+\.", "", theirs.removeprefix("__torch__."))
    return plain == f"{ours.__module__}.{ours.__qualname__}" or plain in _SAME.get(ours.__name__, ())


def _other_values(
    name: str, theirs: Mapping[Any, Any], ours: Mapping[str, Any], compared: tuple[str, ...] = _COMPARED
) -> Iterator[str]:
    for attribute in compared:
        if attribute in theirs and attribute in ours and not _equal(theirs[attribute], ours[attribute]):
            yield f"its {name}.{attribute} is {_shown(theirs[attribute])}, here it is {ours[attribute]}"


def _equal(theirs: Any, ours: Any) -> bool:
    if _is_number(theirs) and _is_number(ours):
        return math.isclose(theirs, ours, rel_tol=1e-6)
    if isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)):
        pairs = zip(theirs, ours, strict=False)
        return len(theirs) == len(ours) and all(not isinstance(t, (list, tuple)) and _equal(t, o) for t, o in pairs)
    if isinstance(theirs, (str, int, bool)):
        return bool(theirs == ours)
    return False


def _other_norm(place: str, value: Any, config: ResTConfig) -> Iterator[str]:
    """``norm_layer`` as a class, its name, or a partial of it with an eps."""
    kind, keywords = _partial(value)
    eps = keywords.get("eps")
    if eps is not None and _is_number(eps) and not math.isclose(eps, config.norm_eps):
        yield f"{place} has eps {eps}, here the eps of LayerNorm is {config.norm_eps}"
    if isinstance(kind, Inert) and kind.args is None and not kind.name.endswith("LayerNorm"):
        yield f"{place} is {_shown(kind)}, here it is LayerNorm"


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and value.bit_length() < _SHOWN)


def _heads_of(value: Any) -> tuple[int, ...] | None:
    """Heads of four stages, as a list, a node of OmegaConf or an array of NumPy; None for another thing."""
    if isinstance(value, Inert) and value.name.endswith("_reconstruct"):
        return _array_of(value)
    plain = _plain(value) if isinstance(value, (list, tuple, Inert)) else None
    if not isinstance(plain, list) or len(plain) != STAGES:
        return None
    return tuple(plain) if all(type(h) is int for h in plain) else None


def _array_of(value: Inert) -> tuple[int, ...] | None:
    """Four whole numbers of an array of NumPy as it is pickled: version, shape, dtype, order, bytes."""
    state = value.state
    if not isinstance(state, tuple) or len(state) != 5 or state[1] != (STAGES,) or not isinstance(state[2], Inert):
        return None
    raw, kind = state[4], state[2].args[0] if state[2].args else None
    if isinstance(raw, Inert) and raw.name == "_codecs.encode" and raw.args and isinstance(raw.args[0], str):
        raw = raw.args[0].encode("latin-1", "replace")
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(kind, str) or not re.fullmatch("[iu][1248]", kind):
        return None
    size, order = int(kind[1]), state[2].state
    big = isinstance(order, tuple) and len(order) > 1 and order[1] == ">"
    if len(raw) != STAGES * size:
        return None
    parts = [raw[start : start + size] for start in range(0, len(raw), size)]
    return tuple(int.from_bytes(part, "big" if big else "little", signed=kind[0] == "i") for part in parts)


def _partial(value: Any) -> tuple[Any, Mapping[Any, Any]]:
    """What a functools.partial is of, through partials of partials, and its keywords; other values as they are."""
    keywords: dict[Any, Any] = {}
    for _ in range(_DEPTH):
        if not (isinstance(value, Inert) and value.name == "functools.partial"):
            break
        parts = value.state if isinstance(value.state, tuple) else ()
        inner = parts[0] if parts else (value.args or (None,))[0]
        if len(parts) > 2 and isinstance(parts[2], dict):
            keywords = {**parts[2], **keywords}
        value = inner
    return value, keywords


def _other_activation(name: str, value: Any) -> str:
    """An activation that is not exact GELU, in words; empty where it is, where nothing is said or nothing is known."""
    kind, keywords = _partial(value)
    attributes = kind.attributes if isinstance(kind, Inert) else {}
    approximate = keywords.get("approximate", attributes.get("approximate", "none"))
    if kind is None or kind == "":
        return ""
    text = re.sub(r"<class '(.+)'>|(.+)\(\)", r"\1\2", _shown(kind))  # as str() prints classes and modules
    last = text.rsplit(".", 1)[-1].lower()
    ours = text.lower() in _GELUS or (text.startswith("torch.nn.") and last == "gelu")
    if ours or last == "gelu":
        if approximate != "none":
            return f"{text} with approximate={_shown(approximate)}"
        return "" if ours or name not in _OWN_ACTIVATIONS else text
    known = last in _OTHER_ACTIVATIONS
    if isinstance(kind, Inert) and known and not isinstance(value, str):
        text = text.rsplit(".", 1)[-1]
    return text if known or name in _OWN_ACTIVATIONS else ""
