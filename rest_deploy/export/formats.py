"""The formats that can be exported: one row each, and what an exporter is.

An exporter is a module that holds ``check(request) -> Exporter``. The pipeline names no format.
"""

from __future__ import annotations

import importlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import InputSize, Profile
from rest_deploy.errors import ConfigError
from rest_deploy.recipes import recipes
from rest_deploy.specs import ImageSize, InputKind, Int8Target, Precision, StepProgress


@dataclass(frozen=True)
class FormatRequest:
    """One file that is asked for.

    Args:
        format: Its format.
        precision: Number format.
        config: An instance of the row's config class.
        verify: Whether it is checked against the PyTorch model.
        command: Arguments of rest-export that ask for it, without format, target and output; None where none can.
        report: Called as a long step goes on.
    """

    format: str
    precision: Precision
    config: Any
    verify: bool = True
    command: tuple[str, ...] | None = ()
    report: StepProgress | None = None


@dataclass(frozen=True)
class Made:
    """A file that an exporter made: its path in a work folder, its record, and what the user should know."""

    path: Path
    info: ArtifactInfo
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """Where a made file can be run on this machine.

    Args:
        device: Such as ``"cpu"`` or ``"cuda:0"``; None where it cannot be run.
        why_not: Why it cannot.
        profiles: Input sizes that it takes; empty for all.
        size: Batch and size that its speed is measured at.
    """

    device: str | None
    why_not: str = ""
    profiles: tuple[Profile, ...] = ()
    size: InputSize = InputSize(1, ImageSize(224, 224))


@dataclass(frozen=True)
class Exporter(ABC):
    """Makes the file of one request. A format writes :meth:`make`, and of the rest what differs from here."""

    request: FormatRequest

    #: Name of the step that :meth:`make` is; empty where it takes no time to speak of.
    step: ClassVar[str] = "make"
    #: Whether what runs its files computes in float64.
    float64: ClassVar[bool] = True

    def check(self, info: ArtifactInfo) -> None:  # noqa: B027  # most formats refuse nothing here
        """Refuse, before the work, what cannot be made of a network.

        Args:
            info: Record of the ONNX file that will be made of it.

        Raises:
            ConfigError: Says what to change.
            DeviceError: The GPU that it would be made on does not have the memory for it.
        """

    def files(self, output: Path) -> tuple[Path, ...]:
        """All files that :meth:`place` writes."""
        return (output,)

    def plan(self, info: ArtifactInfo) -> dict[str, str]:
        """What would be made, for a dry run: name -> value, beside or in place of what is told of every format."""
        return {}

    @abstractmethod
    def make(self, source: Path, info: ArtifactInfo, folder: Path) -> Made:
        """Make the file in a work folder.

        Args:
            source: ONNX file in the precision asked for, proved where that was asked for.
            info: Its record.
            folder: An empty folder; the file gets the name of ``source`` with the suffix of the format.

        Returns:
            The file as a runtime opens it. Where ``info.verification`` of the returned record is None, the pipeline
            runs the file itself, as :meth:`trial` says.

        Raises:
            ExportError: It could not be made.
            DeviceError: The GPU that it is made on does not have the memory for it.
        """

    def trial(self, info: ArtifactInfo) -> Trial:
        """Where the file can be run here, to verify and to time it."""
        return Trial(None, f"nothing here runs files of format {self.request.format}")

    def place(self, made: Made, output: Path) -> tuple[str, ...]:
        """Put a made file in place, whole or not at all, with its final record.

        Returns:
            What the user should know of it.

        Raises:
            ExportError: It cannot be written.
        """
        with replacing(output) as target:
            shutil.copyfile(made.path, target)
        return ()


@dataclass(frozen=True)
class Format:
    """A row.

    Args:
        title: For people.
        suffix: Of its files.
        exporter: Module that holds ``check``; importable without anything heavy.
        config: Module and class of its options, a frozen dataclass; likewise.
        packages: Import names that it needs -> the extra of rest-deploy that installs them.
        precisions: What it can be made in; None for all that there are recipes for.
        int8_targets: What its INT8 can be made for, the first unless another is asked for; None for all.
        engine: Whether TensorRT builds it, which has a type for some precisions alone.
        folder: Whether it is a folder, which may have any name and is never written over.
        input: What it takes unless that is asked for.
        blockwise: Whether what runs it computes maps of large images in blocks.
    """

    title: str
    suffix: str
    exporter: str
    config: tuple[str, str]
    packages: Mapping[str, str]
    precisions: tuple[Precision, ...] | None = None
    int8_targets: tuple[Int8Target, ...] | None = None
    engine: bool = False
    folder: bool = False
    input: InputKind = InputKind.FLOAT
    blockwise: bool = False

    @property
    def config_class(self) -> Any:
        """Class of its options."""
        module, name = self.config
        return getattr(importlib.import_module(module), name)

    @property
    def made_in(self) -> tuple[Precision, ...]:
        """What it can be made in."""
        return tuple(precision for precision in Precision if self.targets(precision))

    def targets(self, precision: Precision) -> tuple[Int8Target | None, ...]:
        """What it can be made for in a precision, the first unless another is asked for; none where it has not that."""
        if self.precisions is not None and precision not in self.precisions:
            return ()
        made = [row.target for row in recipes(precision) if row.engine_type or not self.engine]
        if self.int8_targets is None or made == [None]:
            return tuple(made)
        return tuple(target for target in self.int8_targets if target in made)

    def check(self, request: FormatRequest) -> Exporter:
        """What makes the file of a request.

        Raises:
            ConfigError: It asks for something that the format does not have.
            MissingPackageError: A package is not installed.
            DeviceError: This machine cannot make it.
        """
        made: Exporter = importlib.import_module(self.exporter).check(request)
        return made


_EXPORT = MappingProxyType(
    {
        "torch": "export",
        "safetensors": "export",
        "onnx": "export",
        "onnxscript": "export",
        "onnxsim": "export",
        "onnxruntime": "cpu",
    }
)


def _engine(title: str) -> Format:
    return Format(
        title=title,
        suffix=".engine",
        exporter="rest_deploy.export.engine.exporter",
        config=("rest_deploy.export.engine.config", "EngineConfig"),
        engine=True,
        packages=_EXPORT,  # which TensorRT there is, and whether it will do, is found out by choose_library
    )


_ROWS = {
    "onnx": Format(
        title="ONNX",
        suffix=".onnx",
        exporter="rest_deploy.export.onnx_format",
        config=("rest_deploy.export.onnx_format", "OnnxConfig"),
        packages=_EXPORT,
        blockwise=True,
    ),
    "web": Format(
        title="web page by onnxruntime-web",
        suffix=".web",
        exporter="rest_deploy.export.web_format",
        config=("rest_deploy.export.web_format", "WebConfig"),
        packages=_EXPORT,
        int8_targets=(Int8Target.CPU,),
        folder=True,
        input=InputKind.PIXELS,
        blockwise=True,
    ),
    "trt": _engine("TensorRT engine"),
    "trt-rtx": _engine("TensorRT-RTX engine"),
    "triton": Format(
        title="Triton repository",
        suffix=".triton",
        exporter="rest_deploy.serving.exporter",
        config=("rest_deploy.serving.config", "TritonConfig"),
        packages=_EXPORT,
        int8_targets=(Int8Target.CPU,),
        folder=True,
        input=InputKind.PIXELS,
        blockwise=True,
    ),
}
FORMATS: Mapping[str, Format] = MappingProxyType(_ROWS)

#: Format of the file that every other one is made from.
SOURCE = "onnx"


def get_format(name: str) -> Format:
    """Row of a format.

    Raises:
        ConfigError: No such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; accepted: {', '.join(FORMATS)}")
    return FORMATS[name]


def parse_formats(text: str) -> tuple[str, ...]:
    """Read ``"onnx,trt"``: formats, each once, no two of one suffix.

    Raises:
        ConfigError: Anything else.
    """
    names = tuple(name.strip() for name in text.split(","))
    suffixes = [get_format(name).suffix for name in names]
    for suffix in suffixes:
        same = [name for name, other in zip(names, suffixes, strict=True) if other == suffix]
        if len(same) > 1:
            raise ConfigError(f"formats {text}: {' and '.join(same)} write the same {suffix} file; give one of them")
    return names
