"""What the manifest of a TensorRT engine says beyond the record that every artifact has."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rest_deploy.artifact.profile import Profile

_HEX = frozenset("0123456789abcdef")
_LIBRARIES = ("trt", "trt-rtx")


@dataclass(frozen=True)
class EngineRecord:
    """How an engine was built, and what may run it.

    Args:
        library: ``"trt"`` or ``"trt-rtx"``.
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

    library: str
    version: str
    targets: tuple[str, ...]
    gpu: str | None
    profiles: tuple[Profile, ...]
    plan_sha256: str
    plan_bytes: int
    source_sha256: str
    source_verification: Mapping[str, Any] | None
    layers: Mapping[str, Mapping[str, int]]
    activation_bytes: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    command: tuple[str, ...] | None = ()
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    not_run: str | None = None

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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of :meth:`from_dict`."""
        values = asdict(self)
        values["profiles"] = [profile.to_dict() for profile in self.profiles]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineRecord:
        """Read what :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: A field is missing or of the wrong kind.
        """
        verification, activation = values["source_verification"], values["activation_bytes"]
        profiles = tuple(Profile.from_dict(profile) for profile in values["profiles"])
        if not profiles:
            raise ValueError("no profiles")
        if values["library"] not in _LIBRARIES:
            raise ValueError(f"library {values['library']!r}; known: {', '.join(_LIBRARIES)}")
        if not isinstance(values["version_compatible"], bool):
            raise TypeError(f"version_compatible is {values['version_compatible']!r}")
        return cls(
            library=str(values["library"]),
            version=str(values["version"]),
            targets=_words(values["targets"]),
            gpu=None if values["gpu"] is None else str(values["gpu"]),
            profiles=profiles,
            plan_sha256=_digest(values["plan_sha256"]),
            plan_bytes=int(values["plan_bytes"]),
            source_sha256=_digest(values["source_sha256"]),
            source_verification=None if verification is None else dict(verification),
            layers={stage: _counts(counts) for stage, counts in values["layers"].items()},
            activation_bytes=None if activation is None else int(activation),
            options=dict(values["options"]),
            why=str(values["why"]),
            command=None if values["command"] is None else _words(values["command"]),
            version_compatible=values["version_compatible"],
            hardware_compatibility=str(values["hardware_compatibility"]),
            not_run=None if values["not_run"] is None else str(values["not_run"]),
        )


def _digest(text: Any) -> str:
    if not isinstance(text, str) or len(text) != 64 or not set(text) <= _HEX:
        raise ValueError(f"{text!r} is no SHA-256")
    return text


def _words(values: Any) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r} is no list of words")
    return tuple(values)


def _counts(values: Mapping[str, Any]) -> dict[str, int]:
    return {str(datatype): int(number) for datatype, number in values.items()}
