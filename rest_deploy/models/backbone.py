"""A backbone in the weights of a detector, a segmenter or a classifier: its norms, and what is not of it.

Detectors and segmenters that take maps of a backbone put LayerNorms over their channels, and not all do the same with
them (:class:`~rest_deploy.specs.FeatureNorm`). Their names tell whose code it was; its family knows what that does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rest_deploy.errors import CheckpointError, counted, listed
from rest_deploy.models.names import is_counter
from rest_deploy.specs import EMBEDDING, LOGITS, STAGE_MAPS, FeatureNorm

if TYPE_CHECKING:
    from torch import Tensor

    from rest_deploy.models.checkpoint import LoadedWeights
    from rest_deploy.models.family import NetworkConfig
    from rest_deploy.models.network import Network


@dataclass(frozen=True)
class StageNorms:
    """LayerNorms over the channels of the maps that leave stages.

    Args:
        mode: Where they are.
        norms: Stage, 1 to 4 -> weight and bias, each (channels,); all that the weights have.
    """

    mode: FeatureNorm = FeatureNorm.NONE
    norms: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def read_norms(loaded: LoadedWeights, asked: FeatureNorm | None, features: Collection[str] = STAGE_MAPS) -> StageNorms:
    """The norms that weights have for maps.

    Args:
        loaded: Weights by the authors' names.
        asked: What they do; None for what their names tell.
        features: Names of what is taken; a final norm alone is of no other map than that of stage 4.

    Raises:
        CheckpointError: Their names leave it open, or tell something else than was asked for; a part of one is missing.
    """
    by_names, names = named_norms(loaded)
    final = loaded.family.final_norm
    if by_names is not None:
        accepted = [FeatureNorm.OUTPUTS, FeatureNorm.CHAIN, *([FeatureNorm.LAST] if list(names) == [4] else [])]
    else:
        accepted = [FeatureNorm.NONE, *([FeatureNorm.LAST] if names else [])]
        told = not names or loaded.family.head in loaded.state_dict or STAGE_MAPS[-1] not in features
        by_names = FeatureNorm.NONE if told else None
    if asked is None and by_names is None:
        raise CheckpointError(
            f"{loaded.source}: there is {final}.weight and no {loaded.family.head}, and nothing tells whether the map "
            "of stage 4 was taken raw or normalised; say which: --feature-norm none, or --feature-norm last"
        )
    if asked is not None and asked not in accepted:
        words = f"norms of maps are {listed(list(names.values()))}" if names else "there are no norms of maps"
        raise CheckpointError(
            f"{loaded.source}: feature norm {asked.value} was asked for, and in the weights {words}; these allow "
            f"--feature-norm {' or '.join(mode.value for mode in accepted)}; or leave it out"
        )
    mode = asked or by_names or FeatureNorm.NONE
    return StageNorms(mode, {} if mode is FeatureNorm.NONE else {s: _pair(loaded, n) for s, n in names.items()})


def named_norms(loaded: LoadedWeights) -> tuple[FeatureNorm | None, dict[int, str]]:
    """What the names of the norms of maps tell of them, and stage -> name.

    A final norm alone tells nothing: classifiers have it too.

    Raises:
        CheckpointError: There are norms of two namings.
    """
    final = loaded.family.final_norm
    found: list[tuple[FeatureNorm, dict[int, str]]] = []
    for naming, mode in loaded.family.stage_norms.items():
        names = {stage: name for stage, name in enumerate(naming, 1) if _is_there(name, loaded)}
        if set(names.values()) - {final}:
            found.append((mode, names))
    if len(found) > 1:
        both = " and ".join(listed(list(names.values())) for _, names in found)
        raise CheckpointError(
            f"{loaded.source}: norms of maps by two namings, {both}; save the weights of one backbone alone"
        )
    if found:
        return found[0]
    return None, {4: final} if _is_there(final, loaded) else {}


def _is_there(name: str, loaded: LoadedWeights) -> bool:
    return f"{name}.weight" in loaded.state_dict or f"{name}.bias" in loaded.state_dict


def _pair(loaded: LoadedWeights, name: str) -> tuple[Tensor, Tensor]:
    missing = [full for full in (f"{name}.weight", f"{name}.bias") if full not in loaded.state_dict]
    if missing:
        raise CheckpointError(
            f"{loaded.source}: there is no {missing[0]}; a norm of maps needs its weight and its bias"
        )
    weight, bias = (loaded.state_dict[f"{name}.{part}"].float() for part in ("weight", "bias"))
    return weight, bias


def as_backbone(
    loaded: LoadedWeights, config: NetworkConfig, features: Collection[str], asked: FeatureNorm | None
) -> tuple[LoadedWeights, NetworkConfig, StageNorms]:
    """The weights that a network needs of what a file has, without its other parts; its config; its norms.

    Args:
        loaded: Weights by the authors' names.
        config: Of the network.
        features: Names of what is taken of it: maps, the embedding, logits.
        asked: What the norms of maps do; None for what their names tell.

    Raises:
        CheckpointError: As :func:`read_norms`; what is taken is not in the weights.
    """
    family = loaded.family
    if not family.stage_channels(config):
        raise CheckpointError(f"{loaded.source}: a {family.title} has no feature maps; leave --features out")
    if LOGITS in features and family.head not in loaded.state_dict:
        raise CheckpointError(f"{loaded.source}: no classifier head ({family.head}), so no {LOGITS}; leave them out")
    norms = read_norms(loaded, asked, features)
    _, names = named_norms(loaded)
    _check_taken(loaded, features, norms.mode)
    kept, heads, necks = {}, [], []
    for name, value in loaded.state_dict.items():
        beginning, (module, _, part) = name.partition(".")[0], name.rpartition(".")
        if beginning == family.head.partition(".")[0] and LOGITS not in features:
            heads.append(name)
        elif beginning in family.beginnings or is_counter(name):
            kept[name] = value
        elif module in names.values() and part in ("weight", "bias"):
            continue  # they are in the norms
        elif beginning.startswith("norm") or LOGITS in features:
            kept[name] = (
                value  # an unknown norm is not a neck, and a classifier has no neck: it is refused as unexpected
            )
        else:
            necks.append(name)
    told = [f"feature norm: {norms.mode.value}, {_reason(loaded, names, norms.mode, asked)}"]
    assumed = dict(loaded.assumed)
    if heads:
        told.append(f"left out: the classifier head, {counted(len(heads), 'tensor')}: {listed(heads)}")
    if necks:
        words = f"{counted(len(necks), 'tensor')}, not of the backbone: {listed(necks)}"
        told.append(f"left out: {words}")
        assumed["left out"] = "; ".join(filter(None, (assumed.get("left out"), words)))
    config = replace(config, num_classes=config.num_classes if LOGITS in features else 0)
    return replace(loaded, state_dict=kept, told=(*loaded.told, *told), assumed=assumed), config, norms


def _check_taken(loaded: LoadedWeights, features: Collection[str], mode: FeatureNorm) -> None:
    """Refuse what the weights have no layers for."""
    final = f"{loaded.family.final_norm}.weight"
    if LOGITS in features and mode is FeatureNorm.CHAIN:
        raise CheckpointError(
            f"{loaded.source}: its stages take maps with their norms ({mode.value}), and those of a classifier do not; "
            f"leave {LOGITS} out"
        )
    if EMBEDDING in features and final not in loaded.state_dict:
        raise CheckpointError(
            f"{loaded.source}: no {final}, by which the {EMBEDDING} is normalised; take maps instead: --features stage4"
        )


def _reason(loaded: LoadedWeights, names: Mapping[int, str], mode: FeatureNorm, asked: FeatureNorm | None) -> str:
    if asked is not None:
        return "as asked for"
    if mode is not FeatureNorm.NONE:
        return f"by the names {listed(list(names.values()))}"
    if not names:
        return "as the weights have no norms of maps"
    return (
        "as maps of classifiers are"
        if loaded.family.head in loaded.state_dict
        else "as the map of stage 4 is not taken"
    )


def check_norms(loaded: LoadedWeights, norms: StageNorms, model: Network) -> None:
    """Refuse norms that do not fit the maps of a network, or that a whole module has as other layers than ours.

    Args:
        loaded: All weights, and the module.
        norms: Of its maps.
        model: The network, whose last norm ours are like.

    Raises:
        CheckpointError: Names the first difference.
    """
    if not norms.norms:
        return
    _, names = named_norms(loaded)
    channels = loaded.family.stage_channels(model.config)
    like: Any = model.get_submodule(loaded.family.final_norm)
    for stage, (weight, bias) in norms.norms.items():
        name, needed = names[stage], (channels[stage - 1],)
        if {weight.shape, bias.shape} != {needed}:
            raise CheckpointError(
                f"{loaded.source}: {name}.weight has the shape {tuple(weight.shape)}, its bias {tuple(bias.shape)}; "
                f"the map of stage {stage} has {needed[0]} channels"
            )
        kind, other = loaded.evidence.kind(name), loaded.evidence.attribute(name, "eps")
        if kind and not kind.endswith("LayerNorm"):
            raise CheckpointError(f"{loaded.source}: its {name} is a {kind}, here it is a LayerNorm")
        if isinstance(other, float) and not math.isclose(other, like.eps, rel_tol=1e-6):
            raise CheckpointError(f"{loaded.source}: its {name}.eps is {other:g}, here it is {like.eps:g}")


def no_head(loaded: LoadedWeights) -> CheckpointError:
    """The error for a backbone without a head where logits are needed."""
    family = loaded.family
    whole = family.stage_norms and all(anchor in loaded.state_dict for anchor in family.anchors)
    more = "; --features exports its feature maps" if whole else ""
    return CheckpointError(f"{loaded.source}: no classifier head: no {family.head} of a {family.title}{more}")
