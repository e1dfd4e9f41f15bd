"""Value types: what they accept, what they refuse, and that they survive JSON."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from rest_deploy.errors import ConfigError, DeviceError
from rest_deploy.models.family import FAMILIES
from rest_deploy.specs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Alpha,
    Device,
    ImageSize,
    Interpolation,
    Precision,
    Preprocessing,
    PreprocessingChange,
    Resize,
)

NATIVE = Preprocessing(resize=Resize.NATIVE, size=None, mean=(0.5,), std=(0.25,))
WARP = Preprocessing(resize=Resize.WARP, size=ImageSize(384, 512), crop_ratio=1.0, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("precision", Precision)
def test_precision_reads_its_own_value_and_itself(precision):
    assert Precision.parse(precision.value) is precision
    assert Precision.parse(precision) is precision


@pytest.mark.parametrize("value", ["", "FP32", "fp8", "float16", " fp16", None, 16])
def test_precision_refuses_anything_else(value):
    with pytest.raises(ConfigError, match=r"unknown precision .*; accepted: fp32, fp16, int8"):
        Precision.parse(value)


@pytest.mark.parametrize(
    ("text", "height", "width"),
    [
        ("480x640", 480, 640),
        ("480X640", 480, 640),
        ("224", 224, 224),
        (" 1x2 ", 1, 2),
        ("999999x1", 999999, 1),
    ],
)
def test_image_size_is_read_height_first(text, height, width):
    size = ImageSize.parse(text)
    assert (size.height, size.width) == (height, width)
    assert ImageSize.parse(str(size)) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "x224", "224*224", "224x224x3", "-1", "1.5", "1e3", "2 2"])
def test_image_size_refuses_other_text(text):
    with pytest.raises(ConfigError, match="accepted: HEIGHTxWIDTH"):
        ImageSize.parse(text)


@pytest.mark.parametrize(
    ("text", "side"),
    [("0", "height"), ("0x224", "height"), ("224x0", "width"), ("1000000", "height"), ("224x9999999", "width")],
)
def test_image_size_refuses_sides_out_of_range_in_text(text, side):
    with pytest.raises(ConfigError, match=rf"{side} is .*; accepted: a whole number from 1 to 999,999"):
        ImageSize.parse(text)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "224", None])
def test_image_size_refuses_what_is_no_positive_whole_number(value):
    with pytest.raises(ConfigError, match=r"is .*; accepted: a whole number from 1 to"):
        ImageSize(value, 224)
    with pytest.raises(ConfigError, match=r"is .*; accepted: a whole number from 1 to"):
        ImageSize(224, value)


def test_preprocessing_defaults_to_the_authors_evaluation_transform():
    default = Preprocessing()
    assert default == Preprocessing.for_size(ImageSize(224, 224))
    assert (default.resize, default.size, default.crop_ratio) == (Resize.CROP, ImageSize(224, 224), 0.875)
    assert (default.mean, default.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("height", "width", "resize"),
    [
        (224, 224, Resize.CROP),
        (383, 383, Resize.CROP),
        (384, 384, Resize.WARP),
        (383, 640, Resize.CROP),
        (384, 640, Resize.WARP),
    ],
)
def test_for_size_warps_from_384_pixels_on(height, width, resize):
    preprocessing = Preprocessing.for_size(ImageSize(height, width))
    assert preprocessing.resize is resize
    assert preprocessing.size == ImageSize(height, width)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": (), "std": ()}, "mean has 0 values"),
        ({"mean": (0.5,), "std": (1, 1, 1)}, "one value for each input channel"),
        ({"mean": (0.5,), "std": (0,)}, r"std\[0\] is 0; accepted: a number from 1e-06"),
        ({"mean": (0.5,), "std": (-1,)}, r"std\[0\] is -1;"),
        ({"mean": (0.5,), "std": (math.inf,)}, r"std\[0\] is inf;"),
        ({"mean": (0.5,), "std": (math.nan,)}, r"std\[0\] is nan;"),
        ({"mean": (127, 127, 127), "std": (58, 58, 58)}, "scaled to 0-1; divide mean and std of 0-255 by 255"),
        ({"mean": (math.nan,), "std": (1,)}, r"mean\[0\] is nan;"),
        ({"mean": (-math.inf,), "std": (1,)}, r"mean\[0\] is -inf;"),
        ({"crop_ratio": 0}, "from 0.1 to 1"),
        ({"crop_ratio": 1.01}, "from 0.1 to 1"),
        ({"crop_ratio": math.nan}, "from 0.1 to 1"),
        ({"size": None}, "crop with size None"),
        ({"resize": Resize.NATIVE}, "native with size 224x224: .* size=None"),
        ({"resize": Resize.WARP, "size": None}, "warp with size None"),
    ],
)
def test_preprocessing_refuses_values_out_of_range(values, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**values)


@pytest.mark.parametrize("preprocessing", [Preprocessing(), NATIVE, WARP])
def test_preprocessing_survives_json(preprocessing):
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize("field", ["resize", "size", "crop_ratio", "mean", "std"])
def test_preprocessing_names_a_missing_field(field):
    values = Preprocessing().to_dict()
    del values[field]
    with pytest.raises(ConfigError, match=f"^preprocessing.{field} is missing"):
        Preprocessing.from_dict(values)


def test_plain_values_are_taken() -> None:
    steps = Preprocessing("warp", 96, interpolation="bilinear", alpha="drop")
    assert (steps.resize, steps.size) == (Resize.WARP, ImageSize(96, 96))
    assert (steps.interpolation, steps.alpha) == (Interpolation.BILINEAR, Alpha.DROP)
    with pytest.raises(ConfigError, match=r"^size is 2\.5; accepted: a list or tuple of 2"):
        Preprocessing("warp", 2.5)
    arrays = Preprocessing("warp", np.array([96, 96]), mean=np.full(3, 0.5, np.float32), std=np.ones(3))
    assert arrays == Preprocessing("warp", np.int64(96), mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))


def test_a_card_from_before_interpolation_and_alpha_had_a_name_is_read():
    values = WARP.to_dict()
    del values["interpolation"], values["alpha"]
    assert Preprocessing.from_dict(values) == replace(WARP, interpolation=Interpolation.BICUBIC, alpha=Alpha.WHITE)


@pytest.mark.parametrize("channels", [2, 4, 6, 13])
def test_other_channels_than_those_of_pictures_have_a_mean_of_any_scale(channels):
    steps = Preprocessing(Resize.NATIVE, None, mean=(1200.0,) * channels, std=(300.0,) * channels)
    assert not steps.takes_pictures


@pytest.mark.parametrize(
    ("change", "card", "assumed"),
    [
        (PreprocessingChange(), None,
         {"transform", "image size", "crop ratio", "interpolation", "mean", "std", "alpha"}),
        (PreprocessingChange(), Preprocessing(), set()),
        (PreprocessingChange(resize=Resize.NATIVE), None, {"mean", "std", "alpha"}),
        (PreprocessingChange(mean=(0.5,) * 3, std=(0.5,) * 3, alpha=Alpha.DROP, size=ImageSize(9, 9)), None,
         {"transform", "crop ratio", "interpolation"}),
        (PreprocessingChange(size=ImageSize(9, 9)), Preprocessing(Resize.NATIVE, None),
         {"transform", "crop ratio", "interpolation"}),
        (PreprocessingChange(size=ImageSize(400, 400)), Preprocessing(), {"transform"}),
        (PreprocessingChange(size=ImageSize(99, 99)), Preprocessing(), set()),
        (PreprocessingChange(resize=Resize.WARP), Preprocessing(Resize.NATIVE, None), {"image size", "interpolation"}),
    ],
)  # fmt: skip
def test_what_was_given_nowhere_is_assumed(change, card, assumed):
    assert set(change.assumed(card, FAMILIES["rest"].preprocessing_at)) == assumed


@pytest.mark.parametrize(
    "change",
    [
        PreprocessingChange(resize=Resize.WARP, crop_ratio=0.9),
        PreprocessingChange(resize=Resize.NATIVE, crop_ratio=0.9),
        PreprocessingChange(resize=Resize.NATIVE, interpolation=Interpolation.BILINEAR),
    ],
)
def test_a_change_without_effect_is_refused(change):
    with pytest.raises(ConfigError, match=r"crop ratio 0\.9|bilinear"):
        change.apply(Preprocessing(), FAMILIES["rest"].preprocessing_at)


def test_preprocessing_names_an_unknown_field():
    with pytest.raises(ConfigError, match=r"^preprocessing\.gamma is unknown"):
        Preprocessing.from_dict({**Preprocessing().to_dict(), "gamma": 2.2})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resize", "stretch"),
        ("resize", None),
        ("size", 224),
        ("size", [224]),
        ("size", [0, 224]),
        ("size", [224, 224, 3]),
        ("crop_ratio", "0.875"),
        ("crop_ratio", None),
        ("interpolation", "area"),
        ("alpha", None),
        ("mean", None),
        ("mean", ["a", "b", "c"]),
        ("mean", 0.5),
        ("std", [0.0, 1.0, 1.0]),
        ("std", [10**400, 1, 1]),  # JSON has numbers that no float holds
    ],
)
def test_preprocessing_refuses_a_field_of_the_wrong_kind(field, value):
    with pytest.raises(ConfigError, match=rf"^preprocessing\.{field}\b"):
        Preprocessing.from_dict({**Preprocessing().to_dict(), field: value})


@pytest.mark.parametrize(
    ("text", "device", "full"),
    [
        ("cpu", Device("cpu"), "cpu"),
        ("cuda", Device("cuda", 0), "cuda:0"),
        ("cuda:0", Device("cuda", 0), "cuda:0"),
        ("cuda:1", Device("cuda", 1), "cuda:1"),
        ("cuda:15", Device("cuda", 15), "cuda:15"),
        ("openvino", Device("openvino"), "openvino"),
        ("openvino:GPU.1", Device("openvino", name="GPU.1"), "openvino:GPU.1"),
        ("webgpu:software", Device("webgpu", name="software"), "webgpu:software"),
        ("tensorrt:1", Device("tensorrt", name="1"), "tensorrt:1"),
        ("tensorrt-rtx:0", Device("tensorrt-rtx", name="0"), "tensorrt-rtx:0"),
    ],
)
def test_devices_are_read_and_written(text, device, full):
    assert Device.parse(text) == device
    assert str(device) == full
    assert Device.parse(full) == device


def test_what_computes_in_memory():
    names = ("cpu", "openvino:CPU", "webgpu:software", "cuda", "openvino:GPU", "webgpu", "tensorrt:0")
    assert [Device.parse(name).in_memory for name in names] == [True, True, True, False, False, False, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CPU",
        "Cuda",
        " cpu",
        "cpu\n",
        "cpu:0",
        "cuda:",
        "cuda:-1",
        "cuda:a",
        "cuda:0,1",
        "cuda:1111",
        "gpu:",
        "gpu:a b",
        "gpu:.",
        "cpux",
        "1",
    ],
)
def test_other_names_of_devices_are_refused(text):
    with pytest.raises(DeviceError, match=r"device .*; accepted: cpu, cuda, cuda:0, cuda:1, \.\.\."):
        Device.parse(text)
