"""What a checkpoint tells of four stages: how many blocks and classes they have, and what settings of a training say.

Weights do not tell the number of heads that do not interact, the factor of the logits, the epsilon of a LayerNorm or
which GELU it was. A module does. Settings are only good for a contradiction: that a script had an option does not say
that its network took it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rest_deploy.models.family import spaced
from rest_deploy.models.inside import is_number, partial_of, plain_of, short
from rest_deploy.models.pickled import Inert
from rest_deploy.models.stages_family import (
    ACTIVATIONS,
    EPS,
    HEADS,
    MAX_BLOCKS,
    OWN_ACTIVATIONS,
    STAGES,
    StagesConfig,
)

if TYPE_CHECKING:
    from torch import Tensor

    from rest_deploy.models.evidence import Setting

_GELUS = frozenset(
    "gelu_python timm.layers.activations.gelu timm.models.layers.activations.gelu gelu torch.nn.gelu nn.gelu "  # noqa: SIM905
    "torch.nn.functional.gelu f.gelu torch._c._nn.gelu".split()
)
_OTHER_ACTIVATIONS = frozenset(
    "relu relu6 leakyrelu leaky_relu silu swish hardswish hard_swish hswish mish elu selu celu prelu gelu_tanh "  # noqa: SIM905
    "gelutanh gelu_new gelu_pytorch_tanh gelu_fast quick_gelu quickgelu geluapprox".split()
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


def count_blocks(weights: Mapping[str, Tensor], stage: str) -> int:
    """Blocks of a stage, whose weights' names begin with it, such as ``"stage1."``.

    Raises:
        ValueError: They are too many, or not numbered from 0.
    """
    numbers = {int(key.split(".")[1]) for key in weights if key.startswith(stage)}
    if len(numbers) > MAX_BLOCKS:
        raise ValueError(f"{len(numbers)} blocks in {stage.rstrip('.')}; at most {MAX_BLOCKS} are read")
    if numbers != set(range(len(numbers))):
        raise ValueError(f"the blocks of {stage.rstrip('.')} are not numbered 0 to {len(numbers) - 1}")
    return len(numbers)


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
        elif name in EPS and is_number(value) and not math.isclose(value, config.norm_eps):
            yield f"{place} is {short(value)}, here the eps of LayerNorm is {config.norm_eps}"
        elif name == "norm_layer":
            yield from _other_norm(place, value, config)
        elif name in ACTIVATIONS:
            other = _other_activation(name, value)
            if other:
                yield f"{place} is {other}, here the activation of the MLPs is exact GELU"
        elif name in HEADS and _heads_of(value) not in (None, config.num_heads):
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
        heads = _heads_of(value) if name in HEADS else None
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
        return "" if ours or name not in OWN_ACTIVATIONS else text
    known = last in _OTHER_ACTIVATIONS
    if isinstance(kind, Inert) and known and not isinstance(value, str):
        text = text.rsplit(".", 1)[-1]
    return text if known or name in OWN_ACTIVATIONS else ""
