"""Models by name, config or module, with weights from a checkpoint or from a seed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rest_deploy.errors import CheckpointError, ConfigError, counted, listed, one_line
from rest_deploy.models.backbone import StageNorms, as_backbone, check_norms, named_norms, no_head
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import Checkpoint, LoadedWeights, load_checkpoint, read_module
from rest_deploy.models.family import (
    NetworkConfig,
    family_of,
    get_config,
    list_models,
    spaced,
    variant_of,
)
from rest_deploy.models.inside import unwrapped
from rest_deploy.models.names import is_counter
from rest_deploy.models.network import Network
from rest_deploy.models.taps import Tapped, check_taps, fresh_norms
from rest_deploy.specs import LOGITS, NUM_HEADS, SEED, STAGE_MAPS, FeatureNorm, Taps
from rest_deploy.values import check

_APART = 1e-3  # of the scale of logits


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, and where its weights come from: a checkpoint, a module, or a seed.

    Args:
        model: The network, without gradients.
        name: Its card's, a published variant's, or such as ``"rest_custom"``.
        card: What the checkpoint says, with the class names that were found in it.
        checkpoint: Of a file; None for other weights.
        seed: Of random weights; None for others.
        sha256: Of the file, or of the module's tensors; None for random weights.
        norms: Of the maps that leave its stages, where some are taken.
        told: What was taken, taken off, left out and filled in, in sentences.
        assumed: Subject -> value that neither the user nor the weights give, in words.
    """

    model: Network
    name: str
    card: Card
    checkpoint: Checkpoint | None
    seed: int | None
    sha256: str | None = None
    norms: StageNorms = field(default_factory=StageNorms)
    told: tuple[str, ...] = ()
    assumed: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """``"file"``, ``"module"`` or ``"seed"``."""
        return "file" if self.checkpoint is not None else "seed" if self.sha256 is None else "module"


def create_model(
    model: str | NetworkConfig | nn.Module,
    checkpoint: str | Path | None = None,
    *,
    num_classes: int | None = None,
    seed: int | None = None,
    weights_key: str | None = None,
    key_prefix: str | None = None,
    num_heads: Sequence[int] | None = None,
) -> Network:
    """Make a network in eval mode, ready to be trained further: its parameters require gradients.

    Args:
        model: A name of :func:`list_models`, a config of your own, or a module with the authors' parameter names, whose
            weights are copied.
        checkpoint: What ``torch.save`` or safetensors wrote, of a training too, with the authors' parameter names. The
            number of classes is read off its head. Without one the weights are random, drawn from ``seed``.
        num_classes: Outputs, where they are not the config's; a checkpoint must have as many.
        seed: Seed of random weights, None for 0; the global generator is left as it was.
        weights_key: Where the weights stand in the checkpoint, where it has several.
        key_prefix: What stands before the authors' names, where the checkpoint has several networks.
        num_heads: Heads of each stage, for a checkpoint whose weights do not tell them.

    Returns:
        Module of float32 (B, in_channels, H, W) -> (B, num_classes), any H and W from 1 up.

    Raises:
        ConfigError: Unknown name, a config or seed out of range, or a seed for the weights of a checkpoint.
        CheckpointError: The checkpoint cannot be read or does not fit.
    """
    if isinstance(model, str):
        get_config(model)
    if num_classes is not None and not isinstance(model, nn.Module):
        config: NetworkConfig = get_config(model) if isinstance(model, str) else model
        changed = replace(config, num_classes=num_classes)
        model = model if isinstance(model, str) and checkpoint is not None else changed
    loaded = load_model(
        model, checkpoint, seed=seed, weights_key=weights_key, key_prefix=key_prefix, num_heads=num_heads
    )
    made = loaded.model
    if num_classes not in (None, made.config.num_classes):
        raise ConfigError(
            f"{num_classes} classes were asked for; {checkpoint or 'the module'} has {made.config.num_classes}"
        )
    return made.requires_grad_(True)


def load_model(
    model: str | NetworkConfig | nn.Module | None,
    checkpoint: str | Path | None = None,
    *,
    seed: int | None = None,
    weights_key: str | None = None,
    key_prefix: str | None = None,
    num_heads: Sequence[int] | None = None,
    features: Sequence[str] | None = (LOGITS,),
    feature_norm: FeatureNorm | None = None,
) -> LoadedModel:
    """As :func:`create_model`, without gradients, and say what was loaded.

    Args:
        model: As there; with a checkpoint it may be left out.
        checkpoint, seed, weights_key, key_prefix, num_heads: As there.
        features: What the model gives: ``logits``, ``embedding``, ``stage1`` to ``stage4``. Without logits a head is
            left out, and need not be there. None for logits, or of weights without a head all maps.
        feature_norm: Where the maps have norms; None for what the names of the weights tell, of random ones nowhere.

    Raises:
        ConfigError, CheckpointError: As there.
        CheckpointError: What is taken is not in the weights, or they do not tell what the norms of maps do.
    """
    if features is not None and set(features) == {LOGITS} and feature_norm is not None:
        raise ConfigError(f"feature norm {feature_norm.value} is of feature maps, and none are taken; leave it out")
    if num_heads is not None:
        num_heads = check(NUM_HEADS, num_heads, "num_heads")
    if isinstance(model, nn.Module):
        if checkpoint is not None or seed is not None or weights_key is not None:
            raise ConfigError("a module brings its own weights; leave checkpoint, seed and weights_key out")
        return _of_module(model, key_prefix, num_heads, features, feature_norm)
    if checkpoint is None:
        of_files = {"weights_key": weights_key, "key_prefix": key_prefix, "num_heads": num_heads}
        return _random(model, seed, of_files, features, feature_norm)
    if seed is not None:
        raise ConfigError(f"seed {seed} is of random weights; with a checkpoint leave it out")
    loaded = load_checkpoint(checkpoint, weights_key=weights_key, key_prefix=key_prefix)
    return _fitted(model, loaded, num_heads, features, feature_norm)


def _of_module(
    module: nn.Module,
    key_prefix: str | None,
    num_heads: Sequence[int] | None,
    features: Sequence[str] | None,
    feature_norm: FeatureNorm | None,
) -> LoadedModel:
    """A network for the weights of a module, which must be a classifier that computes the same."""
    weights = read_module(module, key_prefix=key_prefix)
    if weights.family.head not in weights.state_dict:
        raise CheckpointError(
            f"the module: no classifier head ({weights.family.head}), so what its forward gives cannot be compared "
            'with logits; save its weights, torch.save(module.state_dict(), "weights.pth"), and give the file'
        )
    fitted = _fitted(None, weights, num_heads)
    inner, outer = weights.evidence.module, unwrapped(module)
    computes = type(outer).forward is not nn.Module.forward  # not so a container, such as a ModuleDict
    own = inner if isinstance(inner, nn.Module) and (key_prefix is not None or not computes) else outer
    _check_outputs(own, fitted.model)
    if features is None or set(features) == {LOGITS}:
        return fitted
    return _fitted(None, weights, num_heads, features, feature_norm)


def _check_outputs(module: nn.Module, made: Network) -> None:
    """Refuse a module that computes something else than the network that its weights gave.

    Names of weights do not tell what a forward does with them. Both run in float32 on the CPU, where another order of
    the same operations moves logits by a hundred thousandth of their scale at most; another normalisation, activation
    or a sigmoid behind them moves them by far more than the thousandth that is allowed.
    """
    advice = (
        "give the inner module whose output is the logits (or key_prefix, what stands before its names), or save its "
        f"state dict with its {type(made.config).__name__}: save_checkpoint(path, state_dict, Card(config=...)), and "
        "give the file"
    )
    generator = torch.Generator().manual_seed(0)
    for height, width in ((64, 64), (96, 64)):  # the authors' own code needs multiples of 32
        x = torch.randn(
            2, made.config.in_channels, height, width, generator=generator, dtype=torch.float32, device="cpu"
        )
        ours = made(x)
        try:
            theirs = _output_of(module, x)
        except Exception as exc:  # a forward of any kind
            raise CheckpointError(
                f"the module cannot be run on a float32 batch {tuple(x.shape)} on the CPU, so what it computes is not "
                f"known ({type(exc).__name__}: {one_line(exc)}); {advice}"
            ) from exc
        if not isinstance(theirs, torch.Tensor) or theirs.shape != ours.shape:
            got = f"a tensor {tuple(theirs.shape)}" if isinstance(theirs, torch.Tensor) else type(theirs).__name__
            raise CheckpointError(f"the module gives {got}, needed: logits {tuple(ours.shape)}; {advice}")
        apart, scale = float((theirs.float() - ours).abs().max()), float(ours.abs().max())
        if not apart <= _APART * scale:
            title = family_of(made.config).title
            raise CheckpointError(
                f"the module's output differs from that of the {title} with its weights by {apart:.3g}, where logits "
                f"go to {scale:.3g}: its forward does something else than the authors'; {advice}"
            )


def _output_of(module: nn.Module, x: torch.Tensor) -> object:
    """What a copy of a module gives; the module, the generators and the compiler are left as they were."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return copy.deepcopy(module).to("cpu", torch.float32).eval()(x.clone())


def _random(
    model: str | NetworkConfig | None,
    seed: int | None,
    of_files: Mapping[str, object],
    features: Sequence[str] | None,
    feature_norm: FeatureNorm | None,
) -> LoadedModel:
    if model is None:
        raise ConfigError(f"neither a model nor a checkpoint was given; known models: {', '.join(list_models())}")
    given = [name for name, value in of_files.items() if value is not None]
    if given:
        raise ConfigError(f"{listed(given)} is for the weights of a checkpoint, and none was given")
    config: NetworkConfig = get_config(model) if isinstance(model, str) else model
    seed = 0 if seed is None else check(SEED, seed, "seed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = family_of(config).network()(config).eval().requires_grad_(False)
    if features is None:
        features = (LOGITS,) if config.num_classes else STAGE_MAPS
    taps, family = Taps(tuple(features), feature_norm or FeatureNorm.NONE), family_of(config)
    if taps == Taps():
        return LoadedModel(made, _name_of(config), Card(), None, seed)
    check_taps(config, taps)
    source = f"the random weights of {_name_of(config)}"
    loaded = LoadedWeights(source=source, sha256="", family=family, state_dict=made.state_dict())
    loaded, config, _ = as_backbone(loaded, config, features, FeatureNorm.NONE)
    made, _ = _with_weights(config, loaded)
    norms = fresh_norms(taps.norm, family.stage_channels(config))
    return LoadedModel(Tapped(made, taps, norms), _name_of(config), Card(), None, seed, norms=norms)


def _fitted(
    model: str | NetworkConfig | None,
    loaded: LoadedWeights,
    num_heads: Sequence[int] | None,
    features: Sequence[str] | None = (LOGITS,),
    feature_norm: FeatureNorm | None = None,
) -> LoadedModel:
    """A network for the weights, of the config that was named or of the one that they are of."""
    card, architecture, norms, whole = loaded.card, "", StageNorms(), loaded
    features = _taken(loaded) if features is None else features
    if model is None:
        config, architecture = read_config(loaded, num_heads)
    else:
        config = _named_config(model, loaded, num_heads)
    if set(features) == {LOGITS} and loaded.family.head not in loaded.state_dict:
        raise no_head(loaded)
    if set(features) != {LOGITS}:
        loaded, config, norms = as_backbone(loaded, config, features, feature_norm)
    whole.evidence.check(config, loaded.source)
    try:
        made, told = _with_weights(config, loaded)
    except CheckpointError as exc:
        raise CheckpointError(f"{exc}{_advice(loaded) if model is not None else ''}") from exc
    check_norms(whole, norms, made)
    taps = Taps(tuple(features), norms.mode)
    if config.num_classes and card.labels is None:
        labels, more = loaded.evidence.class_names(config.num_classes)
        card, told = replace(card, labels=labels), (*told, *more)
    beside = named_norms(whole)[1].values()
    assumed = "; ".join(filter(None, (architecture, loaded.evidence.unknown(config, beside))))
    return LoadedModel(
        model=made if taps == Taps() else Tapped(made, taps, norms),
        name=card.name or _name_of(config),
        card=card if config.num_classes else replace(card, labels=None),
        checkpoint=loaded if isinstance(loaded, Checkpoint) else None,
        seed=None,
        sha256=loaded.sha256,
        norms=norms,
        told=(*loaded.told, *told),
        assumed={**loaded.assumed, **({"architecture": assumed} if assumed else {})},
    )


def _taken(loaded: LoadedWeights) -> tuple[str, ...]:
    """The default outputs: the logits of a classifier, the maps of a backbone."""
    by_names, _ = named_norms(loaded)
    return (LOGITS,) if loaded.family.head in loaded.state_dict and by_names is None else STAGE_MAPS


def read_config(loaded: LoadedWeights, num_heads: Sequence[int] | None) -> tuple[NetworkConfig, str]:
    """The config that a checkpoint says or its weights have, and what is assumed of it, in words.

    Raises:
        ConfigError: The heads that were given are not those that it says.
        CheckpointError: The weights are not of the family that their names are of, or leave something open.
    """
    family, config = loaded.family, loaded.card.config
    if config is None and isinstance(loaded.evidence.module, Network):
        config = getattr(loaded.evidence.module, "config", None)
    if config is not None:
        _check_family(config, loaded, "it says of itself to be")
        said = getattr(config, "num_heads", None)
        if num_heads is not None and tuple(num_heads) != said:
            raise ConfigError(f"num_heads {spaced(num_heads)}: {loaded.source} says {spaced(said or ()) or 'none'}")
        return config, ""
    heads = family.heads(loaded.evidence)
    if None not in (heads, num_heads) and tuple(num_heads or ()) != heads:
        raise ConfigError(f"num_heads {spaced(num_heads or ())}: {loaded.source} has {spaced(heads or ())}")
    wrong = f"{loaded.source}: the weights are not those of a {family.title}"
    try:
        found: tuple[NetworkConfig, str] = family.read(loaded, heads or num_heads)
        return found
    except KeyError as exc:
        raise CheckpointError(
            f"{wrong}: there is no {exc}, there are {listed(sorted(loaded.state_dict))}; needed: a state dict with the "
            "authors' names"
        ) from exc
    except (ValueError, IndexError, ZeroDivisionError) as exc:  # ConfigError is a ValueError
        raise CheckpointError(f"{wrong}: {exc}") from exc


def _named_config(model: str | NetworkConfig, loaded: LoadedWeights, num_heads: Sequence[int] | None) -> NetworkConfig:
    """The config that was asked for, with the checkpoint's number of classes."""
    name = model if isinstance(model, str) else None
    config: NetworkConfig = get_config(model) if isinstance(model, str) else model
    _check_family(config, loaded, f"{name or 'the config that was given'} is")
    config = replace(config, num_classes=_classes(loaded, config.num_classes))
    family = family_of(config)
    config = family.fit(config, name, loaded, num_heads)
    _check_card(config, loaded)
    return config


def _check_family(config: NetworkConfig, loaded: LoadedWeights, said: str) -> None:
    other = family_of(config)
    if other is not loaded.family:
        raise CheckpointError(
            f"{loaded.source}: its weights are those of a {loaded.family.title}, and {said} a {other.title}; leave "
            "--model out"
        )


def _check_card(config: NetworkConfig, loaded: LoadedWeights) -> None:
    """A card that says another network than was named, where the weights would fit both."""
    said: Any = loaded.card.config
    if said is None:
        return
    _check_family(said, loaded, "it says of itself to be")
    names = [f.name for f in fields(said) if f.name not in ("num_classes", "mlp_ratios")]
    other = [name for name in names if getattr(said, name) != getattr(config, name)]
    if other:
        values = "; ".join(f"{n}: {getattr(said, n)}, named was {getattr(config, n)}" for n in other)
        raise CheckpointError(f"{loaded.source}: it says of itself to be of another network: {values}; leave model out")


def _advice(loaded: LoadedWeights) -> str:
    """What to do where a checkpoint is not of the model that was named, and is of another."""
    try:
        found, _ = read_config(loaded, None)
        _with_weights(found, loaded)
    except CheckpointError:  # no model would take it
        return ""
    name = variant_of(found)
    if name is not None and found.in_channels == get_config(name).in_channels:
        return f"; by its shapes it is {name}: ask for that, or leave --model out"
    title = loaded.family.title
    return f"; by its shapes it is another {title}: leave --model out, and the architecture is read off the checkpoint"


def _with_weights(config: NetworkConfig, loaded: LoadedWeights) -> tuple[Network, tuple[str, ...]]:
    with torch.device("meta"):
        model = loaded.family.network()(config)
        final = loaded.family.final_norm
        if not config.num_classes and not any(name.startswith(f"{final}.") for name in loaded.state_dict):
            norm: Any = model.get_submodule(final)  # of no use: only an embedding and logits go through it
            setattr(model, final, nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False))
    expected = model.state_dict()
    skipped = [name for name in loaded.state_dict if name not in expected and is_counter(name)]
    weights = {name: value for name, value in loaded.state_dict.items() if name not in skipped}
    filled, words = loaded.family.filled(config, [name for name in expected if name not in weights])
    weights |= {name: torch.zeros(expected[name].shape) for name in filled}
    check_keys(weights, expected, loaded.source)
    weights = {key: value.to(expected[key].dtype) for key, value in weights.items()}
    for key in expected.keys() - weights.keys():  # counters of BatchNorm's updates, absent from some files
        weights[key] = torch.zeros((), dtype=torch.int64)
    model.load_state_dict(weights, assign=True)
    told = []
    if skipped:
        told.append(f"left out: {counted(len(skipped), 'counter')} that no network has: {listed(skipped[:3])}")
    if filled:
        told.append(f"filled in: {words}")
    return model.eval().requires_grad_(False), tuple(told)


def check_keys(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str | Path) -> None:
    """Compare a checkpoint's keys and shapes with a model's.

    Raises:
        CheckpointError: Lists missing, unexpected and mis-shaped keys, at most ten of each.
    """
    missing = [key for key in expected if key not in state_dict and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state_dict if key not in expected]
    shapes = [
        f"{key} has {tuple(state_dict[key].shape)}, the model {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {what}: {listed(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit the model; {'; '.join(problems)}")


def _classes(loaded: LoadedWeights, default: int) -> int:
    name = loaded.family.head
    head = loaded.state_dict.get(name)
    if head is None:
        return default
    if head.ndim != 2 or not head.shape[0]:
        raise CheckpointError(f"{name} has the shape {tuple(head.shape)}; needed: (classes, channels)")
    return head.shape[0]


def _name_of(config: NetworkConfig) -> str:
    return variant_of(config) or f"{family_of(config).name}_custom"
