"""What is asked for, checked before anything heavy is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rest_deploy.errors import ConfigError, MissingPackageError
from rest_deploy.export.formats import FORMATS, PRECISION, get_format, make_configs, parse_formats
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.models.config import ResTConfig, get_config
from rest_deploy.specs import NUM_HEADS, SEED, Activation, Precision, Preprocessing, PreprocessingChange
from rest_deploy.values import check

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ExportRequest:
    """What to make.

    Args:
        model: Name, config, None to read the architecture off the checkpoint, or in place of a checkpoint a
            ``torch.nn.Module`` with the authors' parameter names.
        output: File to write, or for several formats its name without a suffix; None names it after the model, in the
            current folder.
        checkpoint: Weights; None takes random ones of ``seed``.
        format: A row of ``export/formats.py``, or several as ``"onnx,trt"``.
        precision: Number format.
        labels: Class names, a file of them, ``"imagenet"`` or ``"none"``; None takes the checkpoint's own, or for 1000
            classes assumes ImageNet's.
        preprocessing: From an image to the input, or changes of the checkpoint's own; None takes its own, or assumes
            the authors'.
        activation: How logits become scores; None takes the checkpoint's own, or assumes softmax, for one output
            sigmoid.
        weights_key: Entry of the checkpoint to take, such as ``"model"``; None takes the one there is, or the moving
            average.
        key_prefix: What stands before the names of the network's weights; None takes the one there is.
        num_heads: Heads of each stage, where the weights do not tell them.
        strict: Refuse what would have to be assumed.
        verify: Check the artifact against the PyTorch model, and keep it only where it agrees.
        seed: Of random weights, so without a checkpoint only; None is 0.
        options: Of the formats and the precision: fields of ``OnnxConfig``, ``EngineConfig`` and ``PrecisionConfig`` by
            name.

    Raises:
        ConfigError: Something that cannot be meant.
        MissingPackageError: A package that the format needs is not installed.
    """

    model: str | ResTConfig | nn.Module | None
    output: str | Path | None = None
    checkpoint: str | Path | None = None
    format: str = "onnx"
    precision: Precision = Precision.FP32
    labels: str | Path | Sequence[str] | None = None
    preprocessing: Preprocessing | PreprocessingChange | None = None
    activation: Activation | None = None
    weights_key: str | None = None
    key_prefix: str | None = None
    num_heads: tuple[int, ...] | None = None
    strict: bool = False
    verify: bool = True
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = field(init=False)
    configs: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", parse_formats(self.format))
        object.__setattr__(self, "precision", Precision.parse(self.precision))
        if self.activation is not None:
            object.__setattr__(self, "activation", Activation.parse(self.activation))
        for name in ("strict", "verify"):
            check(bool, getattr(self, name), name)
        if self.num_heads is not None:
            object.__setattr__(self, "num_heads", check(NUM_HEADS, self.num_heads, "num_heads"))
        self._check_precision()
        self._check_output()
        if self.model is None and self.checkpoint is None:
            raise ConfigError(
                "neither a model nor a checkpoint was given; give --model NAME, --checkpoint FILE or both"
            )
        if isinstance(self.model, str):
            get_config(self.model)
        self._check_weights()
        if self.seed is not None:
            if self.has_weights:
                raise ConfigError(f"seed {self.seed} is of random weights; with a checkpoint or a module leave it out")
            object.__setattr__(self, "seed", check(SEED, self.seed, "seed"))
        object.__setattr__(self, "configs", MappingProxyType(make_configs(self.formats, self.options)))
        self.narrowing.check(self.precision, self.makes_engine, self.verify)
        for name in self.formats:
            for package, extra in get_format(name).packages.items():
                if importlib.util.find_spec(package) is None:
                    raise MissingPackageError(package, f"export to {name}", extra)

    @property
    def has_weights(self) -> bool:
        """Whether the weights are given, and not random."""
        return self.checkpoint is not None or self.is_module

    @property
    def is_module(self) -> bool:
        """Whether the model is one in memory."""
        return not isinstance(self.model, (str, ResTConfig, type(None)))

    def _check_weights(self) -> None:
        if self.checkpoint is not None and self.is_module:
            raise ConfigError(f"a module and checkpoint {self.checkpoint} were given; give one of the two")
        for name in ("weights_key", "key_prefix"):
            if getattr(self, name) is not None and self.checkpoint is None:
                raise ConfigError(f"{name} {getattr(self, name)!r} is of a checkpoint; give one, or leave it out")

    @property
    def makes_engine(self) -> bool:
        """Whether one of the formats is built from an ONNX file."""
        return any(get_format(name).source is not None for name in self.formats)

    @property
    def narrowing(self) -> PrecisionConfig:
        """How FP16 and INT8 are made."""
        config: PrecisionConfig = self.configs[PRECISION]
        return config

    def _check_precision(self) -> None:
        for name in self.formats:
            made = get_format(name).precisions
            if self.precision not in made:
                words = ", ".join(precision.value for precision in made)
                raise ConfigError(f"format {name} is not made in {self.precision.value}; it is made in {words}")

    def _check_output(self) -> None:
        if self.output is None:
            return
        suffix = Path(self.output).suffix.lower()
        if len(self.formats) > 1 and suffix in {row.suffix for row in FORMATS.values()}:
            raise ConfigError(
                f"output {self.output}: formats {self.format} make several files; give their name without a suffix, "
                f"{Path(self.output).with_suffix('')}"
            )
        if len(self.formats) == 1 and suffix != get_format(self.formats[0]).suffix:
            others = [name for name, row in FORMATS.items() if row.suffix == suffix]
            instead = f", or ask for --format {others[0]}" if others else ""
            needed = get_format(self.formats[0]).suffix
            raise ConfigError(
                f"output {self.output}: files of format {self.format} end in {needed}; name a file that does{instead}"
            )

    def output_of(self, format: str, model: str) -> Path:
        """The file to write in one of the formats."""
        suffix = get_format(format).suffix
        if self.output is None:
            return Path(model + suffix)
        return Path(self.output) if len(self.formats) == 1 else Path(f"{self.output}{suffix}")
