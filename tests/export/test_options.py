"""Options declared once: flags, values and the line that makes an artifact again say the same of every one of them."""

from __future__ import annotations

import typing
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest

from rest_deploy.artifact.profile import Profile
from rest_deploy.cli import export as cli
from rest_deploy.cli.flags import given_options
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.export.onnx_format import OnnxConfig
from rest_deploy.export.options import Declared, command_line, declared
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.recipes import recipes
from rest_deploy.specs import ImageSize, Precision

KINDS = (PrecisionConfig, OnnxConfig, EngineConfig)
#: A value of a type that is no option's default.
SAMPLES: dict[Any, Any] = {
    int: 1,
    float: 0.5,
    ImageSize: ImageSize(300, 400),
    Path: Path("x.csv"),
    tuple[ImageSize, ...]: (ImageSize(8, 9), ImageSize(10, 11)),
    tuple[Profile, ...]: (Profile.parse("1x8x8:1x9x9:2x9x9"), Profile.parse("1x1x1:1x2x2:1x3x3")),
    str | Path | None: "x.cache",
}
OPTIONS = [
    pytest.param(kind, own, id=own.flag)
    for kind in KINDS
    for own in declared(kind).values()
    if own.option.write is not None
]


def _sample(own: Declared) -> Any:
    if own.name == "opset":
        return 21
    if own.kind is bool:
        return not own.default
    if isinstance(own.kind, type) and issubclass(own.kind, Enum):
        return list(own.kind)[-1]
    return SAMPLES[typing.get_args(own.kind)[0] if typing.get_origin(own.kind) is Annotated else own.kind]


@pytest.mark.parametrize(("kind", "own"), OPTIONS)
def test_what_a_line_says_is_read_as_the_same(kind: type, own: Declared) -> None:
    config = kind(**{own.name: _sample(own)})
    words = command_line(config)
    assert words[0] == own.flag
    arguments = cli._parser().parse_args(["--model", "rest_lite", *words])
    assert kind(**given_options(arguments, kind)) == config


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_have_no_words_and_every_option_its_help(kind: type) -> None:
    assert command_line(kind()) == []
    assert all(own.option.help and own.flag.startswith("--") for own in declared(kind).values())


def test_what_none_turns_off() -> None:
    config = EngineConfig(use_timing_cache=False)
    assert command_line(config) == ["--timing-cache", "none"]
    arguments = cli._parser().parse_args(["--model", "rest_lite", "--timing-cache", "None"])
    assert EngineConfig(**given_options(arguments, EngineConfig)) == config


def test_targets_are_read_and_not_written() -> None:
    """The line that makes an engine again names its own."""
    arguments = cli._parser().parse_args(["--model", "rest_lite", "--target", "sm86, sm120"])
    config = EngineConfig(**given_options(arguments, EngineConfig))
    assert config.targets == ("sm86", "sm120")
    assert command_line(config) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--max-batch", "0"],
        ["--opset", "11"],
        ["--min-size", "big"],
        ["--device", "cpu"],
        ["--int8-target", "gpu"],
        ["--hardware-compatible", "none"],
        ["--calibration-sizes", "8", "x"],
    ],
    ids=" ".join,
)
def test_what_the_type_refuses_is_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli._parser().parse_args(["--model", "rest_lite", *words])
    told = capsys.readouterr().err
    assert words[0] in told
    assert "accepted" in told or "choose from" in told  # by an error of ours or by argparse, never a function's name


def test_the_help_tells_the_budgets() -> None:
    told = declared(PrecisionConfig)["min_top1_agreement"].option.help
    assert "(default fp16 0.99, int8 0.98)" in told
    shares = [recipe.on_images.min_top1_agreement for recipe in (*recipes(Precision.FP16), *recipes(Precision.INT8))]
    assert shares == [0.99, 0.98, 0.98]
