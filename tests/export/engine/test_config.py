"""What may be asked of a build: sizes that make one range, and everything else refused by name."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import ConfigError
from rest_deploy.export.engine.config import EngineConfig, HardwareCompatibility, check_targets
from rest_deploy.specs import ImageSize, Precision, Preprocessing, Resize

NATIVE = Preprocessing(Resize.NATIVE, None)
RANGE = Profile.parse("1x32x32:1x224x224:8x640x640")

image_sizes = st.builds(ImageSize, st.integers(1, 2000), st.integers(1, 2000))


def size(text: str) -> ImageSize:
    return ImageSize.parse(text)


def preprocessing(text: str) -> Preprocessing:
    return Preprocessing.for_size(size(text))


@pytest.mark.parametrize(
    ("options", "steps", "profile"),
    [
        ({}, preprocessing("224"), "1x1x1:1x224x224:8x640x640"),
        ({}, preprocessing("384x512"), "1x1x1:1x384x512:8x640x640"),
        ({}, NATIVE, "1x1x1:1x224x224:8x640x640"),
        ({}, preprocessing("800x320"), "1x1x1:1x800x320:8x800x640"),
        ({"max_batch": 1}, preprocessing("224"), "1x1x1:1x224x224:1x640x640"),
        ({"min_size": size("32")}, preprocessing("224"), "1x32x32:1x224x224:8x640x640"),
        ({"min_size": size("256x64")}, preprocessing("224"), "1x256x64:1x256x224:8x640x640"),
        ({"min_size": size("700")}, preprocessing("224"), "1x700x700:1x700x700:8x700x700"),
        ({"opt_size": size("480x640")}, preprocessing("224"), "1x1x1:1x480x640:8x640x640"),
        ({"opt_size": size("480x960")}, preprocessing("224"), "1x1x1:1x480x960:8x640x960"),
        ({"max_size": size("160x320")}, preprocessing("224"), "1x1x1:1x160x224:8x160x320"),
        ({"max_size": size("100")}, NATIVE, "1x1x1:1x100x100:8x100x100"),
        (
            {"min_size": size("8"), "opt_size": size("16"), "max_size": size("24"), "max_batch": 3},
            preprocessing("224"),
            "1x8x8:1x16x16:3x24x24",
        ),
    ],
)
def test_the_sizes_that_were_not_given_make_room_for_those_that_were(
    options: dict[str, Any], steps: Preprocessing, profile: str
) -> None:
    assert EngineConfig(**options).resolve_profiles(steps.size) == (Profile.parse(profile),)


@given(st.none() | image_sizes, st.none() | image_sizes, st.none() | image_sizes, st.none() | image_sizes)
def test_what_is_accepted_when_made_makes_a_profile_at_any_image_size(
    low: ImageSize | None, opt: ImageSize | None, high: ImageSize | None, shown: ImageSize | None
) -> None:
    try:
        config = EngineConfig(min_size=low, opt_size=opt, max_size=high)
    except ConfigError:
        given_sizes = [each for each in (low, opt, high) if each is not None]
        heights, widths = [each.height for each in given_sizes], [each.width for each in given_sizes]
        assert heights != sorted(heights) or widths != sorted(widths)  # refused for a reason only
        return
    (profile,) = config.resolve_profiles(shown)
    assert low in (None, profile.min.size)
    assert opt in (None, profile.opt.size)
    assert high in (None, profile.max.size)


def test_profiles_that_were_given_stand_as_they_are() -> None:
    config = EngineConfig(profiles=[RANGE, RANGE])  # type: ignore[arg-type]
    assert config.resolve_profiles(size("999")) == (RANGE, RANGE)
    assert hash(config)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_size": size("224"), "max_size": size("128")}, "its height goes 224, 128, 128"),
        ({"opt_size": size("224"), "max_size": size("224x128")}, "its width goes 1, 224, 128"),
        ({"min_size": size("64"), "opt_size": size("32x64")}, "its height goes 64, 32, 640"),
        ({"max_batch": 0}, "max_batch is 0; accepted: a whole number from 1"),
        ({"profiles": (RANGE,), "min_size": size("1")}, "profiles were given, and a min, opt or max size or batch too"),
        ({"profiles": (RANGE,), "opt_size": size("1")}, "profiles were given"),
        ({"profiles": (RANGE,), "max_size": size("1")}, "profiles were given"),
        ({"profiles": (RANGE,), "max_batch": 8}, "profiles were given"),
        ({"targets": "sm86"}, "targets is 'sm86'; accepted: a list or tuple"),
        ({"targets": [86]}, r"targets\[0\] is 86; accepted: text"),
        ({"targets": ("ampere",)}, "compute capability 'ampere'; accepted: sm86"),
        ({"targets": ("sm86", "8.6")}, r"targets sm86, 8\.6: one is there twice"),
        ({"workspace_mib": 0}, "workspace_mib is 0; accepted: a whole number from 1"),
        ({"workspace_mib": -5}, "workspace_mib is -5"),
        ({"optimization_level": 6}, "optimization_level is 6; accepted: a whole number from 0 to 5"),
        ({"optimization_level": -1}, "optimization_level is -1"),
        ({"gpu": -1}, "gpu is -1; accepted"),
        (
            {"timing_cache": "a.cache", "use_timing_cache": False},
            r"timing cache a\.cache and --no-timing-cache were both given",
        ),
        (
            {"hardware_compatibility": "all"},
            r"hardware_compatibility is 'all'; accepted: none, same-cc, ampere\+",
        ),
        ({"hardware_compatibility": None}, "hardware_compatibility is None; accepted"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EngineConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"workspace_mib": 1},
        {"optimization_level": 0},
        {"optimization_level": 5},
        {"gpu": 0},
        {"gpu": 3},
        {"gpu": None},
        {"timing_cache": "a.cache"},
        {"use_timing_cache": False},
        {"tf32": True, "version_compatible": True},
    ],
)
def test_what_can_be_meant_is_kept(options: dict[str, Any]) -> None:
    config = EngineConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_targets_are_written_one_way() -> None:
    assert EngineConfig(targets=["SM86", "12.0", "sm_89"]).targets == ("sm86", "sm120", "sm89")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["none", "same-cc", "ampere+"])
def test_hardware_compatibility_may_be_text(text: str) -> None:
    config = EngineConfig(hardware_compatibility=text)  # type: ignore[arg-type]
    assert config.hardware_compatibility is HardwareCompatibility(text)


@pytest.mark.parametrize(
    ("targets", "precision", "said"),
    [
        (("sm70",), Precision.FP16, "target sm70: TensorRT-RTX supports Turing, sm75"),
        (("sm86", "sm61"), Precision.INT8, "target sm61: TensorRT-RTX supports Turing"),
        (
            ("sm90",),
            Precision.FP16,
            "target sm90: TensorRT-RTX does not support Hopper; build with --format trt",
        ),
        (("sm86", "sm75"), Precision.FP32, "target sm75: TensorRT-RTX has no FP32 products on Turing; use --fp16, or"),
    ],
)
def test_targets_for_which_rtx_cannot_build(targets: tuple[str, ...], precision: Precision, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_targets(targets, precision)


@pytest.mark.parametrize(
    ("targets", "precision"),
    [
        ((), Precision.FP32),
        (("sm80", "sm86", "sm89", "sm120"), Precision.FP32),
        (("sm75",), Precision.FP16),
        (("sm75",), Precision.INT8),
    ],
)
def test_targets_for_which_rtx_builds(targets: tuple[str, ...], precision: Precision) -> None:
    check_targets(targets, precision)


def test_a_config_is_made_without_tensorrt() -> None:
    code = (
        "import sys; from rest_deploy.export.engine.config import EngineConfig; EngineConfig(targets=('sm86',)); "
        "sys.exit(any(name.startswith(('tensorrt', 'cuda', 'torch', 'onnx')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
