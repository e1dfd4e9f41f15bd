"""The stamp: readable by the onnx package, apart from the graph, and no file of any kind can confuse its reader."""

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rest_deploy.artifact.onnx_metadata import read_onnx_metadata, stamp
from rest_deploy.errors import ArtifactError

KEY, VALUE = "rest_deploy", '{"labels":["Käse","犬"]}'


@pytest.fixture
def model_file(tmp_path):
    """A small ONNX file with a weight, as the onnx package writes it."""
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["image", "weight"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def answer_or_artifact_error(path):
    """What the reader gives, or None where it refuses; any other exception fails the test."""
    try:
        metadata = read_onnx_metadata(path)
    except ArtifactError as exc:
        message = str(exc)
    else:
        assert all(isinstance(text, str) for pair in metadata.items() for text in pair)
        return metadata
    assert str(path) in message
    return None


def field(number, content, kind=2):
    """A protobuf field with a one-byte tag and a one-byte length."""
    return bytes([number * 8 + kind, len(content)]) + content


def test_a_file_without_metadata_has_none(model_file):
    assert read_onnx_metadata(model_file) == {}


def test_the_stamp_is_read_back(model_file):
    stamp(model_file, model_file.stat().st_size, KEY, VALUE)
    assert read_onnx_metadata(model_file) == {KEY: VALUE}
    assert read_onnx_metadata(str(model_file)) == {KEY: VALUE}


def test_the_onnx_package_reads_the_stamp_and_accepts_the_file(model_file):
    before = onnx.load(model_file)
    stamp(model_file, model_file.stat().st_size, KEY, VALUE)
    after = onnx.load(model_file)
    onnx.checker.check_model(after, full_check=True)
    assert [(prop.key, prop.value) for prop in after.metadata_props] == [(KEY, VALUE)]
    assert after.graph == before.graph


def test_metadata_that_the_onnx_package_wrote_is_read(model_file):
    model = onnx.load(model_file)
    written = {"author": "nobody", "": "no key", "no value": "", KEY: VALUE}
    helper.set_model_props(model, written)
    onnx.save(model, model_file)
    assert read_onnx_metadata(model_file) == written


def test_the_graph_bytes_stay_as_they_were(model_file):
    graph = model_file.read_bytes()
    stamp(model_file, len(graph), KEY, VALUE)
    stamped = model_file.read_bytes()
    assert len(stamped) > len(graph)
    assert stamped[: len(graph)] == graph


@pytest.mark.parametrize("second", ["short", VALUE, "long" * 1000, ""])
def test_stamping_twice_replaces(model_file, second):
    graph = model_file.read_bytes()
    stamp(model_file, len(graph), KEY, VALUE)
    stamp(model_file, len(graph), KEY, second)
    assert read_onnx_metadata(model_file) == {KEY: second}
    assert len(onnx.load(model_file).metadata_props) == 1
    assert model_file.read_bytes()[: len(graph)] == graph


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 2_097_152])
def test_lengths_around_the_steps_of_a_varint(model_file, length):
    stamp(model_file, model_file.stat().st_size, KEY, "x" * length)
    assert read_onnx_metadata(model_file) == {KEY: "x" * length}
    assert onnx.load(model_file).metadata_props[0].value == "x" * length


def test_fields_of_every_wire_type_are_skipped(tmp_path):
    path = tmp_path / "wires.onnx"
    entry = field(1, b"key") + field(2, b"value")
    varint, fixed64, fixed32 = bytes([8, 0xFF, 1]), bytes([17, *range(8)]), bytes([29, *range(4)])
    path.write_bytes(varint + fixed64 + fixed32 + field(7, b"graph") + field(14, entry))
    assert read_onnx_metadata(path) == {"key": "value"}


def test_an_entry_above_16_mib_is_refused(model_file):
    stamp(model_file, model_file.stat().st_size, KEY, "x" * (16 << 20))
    with pytest.raises(ArtifactError, match="a metadata entry of 167772"):
        read_onnx_metadata(model_file)


def test_a_graph_above_16_mib_is_skipped_over(tmp_path):
    path = tmp_path / "large.onnx"
    size = 17 << 20
    path.write_bytes(b"\x3a" + b"\x80\x80\xc0\x08" + bytes(size))  # field 7, of 17 MiB as a varint
    stamp(path, path.stat().st_size, KEY, VALUE)
    assert read_onnx_metadata(path) == {KEY: VALUE}


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.onnx"
    path.touch()
    with pytest.raises(ArtifactError, match=r"empty\.onnx: empty file"):
        read_onnx_metadata(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"none\.onnx: cannot be read: No such file"):
        read_onnx_metadata(tmp_path / "none.onnx")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        read_onnx_metadata(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x00\x00", "field number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x80", "it ends within a number"),
        (b"\xff" * 10, "a number of more than 64 bits"),
        (field(7, b"graph")[:-1], "a field reaches past the end"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "a field reaches past the end"),  # a length of 2 ** 64 - 1
        (b"\x19\x00\x00", "a field reaches past the end"),  # 8 bytes promised, 2 there
        (field(14, b"\x0a\x09key"), "a field reaches past the end"),
        (field(14, b"\x1a\x03key"), "a metadata entry that is none"),
        (field(14, b"\x08\x03"), "a metadata entry that is none"),
        (field(14, b"\x0a"), "it ends within a number"),
        (field(14, b"\x0a" + b"\xff" * 11), "a number of more than 64 bits"),
        (b"\x08\xff", "it ends within a number"),
        (field(14, b"\x0a\xff") + b"\x01", "a field reaches past the end"),  # a number that goes on behind its entry
        (field(14, field(1, b"\xff\xfe")), "can't decode byte"),
    ],
)
def test_what_is_no_protobuf_message_is_refused_with_its_reason(tmp_path, content, reason):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=reason):
        read_onnx_metadata(path)


def test_truncation_at_every_length_is_refused_or_reads_clean(model_file):
    stamp(model_file, model_file.stat().st_size, KEY, VALUE)
    whole = model_file.read_bytes()
    answers = []
    for length in range(1, len(whole)):
        model_file.write_bytes(whole[:length])
        answers.append(answer_or_artifact_error(model_file))
    assert all(answer in (None, {}) for answer in answers)  # never half an entry
    # A cut between two fields leaves a shorter message: after ir_version, graph or opset. Any other cut shows.
    assert answers.count({}) == 3


def test_flipped_bytes_are_refused_or_read_clean(model_file):
    stamp(model_file, model_file.stat().st_size, KEY, VALUE)
    whole = model_file.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        model_file.write_bytes(damaged)
        refused += answer_or_artifact_error(model_file) is None
    assert 0 < refused < 1000


def test_random_bytes_are_refused_or_read_clean(tmp_path):
    path = tmp_path / "random.onnx"
    generator = random.Random(0)
    refused = 0
    for _ in range(1500):
        path.write_bytes(generator.randbytes(generator.randrange(1, 300)))
        refused += answer_or_artifact_error(path) is None
    assert refused > 1400  # almost no random bytes are a message


def test_random_bytes_inside_an_entry_are_refused_or_read_clean(tmp_path):
    path = tmp_path / "entry.onnx"
    generator = random.Random(0)
    for _ in range(1000):
        path.write_bytes(field(14, b"\x0a" + generator.randbytes(generator.randrange(0, 100))))
        answer_or_artifact_error(path)
