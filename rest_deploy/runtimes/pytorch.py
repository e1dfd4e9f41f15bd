"""Checkpoints in PyTorch: the reference that artifacts are measured against."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rest_deploy.artifact.info import ArtifactInfo, Weights
from rest_deploy.artifact.labels import default_labels
from rest_deploy.errors import CheckpointError, ConfigError, DeviceError, PredictorError, counted
from rest_deploy.models.evidence import Evidence
from rest_deploy.models.factory import LoadedModel, load_model
from rest_deploy.models.family import family_of
from rest_deploy.models.network import Network
from rest_deploy.models.reference import BlockRun, as_written_blocks, torch_threads
from rest_deploy.models.taps import Tapped, check_taps
from rest_deploy.runtimes.base import Runtime
from rest_deploy.specs import (
    EMBEDDING,
    LOGITS,
    PICTURE_CHANNELS,
    STAGE_MAPS,
    STAGE_STRIDES,
    Activation,
    Device,
    Output,
    Precision,
    Preprocessing,
    PreprocessingChange,
    Resize,
    Taps,
    TensorSpec,
    Usual,
)


class PyTorchRuntime(Runtime):
    """A checkpoint as its authors wrote the network, in float32; its architecture is read off its shapes.

    Calls run one at a time, on the thread that opened it or, from any other, on one thread of its own: OpenMP makes
    threads and caches for each thread that it is called from, which in a server of 64 threads is half a gigabyte.
    """

    spinning_advice = "for PyTorch set OMP_WAIT_POLICY=PASSIVE before the process starts"

    def _load(self) -> None:
        if torch_threads.forked and (self.threads or 1) > 1:
            raise ConfigError(
                f"threads is {self.threads}; in a process that was forked PyTorch has 1: leave threads out, or start "
                "processes by spawn"
            )
        check_cuda(self.target)
        loaded = _loaded(self.path)
        self.info = describe(loaded)
        self._device = str(self.target)
        self._model = loaded.model.to(self._device)
        self._lock, self._threads = threading.Lock(), torch_threads(self.threads)
        self._home = threading.get_ident()
        self._thread = ThreadPoolExecutor(1, "rest_deploy-pytorch")  # starts it when it is first needed

    @classmethod
    def read_info(cls, path: Path) -> ArtifactInfo:
        """The record of a checkpoint."""
        return describe(_loaded(path))

    @classmethod
    def probe(cls, device: Device) -> None:
        """Add two numbers: a torch that sees a GPU may have no kernels for it."""
        check_cuda(device)
        if float(torch.ones(2, device=device.kind).sum()) != 2:
            raise DeviceError(f"PyTorch adds wrongly on {device}")

    def blocks(self) -> BlockRun:
        """What each block of the checkpoint gives, in float32 on the CPU."""
        return torch_threads(self.threads)(as_written_blocks(self._model, torch.float32))

    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        if threading.get_ident() == self._home:
            return self._run_here(batch)
        try:
            waiting = self._thread.submit(self._run_here, batch)
        except RuntimeError as exc:  # closed by another thread, after run() looked, or no thread can be had
            self.check_usable()
            raise PredictorError(f"{self.path}: no thread to run it on: {exc}") from exc
        return waiting.result()

    def _run_here(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with self._lock, self._threads, torch.inference_mode():
            self.check_usable()
            try:
                outputs = self._model.outputs(torch.tensor(batch).to(self._device))
            except RuntimeError as exc:
                raise PredictorError(f"{self.path}: PyTorch failed on input {batch.shape}: {exc}") from exc
            return {name: values.float().cpu().numpy() for name, values in outputs.items()}

    def _close(self) -> None:
        self._thread.shutdown()
        with self._lock:  # not while another thread runs it
            del self._model


def _loaded(path: Path) -> LoadedModel:
    """A checkpoint as it is; what would have to be chosen or said is for whoever exports it."""
    try:
        return load_model(None, path, features=None)
    except CheckpointError as exc:
        if "--" not in str(exc).replace(str(path), ""):
            raise
        raise CheckpointError(f"{exc}; these are flags of rest-export: export it with them, and open that") from exc


def describe(
    loaded: LoadedModel,
    *,
    labels: tuple[str, ...] | None = None,
    preprocessing: Preprocessing | PreprocessingChange | None = None,
    activation: Activation | None = None,
) -> ArtifactInfo:
    """The record of a model in PyTorch; what neither its checkpoint nor the caller says is assumed, and named.

    Args:
        loaded: The model.
        labels: Names of its classes; () where they have none, None for the checkpoint's own.
        preprocessing: From a picture to the input, or changes of the checkpoint's own.
        activation: How logits become scores; None for the checkpoint's own.

    Raises:
        ConfigError: The preprocessing is not of the model's channels.
    """
    config, taps = loaded.model.config, loaded.model.taps
    check_taps(config, taps)
    evidence = loaded.checkpoint.evidence if loaded.checkpoint is not None else Evidence()
    told = evidence.transform(preprocessing) if loaded.card.preprocessing is None else ()
    names, scores, assumed = _classes(loaded, labels, activation)
    steps, unsaid = _transform(loaded, evidence, preprocessing)
    return ArtifactInfo(
        format="pytorch",
        precision=Precision.FP32,
        family=family_of(config).name,
        model=loaded.name,
        config=config.to_dict(),
        weights=_weights(loaded, labels is not None, told),
        labels=names,
        preprocessing=steps,
        activation=scores,
        assumed={**loaded.assumed, **assumed, **unsaid},
        input=TensorSpec("image", "float32", ("batch", config.in_channels, "height", "width")),
        outputs=tuple(_output(loaded.model, name) for name in taps.names),
        feature_norm=taps.norm if taps != Taps() else None,
        versions={"torch": torch.__version__},
    )


def _classes(
    loaded: LoadedModel, labels: tuple[str, ...] | None, activation: Activation | None
) -> tuple[tuple[str, ...] | None, Activation, dict[str, str]]:
    """Names of the classes, how logits become scores, and what of both was assumed."""
    count, card, outputs, assumed = loaded.model.config.num_classes, loaded.card, loaded.model.taps.names, {}
    if LOGITS not in outputs:
        if labels or activation is not None:
            raise ConfigError(
                f"labels and activation are of logits, and the outputs are {', '.join(outputs)}; leave them out, or "
                f"add {LOGITS} to --features"
            )
        return None, Activation.NONE, {}
    labels = card.labels if labels is None else labels
    if labels is None and (labels := default_labels(count)) is not None:
        assumed["labels"] = f"ImageNet's, as there are {len(labels)} classes"
    if activation is None and card.activation is not None:
        activation = Activation(card.activation)
    if activation is None:
        activation = Activation.SIGMOID if count == 1 else Activation.SOFTMAX
        assumed["activation"] = activation.value
    return labels or None, activation, assumed


def _transform(
    loaded: LoadedModel, evidence: Evidence, given: Preprocessing | PreprocessingChange | None
) -> tuple[Preprocessing | None, dict[str, str]]:
    """From a picture to the input, None where the caller makes it; and what of it was assumed."""
    config, card, assumed = loaded.model.config, loaded.card.preprocessing, dict[str, str]()
    if given is None and card is None and not {LOGITS, EMBEDDING} & set(loaded.model.taps.names):
        return None, {}  # detectors and segmenters each have their own
    if isinstance(given, Preprocessing):
        steps: Preprocessing | None = given
    else:
        usual = family_of(config).preprocessing_at
        steps, assumed = _changed(given or PreprocessingChange(), card, usual, config.in_channels)
        assumed = assumed if card is not None else evidence.beside(assumed, steps)
    if steps is not None and len(steps.mean) != config.in_channels:
        raise ConfigError(
            f"the model takes {counted(config.in_channels, 'channel')}, the preprocessing gives {len(steps.mean)}; "
            "give --mean and --std with one value for each channel"
        )
    return steps, assumed


def _output(model: Network, name: str) -> Output:
    """What a record says of an output."""
    if name == LOGITS:
        return Output(LOGITS, "float32", ("batch", model.config.num_classes))
    channels = family_of(model.config).stage_channels(model.config)
    if name == EMBEDDING:
        return Output(EMBEDDING, "float32", ("batch", channels[-1]))
    stage = STAGE_MAPS.index(name)
    sides = (f"{name}_height", f"{name}_width")
    return Output(
        name,
        "float32",
        ("batch", channels[stage], *sides),
        stride=STAGE_STRIDES[stage],
        norm=isinstance(model, Tapped) and model.normed(stage + 1),
    )


def _weights(loaded: LoadedModel, labelled: bool, more: tuple[str, ...]) -> Weights:
    of, told = loaded.checkpoint, (*loaded.told, *more)
    if labelled:  # by the caller
        told = tuple(note for note in told if not note.startswith("class names"))
    if of is None:
        return Weights(sha256=loaded.sha256, seed=loaded.seed, notes=told)
    name = os.fsencode(of.path.name).decode("utf-8", "backslashreplace")  # not every name of a file is text
    return Weights(name, of.sha256, key=of.weights_key, prefix=of.key_prefix, notes=told)


def _changed(
    change: PreprocessingChange, card: Preprocessing | None, usual: Usual, channels: int
) -> tuple[Preprocessing | None, dict[str, str]]:
    """As :func:`_transform`, where the caller changes what the checkpoint or else the family has."""
    unknown = card is None and (change.mean is None or change.std is None)
    if channels != len(usual(None).mean) and unknown:  # no mean could be assumed: the family's has other channels
        if change != PreprocessingChange():
            raise ConfigError(
                f"the model takes {counted(channels, 'channel')}: give --mean and --std with {channels} values "
                "each, or no flag of the preprocessing, and make its input yourself"
            )
        return None, {}
    if channels in PICTURE_CHANNELS:
        return change.apply(card or usual(None), usual), change.assumed(card, usual)
    if replace(change, mean=None, std=None) != PreprocessingChange():
        raise ConfigError(
            f"the model takes {counted(channels, 'channel')}, which no picture has: only --mean and --std tell of its "
            "input"
        )
    return change.apply(card or Preprocessing(Resize.NATIVE, None), usual), {}


def check_cuda(device: Device) -> None:
    """Refuse a GPU that this PyTorch does not see.

    Raises:
        DeviceError: Says how many it sees.
    """
    if device.kind == "cuda" and device.index >= torch.cuda.device_count():
        raise DeviceError(
            f"device {device}: this PyTorch ({torch.__version__}) sees {torch.cuda.device_count()} CUDA GPUs; "
            "use device cpu, or install a CUDA build of torch and a driver"
        )
