"""Checkpoints in PyTorch: the reference that artifacts are measured against."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rest_deploy.artifact.info import ArtifactInfo, Weights
from rest_deploy.artifact.labels import default_labels
from rest_deploy.errors import ConfigError, DeviceError, RestDeployError
from rest_deploy.models.factory import LoadedModel, load_model
from rest_deploy.runtimes.base import Runtime
from rest_deploy.runtimes.devices import Device
from rest_deploy.specs import Precision, Preprocessing, TensorSpec


class PyTorchRuntime(Runtime):
    """A checkpoint as its authors wrote the network, in float32; its architecture is read off its shapes.

    Calls run one at a time, on the thread that opened it or, from any other, on one thread of its own: OpenMP makes
    threads and caches for each thread that it is called from, which in a server of 64 threads is half a gigabyte.
    """

    def __init__(self, path: str | Path, device: str | None = None, threads: int | None = None) -> None:
        super().__init__(path, device, threads)
        if _Limit.threads is not None and (threads or 1) > _Limit.threads:
            raise ConfigError(
                f"threads is {threads}; in a process that was forked PyTorch has {_Limit.threads}: leave threads out, "
                "or start processes by spawn"
            )
        target = Device.parse(self.device)
        check_cuda(target)
        loaded = load_model(None, self.path)
        self.info = describe(loaded)
        self._model = loaded.model.to(str(target))
        self._device = str(target)
        self._lock = threading.Lock()
        self._home = threading.get_ident()
        self._thread = ThreadPoolExecutor(1, "rest_deploy-pytorch")  # starts it when it is first needed

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if threading.get_ident() == self._home:
            return self._run_here(batch)
        try:
            waiting = self._thread.submit(self._run_here, batch)
        except RuntimeError as exc:  # closed by another thread, after run() looked, or no thread can be had
            self._check_usable()
            raise RestDeployError(f"{self.path}: no thread to run it on: {exc}") from exc
        return waiting.result()

    def _run_here(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock, _threads(self.threads), torch.inference_mode():
            self._check_usable()
            try:
                output = self._model(torch.tensor(batch).to(self._device))
            except RuntimeError as exc:
                raise RestDeployError(f"{self.path}: PyTorch failed on input {batch.shape}: {exc}") from exc
            result: NDArray[np.float32] = output.float().cpu().numpy()
            return result

    def _close(self) -> None:
        self._thread.shutdown()
        with self._lock:  # not while another thread runs it
            del self._model


class _Limit:
    """CPU threads that a call may have in this process; None for any number."""

    threads: int | None = None


class _threads:
    """Set PyTorch's global number of CPU threads for the time of one call."""

    def __init__(self, count: int | None) -> None:
        self._count = count

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        if self._count:
            torch.set_num_threads(self._count)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


def read_info(path: Path) -> ArtifactInfo:
    """The record of a checkpoint."""
    return describe(load_model(None, path))


def describe(loaded: LoadedModel, labels: tuple[str, ...] | None = None) -> ArtifactInfo:
    """The record of a model in PyTorch, with other labels than its checkpoint's where they are given."""
    config, card, checkpoint = loaded.model.config, loaded.card, loaded.checkpoint
    weights = Weights(sha256=loaded.sha256, seed=loaded.seed)
    if checkpoint is not None:
        weights = Weights(checkpoint.path.name, checkpoint.sha256)
    return ArtifactInfo(
        format="pytorch",
        precision=Precision.FP32,
        model=loaded.name,
        config=config.to_dict(),
        weights=weights,
        labels=labels or card.labels or default_labels(config.num_classes),
        preprocessing=card.preprocessing or Preprocessing(),
        input=TensorSpec("image", "float32", ("batch", config.in_channels, "height", "width")),
        output=TensorSpec("logits", "float32", ("batch", config.num_classes)),
        versions={"torch": torch.__version__},
    )


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


def _one_thread() -> None:
    """In a forked child OpenMP would wait for threads that stayed in its parent; with one it needs none."""
    _Limit.threads = 1
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread)
