"""What is asked for, checked before anything heavy is imported, and the command line that asks for the same."""

from __future__ import annotations

import difflib
import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from rest_deploy.errors import ConfigError, MissingPackageError
from rest_deploy.export.formats import FORMATS, SOURCE, get_format, parse_formats
from rest_deploy.export.options import command_line, declared, option
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.models.family import NetworkConfig, family_of, get_config, is_config, list_models
from rest_deploy.recipes import Recipe
from rest_deploy.specs import (
    EMBEDDING,
    LOGITS,
    NUM_HEADS,
    SEED,
    STAGE_MAPS,
    Activation,
    FeatureNorm,
    InputKind,
    Int8Target,
    Precision,
    Preprocessing,
    PreprocessingChange,
    Resize,
    Taps,
)
from rest_deploy.values import check

if TYPE_CHECKING:
    from torch.nn import Module

    from rest_deploy.export.onnx_format import OnnxConfig
else:
    Module = object  # a request is checked without torch

#: Key of the config of lower precisions among those of the formats.
PRECISION = "precision"


@dataclass(frozen=True)
class ExportRequest:
    """What to make. The help of a field says what it is; beside that:

    Args:
        model: Also a config, None to read the architecture off the checkpoint, or in place of a checkpoint a
            ``torch.nn.Module`` with the authors' parameter names.
        output: File or folder to write, or for several formats its name without a suffix; None names it after the
            model, or where that is not a published one after the checkpoint, in the current folder.
        format: A row of ``export/formats.py``, or several as ``"onnx,trt"``.
        labels: Also the names themselves.
        preprocessing: From an image to the input, or changes of the checkpoint's own; None takes its own, or assumes
            the authors'.
        weights_key: Entry of the checkpoint to take, such as ``"model"``; None takes the one there is, or the moving
            average.
        key_prefix: What stands before the names of the network's weights; None takes the one there is.
        num_heads: Heads of each stage, where the weights do not tell them.
        features: Names of outputs in place of the logits: ``stage1`` to ``stage4``, ``embedding``, ``logits``; also as
            ``"stage2,stage4"``. None for the logits.
        feature_norm: Where the maps have LayerNorms; None, or ``"auto"``, takes what the weights tell.
        verify: Check the artifact against the PyTorch model, and keep it only where it agrees.
        options: Of the graph, the precision and the formats: fields of ``OnnxConfig``, ``PrecisionConfig`` and the
            config of each format by name.

    Raises:
        ConfigError: A value that is not accepted, or two that contradict each other.
        MissingPackageError: A package that the format needs is not installed.
    """

    model: str | NetworkConfig | Module | None = option(
        None, f"{', '.join(list_models())}; may be left out with --checkpoint", metavar="NAME"
    )
    output: str | Path | None = None
    checkpoint: str | Path | None = option(
        None, "PyTorch or safetensors file; without it the weights are random", metavar="FILE"
    )
    format: str = SOURCE
    precision: Precision = Precision.FP32
    input: InputKind | None = option(
        None,
        "what the file takes: float, resized and normalised (default); uint8, resized pictures; pixels, pictures of "
        "any size, resized in the file as Pillow does",
        arguments={"choices": [kind.value for kind in InputKind]},
    )
    labels: str | Path | Sequence[str] | None = option(
        None,
        "class names; or imagenet, none (default: the checkpoint's, or for 1000 classes ImageNet's)",
        metavar="FILE",
    )
    preprocessing: Preprocessing | PreprocessingChange | None = None
    activation: Activation | None = option(
        None, "from logits to scores (default: the checkpoint's, or softmax, of one output sigmoid)"
    )
    weights_key: str | None = option(None)
    key_prefix: str | None = option(None)
    num_heads: tuple[int, ...] | None = option(None)
    features: tuple[str, ...] | None = option(
        None,
        f"give maps of stages (default {','.join(STAGE_MAPS)}) and {EMBEDDING}, beside {LOGITS} or in its place",
        arguments={"nargs": "?", "const": ",".join(STAGE_MAPS), "metavar": "NAME[,NAME]"},
        read=str,
        separator=",",
    )
    feature_norm: FeatureNorm | None = option(
        None,
        "where maps have LayerNorms (default auto: as the weights tell)",
        arguments={"choices": ["auto", *(norm.value for norm in FeatureNorm)]},
    )
    strict: bool = option(False, "refuse to assume what neither the checkpoint nor a flag says")
    verify: bool = option(True, "do not check the file against the PyTorch model", flag="--no-verify")
    seed: Annotated[int, SEED] | None = option(None, "of random weights (default 0)")
    options: Mapping[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = field(init=False)
    configs: Mapping[str, Any] = field(init=False)
    recipe: Recipe = field(init=False)

    def __post_init__(self) -> None:
        self._set("formats", parse_formats(self.format))
        self._set("precision", Precision.parse(self.precision))
        if self.input is not None:
            self._set("input", check(InputKind, self.input, "input"))
        if self.activation is not None:
            self._set("activation", check(Activation, self.activation, "activation"))
        for name in ("strict", "verify"):
            check(bool, getattr(self, name), name)
        self._check_features()
        if self.num_heads is not None:
            self._set("num_heads", check(NUM_HEADS, self.num_heads, "num_heads"))
        self._check_precision()
        self._check_output()
        if self.model is None and self.checkpoint is None:
            raise ConfigError(
                "neither a model nor a checkpoint was given; give --model NAME, --checkpoint FILE or both"
            )
        if isinstance(self.model, str):
            get_config(self.model)
        self._check_weights()
        self._set("configs", MappingProxyType(_make_configs(self.formats, self.options)))
        self._set("recipe", self.precision_config.recipe(self.precision, self._targets))
        self.precision_config.check(self.recipe, self.verify)
        for name in self.formats:
            if self.precision_config.half_io and (taken := self.input_of(name)) is not InputKind.FLOAT:
                raise ConfigError(f"--half-io is of float inputs, and the file would take {taken.value}; leave one out")
            for package, extra in get_format(name).packages.items():
                if importlib.util.find_spec(package) is None:
                    raise MissingPackageError(package, f"export to {name}", extra)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def onnx_config(self) -> OnnxConfig:
        """How the ONNX file is written that all is made from: in blocks where it is kept and its precision has them."""
        config: OnnxConfig = self.configs[SOURCE]
        blockwise = (
            config.blockwise and self.recipe.blockwise and any(get_format(name).blockwise for name in self.formats)
        )
        return replace(config, blockwise=blockwise)

    @property
    def precision_config(self) -> PrecisionConfig:
        """How a lower precision is made."""
        config: PrecisionConfig = self.configs[PRECISION]
        return config

    @property
    def _targets(self) -> tuple[Int8Target | None, ...]:
        """What all formats can be made for in the precision, as the first of them prefers."""
        first, *others = (get_format(name).targets(self.precision) for name in self.formats)
        return tuple(target for target in first if all(target in other for other in others))

    def _check_weights(self) -> None:
        is_module = not (self.model is None or isinstance(self.model, str) or is_config(self.model))
        if self.checkpoint is not None and is_module:
            raise ConfigError(f"a module and checkpoint {self.checkpoint} were given; give one of the two")
        for name in ("weights_key", "key_prefix"):
            if getattr(self, name) is not None and self.checkpoint is None:
                raise ConfigError(f"{name} {getattr(self, name)!r} is of a checkpoint; give one, or leave it out")
        if self.seed is not None:
            if self.checkpoint is not None or is_module:
                raise ConfigError(f"seed {self.seed} is of random weights; with a checkpoint or a module leave it out")
            self._set("seed", check(SEED, self.seed, "seed"))

    def _check_features(self) -> None:
        names = self.features
        if names is not None:
            names = tuple(names.split(",")) if isinstance(names, str) else tuple(names)
            self._set("features", Taps(names).names)
        norm = None if self.feature_norm in (None, "auto") else check(FeatureNorm, self.feature_norm, "feature norm")
        self._set("feature_norm", norm)
        if norm is not None and names is None:
            raise ConfigError(f"feature norm {norm.value} is of maps; give --features too, or leave --feature-norm out")

    def _check_precision(self) -> None:
        for name in self.formats:
            if not get_format(name).targets(self.precision):
                words = ", ".join(precision.value for precision in get_format(name).made_in)
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
            row = get_format(self.formats[0])
            if row.folder and others:
                raise ConfigError(f"output {self.output}: format {self.format} is a folder; name one{instead}")
            if not row.folder:
                raise ConfigError(
                    f"output {self.output}: files of format {self.format} end in {row.suffix}; name a file that does"
                    f"{instead}"
                )

    def input_of(self, format: str) -> InputKind:
        """What the file in one of the formats takes."""
        return self.input or get_format(format).input

    def output_of(self, format: str, name: str) -> Path:
        """The file to write in one of the formats; where none was asked for, by a name without a suffix."""
        suffix = get_format(format).suffix
        if self.output is None:
            return Path(name + suffix)
        return Path(self.output) if len(self.formats) == 1 else Path(f"{self.output}{suffix}")


def config_classes(formats: Sequence[str]) -> dict[str, Any]:
    """Classes of options: of the precision, of the ONNX file that everything is made from, of each format."""
    names = dict.fromkeys((SOURCE, *formats))
    return {PRECISION: PrecisionConfig, **{name: get_format(name).config_class for name in names}}


def _make_configs(formats: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Their instances, with the options that were given.

    Raises:
        ConfigError: An option that none of them has, or a value that is not accepted.
    """
    classes = config_classes(formats)
    known = {step: {field.name for field in fields(made)} for step, made in classes.items()}
    for name in options:
        if not any(name in names for names in known.values()):
            raise ConfigError(_unknown_option(name, formats, known))
    return {
        step: made(**{name: value for name, value in options.items() if name in known[step]})
        for step, made in classes.items()
    }


def _unknown_option(name: str, formats: Sequence[str], known: Mapping[str, set[str]]) -> str:
    """Whose option it is, or which there are."""
    asked = ", ".join(formats)
    others = {other: row.config_class for other, row in FORMATS.items() if other not in known}
    owners = [other for other, made in others.items() if name in {field.name for field in fields(made)}]
    if owners:
        own = declared(others[owners[0]]).get(name)
        flag = own.flag if own is not None else name
        return f"{flag} is an option of {', '.join(owners)}, not of {asked}; leave it out"
    if name in _OF_STEPS:
        change = f"rest_deploy.specs.PreprocessingChange({_OF_STEPS[name]}=...)"
        return f"{name} is of the preprocessing; give preprocessing={change}, or a whole Preprocessing"
    mine = [each.name for each in fields(ExportRequest) if each.init and each.name != "options"]
    near = difflib.get_close_matches(name, {*mine, *itertools.chain(*known.values())}, 1)
    meant = f", did you mean {near[0]}?" if near else ";"
    has = "; ".join(f"{step} has {', '.join(sorted(names))}" for step, names in known.items())
    return f"format {','.join(formats)} has no option {name}{meant} there are {', '.join(mine)}; {has}"


def as_arguments(request: ExportRequest) -> tuple[str, ...] | None:
    """Arguments of ``rest-export`` that ask for the same, but for format, targets and output; None where none can.

    A model given as a config has no name, and stands as its checkpoint, whose shapes tell its architecture, and its
    heads. What neither tells has no flag.
    """
    config = request.model
    if not isinstance(config, str) and request.checkpoint is None:
        return None
    if not isinstance(request.labels, (str, Path, type(None))):
        return None
    own: dict[str, Any] = {"model": config if isinstance(config, str) else None}
    if is_config(config):
        told = family_of(config).flags(config)
        if told is None:
            return None
        own |= told
    words = []
    for name, each in declared(ExportRequest).items():
        value = own[name] if name in own else getattr(request, name)
        if value != each.default and not (name == "seed" and value == 0):
            words += each.words(value)
    if request.precision is not Precision.FP32:
        words += ["--precision", request.precision.value]
    if request.preprocessing is not None:
        words += _preprocessing(request.preprocessing)
    for config in dict.fromkeys(request.configs.values()):
        words += command_line(config)
    return tuple(words)


#: Field of the preprocessing -> its flag.
_STEPS = {
    **{"resize": "--transform", "size": "--image-size", "mean": "--mean", "std": "--std"},
    **{"crop_ratio": "--crop-ratio", "interpolation": "--interpolation", "alpha": "--alpha"},
}


#: What a field of the preprocessing may be called -> the field.
_OF_STEPS = {name: name for name in _STEPS} | {flag[2:].replace("-", "_"): name for name, flag in _STEPS.items()}


def _preprocessing(steps: Preprocessing | PreprocessingChange) -> list[str]:
    unused = {Resize.WARP: ("crop_ratio",), Resize.NATIVE: ("crop_ratio", "interpolation")}
    left_out = () if steps.resize is None else unused.get(steps.resize, ())
    words = []
    for name, flag in _STEPS.items():
        value = getattr(steps, name)
        if value is not None and name not in left_out:
            values = value if isinstance(value, tuple) else (getattr(value, "value", value),)
            words += [flag, *map(str, values)]
    return words
