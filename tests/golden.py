"""The authors' numbers, and the weights and inputs they were made with (tests/data/README.md says how)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.family import family_of, get_config
from rest_deploy.models.network import Network

DATA = Path(__file__).parent / "data"


@cache
def golden_values() -> Mapping[str, np.ndarray[Any, Any]]:
    """Every array of the files of both families."""
    values: dict[str, np.ndarray[Any, Any]] = {}
    for name in ("golden.npz", "golden_v2.npz"):
        with np.load(DATA / name) as file:
            values |= dict(file)
    return values


def golden_cases() -> list[str]:
    """``MODEL/BxCxHxW`` of every case."""
    return [key for key in golden_values() if "/stage" not in key]


def golden_state_dict(shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float64 weights for the keys and shapes of a state dict."""
    return {key: torch.as_tensor(_golden_weight(key, tuple(value.shape))) for key, value in shapes.items()}


def _golden_weight(key: str, shape: tuple[int, ...]) -> Any:
    normal = np.asarray(np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape))
    if key.endswith("num_batches_tracked"):
        return np.asarray(0)
    if key.endswith("running_var"):
        return np.exp(0.2 * normal)
    if key.endswith(("running_mean", "bias")):
        return 0.1 * normal
    if len(shape) == 1:
        return 1 + 0.1 * normal
    return normal / np.sqrt(np.prod(shape[1:]))


def golden_model(name: str) -> Network:
    """A model with the golden weights, in float64 and eval mode."""
    config = get_config(name)
    model = family_of(config).network()(config).double().eval().requires_grad_(False)
    model.load_state_dict(golden_state_dict(model.state_dict()))
    return model


def golden_checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint of it in float32, in a folder: what benchmarks export, as a random network has no biases."""
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, golden_model(name).float(), Card(name))
    return path


def golden_input(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The input of a case."""
    text = "x".join(map(str, shape))
    return np.random.RandomState(zlib.crc32(text.encode())).standard_normal(shape)
