"""What an artifact says of itself: one record, carried as JSON inside the file or beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.precision import PrecisionRecord
from rest_deploy.errors import ArtifactError
from rest_deploy.specs import Precision, Preprocessing, TensorSpec

SCHEMA = 1
#: Key under which an ONNX file's metadata holds the record.
METADATA_KEY = "rest_deploy"


@dataclass(frozen=True)
class Weights:
    """Where the weights come from: a checkpoint file, or random numbers of a seed."""

    file: str | None = None
    sha256: str | None = None
    seed: int | None = None

    @property
    def random(self) -> bool:
        """True where no checkpoint was given, so that predictions mean nothing."""
        return self.file is None


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
        preprocessing: From an image to the input.
        input: (batch, channels, height, width) float32, or float16.
        output: (batch, classes) of the same.
        versions: Of the packages that made the file.
        verification: Figures of the check against the PyTorch model, or None where it was skipped, or could not be
            done where the file was made.
        extra: What only this format has to say.
        engine: How it was built and what may run it; only of TensorRT engines.
        precision_plan: How it was narrowed; only of FP16 and INT8.

    Raises:
        ArtifactError: The shapes are not those of a classifier, or labels and classes differ in number.
    """

    format: str
    precision: Precision
    model: str
    config: Mapping[str, Any]
    weights: Weights
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing
    input: TensorSpec
    output: TensorSpec
    versions: Mapping[str, str] = field(default_factory=dict)
    verification: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    engine: EngineRecord | None = None
    precision_plan: PrecisionRecord | None = None

    def __post_init__(self) -> None:
        for spec, rank in ((self.input, 4), (self.output, 2)):
            size = spec.shape[1] if len(spec.shape) == rank else None
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ArtifactError(
                    f"tensor {spec.name} has the shape {spec.shape}; needed: {rank} sizes, the second fixed"
                )
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ArtifactError(f"{len(self.labels)} labels are named for {self.num_classes} classes")

    @property
    def num_classes(self) -> int:
        """Number of logits an image gets."""
        return int(self.output.shape[1])

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
                "source": "random" if self.weights.random else "checkpoint",
                "file": self.weights.file,
                "sha256": self.weights.sha256,
                "seed": self.weights.seed,
            },
            "labels": list(self.labels) if self.labels is not None else None,
            "preprocessing": self.preprocessing.to_dict(),
            "input": _tensor_to_dict(self.input),
            "output": _tensor_to_dict(self.output),
            "versions": dict(self.versions),
            "verification": dict(self.verification) if self.verification is not None else None,
            **({"extra": dict(self.extra)} if self.extra else {}),
            **({"engine": self.engine.to_dict()} if self.engine is not None else {}),
            **({"precision_plan": self.precision_plan.to_dict()} if self.precision_plan is not None else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArtifactInfo:
        """Read what :meth:`to_dict` gave.

        Raises:
            ArtifactError: A field is missing or of the wrong kind, or a later version wrote it.
        """
        if values.get("schema") != SCHEMA:
            raise ArtifactError(f"metadata of schema {values.get('schema')!r}; this version reads {SCHEMA}; upgrade it")
        try:
            weights, labels = values["weights"], values["labels"]
            return cls(
                format=str(values["format"]),
                precision=Precision.parse(values["precision"]),
                model=str(values["model"]),
                config=dict(values["config"]),
                weights=Weights(weights["file"], weights["sha256"], weights["seed"]),
                labels=None if labels is None else tuple(str(label) for label in labels),
                preprocessing=Preprocessing.from_dict(values["preprocessing"]),
                input=_tensor_from_dict(values["input"]),
                output=_tensor_from_dict(values["output"]),
                versions=dict(values["versions"]),
                verification=None if values["verification"] is None else dict(values["verification"]),
                extra=dict(values.get("extra", {})),
                engine=EngineRecord.from_dict(values["engine"]) if "engine" in values else None,
                precision_plan=PrecisionRecord.from_dict(plan) if (plan := values.get("precision_plan")) else None,
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


def _tensor_to_dict(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _tensor_from_dict(values: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(values["name"]), str(values["dtype"]), tuple(values["shape"]))
