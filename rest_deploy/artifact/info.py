"""What an artifact says of itself: one record, carried as JSON inside the file or beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.precision import PrecisionRecord
from rest_deploy.errors import ArtifactError
from rest_deploy.specs import Activation, ImageSize, Int8Target, Precision, Preprocessing, TensorSpec

SCHEMA = 2
#: Key under which an ONNX file's metadata holds the record.
METADATA_KEY = "rest_deploy"


#: What may be assumed where neither the checkpoint nor the caller says it -> the flag that says it.
ASSUMABLE: Mapping[str, str] = MappingProxyType(
    {
        "weights": "--weights-key",
        "left out": "--key-prefix",
        "architecture": "--model of a published network, or in Python a ResTConfig",
        "labels": "--labels",
        "activation": "--activation",
        "transform": "--transform",
        "image size": "--image-size",
        "crop ratio": "--crop-ratio",
        "interpolation": "--interpolation",
        "mean": "--mean",
        "std": "--std",
        "alpha": "--alpha",
    }
)


@dataclass(frozen=True)
class Weights:
    """Where the weights come from: a checkpoint file, a module in memory, or random numbers of a seed.

    Args:
        file: Name of the checkpoint.
        sha256: Of its bytes, or of a module's weights.
        seed: Of random weights.
        key: Entry of the checkpoint that they were taken from, such as ``"model_ema"``; empty where they stand bare.
        prefix: What stood before their names and was taken off, such as ``"module."``.
        notes: What was done with them, in sentences.
    """

    file: str | None = None
    sha256: str | None = None
    seed: int | None = None
    key: str = ""
    prefix: str = ""
    notes: tuple[str, ...] = ()

    @property
    def random(self) -> bool:
        """True where no weights were given, so that predictions mean nothing."""
        return self.seed is not None

    @property
    def source(self) -> str:
        """``"checkpoint"``, ``"module"`` or ``"random"``."""
        if self.random:
            return "random"
        return "module" if self.file is None else "checkpoint"

    def __str__(self) -> str:
        if self.random:
            return f"random, seed {self.seed}: predictions mean nothing"
        where = f"{self.file}, " if self.file is not None else "a module in memory, "
        key = f"entry {self.key}, " if self.key else ""
        return f"{where}{key}SHA-256 {str(self.sha256)[:16]}..."


@dataclass(frozen=True)
class ArtifactInfo:
    """The record.

    Args:
        format: ``"onnx"``, ``"pytorch"``, ...
        precision: Number format of weights and activations.
        model: Name of the model.
        config: Its hyper-parameters.
        weights: Where they come from.
        labels: One name a class, or None where they are not known.
        preprocessing: From a picture to the input; None where the caller makes the input.
        input: (batch, channels, height, width) float32, or float16.
        output: (batch, classes) of the same.
        activation: How logits become scores.
        assumed: What neither the checkpoint nor the caller said -> what was taken, in words; keys of :data:`ASSUMABLE`.
        versions: Of the packages that made the file.
        verification: Figures of the check against the PyTorch model, or None where it was skipped, or could not be
            done where the file was made.
        extra: What only this format has to say.
        engine: How it was built and what may run it; only of TensorRT engines.
        precision_plan: How it was narrowed; only of FP16 and INT8.
        test_vector: A picture, some values of its input and its logits, for other languages to check themselves by.

    Raises:
        ArtifactError: The shapes are not those of a classifier, or labels and classes differ in number.
    """

    format: str
    precision: Precision
    model: str
    config: Mapping[str, Any]
    weights: Weights
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    input: TensorSpec
    output: TensorSpec
    activation: Activation = Activation.SOFTMAX
    assumed: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    verification: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    engine: EngineRecord | None = None
    precision_plan: PrecisionRecord | None = None
    test_vector: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for spec, rank in ((self.input, 4), (self.output, 2)):
            size = spec.shape[1] if len(spec.shape) == rank else None
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ArtifactError(
                    f"tensor {spec.name} has the shape {spec.shape}; needed: {rank} sizes, the second fixed"
                )
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ArtifactError(f"{len(self.labels)} labels are named for {self.num_classes} classes")
        if self.preprocessing is not None and len(self.preprocessing.mean) != self.input.shape[1]:
            raise ArtifactError(
                f"preprocessing for {len(self.preprocessing.mean)} channels, and an input of {self.input.shape[1]}"
            )
        unknown = sorted(set(self.assumed) - set(ASSUMABLE))
        if unknown or not all(isinstance(value, str) for value in self.assumed.values()):
            raise ArtifactError(f"assumed: {unknown or 'values that are no text'}; known: {', '.join(ASSUMABLE)}")

    @property
    def num_classes(self) -> int:
        """Number of logits an image gets."""
        return int(self.output.shape[1])

    @property
    def image_size(self) -> ImageSize | None:
        """Size that pictures are brought to; None where they come at their own, or the caller makes the input."""
        return self.preprocessing.size if self.preprocessing is not None else None

    @property
    def holds_halves(self) -> bool:
        """Whether it computes with half values, as FP16 does and INT8 for TensorRT; INT8 for CPUs does not."""
        plan = self.precision_plan
        return self.precision is not Precision.FP32 and (plan is None or plan.int8_target is not Int8Target.CPU)

    def label(self, index: int) -> str:
        """Name of a class, or ``"class 7"`` where names are not known."""
        return self.labels[index] if self.labels is not None else f"class {index}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of :meth:`from_dict`."""
        return {
            "schema": SCHEMA,
            "format": self.format,
            "precision": self.precision.value,
            "model": self.model,
            "config": dict(self.config),
            "weights": {
                "source": self.weights.source,
                "file": self.weights.file,
                "sha256": self.weights.sha256,
                "seed": self.weights.seed,
                "key": self.weights.key,
                "prefix": self.weights.prefix,
                "notes": list(self.weights.notes),
            },
            "labels": list(self.labels) if self.labels is not None else None,
            "preprocessing": self.preprocessing.to_dict() if self.preprocessing is not None else None,
            "activation": self.activation.value,
            "assumed": dict(self.assumed),
            "input": _tensor_to_dict(self.input),
            "output": _tensor_to_dict(self.output),
            "versions": dict(self.versions),
            "verification": dict(self.verification) if self.verification is not None else None,
            **({"extra": dict(self.extra)} if self.extra else {}),
            **({"engine": self.engine.to_dict()} if self.engine is not None else {}),
            **({"precision_plan": self.precision_plan.to_dict()} if self.precision_plan is not None else {}),
            **({"test_vector": dict(self.test_vector)} if self.test_vector is not None else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArtifactInfo:
        """Read what :meth:`to_dict` gave.

        Raises:
            ArtifactError: A field is missing or of the wrong kind, or a later version wrote it.
        """
        schema = values.get("schema")
        if schema != SCHEMA:
            earlier = isinstance(schema, int) and schema < SCHEMA
            step = "export the checkpoint again" if earlier else "upgrade rest_deploy"
            raise ArtifactError(f"metadata of schema {schema!r}; this version reads {SCHEMA}; {step}")
        try:
            weights, labels, steps = values["weights"], values["labels"], values["preprocessing"]
            return cls(
                format=str(values["format"]),
                precision=Precision.parse(values["precision"]),
                model=str(values["model"]),
                config=dict(values["config"]),
                weights=_weights_from_dict(weights),
                labels=None if labels is None else tuple(str(label) for label in labels),
                preprocessing=None if steps is None else Preprocessing.from_dict(steps),
                activation=Activation.parse(values["activation"]),
                assumed=dict(values["assumed"]),
                input=_tensor_from_dict(values["input"]),
                output=_tensor_from_dict(values["output"]),
                versions=dict(values["versions"]),
                verification=None if values["verification"] is None else dict(values["verification"]),
                extra=dict(values.get("extra", {})),
                engine=EngineRecord.from_dict(values["engine"]) if "engine" in values else None,
                precision_plan=PrecisionRecord.from_dict(plan) if (plan := values.get("precision_plan")) else None,
                test_vector=dict(vector) if (vector := values.get("test_vector")) is not None else None,
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as exc:  # ConfigError is a ValueError
            raise ArtifactError(f"metadata cannot be read: {type(exc).__name__}: {exc}") from exc

    def to_json(self) -> str:
        """Compact JSON text."""
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: str | Path) -> ArtifactInfo:
        """Read JSON text found in ``path``.

        Raises:
            ArtifactError: Names the path.
        """
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ArtifactError("metadata is no JSON object")
            return cls.from_dict(values)
        except (ValueError, RecursionError) as exc:
            raise ArtifactError(f"{path}: metadata is no JSON: {exc}") from exc
        except ArtifactError as exc:
            raise ArtifactError(f"{path}: {exc}") from exc


def _weights_from_dict(values: Mapping[str, Any]) -> Weights:
    file, sha256, seed, notes = values["file"], values["sha256"], values["seed"], tuple(values["notes"])
    texts = [value for value in (file, sha256) if value is not None] + [values["key"], values["prefix"], *notes]
    if not all(isinstance(value, str) for value in texts) or not isinstance(seed, (int, type(None))):
        raise TypeError(f"weights: {dict(values)}")
    return Weights(file, sha256, seed, values["key"], values["prefix"], notes)


def _tensor_to_dict(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _tensor_from_dict(values: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(values["name"]), str(values["dtype"]), tuple(values["shape"]))
