"""Checkpoints: read without running their code, check against a model, and read the architecture off the shapes.

``.pth`` and ``.pt`` files may hold the weights bare or under ``model``, ``state_dict``, ``state_dict_ema`` or
``model_ema``, with or without the prefix ``module.``; ``.safetensors`` files hold them bare. A checkpoint may carry
a card (JSON under the key ``rest_deploy``) with its name, labels and preprocessing, so that nothing has to be said
twice.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.identity import sha256_of, state_of
from rest_deploy.errors import CheckpointError, one_line
from rest_deploy.models.config import STAGES, ResTConfig
from rest_deploy.models.pickles import check_pickle
from rest_deploy.specs import Preprocessing

StateDict = dict[str, Tensor]

SUFFIXES = (".pth", ".pt", ".safetensors")
CARD_KEY = "rest_deploy"
#: Where training scripts put the weights; averaged weights first where both are there, as they are what was evaluated.
WRAPPERS = ("model_ema", "state_dict_ema", "model", "state_dict")
_LISTED = 10
_MAX_BLOCKS = 1000  # of a stage; rest_large has 18
_MAX_CARD = 16 << 20  # characters; labels of a thousand classes take 22 KiB


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself beside its weights; every field may be absent."""

    name: str | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", self.name):
            raise CheckpointError(
                f"the checkpoint calls its model {self.name[:40]!r}; a name must be 1 to 100 letters, digits, '_', '-' "
                "and '.', as files are named after it"
            )

    def to_json(self) -> str:
        """JSON text; the inverse of :meth:`from_json`."""
        return json.dumps(
            {
                "name": self.name,
                "labels": self.labels,
                "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read what :meth:`to_json` gave.

        Raises:
            CheckpointError: The text is no card.
        """
        if len(text) > _MAX_CARD:
            raise CheckpointError(
                f"the checkpoint's {CARD_KEY!r} entry has {len(text):,} characters; at most {_MAX_CARD:,}"
            )
        try:
            values = json.loads(text)
            labels, preprocessing = values["labels"], values["preprocessing"]
            if labels is not None and not all(isinstance(label, str) and label.isprintable() for label in labels):
                raise ValueError("its labels are not all printable text")
            return cls(
                name=None if values["name"] is None else str(values["name"]),
                labels=None if labels is None else tuple(str(label) for label in labels),
                preprocessing=None if preprocessing is None else Preprocessing.from_dict(preprocessing),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
            raise CheckpointError(f"the checkpoint's {CARD_KEY!r} entry is no model card: {exc}") from exc


@dataclass(frozen=True)
class Checkpoint:
    """Weights on the CPU, as stored, with where they came from."""

    path: Path
    sha256: str
    state_dict: StateDict
    card: Card


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running any code that it may carry.

    Args:
        path: A ``.pth``, ``.pt`` or ``.safetensors`` file.

    Raises:
        CheckpointError: It is missing, damaged, holds code, holds no weights, or holds NaN or infinite ones.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{path}: unknown kind of checkpoint; accepted: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    seen, digest = state_of(path), sha256_of(path)
    state_dict, card = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    _check_finite(path, state_dict)
    if state_of(path) != seen:
        raise CheckpointError(f"{path}: it was replaced by another file while it was read; try again")
    return Checkpoint(path, digest, state_dict, card)


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], card: Card) -> None:
    """Write a ``.safetensors`` checkpoint that describes itself.

    Raises:
        ExportError: It cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={CARD_KEY: card.to_json()}))  # save_file makes it mode 0600


def infer_config(state_dict: Mapping[str, Tensor]) -> ResTConfig:
    """Read the architecture off the shapes of a state dict with the authors' names.

    Raises:
        CheckpointError: The keys are not those of a ResT.
    """
    try:
        stages = [f"stage{stage}.0" for stage in range(1, STAGES + 1)]
        depths = [_count_blocks(state_dict, f"stage{stage}.") for stage in range(1, STAGES + 1)]
        widths = [state_dict[f"{stage}.norm1.weight"].shape[0] for stage in stages]
        hidden = [state_dict[f"{stage}.mlp.fc1.weight"].shape[0] for stage in stages]
        mixing = [state_dict.get(f"{stage}.attn.transform_conv.weight") for stage in stages]
        reductions = [state_dict.get(f"{stage}.attn.sr.weight") for stage in stages]
        return ResTConfig(
            embed_dims=tuple(widths),
            depths=tuple(depths),
            num_heads=tuple(1 if weight is None else weight.shape[0] for weight in mixing),
            mlp_ratios=tuple(_ratio(h, w) for h, w in zip(hidden, widths, strict=True)),
            sr_ratios=tuple(1 if weight is None else weight.shape[-1] - 1 for weight in reductions),
            num_classes=state_dict["head.weight"].shape[0],
            in_channels=state_dict["stem.conv1.weight"].shape[1],
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as exc:  # ConfigError is a ValueError
        raise CheckpointError(f"the weights are not those of a ResT classifier: {exc}") from exc


def _count_blocks(state_dict: Mapping[str, Tensor], stage: str) -> int:
    numbers = {int(key.split(".")[1]) for key in state_dict if key.startswith(stage)}
    if len(numbers) > _MAX_BLOCKS:
        raise ValueError(f"{len(numbers)} blocks in {stage.rstrip('.')}; at most {_MAX_BLOCKS} are read")
    if numbers != set(range(len(numbers))):
        raise ValueError(f"the blocks of {stage.rstrip('.')} are not numbered 0 to {len(numbers) - 1}")
    return len(numbers)


def _ratio(hidden: int, width: int) -> float:
    """A ratio of which the model, which rounds down, makes ``hidden`` channels again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


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
        f"{len(keys)} {what}: {_enumerate(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit the model; {'; '.join(problems)}")


def _read_pickle(path: Path) -> tuple[StateDict, Card]:
    check_pickle(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of, it then raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise CheckpointError(
            f"{path}: refused, as it is damaged or holds objects other than tensors, which could run code on loading; "
            "save the bare weights: torch.save(model.state_dict(), PATH)"
        ) from exc
    except Exception as exc:  # on damaged files its unpickler raises whatever the damage leads to
        raise CheckpointError(f"{path}: damaged or no PyTorch checkpoint ({one_line(exc)})") from exc
    card = Card()
    if isinstance(content, Mapping) and isinstance(content.get(CARD_KEY), str):
        card = Card.from_json(content[CARD_KEY])
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; needed: a state dict, bare or in {WRAPPERS}")
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(f"{path}: holds no weights; its keys: {[str(key) for key in content][:_LISTED]}")
    if all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    return weights, card


def _read_safetensors(path: Path) -> tuple[StateDict, Card]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (the handle is no mapping)
    except (SafetensorError, OSError, ValueError) as exc:
        raise CheckpointError(f"{path}: damaged or no safetensors file ({one_line(exc)})") from exc
    card = Card.from_json(metadata[CARD_KEY]) if CARD_KEY in metadata else Card()
    return weights, card


def _check_finite(path: Path, state_dict: StateDict) -> None:
    odd = [key for key, value in state_dict.items() if not _is_plain(key, value)]
    if odd:
        raise CheckpointError(
            f"{path}: {len(odd)} tensors are sparse, complex, quantized, or have more values than are stored, or "
            f"none: {_enumerate(odd)}; "
            "save them dense, in float16, bfloat16, float32 or float64"
        )
    bad = [
        key for key, value in state_dict.items() if not bool(value.float().isfinite().all())
    ]  # as the model holds it
    if bad:
        raise CheckpointError(
            f"{path}: NaN or infinite weights in {len(bad)} tensors: {_enumerate(bad)}; such a model is broken"
        )


def _is_plain(key: str, value: Tensor) -> bool:
    known = value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    counter = key.endswith("num_batches_tracked") and not value.is_complex()
    stored = value.layout == torch.strided and not value.is_meta and _is_whole(value)
    return (stored and (known or counter)) or (counter and value.ndim == 0)


def _is_whole(value: Tensor) -> bool:
    """Whether a tensor has values, and each is in the file: strides can make terabytes of a few bytes."""
    return 0 < value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _enumerate(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
