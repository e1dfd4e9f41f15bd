"""What many tests compute alike, computed once: a network's trace, and its answers in PyTorch.

Both are kept in the temporary folder of the run, for all workers of pytest-xdist: an answer by the network's content, a
trace by its structure alone, as it has the kinds of pieces in it and not yet their weights. What follows the trace (the
network is assembled with its weights, checked, simplified, narrowed, proved) runs in every test. A test of the trace or
of the answers themselves is marked ``anew``.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rest_deploy.export import onnx_exporter
from rest_deploy.models import reference


class Once:
    """Keeps results as files.

    Args:
        folder: Where; other processes may share it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.active = True
        folder.mkdir(exist_ok=True)

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """What ``make`` gave the first time that any process asked for the key."""
        if not self.active:
            return make()
        kept = self.folder / key
        with (self.folder / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.is_file():
                made = make()
                written = self.folder / f"{key}.part"
                written.write_bytes(made)
                written.rename(kept)
        return kept.read_bytes()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it in front of the trace, the reference, and the list of installed packages."""
        trace, run_in = onnx_exporter._kinds_to_onnx, reference._run_in

        def traced(deploy: Any, *asked: Any) -> tuple[onnx.ModelProto, dict[str, int]]:
            def make() -> bytes:
                model, kinds = trace(deploy, *asked)
                return json.dumps(kinds).encode() + b"\n" + model.SerializeToString()

            kept = self.get(f"{key_of(deploy, *asked, weights=False)}.onnx", make)
            kinds, _, model = kept.partition(b"\n")
            return onnx.load_from_string(model), json.loads(kinds)

        def answering(model: nn.Module, dtype: torch.dtype, threads: int | None) -> reference.Run:
            run = run_in(model, dtype, threads)
            network = key_of(model, dtype)

            def answer(batch: Any) -> Any:
                key = (
                    f"{hashlib.sha256(network.encode() + repr(batch.shape).encode() + batch.tobytes()).hexdigest()}.npz"
                )
                return dict(np.load(io.BytesIO(self.get(key, lambda: _saved(run(batch))))))

            return answer

        monkeypatch.setattr(
            importlib.metadata, "packages_distributions", cache(importlib.metadata.packages_distributions)
        )
        monkeypatch.setattr(onnx_exporter, "_kinds_to_onnx", traced)
        monkeypatch.setattr(reference, "_run_in", answering)


def shared_by_children() -> None:
    """Do so in this process and those that it forks, in the folder that TESTS_ONCE names, if any."""
    if "TESTS_ONCE" in os.environ:
        Once(Path(os.environ["TESTS_ONCE"])).install(pytest.MonkeyPatch())


def key_of(model: nn.Module, *asked: Any, weights: bool = True) -> str:
    """Digest of a network: its modules, their settings and code, its tensors; and of what is asked of it.

    Without ``weights`` the values of what is in its ``state_dict`` do not count.
    """
    digest, others = hashlib.sha256(repr(asked).encode()), model.state_dict().keys()
    for name, module in model.named_modules():
        plain = sorted((key, repr(value)) for key, value in vars(module).items() if not key.startswith("_"))
        code = type(module).forward.__code__
        values = [value for value in code.co_consts if isinstance(value, (int, float, str, tuple))]
        digest.update(repr((name, type(module).__qualname__, plain, code.co_code, code.co_names, values)).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(repr((name, tensor.dtype, tensor.shape)).encode())
        if weights or name not in others:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _saved(outputs: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **outputs)
    return file.getvalue()
