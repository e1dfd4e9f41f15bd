"""What is taken of a network beside its logits: the maps that leave its stages, with their norms, and the embedding.

The network as its authors wrote it (:class:`Tapped`) is what artifacts are measured against; its deploy form is that of
the family, cut behind the last stage that is needed, with pieces that hang on others. Both have the same pieces by the
same names: ``norm2`` is the LayerNorm on the map of stage 2, ``map2`` gives that map, ``norm`` and ``embedding`` are
the final norm and the mean, ``head`` gives the logits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from rest_deploy.errors import ConfigError
from rest_deploy.models.backbone import StageNorms
from rest_deploy.models.family import family_of
from rest_deploy.models.network import ChannelNorm, ChannelsFirst, DeployForm, Network, Pool
from rest_deploy.models.stages import FourStages
from rest_deploy.specs import EMBEDDING, LOGITS, STAGE_MAPS, FeatureNorm, Taps

_LAST = len(STAGE_MAPS)


class Tapped(Network):
    """float32 (B, in_channels, H, W) -> outputs by name: (B, C, H, W) maps, (B, C) embedding, (B, classes) logits.

    Args:
        network: As its authors wrote it.
        taps: What is taken of it.
        norms: Of its maps, as its weights have them; the mode is that of ``taps``.

    Raises:
        ConfigError: It has no such outputs.
    """

    def __init__(self, network: Network, taps: Taps, norms: StageNorms) -> None:
        super().__init__()
        self.config, self.taps = network.config, taps
        check_taps(network.config, taps)
        if not isinstance(network, FourStages):
            raise TypeError(f"{type(network).__name__} gives no maps; make it a FourStages, or say no stage_channels")
        self.network = network
        self.leaves = nn.ModuleDict()
        final = network.norm
        dtype = next(network.parameters()).dtype
        chained = taps.norm is FeatureNorm.CHAIN
        used = range(1, taps.last_stage + 1) if chained else taps.stages
        for stage in used:
            if taps.normed(stage) and stage in norms.norms:
                self.leaves[f"norm{stage}"] = ChannelNorm(_layer_norm(final.eps, dtype, *norms.norms[stage]))
        for stage in taps.stages:
            self.leaves[f"map{stage}"] = nn.Identity()
        if {EMBEDDING, LOGITS} & set(taps.names):
            if not self.normed(_LAST) or not _alike(self._norm(_LAST), final):
                self.leaves["norm"] = ChannelNorm(copy.deepcopy(final))
            self.leaves["embedding"] = Pool((2, 3))
        self.eval().requires_grad_(False)

    def _norm(self, stage: int) -> nn.LayerNorm:
        norm: nn.LayerNorm = self.leaves[f"norm{stage}"].norm  # type: ignore[assignment]
        return norm

    def normed(self, stage: int) -> bool:
        """Whether a norm is on the map of a stage."""
        return f"norm{stage}" in self.leaves

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        norms = {stage: self.leaves[f"norm{stage}"] for stage in range(1, _LAST + 1) if self.normed(stage)}
        chained = self.taps.norm is FeatureNorm.CHAIN
        maps = self.network.forward_features(x, norms if chained else None, self.taps.last_stage)
        found, last = {}, maps[-1]
        for stage in self.taps.stages:
            made = maps[stage - 1]
            if stage in norms and not chained:
                made = norms[stage](made)
            last = made if stage == _LAST and "norm" not in self.leaves else last
            found[STAGE_MAPS[stage - 1]] = self.leaves[f"map{stage}"](made)
        if "embedding" in self.leaves:
            found[EMBEDDING] = self.leaves["embedding"](self.leaves["norm"](last) if "norm" in self.leaves else last)
        if LOGITS in self.taps.names:
            found[LOGITS] = self.network.head(found[EMBEDDING])
        return {name: found[name] for name in self.taps.names}

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self(x)
        return found

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        modules = {**dict(self.network.blocks()), **self.leaves, "head": self.network.head}
        yield from ((name, modules[name]) for name, _ in self._order([name for name, _ in self.network.blocks()]))

    def _order(self, trunk: list[str]) -> Iterator[tuple[str, str]]:
        """Blocks of the network that are needed and those that hang on them, in order, each with what it takes.

        Args:
            trunk: Blocks of the network, by the authors' names.
        """
        ends = {stage: max(i for i, name in enumerate(trunk) if name.startswith(f"stage{stage}."))
                for stage in range(1, self.taps.last_stage + 1)}  # fmt: skip
        before, start = "", 0
        for stage, end in ends.items():
            for name in trunk[start : end + 1]:
                yield name, before
                before = name
            start, source = end + 1, before
            if self.normed(stage):
                source = f"norm{stage}"
                yield source, before
            if stage in self.taps.stages:
                yield f"map{stage}", source
            if self.taps.norm is FeatureNorm.CHAIN:
                before = source
        if "embedding" in self.leaves:
            if "norm" in self.leaves:
                yield "norm", before
                source = "norm"
            yield "embedding", source
        if LOGITS in self.taps.names:
            yield "head", "embedding"

    @torch.no_grad()
    def to_deploy(self) -> DeployForm:
        family = family_of(self.config)
        deploy = family.to_deploy(self.network)
        givers = {LOGITS: "head", EMBEDDING: "embedding"}
        deploy.gives = {name: givers.get(name) or f"map{STAGE_MAPS.index(name) + 1}" for name in self.taps.names}
        pieces = {family.block_name(name): (name, piece) for name, piece in deploy.named_children()}
        order = dict(self._order(list(pieces)))
        for name, _ in pieces.values():
            delattr(deploy, name)
        for name, source in order.items():
            own, piece = (name, self._leaf(name)) if name in self.leaves or name == "head" else pieces[name]
            deploy.add_module(own, piece)
            if source:
                deploy.takes[own] = pieces[source][0] if source in pieces and source not in self.leaves else source
        return deploy.eval().requires_grad_(False)

    def _leaf(self, name: str) -> nn.Module:
        """A piece that the family's deploy form does not have."""
        last = family_of(self.config).channels_last
        if name.startswith("map"):
            return ChannelsFirst() if last else nn.Identity()
        if name == "embedding":
            return Pool() if last else Pool((2, 3))
        module = copy.deepcopy(self.network.head if name == "head" else self.leaves[name])
        return module.norm if last and isinstance(module, ChannelNorm) else module


def check_taps(config: object, taps: Taps) -> None:
    """Refuse what cannot be taken of a network.

    Raises:
        ConfigError: Its family gives no maps, or it has no head.
    """
    family = family_of(config)
    if taps != Taps() and not family.stage_channels(config):
        raise ConfigError(f"features {','.join(taps.names)}: a {family.title} gives its logits alone; leave them out")
    if LOGITS in taps.names and taps.norm is FeatureNorm.CHAIN:
        raise ConfigError(
            f"{LOGITS} with feature norm {taps.norm.value}: its stages take maps with their norms, and a classifier "
            f"takes them without; leave {LOGITS} out"
        )
    if LOGITS in taps.names and not getattr(config, "num_classes", 0):
        raise ConfigError(
            f"{LOGITS}: the network has no head: it is a backbone; give --features, alone for all its maps, or with "
            f"names of {', '.join(STAGE_MAPS)} and {EMBEDDING}"
        )


def fresh_norms(mode: FeatureNorm, channels: Sequence[int]) -> StageNorms:
    """Norms of a network with random weights, as they begin: where a mode has them, ones and zeros."""
    stages = {FeatureNorm.NONE: (), FeatureNorm.LAST: (_LAST,)}.get(mode, range(1, _LAST + 1))
    return StageNorms(mode, {own: (torch.ones(channels[own - 1]), torch.zeros(channels[own - 1])) for own in stages})


def _layer_norm(eps: float, dtype: torch.dtype, weight: Tensor, bias: Tensor) -> nn.LayerNorm:
    made = nn.LayerNorm(len(weight), eps=eps, dtype=dtype)
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def _alike(one: nn.LayerNorm, other: nn.LayerNorm) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
