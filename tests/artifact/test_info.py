"""The record inside an artifact: it comes back as it was written, and a damaged one is refused by name."""

import json

import pytest

from rest_deploy.artifact.info import SCHEMA, ArtifactInfo, Weights
from rest_deploy.artifact.precision import PrecisionRecord
from rest_deploy.errors import ArtifactError, ConfigError
from rest_deploy.specs import (
    Activation,
    ImageSize,
    InputKind,
    Int8Target,
    Output,
    Precision,
    Preprocessing,
    Resize,
    TensorSpec,
)
from rest_deploy.values import plain
from tests.artifact.test_engine import FIGURES, PLAN, make_record

OUTPUTS = (Output("logits", "float32", ("batch", 3)),)


def make_info(**changes):
    values = {
        "format": "onnx",
        "precision": Precision.FP16,
        "family": "rest",
        "model": "rest_small",
        "config": {"depths": [2, 2, 6, 2]},
        "weights": Weights("weights.pth", PLAN),
        "labels": ("cat", "Käse", "犬"),
        "preprocessing": Preprocessing(Resize.WARP, ImageSize(384, 416)),
        "input": TensorSpec("image", "float32", ("batch", 3, "height", "width")),
        "outputs": OUTPUTS,
        "versions": {"torch": "2.13.0"},
        "verification": FIGURES,
        "extra": {"opset": 18},
    }
    return ArtifactInfo(**{**values, **changes})


def without_labels(**fields):
    return {**make_info(labels=None).to_dict(), **fields}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"labels": None},
        {"verification": None},
        {"extra": {}},
        {"versions": {}},
        {"weights": Weights(seed=7)},
        {"precision": Precision.INT8, "precision_plan": PrecisionRecord({}, int8_target=Int8Target.CPU)},
        {
            "preprocessing": Preprocessing(Resize.NATIVE, None, mean=(0.5,), std=(0.5,)),
            "input": TensorSpec("image", "float32", ("batch", 1, "height", "width")),
        },
        {"preprocessing": None},
        {"preprocessing": Preprocessing(interpolation="lanczos", alpha="drop", crop_ratio=1.0)},
        {"activation": Activation.SIGMOID, "assumed": {"labels": "ImageNet's", "weights": "model_ema, beside model"}},
        {"weights": Weights("a.pth", PLAN, key="model_ema", prefix="module.", notes=("prefix module. taken off",))},
        {"weights": Weights(sha256=PLAN)},
        {"test_vector": {"input": {"shape": [1, 3, 2, 2]}, "logits": {"values": [1.0], "tolerance": 0.1}}},
        {"format": "trt", "verification": None, "engine": make_record()},
        {"outputs": (*OUTPUTS, Output("stage1", "float16", ("batch", 64, "rows", "columns"), stride=4))},
    ],
)
def test_json_round_trip(changes):
    info = make_info(**changes)
    assert ArtifactInfo.from_json(info.to_json(), "a.onnx") == info


@pytest.mark.parametrize(
    ("precision", "plan", "fact"),
    [
        (Precision.INT8, None, "int8_target none in a record of int8; needed: cpu or trt"),
        (Precision.INT8, PrecisionRecord({}), "int8_target none"),
        (Precision.FP16, PrecisionRecord({}, int8_target=Int8Target.TRT), "int8_target trt in a record of fp16"),
        (Precision.FP32, PrecisionRecord({}, int8_target=Int8Target.CPU), "int8_target cpu in a record of fp32"),
    ],
)
def test_what_a_file_is_made_for_is_never_guessed(precision, plan, fact):
    with pytest.raises(ArtifactError, match=fact):
        make_info(precision=precision, precision_plan=plan)
    values = make_info().to_dict() | {"precision": precision.value, "precision_plan": plan and plain(plan)}
    with pytest.raises(ArtifactError, match=fact):
        ArtifactInfo.from_dict(values)


def test_json_is_compact_and_tells_where_the_weights_come_from():
    text = make_info(weights=Weights(seed=7)).to_json()
    assert json.loads(text)["weights"] == {
        **{"source": "random", "file": None, "sha256": None, "seed": 7},
        **{"key": "", "prefix": "", "notes": []},
    }
    assert json.loads(make_info(weights=Weights(sha256=PLAN)).to_json())["weights"]["source"] == "module"
    assert json.loads(make_info().to_json())["weights"]["source"] == "checkpoint"
    assert '": ' not in text
    assert "犬" in text


def test_weights_are_random_exactly_with_a_seed():
    assert Weights(seed=0).random
    assert not Weights(sha256=PLAN).random
    assert not Weights("weights.pth", PLAN).random


def test_classes_and_their_names():
    info = make_info()
    assert info.num_classes == 3
    assert info.label(2) == "犬"
    assert make_info(labels=None).label(2) == "class 2"


@pytest.mark.parametrize(
    ("schema", "step"),
    [
        *[(0, "export"), (1, "export"), (SCHEMA + 1, "upgrade"), ("1", "upgrade"), (None, "upgrade"), ([], "upgrade")],
        *[(float(SCHEMA), "upgrade"), (10**400, "upgrade")],
    ],
)
def test_another_schema_is_refused(schema, step):
    with pytest.raises(ArtifactError, match=rf"metadata of schema .* reads {SCHEMA}; {step}"):
        ArtifactInfo.from_dict({**make_info().to_dict(), "schema": schema})


def test_a_missing_schema_is_refused():
    with pytest.raises(ArtifactError, match="metadata of schema None"):
        ArtifactInfo.from_dict({})


@pytest.mark.parametrize("field", sorted(set(make_info().to_dict()) - {"schema", "extra", "task", "input_kind"}))
def test_a_missing_field_is_named(field):
    values = make_info().to_dict()
    del values[field]
    with pytest.raises(ArtifactError, match=f"metadata cannot be read: {field} is missing"):
        ArtifactInfo.from_dict(values)


def test_extra_may_be_missing():
    assert "extra" not in make_info(extra={}).to_dict()


def test_only_an_engine_has_an_engine():
    """Records of ONNX files stay as earlier versions wrote and read them."""
    assert "engine" not in make_info().to_dict()
    assert ArtifactInfo.from_dict(make_info().to_dict()).engine is None


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ([], r"engine is \[\]"),
        ("trt", "engine is 'trt'"),
        ({}, "engine.library is missing"),
        ({**plain(make_record()), "layers": []}, r"engine.layers is \[\]"),
        ({**plain(make_record()), "plan_bytes": float("inf")}, "engine.plan_bytes is inf"),
        ({**plain(make_record()), "plan_sha256": "00"}, "engine.plan_sha256 is '00'; accepted: a SHA-256"),
        ({**plain(make_record()), "profiles": [{"min": [0, 1, 1]}]}, r"engine.profiles\[0\].min\[0\] is 0"),
    ],
)
def test_an_engine_that_cannot_be_read_is_refused(engine, said):
    with pytest.raises(ArtifactError, match=f"^metadata cannot be read: {said}"):
        ArtifactInfo.from_dict({**make_info().to_dict(), "engine": engine})


@pytest.mark.parametrize("labels", [(), ("cat", "dog"), ("cat", "dog", "cow", "owl")])
def test_labels_must_be_as_many_as_classes(labels):
    values = {**make_info().to_dict(), "labels": list(labels)}
    with pytest.raises(ArtifactError, match=f"{len(labels)} labels for 3 classes|labels has 0 values"):
        ArtifactInfo.from_dict(values)


def test_what_could_not_be_read_again_is_not_made():
    with pytest.raises(ConfigError, match=r"^labels\[1\] is 'xx.*accepted: text of at most 10,000 characters"):
        make_info(labels=("a", "x" * 11_000, "c"))
    with pytest.raises(ConfigError, match=r"^file is "):
        Weights("bad\udcff.pth", "0" * 64)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "fp64"),
        ("precision", None),
        ("config", None),
        ("config", [1, 2]),
        ("weights", None),
        ("weights", "weights.pth"),
        ("labels", 3),
        ("preprocessing", []),
        ("activation", "relu"),
        ("assumed", None),
        ("test_vector", 3),
        ("preprocessing", {"resize": "crop"}),
        ("input", None),
        ("input", {"name": "image", "dtype": "float32"}),
        ("input", {"name": "image", "dtype": "float32", "shape": 4}),
        ("outputs", {}),
        ("versions", None),
        ("verification", 0.1),
        ("extra", None),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(field, value):
    with pytest.raises(ArtifactError, match="metadata cannot be read"):
        ArtifactInfo.from_dict({**make_info().to_dict(), field: value})


@pytest.mark.parametrize("assumed", [{"weather": "fine"}, {"labels": 3}])
def test_only_what_may_be_assumed_is(assumed):
    with pytest.raises(ArtifactError, match=r"assumed: .*known: weights|assumed.labels is 3"):
        ArtifactInfo.from_dict({**make_info().to_dict(), "assumed": assumed})


def test_preprocessing_is_of_the_inputs_channels():
    with pytest.raises(ArtifactError, match="preprocessing for 1 channel, and 3"):
        make_info(preprocessing=Preprocessing(Resize.NATIVE, None, mean=(0.5,), std=(0.5,)))


GREY = Preprocessing(size=ImageSize(32, 48), mean=(0.5,), std=(0.5,))
PIXELS = TensorSpec("pixels", "uint8", ("batch", "height", "width", 3))


@pytest.mark.parametrize("kind", [InputKind.UINT8, InputKind.PIXELS])
@pytest.mark.parametrize(
    "steps", [Preprocessing(), GREY, Preprocessing(Resize.NATIVE, None)], ids=["RGB", "grey", "native"]
)
def test_a_file_that_takes_pictures(kind, steps):
    """Sizes are those of the pictures, and of the network where they are resized in it."""
    channels = len(steps.mean)
    plain = make_info(preprocessing=steps, input=TensorSpec("image", "float32", ("batch", channels, "height", "width")))
    info = plain.taking(kind)
    assert ArtifactInfo.from_json(info.to_json(), "a.onnx") == info
    assert json.loads(info.to_json())["input_kind"] == kind.value
    assert (info.input, info.channels, info.verification) == (PIXELS, channels, None)
    assert info.input_shape(2, 5, 7) == (2, 5, 7, 3)
    assert info.input_sizes((2, 5, 7, 3)) == (2, 5, 7)
    resized = kind is InputKind.PIXELS and steps.size is not None
    assert info.network_sizes(2, 5, 7) == ((2, steps.size.height, steps.size.width) if resized else (2, 5, 7))
    assert info.takes.startswith("uint8 pictures in RGB")
    assert info.takes.endswith(", resized before") == (steps.size is not None and kind is InputKind.UINT8)
    assert (
        ("resized in the file" in info.takes) == info.resizes == (steps.size is not None and kind is InputKind.PIXELS)
    )


def test_a_file_that_takes_floats():
    info = make_info()
    assert info.taking(InputKind.FLOAT) is info
    assert (info.input_shape(2, 5, 7), info.input_sizes((2, 3, 5, 7))) == ((2, 3, 5, 7), (2, 5, 7))
    assert (info.network_sizes(2, 5, 7), info.takes, info.channels) == ((2, 5, 7), "3 channels", 3)


def test_a_record_from_before_takes_floats():
    values = make_info().to_dict()
    assert values.pop("input_kind", "float") == "float"
    assert ArtifactInfo.from_dict(values).input_kind is InputKind.FLOAT


PICTURES = {"input": plain(PIXELS), "input_kind": "pixels"}


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        (PICTURES | {"outputs": [{"name": "logits", "dtype": "uint8", "shape": ["batch", 3]}]}, "uint8"),
        ({"outputs": [{"name": "logits", "dtype": "uint8", "shape": ["batch", 3]}]}, "uint8"),
        ({"input_kind": "pixels"}, "an input of pixels; needed: uint8"),
        ({"input_kind": "uint8"}, "an input of uint8; needed: uint8"),
        ({"input": plain(PIXELS)}, "an input of float; needed: uint8 of pictures"),
        ({"input": {"name": "image", "dtype": "uint8", "shape": ["batch", 3, "height", "width"]}}, "of float"),
        (PICTURES | {"preprocessing": None}, "and a transform"),
        (
            PICTURES | {"preprocessing": plain(Preprocessing(Resize.NATIVE, None, mean=(0.0,) * 4, std=(1.0,) * 4))},
            "and a transform",
        ),
        (PICTURES | {"input": plain(PIXELS) | {"name": "image"}}, "needed: .*pixels"),
        (PICTURES | {"input": plain(PIXELS) | {"shape": ["batch", "height", "width", 4]}}, "needed: .*pixels"),
        (PICTURES | {"input": plain(PIXELS) | {"shape": ["batch", 3, "height", "width"]}}, "needed: .*pixels"),
        (PICTURES | {"input": plain(PIXELS) | {"shape": ["batch", 1 << 40, "width", 3]}}, "shape|needed: .*pixels"),
        (PICTURES | {"input": plain(PIXELS) | {"shape": ["batch", "height", 3]}}, "needed: .*pixels"),
        (PICTURES | {"input_kind": "picture"}, "input_kind"),
        (PICTURES | {"input_kind": None}, "input_kind"),
        (PICTURES | {"input_kind": ["pixels"]}, "input_kind"),
        (
            PICTURES | {"outputs": [{"name": "pixels", "dtype": "float32", "shape": ["batch", 3]}]},
            "a name of its own|outputs",
        ),
    ],
)
def test_what_takes_pictures_in_part_is_refused(changes, fact):
    with pytest.raises(ArtifactError, match=fact):
        ArtifactInfo.from_dict({**make_info().to_dict(), **changes})


@pytest.mark.parametrize("shape", [[], ["batch"], ["batch", "classes"], ["batch", None], ["batch", float("inf")]])
@pytest.mark.parametrize("labels", [None, ["cat", "dog", "cow"]])
def test_an_output_without_a_number_of_classes_is_refused(shape, labels):
    """Read here, with the file's name, and not when the first image comes."""
    output = {"name": "logits", "dtype": "float32", "shape": shape}
    with pytest.raises(ArtifactError, match=r"metadata|needed: [24] sizes, the second fixed"):
        ArtifactInfo.from_dict(without_labels(labels=labels, outputs=[output]))


MAP = {"name": "stage1", "dtype": "float32", "shape": ["batch", 64, "rows", "columns"], "stride": 4}


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([], r"outputs has 0 values"),
        ([*plain(OUTPUTS), {**MAP, "stride": None}], "tensor stage1 has the shape .*needed: 2 sizes"),
        ([*plain(OUTPUTS), {**MAP, "shape": ["batch", 64]}], "tensor stage1 has the shape .*needed: 4 sizes"),
        ([*plain(OUTPUTS), {**MAP, "stride": 0}], r"outputs\[1\].stride is 0; accepted: a whole number from 1"),
        ([*plain(OUTPUTS), {**MAP, "stride": "4"}], r"outputs\[1\].stride is '4'"),
        ([*plain(OUTPUTS), {**MAP, "name": "logits"}], "tensors image, logits, logits; needed: each a name of its own"),
        ([*plain(OUTPUTS), {**MAP, "name": "image"}], "each a name of its own"),
        ([{**plain(OUTPUTS)[0], "name": "scores"}], "outputs: features 'scores'; accepted: logits"),
        ([{**plain(OUTPUTS)[0], "name": "stage2"}], "outputs stage2: a map needs a stride"),
        ([*plain(OUTPUTS), {**plain(OUTPUTS)[0], "name": "more"}], "outputs: features 'more'"),
        ([{**plain(OUTPUTS)[0], "stride": 4}], "tensor logits has the shape .*needed: 4 sizes"),
    ],
)
def test_outputs_that_are_none_are_refused(outputs, said):
    with pytest.raises(ArtifactError, match=said):
        ArtifactInfo.from_dict({**make_info().to_dict(), "outputs": outputs})


def test_an_output_knows_its_shape_for_a_size():
    logits, own = OUTPUTS[0], Output("stage1", "float32", ("batch", 64, "rows", "columns"), stride=4)
    assert [own.sizes(2, *size) for size in ((1, 1), (4, 5), (224, 225))] == [
        (2, 64, 1, 1), (2, 64, 1, 2), (2, 64, 56, 57),
    ]  # fmt: skip
    assert logits.sizes(2, 224, 225) == (2, 3)


@pytest.mark.parametrize("shape", [[], ["batch"], ["batch", "channels", "height", "width"], ["batch", None, 8, 8]])
def test_an_input_without_a_number_of_channels_is_refused(shape):
    with pytest.raises(ArtifactError, match=r"metadata|needed: [24] sizes, the second fixed"):
        ArtifactInfo.from_dict(without_labels(input={"name": "image", "dtype": "float32", "shape": shape}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "metadata is not JSON"),
        ("{", "metadata is not JSON"),
        ("[]", "metadata is not a JSON object"),
        ("null", "metadata is not a JSON object"),
        ('"rest"', "metadata is not a JSON object"),
        ('{"schema": 1}', "metadata of schema 1.*export"),
        ("[" * 100_000, "metadata"),  # deeper than Python's recursion limit
    ],
    ids=["empty", "cut", "list", "null", "text", "schema", "deep"],
)
def test_errors_from_json_name_the_file(text, message):
    with pytest.raises(ArtifactError, match=rf"^a\.onnx: .*{message}"):
        ArtifactInfo.from_json(text, "a.onnx")


def test_a_number_that_no_float_holds_is_refused():
    values = make_info().to_dict()
    values["preprocessing"]["mean"] = [10**400, 0, 0]
    with pytest.raises(ArtifactError, match=r"^a\.onnx: "):
        ArtifactInfo.from_json(json.dumps(values), "a.onnx")
