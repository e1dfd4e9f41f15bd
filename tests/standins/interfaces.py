"""Classes of the TensorRT stand-in that code subclasses or reads as bytes: loggers, progress monitors, host memory."""

from __future__ import annotations

from typing import Any

from tests.standins.enums import make_severity


class _Interface(type):
    """pybind11 refuses a subclass whose own ``__init__`` does not call its base's."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if "_made" not in vars(made):
            raise TypeError(f"{cls.__mro__[-2].__name__}.__init__() must be called when overriding __init__")
        return made


def make_interfaces(module_name: str, version: str) -> dict[str, Any]:
    """``ILogger``, ``Logger`` and ``IProgressMonitor`` of a module."""
    severity = make_severity(version)

    class ILogger(metaclass=_Interface):
        Severity = severity

        def __init__(self) -> None:
            self._made = True

        def log(self, severity: Any, msg: str) -> None:
            print('Tried to call pure virtual function "ILogger::log"')

    class Logger(ILogger):
        def __init__(self, min_severity: Any = severity.WARNING) -> None:
            super().__init__()
            self.min_severity = min_severity

        def log(self, severity: Any, msg: str) -> None:
            if severity <= self.min_severity:
                print(f"[TRT] [{severity.name[0]}] {msg}")

    class IProgressMonitor(metaclass=_Interface):
        def __init__(self) -> None:
            self._made = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            pass

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

    for member, value in severity.__members__.items():
        setattr(ILogger, member, value)
    interfaces = (ILogger, Logger, IProgressMonitor)
    for interface in interfaces:
        interface.__module__ = module_name
    return {interface.__name__: interface for interface in interfaces}


class HostMemory(bytes):
    """``IHostMemory``: a buffer with ``nbytes`` and ``dtype``, and nothing else of what bytes can do."""

    __hash__ = object.__hash__

    def __new__(cls, data: bytes, dtype: Any) -> HostMemory:
        made = super().__new__(cls, data)
        vars(made)["dtype"] = dtype
        return made

    @property
    def nbytes(self) -> int:
        """Its size."""
        return memoryview(self).nbytes

    def __getattribute__(self, name: str) -> Any:
        if name in ("dtype", "nbytes") or (name.startswith("__") and name not in _HIDDEN):
            return super().__getattribute__(name)
        raise AttributeError(f"'IHostMemory' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"'IHostMemory' object has no attribute '{name}'")

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __len__(self) -> int:
        raise TypeError("object of type 'IHostMemory' has no len()")

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("'IHostMemory' object is not subscriptable")

    def __iter__(self) -> Any:
        raise TypeError("'IHostMemory' object is not iterable")

    def __add__(self, other: object) -> Any:
        raise TypeError("unsupported operand type(s) for +: 'IHostMemory'")

    def __repr__(self) -> str:
        return f"<IHostMemory object at {id(self):#x}>"


_HIDDEN = frozenset({"__len__", "__getitem__", "__iter__", "__contains__"})
