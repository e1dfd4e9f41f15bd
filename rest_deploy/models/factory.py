"""Models by name or config, with weights from a checkpoint or from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from rest_deploy.errors import CheckpointError, ConfigError
from rest_deploy.models.architecture import check_keys, infer_config
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import Checkpoint, StateDict, load_checkpoint
from rest_deploy.models.config import CONFIGS, ResTConfig, get_config
from rest_deploy.models.rest import ResT

CUSTOM = "rest_custom"


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode and where its weights come from: a checkpoint, or a seed."""

    model: ResT
    name: str
    card: Card
    checkpoint: Checkpoint | None
    seed: int | None
    told: tuple[str, ...] = ()
    assumed: Mapping[str, str] = field(default_factory=dict)


def create_model(
    model: str | ResTConfig,
    checkpoint: str | Path | None = None,
    *,
    num_classes: int | None = None,
    seed: int | None = None,
) -> ResT:
    """Make a ResT in eval mode.

    Args:
        model: A name of :func:`list_models`, or a config of your own.
        checkpoint: ``.pth``, ``.pt`` or ``.safetensors`` with the authors' parameter names. The number of classes is
            read off its head. Without one the weights are random, drawn from ``seed``.
        num_classes: Outputs, where they are not the config's; a checkpoint must have as many.
        seed: Seed of random weights, None for 0; the global generator is left as it was.

    Returns:
        Module of float32 (B, in_channels, H, W) -> (B, num_classes), any H and W from 1 up.

    Raises:
        ConfigError: Unknown name, a config out of range, or a seed for the weights of a checkpoint.
        CheckpointError: The checkpoint cannot be read or does not fit.
    """
    if isinstance(model, str):
        get_config(model)
    if num_classes is not None:
        config = get_config(model) if isinstance(model, str) else model
        model = replace(config, num_classes=num_classes)
    made = load_model(model, checkpoint, seed=seed).model
    if num_classes not in (None, made.config.num_classes):
        raise ConfigError(f"{num_classes} classes were asked for; {checkpoint} has {made.config.num_classes}")
    return made


def load_model(
    model: str | ResTConfig | None, checkpoint: str | Path | None = None, *, seed: int | None = None, **_: object
) -> LoadedModel:
    """As :func:`create_model`, and say what was loaded. With a checkpoint, ``model`` may be left out."""
    if checkpoint is None:
        if model is None:
            raise ConfigError(f"neither a model nor a checkpoint was given; known models: {', '.join(CONFIGS)}")
        config = get_config(model) if isinstance(model, str) else model
        return LoadedModel(_random_model(config, seed or 0), _name_of(config), Card(), None, seed or 0)
    if seed is not None:
        raise ConfigError(f"seed {seed} is of random weights; with a checkpoint leave it out")
    loaded = load_checkpoint(checkpoint)
    if model is None:
        config = infer_config(loaded.state_dict, loaded.path)
    else:
        config = get_config(model) if isinstance(model, str) else model
        config = replace(config, num_classes=_classes(loaded.state_dict, config.num_classes))
    name = loaded.card.name or _name_of(config)
    try:
        made = _with_weights(config, loaded)
    except CheckpointError as exc:
        raise CheckpointError(f"{exc}{_advice(loaded) if model is not None else ''}") from exc
    return LoadedModel(made, name, loaded.card, loaded, None)


def _advice(checkpoint: Checkpoint) -> str:
    """What to do where a checkpoint is not of the model that was named, and is of another."""
    try:
        found = infer_config(checkpoint.state_dict)
        _with_weights(found, checkpoint)
    except CheckpointError:  # no model would take it
        return ""
    name = _name_of(found)
    if name in CONFIGS and found.in_channels == CONFIGS[name].in_channels:
        return f"; by its shapes it is {name}: ask for that, or leave --model out"
    return "; by its shapes it is another ResT: leave --model out, and the architecture is read off the checkpoint"


def _random_model(config: ResTConfig, seed: int) -> ResT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResT(config).eval().requires_grad_(False)


def _with_weights(config: ResTConfig, checkpoint: Checkpoint) -> ResT:
    with torch.device("meta"):
        model = ResT(config)
    expected = model.state_dict()
    check_keys(checkpoint.state_dict, expected, checkpoint.path)
    weights = {key: value.to(expected[key].dtype) for key, value in checkpoint.state_dict.items()}
    for key in expected.keys() - weights.keys():  # counters of BatchNorm's updates, absent from some files
        weights[key] = torch.zeros((), dtype=torch.int64)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _classes(state_dict: StateDict, default: int) -> int:
    head = state_dict.get("head.weight")
    if head is None:
        return default  # check_keys will name the missing head
    if head.ndim != 2:
        raise CheckpointError(f"head.weight has the shape {tuple(head.shape)}; needed: (classes, channels)")
    return head.shape[0]


def _name_of(config: ResTConfig) -> str:
    for name, known in CONFIGS.items():
        if replace(config, num_classes=known.num_classes, in_channels=known.in_channels) == known:
            return name
    return CUSTOM
