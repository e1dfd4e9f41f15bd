"""A runtime as somebody would add it: this module, and its row. It runs ONNX files named ``.toy`` in NumPy alone."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import read_checked, write_record
from rest_deploy.errors import DeviceError
from rest_deploy.models.family import operators_of
from rest_deploy.runtimes import registry
from rest_deploy.runtimes.base import Runtime
from rest_deploy.runtimes.registry import RuntimeRow, read_info
from rest_deploy.specs import Device

ROW = RuntimeRow(
    title="Toy",
    suffixes=(".toy",),
    runtime=("tests.runtimes.toy", "ToyRuntime"),
    packages={"onnx.reference": ("onnx",), "pluggy": ("pluggy",)},
    devices={"cpu": "export"},
)


class ToyRuntime(Runtime):
    """An ONNX file as ``onnx.reference`` computes it."""

    spinning_advice = "it has no threads"

    def _load(self) -> None:
        file = read_checked(self.path, operators_of)
        self.info = file.info
        self._evaluator: Any = ReferenceEvaluator(onnx.load_model_from_string(bytes(file.content)))
        self._lock = threading.Lock()

    @classmethod
    def read_info(cls, path: Path) -> ArtifactInfo:
        return read_checked(path, operators_of).info

    @classmethod
    def probe(cls, device: Device) -> None:
        if float(np.ones(2, np.float32).sum()) != 2:
            raise DeviceError("NumPy adds wrongly")

    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            self.check_usable()
            names = [output.name for output in self.info.outputs]
            with np.errstate(over="ignore", invalid="ignore"):  # its Sigmoid tries both of two formulas
                return dict(zip(names, self._evaluator.run(names, {self.info.input.name: batch}), strict=True))

    def _close(self) -> None:
        with self._lock:
            del self._evaluator


def add_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry have its row, for the time of a test."""
    monkeypatch.setitem(registry._ROWS, "toy", ROW)


def make_toy(source: Path, folder: Path) -> Path:
    """A file that the toy opens, of an ONNX file of ours."""
    path = folder / f"{source.stem}.toy"
    shutil.copy(source, path)
    write_record(path, replace(read_info(source), format="toy"))
    return path
