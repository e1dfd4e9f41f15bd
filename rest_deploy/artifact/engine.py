"""The TensorRTs, and what the manifest of an engine says beyond the record that every artifact has."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypedDict

from rest_deploy.artifact.profile import Profile
from rest_deploy.specs import BATCH, FRACTION, SEED, SIDE
from rest_deploy.values import Is, Many, OneOf, Real, Scalar, Sha256, Text, Whole, hold

_BYTES, _LAYERS = Whole(0, 1 << 50), Whole(0, 1 << 30)
_FIGURE = Real(0)


class _Sizes(TypedDict):
    batch: Annotated[int, BATCH]
    height: Annotated[int, SIDE]
    width: Annotated[int, SIDE]


class _LogitsCase(_Sizes):
    max_error: Annotated[float, _FIGURE]
    mean_error: Annotated[float, _FIGURE]
    reference_error: Annotated[float, _FIGURE] | None
    logit_scale: Annotated[float, _FIGURE]
    logit_std: Annotated[float, _FIGURE]
    cosine: Annotated[float, Real(-1.001, 1.001)]  # rounding
    kl_divergence: Annotated[float, _FIGURE]
    top1_agreement: Annotated[float, FRACTION]
    top5_agreement: Annotated[float, FRACTION]


class LogitsCase(_LogitsCase, total=False):
    """Figures of the logits in one case, as ``verification/figures.py`` measures them."""

    output: Annotated[str, Text(1000)]  # where there are others


class MapCase(_Sizes):
    """Figures of a map or an embedding in one case."""

    output: Annotated[str, Text(1000)]
    max_error: Annotated[float, _FIGURE]
    rms_error: Annotated[float, _FIGURE]
    reference_error: Annotated[float, _FIGURE] | None
    scale: Annotated[float, _FIGURE]
    std: Annotated[float, _FIGURE]
    cosine: Annotated[float, Real(-1.001, 1.001)]


def _case(value: Any) -> Any:
    """Read figures of one output in one case."""
    return Is(MapCase if isinstance(value, Mapping) and "scale" in value else LogitsCase)(value)


class VerificationRecord(TypedDict):
    """Figures of the check against the PyTorch model."""

    reference: Annotated[str, Text(1000)]
    passed: bool
    seed: Annotated[int, SEED]
    cases: Annotated[list[Annotated[Mapping[str, Any], _case]], Many(1, 10_000)]


@dataclass(frozen=True)
class LibraryRow:
    """A TensorRT that can be installed.

    Args:
        title: For people.
        modules: Import names, of which the first that is installed is used -> the distributions that may bring each.
        package: Distribution that the extra installs.
        extra: Of rest-deploy.
        others: Distributions that must have the same version.
    """

    title: str
    modules: Mapping[str, tuple[str, ...]]
    package: str
    extra: str
    others: tuple[str, ...] = ()

    @property
    def pinned(self) -> tuple[str, ...]:
        """Distributions that must have an engine's version to run it."""
        return (self.package, *self.others)


#: By the format that it makes.
LIBRARIES: Mapping[str, LibraryRow] = MappingProxyType(
    {
        "trt": LibraryRow(
            "TensorRT",
            MappingProxyType({"tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")}),
            "tensorrt",
            "trt",
        ),
        "trt-rtx": LibraryRow(
            "TensorRT-RTX",
            MappingProxyType(
                {
                    "tensorrt_rtx": ("tensorrt-rtx",),
                    "tensorrt_rtx_bindings": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
                }
            ),
            "tensorrt-rtx-cu13-bindings",
            "trt-rtx",
            ("tensorrt-rtx-cu13-libs",),
        ),
    }
)


@dataclass(frozen=True)
class EngineRecord:
    """How an engine was built, and what may run it.

    Args:
        library: A key of :data:`LIBRARIES`.
        version: Of the library.
        targets: Compute capabilities that it was built for, such as ``("sm86", "sm89")``.
        gpu: Name of the GPU that it was built on, or None where it was built without one.
        profiles: Sizes it accepts.
        plan_sha256, plan_bytes: Of the plan.
        source_sha256: Of the ONNX file that it was built from.
        source_verification: Figures of that file against the PyTorch model, or None where that was skipped.
        layers: Stage of the network -> datatype -> number of layers, out of the build's log.
        activation_bytes: Memory for activations at the largest size, as the library tells.
        options: Of the build, those that are not the library's default.
        why: Why with this library.
        command: Arguments of rest-export that make it again, without format, target and output; None where no arguments
            can say it, as of a model that was given as a config.
        version_compatible: Whether later versions of the library run it.
        hardware_compatibility: ``"none"``, ``"same-cc"`` or ``"ampere+"``.
        not_run: Why the engine itself was not run where it was made; None where it was, or nobody asked.
    """

    library: Annotated[str, OneOf(*LIBRARIES)]
    version: Annotated[str, Text(50, r"\d[\w.+-]*", "a version, such as 10.9.0.34")]
    targets: Annotated[tuple[Annotated[str, Text(6, r"sm\d{2,4}", "sm86, sm89, sm120, ...")], ...], Many(1, 100)]
    gpu: Annotated[str, Text(1000)] | None
    profiles: Annotated[tuple[Profile, ...], Many(1, 100)]
    plan_sha256: Sha256
    plan_bytes: Annotated[int, _BYTES]
    source_sha256: Sha256
    source_verification: Annotated[Mapping[str, Any], Is(VerificationRecord)] | None
    layers: Mapping[str, Mapping[str, Annotated[int, _LAYERS]]]
    activation_bytes: Annotated[int, _BYTES] | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict)
    why: str = ""
    command: tuple[str, ...] | None = ()
    version_compatible: bool = False
    hardware_compatibility: Annotated[str, OneOf("none", "same-cc", "ampere+")] = "none"
    not_run: str | None = None

    def __post_init__(self) -> None:
        hold(self)

    def rebuild(self, output: str | Path, *, library: str | None = None, target: str | None = None) -> str:
        """The rest-export line that makes it again, or words where there can be none.

        Args:
            output: Where.
            library: Another one than it was built with.
            target: Another compute capability; only of TensorRT-RTX.
        """
        if self.command is None:
            return "rest_deploy.export() in Python, as it was made; its request has no command line"
        words = ["rest-export", *self.command, "--format", library or self.library]
        if (library or self.library) == "trt-rtx":
            words += ["--target", target or ",".join(self.targets)]
        return shlex.join([*words, "--output", str(output)])
