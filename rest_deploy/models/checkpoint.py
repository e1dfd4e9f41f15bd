"""Checkpoints: read without running their code, and write.

``.pth`` and ``.pt`` files may hold the weights bare or under ``model``, ``state_dict``, ``state_dict_ema`` or
``model_ema``, with or without the prefix ``module.``; ``.safetensors`` files hold them bare. Either may carry a card
(``card.py``).
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.identity import sha256_of, state_of
from rest_deploy.errors import CheckpointError, listed, no_file, one_line
from rest_deploy.models.card import CARD_KEY, Card
from rest_deploy.models.pickles import check_pickle

StateDict = dict[str, Tensor]

SUFFIXES = (".pth", ".pt", ".safetensors")
#: Where training scripts put the weights; averaged weights first where both are there, as they are what was evaluated.
WRAPPERS = ("model_ema", "state_dict_ema", "model", "state_dict")
_PICKLES = (b"PK\x03\x04", b"\x80")  # a ZIP archive, as torch.save has it; a bare pickle, as it had it
_KEYS = 10  # that are named of a file without weights


@dataclass(frozen=True)
class Checkpoint:
    """Weights on the CPU, as stored, with where they came from."""

    path: Path
    sha256: str
    state_dict: StateDict
    card: Card
    weights_key: str = ""


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
        raise CheckpointError(f"{path}: {no_file(path, 'checkpoint file')}")
    _check_kind(path)
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


def _check_kind(path: Path) -> None:
    """Refuse what the first bytes tell to be another kind of file, as the errors of its reader would mislead."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a pointer of Git LFS, not the weights; fetch them: git lfs pull")
    safe = head[5:9] == b"\0\0\0{"  # the end of the length of a header under 1 TiB, and its beginning
    named_safe = path.suffix.lower() == ".safetensors"
    if safe and not named_safe:
        raise CheckpointError(f"{path}: it begins as a safetensors file does; if it is one, let it end in .safetensors")
    if named_safe and not safe and head.startswith(_PICKLES):
        raise CheckpointError(f"{path}: it begins as a PyTorch file does; if it is one, let it end in .pth")


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
        keys = [str(key) for key in content][:_KEYS]
        raise CheckpointError(f"{path}: holds no weights, only {keys}; needed: a state dict, bare or in {WRAPPERS}")
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
    if not weights:
        raise CheckpointError(f"{path}: holds no weights")
    card = Card.from_json(metadata[CARD_KEY]) if CARD_KEY in metadata else Card()
    return weights, card


def _check_finite(path: Path, state_dict: StateDict) -> None:
    odd = [key for key, value in state_dict.items() if not _is_plain(key, value)]
    if odd:
        raise CheckpointError(
            f"{path}: {len(odd)} tensors are sparse, complex, quantized, or have more values than are stored, or "
            f"none: {listed(odd)}; save them dense, in float16, bfloat16, float32 or float64"
        )
    # float() as the model holds them in float32
    bad = [key for key, value in state_dict.items() if not bool(value.float().isfinite().all())]
    if bad:
        raise CheckpointError(
            f"{path}: NaN or infinite weights in {len(bad)} tensors: {listed(bad)}; such a model is broken"
        )


def _is_plain(key: str, value: Tensor) -> bool:
    known = value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    counter = key.endswith("num_batches_tracked") and not value.is_complex()
    stored = value.layout == torch.strided and not value.is_meta and _is_whole(value)
    return (stored and (known or counter)) or (counter and value.ndim == 0)


def _is_whole(value: Tensor) -> bool:
    """Whether a tensor has values, and each is in the file: strides can make terabytes of a few bytes."""
    return 0 < value.numel() * value.element_size() <= value.untyped_storage().nbytes()
