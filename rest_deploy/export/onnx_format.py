"""Format ``onnx``: the proved ONNX file itself, put in place with its record and its seal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import DeviceError, MissingPackageError
from rest_deploy.export.formats import Exporter, FormatRequest, Made, Trial
from rest_deploy.export.options import option
from rest_deploy.nvidia import find_gpu
from rest_deploy.specs import DEFAULT_OPSET, OPSETS
from rest_deploy.values import Whole, hold


@dataclass(frozen=True)
class OnnxConfig:
    """How to write the graph, whatever is made from it.

    Raises:
        ConfigError: An opset out of range.
    """

    opset: Annotated[int, Whole(OPSETS[0], OPSETS[-1])] = option(
        DEFAULT_OPSET, f"ONNX operator set, {OPSETS[0]} to {OPSETS[-1]} (default {DEFAULT_OPSET})"
    )
    simplify: bool = option(True, "leave onnxsim out", flag="--no-simplify")
    blockwise: bool = option(
        True,
        "compute maps of large images whole, for runtimes other than ONNX Runtime; memory then grows with the square "
        "of their pixels. FP16, INT8 for TensorRT and engines are always so",
        flag="--no-blockwise",
    )

    def __post_init__(self) -> None:
        hold(self)


def check(request: FormatRequest) -> Exporter:
    """The exporter; whatever the request allows can be made."""
    return OnnxExporter(request)


class OnnxExporter(Exporter):
    """The file is there already: it is what every format is made from."""

    step: ClassVar[str] = ""

    def make(self, source: Path, info: ArtifactInfo, folder: Path) -> Made:
        return Made(source, info)

    def trial(self, info: ArtifactInfo) -> Trial:
        if info.recipe.qdq:
            return Trial(None, "Q/DQ pairs are for TensorRT, which builds an engine from them")
        device = "cpu" if info.recipe.integers or not _runs_on_gpu() else "cuda"
        return Trial(device, size=InputSize(1, info.image_size) if info.image_size is not None else Trial.size)

    def place(self, made: Made, output: Path) -> tuple[str, ...]:
        with replacing(output) as target:
            write_record(target, made.info, graph=made.path)
        return ()


def _runs_on_gpu() -> bool:
    """Whether ONNX Runtime has CUDA here, and CUDA a GPU."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return False
    try:
        find_gpu(0)
    except (DeviceError, MissingPackageError):
        return False
    return True
