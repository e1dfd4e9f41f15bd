"""ONNX files in OpenVINO, on Intel's CPUs, GPUs and NPUs, in float32 or not at all."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import read_checked, sealed_info
from rest_deploy.errors import ArtifactError, DeviceError, MissingPackageError, PredictorError, install, one_line
from rest_deploy.machine import usable_cores
from rest_deploy.models.family import operators_of
from rest_deploy.runtimes.base import Runtime
from rest_deploy.specs import Device, Precision, TensorSpec

_PRECISION = "INFERENCE_PRECISION_HINT"
#: float32: the default is bfloat16 on CPUs that have it, and float16 on GPUs. SNIPPETS_MODE fuses attention on CPUs,
#: which OpenVINO 2026.4.1 computes wrongly from some size on: logits of rest_lite were off by 1.4 at 2x224x224.
_SETTINGS = MappingProxyType({_PRECISION: "f32", "PERFORMANCE_HINT": "LATENCY"})
_ON_CPU = MappingProxyType({"SNIPPETS_MODE": "DISABLE"})
#: What a network may be computed in: sizes are integers, and levels of pictures.
_TAKEN = frozenset({"f32", "i32", "i64", "u8", "boolean"})
#: Layers that compute nothing: a file may take and give halves.
_BORDER = frozenset({"Input", "Output", "Const", "Convert"})
#: Products of one sum in a convolution on a CPU, those of 32 channels of 3x3. Of 24 batches of 2x96x96 rest_large lost
#: 3.24e-5 so with AVX-512, root mean squared, and PyTorch 3.67e-5; with 144 products 2.87e-5, in 1 to 4% more time.
_IN_ONE_SUM = 288
#: Batch, height and width that tell values of one shape from others.
_PROBED = (2, 67, 131)


def compile_network(
    content: bytes | Path, device: Device, threads: int | None, prepare: Callable[[Any], None] = lambda _: None
) -> Any:
    """An ``openvino.CompiledModel`` that computes in float32.

    Args:
        content: An ONNX file, or its bytes.
        device: Its name is OpenVINO's.
        threads: CPU threads of a call; None takes one for each usable core.
        prepare: Is given the ``openvino.Model`` before it is compiled.

    Raises:
        MissingPackageError: OpenVINO is not installed.
        DeviceError: It has no such device, or the device does not compute in float32.
        RuntimeError: It does not load the network.
    """
    core = _core()
    there = core.available_devices
    if all(device.name not in (own, own.partition(".")[0]) for own in there):
        raise DeviceError(f"device {device}: OpenVINO has no such device here; accepted: {', '.join(there)}")
    settings: dict[str, Any] = dict(_SETTINGS)
    if device.in_memory:
        settings |= {**_ON_CPU, "INFERENCE_NUM_THREADS": threads or usable_cores()}
    if _PRECISION not in core.get_property(device.name, "SUPPORTED_PROPERTIES"):
        raise DeviceError(f"device {device}: it cannot be asked for float32; use another, or device cpu")
    model = core.read_model(model=content) if isinstance(content, bytes) else core.read_model(content)
    prepare(model)
    compiled = core.compile_model(model, device.name, settings)
    found = {compiled.get_property(_PRECISION).to_string(), *_computed_in(compiled)}
    if others := found - _TAKEN:
        told = ", ".join(sorted(others)).strip(", ") or "what it does not tell"
        raise DeviceError(
            f"device {device}: OpenVINO would compute in {told} where f32 was asked for; use another, or device cpu"
        )
    return compiled


def in_rows(model: Any) -> None:
    """Let a network whose maps are (B, H, W, C) compute on rows (B, H*W, C): the same operators on the same numbers.

    OpenVINO takes a value of four axes for an image, keeps it with the channels first or last as it likes best, and
    turns it round before each norm. Norms, residual additions and what puts the channels of a map last go by rows
    here, which leaves the maps between them in place.

    Args:
        model: An ``openvino.Model``; it is changed. Operators on maps of another kind stay as they are.
    """
    from openvino import opset13 as op

    of_rows = _of_rows(model)
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        sizes = _sizes(node.get_output_partial_shape(0)) if kind in ("Add", "MVN", "Transpose") else []
        if len(sizes) != 4 or sizes[3] is None:
            continue
        taken = node.input_values()
        as_rows, like = np.array([0, -1, sizes[3]]), op.shape_of(taken[0])
        if node.get_friendly_name() in of_rows:
            rows = [op.reshape(own, as_rows, True) for own in taken[: 2 if kind == "Add" else 1]]
            made = op.add(*rows) if kind == "Add" else op.mvn(*rows, np.array([2]), **node.get_attributes())
        elif kind == "Transpose" and _numbers(taken[1].get_node()) == [0, 2, 3, 1]:
            made = op.transpose(op.reshape(taken[0], np.array([0, 0, -1]), True), np.array([0, 2, 1]))
            like = op.gather(like, np.array([0, 2, 3, 1]), np.array(0))
        else:
            continue
        node.output(0).replace(op.reshape(made, like, False).output(0))
    model.validate_nodes_and_infer_types()


def in_short_sums(model: Any) -> None:
    """Let convolutions add up 288 products at most in one sum, of a group of input channels, and then the sums.

    On CPUs with AVX2 or AVX-512 OpenVINO adds the products of a value one after the other, so that rounding grows with
    their number: a convolution of 256 channels by 3x3 loses 3.7 times what it does in ONNX Runtime with AVX-512, 4.5
    times with AVX2, and rest_large 4.2e-5, root mean squared over 24 batches of 2x96x96, in place of 3.2e-5. On
    older CPUs it changes nothing.

    Args:
        model: An ``openvino.Model``; it is changed.
    """
    from openvino import opset13 as op

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution":
            continue
        _, channels, *kernel = node.input_value(1).get_shape()
        groups = math.ceil(channels / max(1, _IN_ONE_SUM // math.prod(kernel)))
        if groups == 1:
            continue
        lengths = np.array([len(group) for group in np.array_split(np.arange(channels), groups)])
        values, weights = (op.variadic_split(own, np.array(1), lengths).outputs() for own in node.input_values())
        sums = (op.convolution(*own, **node.get_attributes()) for own in zip(values, weights, strict=True))
        node.output(0).replace(reduce(op.add, sums).output(0))
    model.validate_nodes_and_infer_types()


def _of_rows(model: Any) -> set[str]:
    """Names of the additions of two values of one shape, and of the norms over the last of four axes.

    Found for an input whose free sizes are no multiples of each other.
    """
    from openvino.passes import ConstantFolding, Manager

    probe, sizes = model.clone(), iter(_PROBED)
    shapes = {port.any_name: [size or next(sizes) for size in _sizes(port.partial_shape)] for port in probe.inputs}
    probe.reshape(shapes)
    folding = Manager()
    folding.register_pass(ConstantFolding())  # the axes of a norm are computed from how many there are
    folding.run_passes(probe)

    def is_of_rows(node: Any) -> bool:
        match node.get_type_name(), node.input_values():
            case "Add", (one, other):
                shape = one.get_partial_shape()
                return bool(shape.is_static and shape == other.get_partial_shape())
            case "MVN", (_, axes):
                return _numbers(axes.get_node()) == [-1]
        return False

    return {node.get_friendly_name() for node in probe.get_ops() if is_of_rows(node)}


def _numbers(node: Any) -> list[int] | None:
    """Numbers of a constant."""
    return node.get_data().ravel().tolist() if node.get_type_name() == "Constant" else None


def _sizes(shape: Any) -> list[int | None]:
    """Sizes of a shape; None for those that are free."""
    return [size.get_length() if size.is_static else None for size in shape]


def _computed_in(compiled: Any) -> set[str]:
    """Number formats of the nodes that compute, as OpenVINO calls them; empty for a node of which it tells none."""
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = ((info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in told)
    return {precision for layer, precision in kinds if layer not in _BORDER}


def _core() -> Any:
    try:
        import openvino
        import openvino.opset13
    except ModuleNotFoundError as exc:
        if exc.name == "openvino.opset13":
            told = f"the openvino that is installed is older than 2025.0; {install('openvino')}"
            raise DeviceError(told) from exc
        raise MissingPackageError("openvino", "run .onnx files in OpenVINO", "openvino") from exc
    except ImportError as exc:
        raise DeviceError(f"openvino is installed but does not load: {one_line(exc)}") from exc
    return openvino.Core()


class OpenVinoRuntime(Runtime):
    """An ONNX file of ours in OpenVINO; calls of several threads take turns."""

    memory = "openvino"
    spinning_advice = "OpenVINO's threads sleep between calls; leave allow_spinning out"

    def _load(self) -> None:
        file = read_checked(self.path, operators_of)
        self.info = file.info
        self._refuse_other_numbers()
        content = file.without_blocks()[0] if self.info.map_block else bytes(file.content)
        try:
            compiled = compile_network(content, self.target, self.threads, self._prepare)
            self._request: Any = compiled.create_infer_request()
        except RuntimeError as exc:
            raise ArtifactError(f"{self.path}: OpenVINO cannot load it: {one_line(exc)}") from exc
        specs = {spec.name: spec for spec in (self.info.input, *self.info.outputs)}
        inputs, outputs = (dict(_tensor(own, specs) for own in ports) for ports in (compiled.inputs, compiled.outputs))
        self.info.check_tensors(inputs, outputs, self.path)
        self._turn = threading.Lock()

    @classmethod
    def read_info(cls, path: Path) -> ArtifactInfo:
        """The record inside an ONNX file, without OpenVINO, once the file has been found to be as it was made."""
        return sealed_info(path)

    @classmethod
    def probe(cls, device: Device) -> None:
        """Compile and run one operator."""
        from rest_deploy.runtimes.ort import one_convolution

        content, feeds, wanted = one_convolution()
        compiled = compile_network(content, replace(device, name=device.name or "CPU"), 1)
        product = float(compiled.create_infer_request().infer(feeds)[0].item())
        if product != wanted:
            raise DeviceError(f"OpenVINO multiplies wrongly on {device}: {wanted} came out as {product}")

    def _refuse_other_numbers(self) -> None:
        """Refuse what OpenVINO would compute in other numbers than it was made for."""
        if self.info.precision is Precision.INT8:
            raise DeviceError(
                f"{self.path}: an INT8 file is made for ONNX Runtime on the CPU, or for TensorRT, and OpenVINO would "
                "compute it otherwise; use device cpu, or export it in fp32"
            )
        if self.info.resizes:
            raise DeviceError(
                f"{self.path}: it resizes pictures by weights in float64, which OpenVINO computes in float32: levels "
                "would differ from Pillow's; use device cpu, or export it with --input uint8"
            )

    def _prepare(self, model: Any) -> None:
        in_rows(model)
        if self.target.in_memory:
            in_short_sums(model)

    def _run(self, batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        with self._turn:
            self.check_usable()  # another thread may have closed it
            try:
                found = self._request.infer({self.info.input.name: batch}, share_inputs=True, share_outputs=False)
            except RuntimeError as exc:
                raise PredictorError(f"{self.path}: OpenVINO failed on input {batch.shape}: {one_line(exc)}") from exc
            return {own.name: np.array(found[own.name]) for own in self.info.outputs}

    def _close(self) -> None:
        with self._turn:
            self._request = None


def _tensor(port: Any, specs: Mapping[str, TensorSpec]) -> tuple[str, list[int | str | None]]:
    """Name and sizes of an input or output: of several names that of the record, and of free sizes, which have none."""
    name = next((own for own in port.names if own in specs), port.any_name)
    free = [size if isinstance(size, str) else None for size in specs[name].shape] if name in specs else []
    sizes = zip_longest(_sizes(port.partial_shape), free)
    return name, [said if size is None else size for size, said in sizes]
