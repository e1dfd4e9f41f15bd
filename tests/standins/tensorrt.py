"""A stand-in for the modules ``tensorrt`` and ``tensorrt_rtx``, made from the names that a version of them has.

A name that the version lacks is an AttributeError, values of enums are others than anywhere else, types of arguments
are checked as pybind11 does, every call is recorded, and any of them can be made to fail as TensorRT does: by None,
False or -1, with the reason in the logger alone. Engines run on :class:`tests.standins.cuda.FakeCuda`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest

from tests.conftest import slow
from tests.standins.build import Builder
from tests.standins.config import IBuilderConfig, IOptimizationProfile, ITimingCache
from tests.standins.cuda import FakeCuda
from tests.standins.engine import ICudaEngine, Runtime
from tests.standins.enums import Dims, make_enum
from tests.standins.execute import IExecutionContext, IRuntimeCache, IRuntimeConfig
from tests.standins.faces import Behaviour, Call, make_face, told
from tests.standins.interfaces import HostMemory, make_interfaces
from tests.standins.network import INetworkDefinition, ITensor, OnnxParser, ParserError
from tests.standins.plan import NUMPY_TYPES

__all__ = ["API_CASES", "API_FILES", "Call", "FakeTensorRT"]

_FOLDER = Path(__file__).parent.parent / "data" / "trt_api"
#: Versions that there are names of; what :class:`FakeTensorRT` takes.
API_FILES: tuple[str, ...] = tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))
#: The same as cases of a test. Those between the oldest TensorRT and TensorRT-RTX are slow: they differ in names alone.
API_CASES = (API_FILES[0], API_FILES[-1], *slow(API_FILES[1:-1]))

BEHAVIOURS: tuple[type[Behaviour], ...] = (
    Builder,
    IBuilderConfig,
    ICudaEngine,
    IExecutionContext,
    INetworkDefinition,
    IOptimizationProfile,
    IRuntimeCache,
    IRuntimeConfig,
    ITensor,
    ITimingCache,
    OnnxParser,
    ParserError,
    Runtime,
)
#: Names by which code may import it.
_MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
_ALIASES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}  # others are the member in small letters
_IMPORTED = frozenset({"ctypes", "os", "sys", "warnings"})
_ITEM_BYTES = {"BF16": 2, "FP8": 1, "E8M0": 1}

_RTX_CACHE = "Deprecated in TensorRT-RTX 1.2. Timing cache operations are no-ops in TensorRT-RTX."
_V2 = "Deprecated in TensorRT 10.1. Superseded by get_device_memory_size"
#: Member -> what its DeprecationWarning says, from the source of TensorRT's bindings and from TensorRT-RTX 1.7.
_DEPRECATED_RTX: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("IBuilderConfig.set_timing_cache", "IBuilderConfig.get_timing_cache"), _RTX_CACHE)
    | dict.fromkeys((f"ITimingCache.{name}" for name in ("serialize", "combine", "reset")), _RTX_CACHE)
)
_DEPRECATED_10: Mapping[str, str] = MappingProxyType(
    {"ICudaEngine.create_execution_context_without_device_memory": "create_execution_context"}
)
_DEPRECATED_10_1: Mapping[str, str] = MappingProxyType(
    {
        **_DEPRECATED_10,
        "ICudaEngine.device_memory_size": f"{_V2}_v2",
        "ICudaEngine.get_device_memory_size_for_profile": f"{_V2}_for_profile_v2",
    }
)


class FakeTensorRT:
    """A version of TensorRT or TensorRT-RTX.

    Args:
        file: One of :data:`API_FILES`, such as ``"tensorrt-10.9.0.34"``.
        cuda: The GPUs that it builds and runs on; without, it builds and runs nothing.

    Attributes:
        module: Stands for ``tensorrt`` or ``tensorrt_rtx``.
        calls: Every call of a constructor or method, and every setting of a property; not the logger's.
        returns: Name of a call -> what it gives instead of what it does; an exception is raised, a function is called.
        errors_to_log: Told to the logger when one of ``returns`` gives None, False or -1.
        layers_text: The message of the layers; None sends none.
        datatype: Of the layers in the generated message; ``datatypes`` holds others, by name of the ONNX node.
        network: What engines compute, (B, C, H, W) -> (B, classes), or outputs by name, float32; None is
            :func:`tests.standins.plan.default_network`.
        stride: Of maps among the outputs.
    """

    #: Value of ``layers_text`` for a message made from the ONNX file.
    GENERATED = "generated from the ONNX file"

    def __init__(self, file: str, cuda: FakeCuda | None = None) -> None:
        said = json.loads((_FOLDER / f"{file}.json").read_text())
        self.version: str = said["version"]
        self.names: dict[str, list[str]] = said["names"]
        self.is_rtx = file.startswith("tensorrt_rtx")
        self.cuda = cuda
        self.calls: list[Call] = []
        self.returns: dict[str, Any] = {}
        self.errors_to_log: list[str] = []
        self.layers_text: str | None = self.GENERATED
        self.datatype: str | None = None
        self.datatypes: dict[str, str] = {}
        self.network: Callable[[np.ndarray], Any] | None = None
        self.stride = 1
        self.alive: WeakSet[Any] = WeakSet()  # of what code has constructed
        has_v2 = "device_memory_size_v2" in self.names["ICudaEngine"]
        self.deprecated = _DEPRECATED_RTX if self.is_rtx else _DEPRECATED_10_1 if has_v2 else _DEPRECATED_10
        self.module: Any = ModuleType("tensorrt_rtx" if self.is_rtx else "tensorrt")
        self._fill()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
        """Let a test import it, and no other TensorRT."""
        for name in _MODULES:
            monkeypatch.setitem(sys.modules, name, self.module if name == self.module.__name__ else None)
        return self

    @property
    def library(self) -> str:
        """Module and version, as plans and caches keep them."""
        return f"{self.module.__name__} {self.version}"

    def target(self) -> str | None:
        """Compute capability of the GPU in use, such as ``sm89``; None without one."""
        if self.cuda is None or self.cuda.absent is not None:
            return None
        return "sm{}{}".format(*self.cuda.devices[self.cuda.device].compute_capability)

    def memory_bytes(self) -> int:
        """Memory of the GPU in use; without one what TensorRT-RTX 1.7 says."""
        return 64 << 30 if self.target() is None or self.cuda is None else self.cuda.devices[0].memory_bytes

    def gpu(self) -> FakeCuda:
        """The CUDA stand-in."""
        assert self.cuda is not None, "running an engine needs FakeTensorRT(..., cuda=FakeCuda())"
        return self.cuda

    def host_memory(self, data: bytes) -> HostMemory:
        """An ``IHostMemory``."""
        return HostMemory(data, self.module.DataType.INT8)

    def answer(self, call: Call, logger: Any, behave: Callable[[], Any]) -> Any:
        """What a call gives: what ``returns`` has for it, else what the behaviour does."""
        if call.name not in self.returns:
            return behave()
        given = self.returns[call.name]
        if isinstance(given, BaseException):
            raise given
        if callable(given):
            given = given(*call.args, **call.kwargs)
        if given is None or given is False or (type(given) is int and given == -1):
            for message in self.errors_to_log:
                told(lambda m=message: logger.log(self.module.ILogger.Severity.ERROR, m), "log", None)
        return given

    # The module.

    def _fill(self) -> None:
        module = self.module
        module.__version__ = self.version
        module.__spec__ = ModuleSpec(module.__name__, None)
        made = make_interfaces(module.__name__, self.version) | {"IHostMemory": HostMemory, "Dims": Dims}
        made |= {b.face_name: make_face(self, b, self.names.get(b.face_name, ())) for b in BEHAVIOURS}
        enums = [name for name, members in self.names.items() if _is_enum(name, members)]
        made |= {name: make_enum(name, self.names[name], self.version) for name in enums}
        made["DataType"].itemsize = property(_item_bytes)
        for name, members in self.names.items():
            setattr(module, name, made[name] if name in made else self._other(name, members, made["DataType"]))

    def _other(self, name: str, members: list[str], types: Any) -> Any:
        """What has no behaviour here: other names of data types, functions, modules that it imports, classes."""
        known = {"volume": lambda shape: int(np.prod(list(shape))), "nptype": lambda dtype: NUMPY_TYPES[dtype.name]}
        member = _ALIASES.get(name, name.upper())
        if name in known:
            return known[name]
        if member in types.__members__ and not members:
            return getattr(types, member)
        if name in _IMPORTED:
            return importlib.import_module(name)
        if name[0].islower():
            return lambda *args, **kwargs: _refuse(f"{name}()")
        if name.startswith("Dims") and members:
            return type(name, (Dims,), {})
        return type(name, (), {"__init__": lambda self, *args, **kwargs: _refuse(name)} | dict.fromkeys(members))


def _is_enum(name: str, members: list[str]) -> bool:
    return bool(members) and all(member == member.upper() for member in members) and not name.startswith("Dims")


def _item_bytes(dtype: Any) -> int:
    return _ITEM_BYTES[dtype.name] if dtype.name in _ITEM_BYTES else int(np.dtype(NUMPY_TYPES[dtype.name]).itemsize)


def _refuse(what: str) -> Any:
    raise NotImplementedError(f"{what} is not in the TensorRT stand-in")
