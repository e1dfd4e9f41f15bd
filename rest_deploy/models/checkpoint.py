"""Checkpoints: read by content, without running what they hold, and written so that they describe themselves.

Its first bytes tell what a file is (``torch_file.py``), and its pickle is read as data (``pickled.py``). The names of
its tensors tell which of them are the weights (``weights.py``); ``evidence.py`` has what else it says of the network.
Either kind of file may carry a card (``card.py``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from rest_deploy.artifact.files import replacing
from rest_deploy.errors import CheckpointError, ConfigError, counted, listed, no_file
from rest_deploy.models.card import CARD_KEY, Card
from rest_deploy.models.evidence import Evidence, settings_of
from rest_deploy.models.family import FAMILIES, Family, family_of, titles
from rest_deploy.models.inside import mapping_of, module_at
from rest_deploy.models.names import NoTensorError, authors_names, is_counter
from rest_deploy.models.network import Network
from rest_deploy.models.pickled import UnreadableError
from rest_deploy.models.stored import StoredTensor
from rest_deploy.models.torch_file import WeightFile, converting, open_weights
from rest_deploy.models.weights import Found, choose
from rest_deploy.specs import Activation, Preprocessing

StateDict = dict[str, Tensor]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """Weights on the CPU, as stored, of a file or of a module.

    Args:
        source: Where they are from, for an error.
        sha256: Of the file, or of the module's tensors.
        family: Of the network, by the names of its tensors.
        state_dict: By the authors' names.
        card: What the file says of itself.
        told: What was taken, taken off and left out, in sentences.
        assumed: Subject -> what was assumed.
        evidence: What else the file says of the network.
    """

    source: str
    sha256: str
    family: Family[Any]
    state_dict: StateDict
    card: Card = field(default_factory=Card)
    told: tuple[str, ...] = ()
    assumed: Mapping[str, str] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(LoadedWeights):
    """Weights of a file.

    Args:
        path: Of the file.
        weights_key: Their place in the file; empty if the file has nothing else.
        key_prefix: The prefix of their names.
    """

    path: Path
    weights_key: str = ""
    key_prefix: str = ""


def load_checkpoint(path: str | Path, *, weights_key: str | None = None, key_prefix: str | None = None) -> Checkpoint:
    """Read a checkpoint without running any code that it may carry.

    Args:
        path: What ``torch.save`` writes, today or before PyTorch 1.6, TorchScript or safetensors, under any name: state
            dicts bare or in whatever a training script put around them, and whole modules.
        weights_key: Where the weights stand in it, such as ``"model_ema"`` or ``"callbacks.EMACallback.state_dict"``;
            None for the only ones, or the moving average where it is sound.
        key_prefix: What stands before the authors' names, where it holds more than one network.

    Raises:
        CheckpointError: It is missing, another kind of file or damaged, names what runs code, holds no weights of a
            known network or several that nothing ranks, or NaN or infinite ones.
    """
    path = Path(path)
    if not os.path.isfile(path):  # False, not an error, for an impossible name
        raise CheckpointError(f"{path}: {no_file(path, 'checkpoint file')}")
    try:
        with open_weights(path) as file:
            found = choose(file.content, file.tensor, weights_key, key_prefix)
            _check_stored(path, file.content, found)
            weights = {name: file.tensor(stored) for name, stored in found.names.tensors.items()}
            card = _card_of(file)
            settings = settings_of(file.content)
    except NoTensorError as exc:
        raise CheckpointError(f"{path}: {exc}; {_as_tensors(path, exc)}") from exc
    except UnreadableError as exc:
        raise CheckpointError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise CheckpointError(f"{path}: it cannot be read: {exc.strerror or exc}") from exc
    _check_finite(path, weights)
    return Checkpoint(
        source=str(path),
        path=path,
        sha256=file.sha256,
        family=found.names.family,
        state_dict=weights,
        weights_key=found.entry.key,
        key_prefix=found.names.prefix,
        card=card,
        told=(*found.told, *_stored_as(weights)),
        assumed=found.assumed,
        evidence=Evidence(module_at(found.entry.module, found.names.prefix), settings),
    )


def read_module(module: nn.Module, *, key_prefix: str | None = None) -> LoadedWeights:
    """The weights of a module with the authors' parameter names, copied; the module is left as it was.

    Raises:
        CheckpointError: They are not those of a known network, or NaN or infinite.
    """
    values = module.state_dict()
    odd = [n for n, v in values.items() if type(v) not in (Tensor, nn.Parameter) or v.layout != torch.strided]
    odd += [name for name, value in values.items() if name not in odd and (value.is_meta or value.is_quantized)]
    if odd:
        raise CheckpointError(
            f"the module: {len(odd)} of its tensors are distributed, sparse, quantized, without memory or of a class "
            f"of their own: {listed(odd)}; gather them into dense tensors first"
        )
    try:
        names = authors_names(values, key_prefix)
    except UnreadableError as exc:
        raise CheckpointError(f"the module: {exc}; needed: a {titles()}, or a module with its authors' names") from exc
    weights = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in names.tensors.items()}
    _check_finite("the module", weights)
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    evidence = Evidence(module_at(module, names.prefix))
    return LoadedWeights(
        source="the module",
        sha256=digest.hexdigest(),
        family=names.family,
        state_dict=weights,
        told=names.told,
        evidence=evidence,
    )


def _card_of(file: WeightFile) -> Card:
    content = mapping_of(file.content)
    text = file.metadata.get(CARD_KEY) if file.metadata else content.get(CARD_KEY)
    return Card.from_json(text) if isinstance(text, str) else Card()


def _stored_as(weights: StateDict) -> tuple[str, ...]:
    """The dtypes of weights that are not all float32, which they become here."""
    dtypes = sorted(
        {str(value.dtype).removeprefix("torch.") for value in weights.values() if value.is_floating_point()}
    )
    return () if dtypes in ([], ["float32"]) else (f"stored as {', '.join(dtypes)}",)


def _as_tensors(path: Path, exc: NoTensorError) -> str:
    if not exc.expression or exc.entry is None:
        return (
            "only the processes that trained it can gather it; there: from torch.distributed.checkpoint.state_dict "
            "import get_model_state_dict, StateDictOptions; torch.save(get_model_state_dict(model, "
            'options=StateDictOptions(full_state_dict=True, cpu_offload=True)), "weights.pth")'
        )
    return converting(path, f"{{k: {exc.expression} for k, v in {exc.entry.expression}.items()}}")


def _check_stored(path: Path, content: Any, found: Found) -> None:
    """Refuse, before they are read, tensors that no network is made of."""
    odd = [name for name, stored in found.names.tensors.items() if not _is_plain(name, stored)]
    if not odd:
        return
    zero3 = "param_shapes" in mapping_of(content) and not any(found.names.tensors[name].numel for name in odd)
    if zero3:
        raise UnreadableError(
            f"{len(odd)} weights are empty, as DeepSpeed ZeRO-3 leaves them: {listed(odd)}; gather them with the "
            f"script beside it: python zero_to_fp32.py {path.parent.parent} weights"
        )
    line = converting(path, f"{{k: v.to_dense().float() for k, v in {found.entry.expression}.items()}}")
    raise UnreadableError(
        f"{len(odd)} tensors are sparse, complex, quantized, or have more values than are stored, or none: "
        f"{listed(odd)}; save them dense, in float16, bfloat16, float32 or float64; {line}"
    )


def _is_plain(name: str, stored: StoredTensor) -> bool:
    counter = is_counter(name) and not stored.dtype.is_complex
    return stored.is_whole and (stored.dtype in _FLOATS or counter or (stored.numel == 1 and not stored.shape))


def _check_finite(source: str | Path, state_dict: StateDict) -> None:
    bad = [name for name, value in state_dict.items() if not is_counter(name) and not _is_finite(value)]
    if bad:
        raise CheckpointError(
            f"{source}: NaN or infinite weights in {counted(len(bad), 'tensor')}: {listed(bad)}; such a model is broken"
        )


def _is_finite(value: Tensor) -> bool:
    if not value.dtype.is_floating_point:
        return True
    values = value.float()  # as the model holds them
    # A finite sum has only finite parts, and takes a fifth of the time; the sum of large ones may overflow.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def save_checkpoint(
    path: str | Path,
    model: nn.Module | Mapping[str, Tensor],
    card: Card | None = None,
    *,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    activation: str | Activation | None = None,
) -> None:
    """Write a ``.safetensors`` checkpoint that describes itself, so that all of this has to be said once.

    Args:
        path: File to write; its name ends in ``.safetensors``.
        model: A network of ours, or a module with the authors' parameter names that computes the same, whose
            architecture is written too; or a state dict with these names.
        card: All of the following in one.
        name: Of the model; files are named after it.
        labels: A name for each class.
        preprocessing: From an image to the input, as in training.
        activation: What its logits become: ``"softmax"``, ``"sigmoid"`` for several labels an image, or ``"none"``.

    Raises:
        ConfigError: What it is to say of itself does not fit.
        ExportError: It cannot be written.
    """
    if Path(path).suffix.lower() != ".safetensors":
        raise ConfigError(f"{path}: a safetensors file is written; let its name end in .safetensors")
    said = (name, labels, preprocessing, activation)
    if card is not None and any(value is not None for value in said):
        raise ConfigError("a card and what it has were both given; leave one out")
    if card is None:
        card = Card(name, labels, preprocessing, activation=activation)  # type: ignore[arg-type]  # labels: made a tuple
    if isinstance(model, nn.Module):
        if not isinstance(model, Network) or type(model) is not family_of(model.config).network():
            from rest_deploy.models.factory import load_model  # which reads checkpoints by this module

            try:
                model = load_model(model).model  # run against it, or refused
            except CheckpointError as exc:
                raise ConfigError(str(exc)) from exc
        state_dict = model.state_dict()
        card = replace(card, config=card.config or model.config)
    else:
        state_dict = dict(model)
    heads = (state_dict.get(family.head) for family in FAMILIES.values())
    head = next((weight for weight in heads if weight is not None), None)
    if card.labels is not None and head is not None and len(card.labels) != head.shape[0]:
        given, needed = counted(len(card.labels), "label"), counted(head.shape[0], "class")
        raise ConfigError(f"{given} for a model of {needed}; one is needed for each")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={CARD_KEY: card.to_json()}))  # save_file makes it mode 0600
