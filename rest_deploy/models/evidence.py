"""What tells of a network beside the shapes of its weights: a whole module, or the settings of its training.

Weights do not tell the number of heads that do not interact, the factor of the logits, the epsilon of a LayerNorm or
which GELU it was. A module does, pickled or alive, and its classes need not be imported for it. Settings are only good
for a contradiction: that a script had an option does not say that its network took it.
"""

from __future__ import annotations

import math
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
_BATCH_NORMS = ("BatchNorm2d", "SyncBatchNorm")

#: Attributes of modules that change what they compute.
_COMPARED = ("eps", "stride", "padding", "dilation", "groups", "approximate", "num_heads", "scale", "sr_ratio")
#: Modules of the authors' classes that ours has as operators: by the end of their names, class and attributes.
_OPERATORS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "stem.act": ("ReLU", {}),
    "pos.sigmoid": ("Sigmoid", {}),
    "attn.transform_norm": ("InstanceNorm2d", {"eps": 1e-5, "affine": False, "track_running_stats": False}),
}

_CLASS_NAMES = frozenset(
    "classes class_names class_to_idx idx_to_class CLASSES id2label label2id labels classnames".split()  # noqa: SIM905
)
_EPS = frozenset("norm_eps layer_norm_eps layernorm_eps ln_eps".split())  # noqa: SIM905
_ACTIVATIONS = frozenset("act_layer activation act hidden_act act_fn act_type".split())  # noqa: SIM905
_OTHER_ACTIVATIONS = frozenset(
    "relu relu6 leakyrelu leaky_relu silu swish hardswish hard_swish hswish mish elu selu celu prelu gelu_tanh "  # noqa: SIM905
    "gelutanh gelu_new gelu_pytorch_tanh gelu_fast quick_gelu quickgelu geluapprox".split()
)

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
            if name in ("num_heads", "heads") and _is_heads(value):
                return f"; {place} says {' '.join(map(str, value))}"
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
            if not list(own.children()) and not _same_class(class_of(theirs), type(own).__name__):
                yield f"its {name} is a {class_of(theirs)}, here it is a {type(own).__name__}"
            yield from _other_values(name, attributes_of(theirs), {k: v for k, v in vars(own).items()})  # noqa: C416
            for end, (kind, values) in _OPERATORS.items():
                parent, _, last = end.rpartition(".")
                part = children_of(theirs).get(last) if name.endswith(parent) else None
                if part is not None and not class_of(part).endswith(f".{kind}"):
                    yield f"its {name}.{last} is a {class_of(part)}, here it is a {kind}"
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
                    yield f"{place} is {value}, here logits are scaled by {scales[0]:.6g} in stage 1"
            elif name in _EPS and _is_number(value) and not math.isclose(value, config.norm_eps):
                yield f"{place} is {value}, here the eps of LayerNorm is {config.norm_eps}"
            elif name == "norm_layer":
                yield from _other_norm(place, value, config)
            elif name in _ACTIVATIONS:
                other = (value.name if isinstance(value, Inert) else str(value)).rsplit(".", 1)[-1]
                if other.lower() in _OTHER_ACTIVATIONS:
                    yield f"{place} is {other}, here the activation of the MLPs is exact GELU"
            elif name == "num_heads" and _is_heads(value) and tuple(value) != config.num_heads:
                yield f"{place} is {list(value)}, here the heads are {list(config.num_heads)}"

    def class_names(self, num_classes: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        """Names of the classes that settings have, and what was done with them, in sentences."""
        found: dict[str, tuple[str, ...]] = {}
        told = []
        for place, name, value in self.settings:
            if name not in _CLASS_NAMES or not isinstance(value, (dict, list, tuple, Inert)):
                continue
            try:
                names = parse_labels(_plain(value))
            except ConfigError as exc:
                told.append(f"class names: {place} is not used: {exc}")
                continue
            if len(names) == num_classes:
                found[place] = names
            else:
                told.append(f"class names: {place} is not used: it has {len(names)}, the head {num_classes}")
        if len(set(found.values())) > 1:
            return None, (*told, f"class names: {listed(list(found))} are not used: they differ")
        if not found:
            return None, tuple(told)
        return next(iter(found.values())), (*told, f"class names: {num_classes} from {listed(list(found))}")


def settings_of(content: Any) -> tuple[Setting, ...]:
    """Settings in a content: its own plain entries, and all that stands under the names that settings have."""
    found: list[Setting] = []
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        place, values, depth = waiting.pop()
        if id(values) in seen:
            continue
        seen.add(id(values))
        for name, given in _entries(values).items():
            value = _value(given)
            where = f"{place}.{name}" if place else name
            found.append((where, name, value))
            if depth < _DEPTH and name not in _CLASS_NAMES and (depth or name in (*SETTINGS, "dataset_meta")):
                waiting.append((where, value, depth + 1))
    return tuple(found)


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


def is_rest(module: nn.Module) -> bool:
    """Whether a module can only compute what a ResT does: ours, with modules of ours and torch's, and without hooks."""
    homes = ("rest_deploy.models.rest", "torch.nn.modules.")
    return type(module) is ResT and all(
        type(part).__module__.startswith(homes)
        and "forward" not in vars(part)
        and not (part._forward_hooks or part._forward_pre_hooks)
        for part in module.modules()
    )


def _unwrapped(module: Any) -> Any:
    for _ in range(len(_WRAPPERS) + 1):
        inner = next((c for n, c in children_of(module).items() if n in _WRAPPERS), None)
        if inner is None:
            break
        module = inner
    return module


def _same_class(theirs: str, ours: str) -> bool:
    """By the last part of its name, as classes are subclassed; mangled names of TorchScript end in it too."""
    last = theirs.rsplit(".", 1)[-1]
    return last == ours or (ours == "BatchNorm2d" and last in _BATCH_NORMS) or last in (f"Fused{ours}", f"{ours}2d")


def _other_values(
    name: str, theirs: Mapping[Any, Any], ours: Mapping[str, Any], compared: tuple[str, ...] = _COMPARED
) -> Iterator[str]:
    for attribute in compared:
        if attribute in theirs and attribute in ours and not _equal(theirs[attribute], ours[attribute]):
            yield f"its {name}.{attribute} is {theirs[attribute]}, here it is {ours[attribute]}"


def _equal(theirs: Any, ours: Any) -> bool:
    if _is_number(theirs) and _is_number(ours):
        return math.isclose(theirs, ours, rel_tol=1e-6)
    if isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)):
        return list(theirs) == list(ours)
    if isinstance(theirs, (str, int, bool)):
        return bool(theirs == ours)
    return False


def _other_norm(place: str, value: Any, config: ResTConfig) -> Iterator[str]:
    """``norm_layer`` as a class, its name, or a partial of it with an eps."""
    if isinstance(value, Inert) and value.name == "functools.partial" and isinstance(value.state, tuple):
        parts = value.state
        kind = parts[0] if parts else None
        eps = parts[2].get("eps") if len(parts) > 2 and isinstance(parts[2], dict) else None
        if _is_number(eps) and eps is not None and not math.isclose(eps, config.norm_eps):
            yield f"{place} has eps {eps}, here the eps of LayerNorm is {config.norm_eps}"
        value = kind
    if isinstance(value, Inert) and value.args is None and not value.name.endswith("LayerNorm"):
        yield f"{place} is {value.name}, here it is LayerNorm"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_heads(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == STAGES and all(isinstance(h, int) for h in value)
