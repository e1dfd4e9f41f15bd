"""The runtimes: one row each, and which of them opens a file.

A runtime is a module that holds a subclass of :class:`~rest_deploy.runtimes.base.Runtime`. A row says what can be known
without importing it; everything else is asked of the class.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rest_deploy.artifact.address import SCHEMES, Address, Place, is_address, located
from rest_deploy.artifact.engine import LIBRARIES, LibraryRow
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import ArtifactError, ConfigError, DeviceError, MissingPackageError, no_file, unseen
from rest_deploy.models.family import config_of
from rest_deploy.specs import Device

if TYPE_CHECKING:
    from rest_deploy.runtimes.base import Runtime


@dataclass(frozen=True)
class RuntimeRow:
    """A row.

    Args:
        title: For people.
        suffixes: Of the files that it opens, in lower case.
        runtime: Module and class; the module may import anything heavy.
        packages: Import names that it needs -> the distributions that may bring each, first the one that an extra
            installs. The version of the first that is installed is told of in benchmarks.
        devices: Kinds of devices that it runs on, the default first -> the extra that installs what it needs there.
        memory: Whose measured use of memory on the CPU is its own too (``models/family.py``): ``"onnx"``,
            ``"openvino"``, ``"webgpu"`` in software, ``"pytorch"``.
        opens: Format of the records of its files; empty for its own name in :data:`RUNTIMES`.
        device_names: What may follow its kind of device and a colon, in words.
        default_name: What follows where nothing is given.
        content: How files begin that are known by it whatever their suffix is; None for none.
        more_suffixes: Of files that are mostly known by their content.
        schemes: Of addresses, where it asks a server and opens no files.
    """

    title: str
    suffixes: tuple[str, ...]
    runtime: tuple[str, str]
    packages: Mapping[str, tuple[str, ...]]
    devices: Mapping[str, str]
    memory: str = "onnx"
    opens: str = ""
    device_names: str = ""
    default_name: str = ""
    content: re.Pattern[bytes] | None = None
    more_suffixes: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()

    @property
    def default_device(self) -> str:
        """Such as ``"cpu"`` or ``"cuda:0"``: where it runs unless another device is asked for."""
        return str(Device(next(iter(self.devices)), name=self.default_name))

    def named(self, device: str | None) -> str:
        """The device that is meant by a name of its kind alone, or by none."""
        return self.default_device if device is None or (self.default_name and device in self.devices) else device

    @property
    def only(self) -> str:
        """Where it runs, in words, for who asked for another device."""
        if self.schemes:
            return "a model on a server runs where its server was told to; leave the device out"
        every, one = (f" {word} ".join(self.devices) for word in ("and", "or"))
        runs = f"{self.title} runs {self.suffixes[0]} files on {every} only"
        return f"{runs}; use device {one}, or elsewhere an .onnx file"

    def load(self, purpose: str) -> type[Runtime]:
        """Its class.

        Args:
            purpose: What it is for, as it reads after "is needed to".

        Raises:
            MissingPackageError: A package that its module imports is not installed.
        """
        module, name = self.runtime
        try:
            kind: type[Runtime] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as exc:
            if exc.name is None or exc.name.partition(".")[0] == "rest_deploy":
                raise
            raise MissingPackageError(exc.name.partition(".")[0], purpose, next(iter(self.devices.values()))) from exc
        return kind


def _tensorrt(library: LibraryRow) -> RuntimeRow:
    return RuntimeRow(
        title=library.title,
        suffixes=(".engine",),
        runtime=("rest_deploy.runtimes.tensorrt", "TensorRTRuntime"),
        packages=library.modules,
        devices={"cuda": library.extra},
    )


_ONNX_RUNTIME = {
    "onnxruntime": (
        *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn"),
        *("onnxruntime-rocm", "onnxruntime-migraphx"),
    )
}
_ROWS = {
    "onnx": RuntimeRow(
        title="ONNX Runtime",
        suffixes=(".onnx",),
        runtime=("rest_deploy.runtimes.ort", "OnnxRuntime"),
        packages=_ONNX_RUNTIME,
        devices={"cpu": "cpu", "cuda": "gpu"},
    ),
    "openvino": RuntimeRow(
        title="OpenVINO",
        suffixes=(".onnx",),
        runtime=("rest_deploy.runtimes.openvino", "OpenVinoRuntime"),
        packages={"openvino": ("openvino",)},
        devices={"openvino": "openvino"},
        memory="openvino",
        opens="onnx",
        device_names="NAME",
        default_name="CPU",
    ),
    "webgpu": RuntimeRow(
        title="ONNX Runtime WebGPU",
        suffixes=(".onnx",),
        runtime=("rest_deploy.runtimes.webgpu", "WebGpuRuntime"),
        packages={"onnxruntime_ep_webgpu": ("onnxruntime-ep-webgpu",)},
        devices={"webgpu": "webgpu"},
        memory="webgpu",  # in software
        opens="onnx",
        device_names="software",
    ),
    "ort-trt": RuntimeRow(
        title="ONNX Runtime TensorRT",
        suffixes=(".onnx",),
        runtime=("rest_deploy.runtimes.onnx_tensorrt", "OnnxTensorRTRuntime"),
        packages=_ONNX_RUNTIME,
        devices={"tensorrt": "ort-trt"},
        opens="onnx",
        device_names="N",
        default_name="0",
    ),
    "ort-rtx": RuntimeRow(
        title="ONNX Runtime TRT-RTX",
        suffixes=(".onnx",),
        runtime=("rest_deploy.runtimes.onnx_tensorrt", "OnnxTensorRTRTXRuntime"),
        packages={
            "onnxruntime_ep_nv_tensorrt_rtx": (
                *("onnxruntime-ep-nv-tensorrt-rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
                "onnxruntime-ep-nv-tensorrt-rtx-cu12",
            )
        },
        devices={"tensorrt-rtx": "ort-rtx"},
        opens="onnx",
        device_names="N",
        default_name="0",
    ),
    **{name: _tensorrt(library) for name, library in LIBRARIES.items()},
    "pytorch": RuntimeRow(
        title="PyTorch",
        suffixes=(".pth", ".pt", ".safetensors"),
        runtime=("rest_deploy.runtimes.pytorch", "PyTorchRuntime"),
        packages={"torch": ("torch",)},
        devices={"cpu": "export", "cuda": "export"},
        memory="pytorch",
        # A ZIP archive as torch.save makes it; a bare pickle; the end of the length of a safetensors header under
        # 1 TiB, and its beginning.
        content=re.compile(rb"PK\x03\x04|\x80|.{5}\0\0\0\{", re.DOTALL),
        more_suffixes=(".ckpt", ".tar", ".pkl"),  # checkpoints have any, as checkpoint.pth.tar
    ),
    "triton": RuntimeRow(
        title="Triton server, over the network",
        suffixes=(),
        runtime=("rest_deploy.runtimes.triton", "TritonRuntime"),
        packages={},  # grpc:// alone needs one
        devices={"server": "triton"},
        schemes=tuple(SCHEMES),
    ),
}
#: The first of those that open a file is the one that does unless a device of another is asked for.
RUNTIMES: Mapping[str, RuntimeRow] = MappingProxyType(_ROWS)


def is_checkpoint(path: str | Place) -> bool:
    """Whether a file is one that PyTorch opens."""
    return _rows(path)[:1] == (RUNTIMES["pytorch"],)


def can_sleep(path: str | Place, device: str | None = None) -> bool:
    """Whether a file is one whose runtime takes ``allow_spinning=False``.

    Raises:
        ArtifactError: Unknown suffix.
        DeviceError: The runtime does not run on the device.
        MissingPackageError: The runtime's package is not installed.
    """
    return row_for(path, device).load(_purpose(path)).spinning_advice is None


def device_help() -> str:
    """What ``--device`` takes."""
    defaults = {suffix[1:]: next(iter(row.devices)) for row in _firsts() for suffix in row.suffixes}
    articles = {kind: "an" if kind[0] in "aeiou" else "a" for kind in defaults}
    others = "".join(f", of {articles[kind]} {kind} {device}" for kind, device in defaults.items() if device != "cpu")
    kinds = {kind: f"{kind}[:{row.device_names}]" for row in RUNTIMES.values() if row.opens for kind in row.devices}
    return f"{', '.join(['cpu', 'cuda[:N]', *kinds.values()])}; never another than asked (default cpu{others})"


def _firsts() -> list[RuntimeRow]:
    """Rows that open files unless a device of another is asked for."""
    return [row for row in RUNTIMES.values() if not row.opens]


def open_runtime(
    path: str | Place, device: str | None = None, threads: int | None = None, allow_spinning: bool = True
) -> Runtime:
    """Open an artifact with the runtime of its suffix or its content, or of its address.

    Args:
        path: The artifact, or the address of a model on a server.
        device: Where it runs; None for the runtime's default.
        threads: CPU threads for one call; None for :func:`~rest_deploy.machine.usable_cores`.
        allow_spinning: False makes calls a little slower and, where they are rare, far cheaper: ONNX Runtime's threads
            then sleep between two calls.

    Raises:
        ConfigError: Spinning is to be off, and the runtime cannot turn it off.
        ArtifactError: Unknown suffix, or the file is missing, damaged or not ours.
        MissingPackageError: The runtime's package is not installed.
        DeviceError: The device is not there, or the runtime does not run on it.
    """
    row = row_for(path, device)
    runtime = row.load(_purpose(path))(path, row.named(device), threads, allow_spinning)
    try:
        _check_record(runtime.info, path)
    except ArtifactError:
        runtime.close()
        raise
    return runtime


def read_info(path: str | Place) -> ArtifactInfo:
    """What an artifact says of itself, without loading its network where that can be had.

    Raises:
        ArtifactError: Unknown suffix, or the file is missing, damaged or not ours.
        MissingPackageError: The package that reads it is not installed.
    """
    info = row_for(path).load(_purpose(path)).read_info(located(path))
    _check_record(info, path)
    return info


def _purpose(path: str | Place) -> str:
    return "ask a server" if is_address(path) else f"open {Path(str(path)).suffix} files"


def _check_record(info: ArtifactInfo, path: str | Place) -> None:
    """What a record says by itself may be well, and not fit the file or any network."""
    own = row_for(path)
    formats = [name for name, row in RUNTIMES.items() if row.runtime == own.runtime]
    if info.format not in formats:
        raise ArtifactError(f"{path}: its record says format {info.format}; accepted: {', '.join(formats)}")
    try:
        config_of(info)
    except ConfigError as exc:
        raise ArtifactError(f"{path}: metadata cannot be read: config: {exc}; export it again") from exc


def row_for(path: str | Place, device: str | None = None) -> RuntimeRow:
    """Row of the runtime that opens a file, on a device if one is given.

    Raises:
        ArtifactError: Unknown suffix.
        DeviceError: Nothing runs such a file on that device.
    """
    rows = _rows(path)
    if not rows:
        suffixes = dict.fromkeys(suffix for row in RUNTIMES.values() for suffix in row.suffixes)
        raise ArtifactError(
            f"{path}: unknown kind of artifact; accepted: {', '.join(suffixes)}, PyTorch checkpoints of any name, and "
            "models on a server, as http://HOST:8000/NAME"
        )
    if device is None:
        return rows[0]
    target = Device.parse(device)
    if all(target.kind not in row.devices for row in RUNTIMES.values()):
        raise DeviceError(f"device {device!r}; accepted: {', '.join(accepted_devices())}")
    found = next((row for row in rows if target.kind in row.devices), None)
    if found is None:
        raise DeviceError(f"{path}: device {device}: {rows[0].only}")
    return found


def accepted_devices() -> tuple[str, ...]:
    """Names of devices, in words."""
    kinds = {kind: row.device_names for row in RUNTIMES.values() if row.opens for kind in row.devices}
    own = [word for kind, names in kinds.items() for word in (kind, f"{kind}:{names}")]
    return ("cpu", "cuda", "cuda:0", "cuda:1", "...", *own)


def _rows(path: str | Place) -> tuple[RuntimeRow, ...]:
    """The rows of a file's suffix, else that of its content; of an address that of its scheme."""
    path = located(path)
    if isinstance(path, Address):
        return tuple(row for row in RUNTIMES.values() if path.scheme in row.schemes)
    suffix = path.suffix.lower()
    rows = tuple(row for row in RUNTIMES.values() if suffix in row.suffixes or suffix in row.more_suffixes)
    if rows:
        return rows
    if not os.path.isfile(path):  # False, not an error, for an impossible name
        if os.path.isdir(path) or unseen(path):
            raise ArtifactError(f"{path}: {no_file(path)}")
        return ()
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc
    return tuple(row for row in RUNTIMES.values() if row.content is not None and row.content.match(head))
