"""What a checkpoint tells of a ResT: its shapes, its module and the settings of its training.

Weights do not tell the number of heads that do not interact, the factor of the logits, the epsilon of a LayerNorm or
which GELU it was. A module does. Settings are only good for a contradiction: that a script had an option does not say
that its network took it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from rest_deploy.errors import CheckpointError, ConfigError
from rest_deploy.models.checkpoint import LoadedWeights
from rest_deploy.models.evidence import Setting
from rest_deploy.models.family import spaced
from rest_deploy.models.inside import is_number, partial_of, plain_of, short
from rest_deploy.models.pickled import Inert
from rest_deploy.models.rest_family import CONFIGS, ResTConfig
from rest_deploy.models.stages_family import MAX_BLOCKS, STAGES, StagesConfig

_EPS = frozenset("norm_eps layer_norm_eps layernorm_eps ln_eps".split())  # noqa: SIM905
#: Names that can only be the activation of the MLPs, and names that may be of another thing.
_OWN_ACTIVATIONS = frozenset({"act_layer", "hidden_act"})
_ACTIVATIONS = frozenset({*_OWN_ACTIVATIONS, "activation", "act", "act_fn", "act_type"})
_GELUS = frozenset(
    "gelu_python timm.layers.activations.gelu timm.models.layers.activations.gelu gelu torch.nn.gelu nn.gelu "  # noqa: SIM905
    "torch.nn.functional.gelu f.gelu torch._c._nn.gelu".split()
)
_OTHER_ACTIVATIONS = frozenset(
    "relu relu6 leakyrelu leaky_relu silu swish hardswish hard_swish hswish mish elu selu celu prelu gelu_tanh "  # noqa: SIM905
    "gelutanh gelu_new gelu_pytorch_tanh gelu_fast quick_gelu quickgelu geluapprox".split()
)
_HEADS = frozenset({"num_heads", "heads"})


def infer(
    weights: Mapping[str, Tensor], source: str, num_heads: Sequence[int] | None = None, hint: str = ""
) -> ResTConfig:
    """The config that weights have; ``hint`` is what an error adds where their heads are needed.

    Raises:
        CheckpointError, KeyError, ValueError, IndexError, ZeroDivisionError: As of a family's ``read``.
    """
    stages = [f"stage{stage}.0" for stage in range(1, STAGES + 1)]
    depths = [count_blocks(weights, f"stage{stage}.") for stage in range(1, STAGES + 1)]
    widths = [weights[f"{stage}.norm1.weight"].shape[0] for stage in stages]
    hidden = [weights[f"{stage}.mlp.fc1.weight"].shape[0] for stage in stages]
    reductions = [weights.get(f"{stage}.attn.sr.weight") for stage in stages]
    heads = _heads(weights, stages, source, num_heads, hint)
    return ResTConfig(
        embed_dims=tuple(widths),
        depths=tuple(depths),
        num_heads=heads,
        mlp_ratios=tuple(_ratio(h, w) for h, w in zip(hidden, widths, strict=True)),
        sr_ratios=tuple(1 if weight is None else weight.shape[-1] - 1 for weight in reductions),
        num_classes=count_classes(weights),
        in_channels=weights["stem.conv1.weight"].shape[1],
        apply_transform=_heads_interact(weights) or max(heads) == 1,
    )


def count_classes(weights: Mapping[str, Tensor]) -> int:
    """Rows of the head; 0 where there is none.

    Raises:
        ValueError, IndexError: It is no head.
    """
    head = weights.get("head.weight")
    if head is not None and head.shape[0] == 0:
        raise ValueError(f"head.weight has the shape {tuple(head.shape)}; needed: (classes, channels)")
    return 0 if head is None else head.shape[0]


def _heads_interact(weights: Mapping[str, Tensor]) -> bool:
    """Whether the heads of any stage go through a convolution across them."""
    return any(key.endswith(".attn.transform_conv.weight") for key in weights)


def _heads(
    weights: Mapping[str, Tensor], stages: list[str], source: str, given: Sequence[int] | None, hint: str
) -> tuple[int, ...]:
    """Heads of each stage.

    The authors' class has the convolution in every stage of several heads or in none, so a stage without one has one
    head if another stage has one, and any number if none has.
    """
    if not _heads_interact(weights):
        if given is None:
            raise CheckpointError(
                f"{source}: no block has attn.transform_conv, so its heads do not interact and the weights do not tell "
                f"how many there are; say how many each stage has, as it was trained: "
                f"{heads_wanted(CONFIGS.values())}{hint}"
            )
        return tuple(given)
    mixing = [weights.get(f"{stage}.attn.transform_conv.weight") for stage in stages]
    heads = tuple(1 if weight is None else weight.shape[0] for weight in mixing)
    if given is not None and tuple(given) != heads:
        raise CheckpointError(
            f"{source}: its attn.transform_conv is of {spaced(heads)} heads, {spaced(given)} were given; leave "
            "--num-heads out"
        )
    return heads


def count_blocks(weights: Mapping[str, Tensor], stage: str) -> int:
    numbers = {int(key.split(".")[1]) for key in weights if key.startswith(stage)}
    if len(numbers) > MAX_BLOCKS:
        raise ValueError(f"{len(numbers)} blocks in {stage.rstrip('.')}; at most {MAX_BLOCKS} are read")
    if numbers != set(range(len(numbers))):
        raise ValueError(f"the blocks of {stage.rstrip('.')} are not numbered 0 to {len(numbers) - 1}")
    return len(numbers)


def _ratio(hidden: int, width: int) -> float:
    """A ratio from which the model, which rounds down, gets ``hidden`` channels again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def read(loaded: LoadedWeights, num_heads: Sequence[int] | None) -> tuple[ResTConfig, str]:
    """The config of a checkpoint, and what of it is assumed (:meth:`~rest_deploy.models.family.Family.read`)."""
    evidence = loaded.evidence
    config = infer(loaded.state_dict, loaded.source, num_heads, heads_in(evidence.settings))
    eps, scale = evidence.attribute("stage1.0.norm1", "eps"), evidence.attribute("stage1.0.attn", "scale")
    if isinstance(eps, float):
        config = replace(config, norm_eps=eps)
    if isinstance(scale, float) and not math.isclose(scale, (config.embed_dims[0] // config.num_heads[0]) ** -0.5):
        config = replace(config, qk_scale=scale)
    gelu = evidence.kind("stage1.0.mlp.act")
    if gelu and not gelu.startswith("__torch__.") and isinstance(eps, float) and isinstance(scale, float):
        return config, ""
    factor = "1/sqrt(head channels)" if config.qk_scale is None else f"{config.qk_scale:g}"
    return config, (
        f"LayerNorm eps {config.norm_eps:g}, logits scaled by {factor}, exact GELU: the authors' defaults, which "
        "weights do not tell"
    )


def fit(config: ResTConfig, name: str | None, loaded: LoadedWeights, num_heads: Sequence[int] | None) -> ResTConfig:
    """A config that was asked for, with the heads that were given (:meth:`~rest_deploy.models.family.Family.fit`).

    A published network's heads interact. Weights without that may be of its other parts, trained without it, and then
    nothing but its user knows their heads.
    """
    lacking = any(config.interacts(stage) for stage in range(STAGES)) and not _heads_interact(loaded.state_dict)
    if num_heads is not None and name is not None and lacking:
        config = replace(config, num_heads=tuple(num_heads), apply_transform=max(num_heads) == 1)
    elif lacking:
        way = heads_wanted(CONFIGS.values()) if name else "a ResTConfig with apply_transform=False"
        said = heads_in(loaded.evidence.settings)
        raise CheckpointError(
            f"{loaded.source}: no block has attn.transform_conv, through which the heads of {name or 'this config'} "
            f"interact; if it was trained without it, say so with the heads it had: {way}{said}"
        )
    if num_heads is not None and tuple(num_heads) != config.num_heads:
        raise ConfigError(f"num_heads {spaced(num_heads)}: the model that was named has {spaced(config.num_heads)}")
    return config


def contradictions(config: StagesConfig, settings: Iterable[Setting]) -> Iterator[str]:
    """Settings that tell another network, in words."""
    for place, name, value in settings:
        if name == "qk_scale" and is_number(value) and value:
            scales = [
                config.qk_scale or (width // heads) ** -0.5
                for width, heads in zip(config.embed_dims, config.num_heads, strict=True)
            ]
            if not all(math.isclose(value, scale) for scale in scales):
                yield f"{place} is {short(value)}, here logits are scaled by {scales[0]:.6g} in stage 1"
        elif name in _EPS and is_number(value) and not math.isclose(value, config.norm_eps):
            yield f"{place} is {short(value)}, here the eps of LayerNorm is {config.norm_eps}"
        elif name == "norm_layer":
            yield from _other_norm(place, value, config)
        elif name in _ACTIVATIONS:
            other = _other_activation(name, value)
            if other:
                yield f"{place} is {other}, here the activation of the MLPs is exact GELU"
        elif name in _HEADS and _heads_of(value) not in (None, config.num_heads):
            yield f"{place} is {list(_heads_of(value) or ())}, here the heads are {list(config.num_heads)}"


def heads_wanted(published: Iterable[StagesConfig]) -> str:
    """How heads are said, for a message: a ready answer would be copied, and nothing would notice that it is wrong."""
    known = " or ".join(dict.fromkeys(spaced(config.num_heads) for config in published))
    return (
        f"--num-heads N N N N, in Python num_heads=(N, N, N, N) (the published networks have {known}; a wrong number "
        "cannot be noticed)"
    )


def heads_in(settings: Iterable[Setting]) -> str:
    """Where settings name the heads of four stages, for a message."""
    for place, name, value in settings:
        heads = _heads_of(value) if name in _HEADS else None
        if heads is not None:
            return f"; {place} says {spaced(heads)}"
    return ""


def _other_norm(place: str, value: Any, config: StagesConfig) -> Iterator[str]:
    """``norm_layer`` as a class, its name, or a partial of it with an eps."""
    kind, keywords = partial_of(value)
    eps = keywords.get("eps")
    if eps is not None and is_number(eps) and not math.isclose(eps, config.norm_eps):
        yield f"{place} has eps {eps}, here the eps of LayerNorm is {config.norm_eps}"
    if isinstance(kind, Inert) and kind.args is None and not kind.name.endswith("LayerNorm"):
        yield f"{place} is {short(kind)}, here it is LayerNorm"


def _heads_of(value: Any) -> tuple[int, ...] | None:
    """Heads of four stages, as a list, a node of OmegaConf or an array of NumPy; None for another thing."""
    if isinstance(value, Inert) and value.name.endswith("_reconstruct"):
        return _array_of(value)
    plain = plain_of(value) if isinstance(value, (list, tuple, Inert)) else None
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


def _other_activation(name: str, value: Any) -> str:
    """An activation that is not exact GELU, in words; empty where it is, where nothing is said or nothing is known."""
    kind, keywords = partial_of(value)
    attributes = kind.attributes if isinstance(kind, Inert) else {}
    approximate = keywords.get("approximate", attributes.get("approximate", "none"))
    if kind is None or kind == "":
        return ""
    text = re.sub(r"<class '(.+)'>|(.+)\(\)", r"\1\2", short(kind))  # as str() prints classes and modules
    last = text.rsplit(".", 1)[-1].lower()
    ours = text.lower() in _GELUS or (text.startswith("torch.nn.") and last == "gelu")
    if ours or last == "gelu":
        if approximate != "none":
            return f"{text} with approximate={short(approximate)}"
        return "" if ours or name not in _OWN_ACTIVATIONS else text
    known = last in _OTHER_ACTIVATIONS
    if isinstance(kind, Inert) and known and not isinstance(value, str):
        text = text.rsplit(".", 1)[-1]
    return text if known or name in _OWN_ACTIVATIONS else ""
