"""Graphs in memory run by ONNX Runtime on the CPU, for the checks of an export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rest_deploy.errors import ExportError, one_line
from rest_deploy.machine import usable_cores


class CpuSession:
    """A graph of one input, on the cores that this process may use.

    Args:
        model: The graph.
        outputs: Names of values in it to be given in place of its own outputs.
        threads: CPU threads of a call; None for :func:`~rest_deploy.machine.usable_cores`.
        quick: Whether ONNX Runtime simplifies the graph alone; its fusions and layouts take a quarter of the opening.

    Raises:
        ExportError: ONNX Runtime does not load it.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        outputs: Sequence[str] = (),
        threads: int | None = None,
        *,
        quick: bool = False,
    ) -> None:
        (value,) = model.graph.input
        self._input = value.name
        self._outputs = list(outputs) or [own.name for own in model.graph.output]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails here is told by us
        options.intra_op_num_threads = threads or usable_cores()
        if quick:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # Q/DQ pairs as they are written
        serialized = (_watched(model, outputs) if outputs else model).SerializeToString()
        try:
            self._session: Any = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # ONNX Runtime's errors share no public base class
            raise ExportError(f"ONNX Runtime does not load it: {one_line(exc)}") from exc

    def run(self, batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """All outputs by name for a batch of the graph's own dtype and shape, such as float32 (B, channels, H, W).

        Raises:
            ExportError: ONNX Runtime fails on it.
        """
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: batch}), strict=True))
        except Exception as exc:  # ONNX Runtime's errors share no public base class
            raise ExportError(f"ONNX Runtime does not run it on {batch.shape}: {one_line(exc)}") from exc


def _watched(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    return watched
