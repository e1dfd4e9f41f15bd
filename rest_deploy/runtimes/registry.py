"""The runtimes: one row each, and which of them opens a file.

A runtime is a module that holds a subclass of :class:`~rest_deploy.runtimes.base.Runtime`. A row says what can be known
without importing it; everything else is asked of the class.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rest_deploy.artifact.address import SCHEMES, Address, Place, is_address, located
from rest_deploy.artifact.engine import LIBRARIES, LibraryRow
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import ArtifactError, ConfigError, DeviceError, MissingPackageError
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
        memory: Whose measured use of memory on the CPU is its own too (``models/family.py``): ``"onnx"`` for ONNX
            Runtime's, ``"pytorch"`` for PyTorch's.
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
    content: re.Pattern[bytes] | None = None
    more_suffixes: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()

    @property
    def default_device(self) -> str:
        """``"cpu"`` or ``"cuda:0"``: where it runs unless another device is asked for."""
        return str(Device(next(iter(self.devices))))

    @property
    def only(self) -> str:
        """Where it runs, in words, for who asked for another device."""
        if self.schemes:
            return "a model on a server runs where its server was told to; leave the device out"
        kinds, suffix = " and ".join(self.devices), self.suffixes[0]
        return f"{self.title} runs {suffix} files on {kinds} only; use device {kinds}, or elsewhere an .onnx file"

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


_ROWS = {
    "onnx": RuntimeRow(
        title="ONNX Runtime",
        suffixes=(".onnx",),
        runtime=("rest_deploy.runtimes.ort", "OnnxRuntime"),
        packages={
            "onnxruntime": (
                *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn"),
                *("onnxruntime-rocm", "onnxruntime-migraphx"),
            )
        },
        devices={"cpu": "cpu", "cuda": "gpu"},
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
#: By the format that the records of its files have.
RUNTIMES: Mapping[str, RuntimeRow] = MappingProxyType(_ROWS)


def is_checkpoint(path: str | Place) -> bool:
    """Whether a file is one that PyTorch opens."""
    return _row(path) is RUNTIMES["pytorch"]


def can_sleep(path: str | Place) -> bool:
    """Whether a file is one whose runtime takes ``allow_spinning=False``.

    Raises:
        MissingPackageError: The runtime's package is not installed.
    """
    row = _row(path)
    return row is not None and row.load(_purpose(path)).spinning_advice is None


def device_help() -> str:
    """What ``--device`` takes."""
    defaults = {suffix[1:]: next(iter(row.devices)) for row in RUNTIMES.values() for suffix in row.suffixes}
    articles = {kind: "an" if kind[0] in "aeiou" else "a" for kind in defaults}
    others = "".join(f", of {articles[kind]} {kind} {device}" for kind, device in defaults.items() if device != "cpu")
    return f"cpu, cuda or cuda:N, never another than asked (default cpu{others})"


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
    row = _row_for(path)
    device = device if device is not None else row.default_device
    if Device.parse(device).kind not in row.devices:
        raise DeviceError(f"{path}: device {device}: {row.only}")
    runtime = row.load(_purpose(path))(path, device, threads, allow_spinning)
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
    info = _row_for(path).load(_purpose(path)).read_info(located(path))
    _check_record(info, path)
    return info


def _purpose(path: str | Place) -> str:
    return "ask a server" if is_address(path) else f"open {Path(str(path)).suffix} files"


def _check_record(info: ArtifactInfo, path: str | Place) -> None:
    """What a record says by itself may be well, and not fit the file or any network."""
    own = _row_for(path)
    formats = [name for name, row in RUNTIMES.items() if row.runtime == own.runtime]
    if info.format not in formats:
        raise ArtifactError(f"{path}: its record says format {info.format}; accepted: {', '.join(formats)}")
    try:
        config_of(info)
    except ConfigError as exc:
        raise ArtifactError(f"{path}: metadata cannot be read: config: {exc}; export it again") from exc


def _row_for(path: str | Place) -> RuntimeRow:
    row = _row(path)
    if row is None:
        suffixes = dict.fromkeys(suffix for row in RUNTIMES.values() for suffix in row.suffixes)
        raise ArtifactError(
            f"{path}: unknown kind of artifact; accepted: {', '.join(suffixes)}, PyTorch checkpoints of any name, and "
            "models on a server, as http://HOST:8000/NAME"
        )
    return row


def _row(path: str | Place) -> RuntimeRow | None:
    """The first row of a file's suffix, else of its content; of an address that of its scheme."""
    place = located(path)
    if isinstance(place, Address):
        return next(row for row in RUNTIMES.values() if place.scheme in row.schemes)
    path = place
    suffix = path.suffix.lower()
    for row in RUNTIMES.values():
        if suffix in row.suffixes or suffix in row.more_suffixes:
            return row
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc
    return next((row for row in RUNTIMES.values() if row.content is not None and row.content.match(head)), None)
