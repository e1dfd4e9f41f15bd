"""A small ONNX file, and its way through a TensorRT module, real or not: what the tests of the stand-ins share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 7
PROFILE = ((1, 3, 32, 32), (1, 3, 64, 64), (4, 3, 128, 128))
Shapes = Sequence[Sequence[int]]


def write_onnx(path: Path, head: str = "Gemm", shape: Sequence[int | str] = ("batch", 3, "height", "width")) -> Path:
    """Convolution, mean and linear layer, (B, 3, H, W) -> (B, 7); ``head`` is the last node's operator."""
    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.standard_normal((8, 3, 4, 4)).astype(np.float32), "kernel")
    weight = numpy_helper.from_array(rng.standard_normal((8, CLASSES)).astype(np.float32), "weight")
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"], name="stem/conv", strides=[4, 4], kernel_shape=[4, 4]),
        helper.make_node("Relu", ["c"], ["r"], name="stem/relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="head/pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="head/flatten"),
        helper.make_node(head, ["f", "weight"], ["logits"], name="head/linear"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], CLASSES])
    graph = helper.make_graph(nodes, "small", [image], [logits], [kernel, weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def make_logger(trt: Any) -> Any:
    """A logger of a module that keeps ``(severity, message)`` in ``said``."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.said.append((severity.name, message))

        def errors(self) -> list[str]:
            """Its errors, without those that TensorRT-RTX logs of every object on a machine without a GPU."""
            return [words for kind, words in self.said if kind == "ERROR" and "catchCudaError" not in words]

    return Logger()


def make_monitor(trt: Any, stop_at: int | None = None) -> Any:
    """A progress monitor of a module that keeps what it is told in ``told``, and stops after so many calls."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.told: list[tuple[Any, ...]] = []

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.told.append(("start", phase_name, parent_phase, num_steps))

        def phase_finish(self, phase_name: str) -> None:
            self.told.append(("finish", phase_name))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.told.append(("step", phase_name, step))
            return stop_at is None or len(self.told) < stop_at

    return Monitor()


class Workshop:
    """A builder of a module with all that it needs to build a file.

    Args:
        trt: The module.
        path: The ONNX file.
    """

    def __init__(self, trt: Any, path: Path) -> None:
        self.trt = trt
        self.logger = make_logger(trt)
        self.builder = trt.Builder(self.logger)
        self.network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.parser = trt.OnnxParser(self.network, self.logger)
        self.parsed = self.parser.parse_from_file(str(path))
        self.config = self.builder.create_builder_config()

    def add_profile(self, ends: Shapes = PROFILE, name: str = "image") -> int:
        """Number of a new profile."""
        profile = self.builder.create_optimization_profile()
        profile.set_shape(name, *ends)
        return self.config.add_optimization_profile(profile)

    def build(self) -> Any:
        """The plan."""
        return self.builder.build_serialized_network(self.network, self.config)


def refusal(call: Callable[[], Any]) -> str:
    """Name of the exception that a call raises."""
    try:
        call()
    except Exception as exc:
        return type(exc).__name__
    return "nothing"
