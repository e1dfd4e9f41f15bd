"""Norms of the maps of a backbone, as its weights have them.

Detectors and segmenters that take maps of a backbone put LayerNorms over their channels, and not all do the same with
them (:class:`~rest_deploy.specs.FeatureNorm`). Their names tell whose code it was; its family knows what that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rest_deploy.errors import CheckpointError, listed
from rest_deploy.specs import FeatureNorm

if TYPE_CHECKING:
    from torch import Tensor

    from rest_deploy.models.checkpoint import LoadedWeights
    from rest_deploy.models.family import Family


@dataclass(frozen=True)
class StageNorms:
    """LayerNorms over the channels of the maps that leave stages.

    Args:
        mode: Where they are.
        norms: Stage, 1 to 4 -> weight and bias, each (channels,); all that the weights have.
    """

    mode: FeatureNorm = FeatureNorm.NONE
    norms: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def read_norms(loaded: LoadedWeights, asked: FeatureNorm | None) -> StageNorms:
    """The norms that weights have for maps.

    Args:
        loaded: Weights by the authors' names.
        asked: What they do; None for what their names tell.

    Raises:
        CheckpointError: Their names leave it open, or tell something else than was asked for; a part of one is missing.
    """
    by_names, names = named_norms(loaded.family, loaded.state_dict, loaded.source)
    final = loaded.family.final_norm
    if by_names is not None:
        accepted = [FeatureNorm.OUTPUTS, FeatureNorm.CHAIN, *([FeatureNorm.LAST] if list(names) == [4] else [])]
    else:
        accepted = [FeatureNorm.NONE, *([FeatureNorm.LAST] if names else [])]
        by_names = FeatureNorm.NONE if not names or loaded.family.head in loaded.state_dict else None
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


def named_norms(
    family: Family[Any], weights: Mapping[str, Any], source: str
) -> tuple[FeatureNorm | None, dict[int, str]]:
    """What the names of the norms of maps tell of them, and stage -> name.

    A final norm alone tells nothing: classifiers have it too.

    Raises:
        CheckpointError: There are norms of two namings.
    """
    found: list[tuple[FeatureNorm, dict[int, str]]] = []
    for naming, mode in family.stage_norms.items():
        names = {stage: name for stage, name in enumerate(naming, 1) if _is_there(name, weights)}
        if set(names.values()) - {family.final_norm}:
            found.append((mode, names))
    if len(found) > 1:
        both = " and ".join(listed(list(names.values())) for _, names in found)
        raise CheckpointError(f"{source}: norms of maps by two namings, {both}; save the weights of one backbone alone")
    if found:
        return found[0]
    return None, {4: family.final_norm} if _is_there(family.final_norm, weights) else {}


def _is_there(name: str, weights: Mapping[str, Any]) -> bool:
    return f"{name}.weight" in weights or f"{name}.bias" in weights


def _pair(loaded: LoadedWeights, name: str) -> tuple[Tensor, Tensor]:
    missing = [full for full in (f"{name}.weight", f"{name}.bias") if full not in loaded.state_dict]
    if missing:
        raise CheckpointError(
            f"{loaded.source}: there is no {missing[0]}; a norm of maps needs its weight and its bias"
        )
    weight, bias = (loaded.state_dict[f"{name}.{part}"].float() for part in ("weight", "bias"))
    return weight, bias
