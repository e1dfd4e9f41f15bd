"""ONNX files of ours: record and seal behind a graph that stays as it was, read once, in one encoding alone."""

from __future__ import annotations

import io
import os
import random
import struct
import threading
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from rest_deploy.artifact import onnx_file
from rest_deploy.artifact.info import METADATA_KEY
from rest_deploy.artifact.onnx_encoding import Refused, read_model
from rest_deploy.artifact.onnx_file import SEAL_KEY, OnnxFile, read_checked, sealed, write_record
from rest_deploy.errors import ArtifactError, PredictorError
from rest_deploy.models.family import operators_of


@pytest.fixture
def graph(tiny_onnx: Path) -> bytes:
    """A graph without metadata, as the onnx package writes it."""
    model = onnx.load(tiny_onnx)
    del model.metadata_props[:]
    return model.SerializeToString()


@pytest.fixture
def model_file(graph: bytes, tiny_onnx: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(sealed(graph, OnnxFile(tiny_onnx).info.to_json()))
    return path


def field(number: int, content: bytes, kind: int = 2) -> bytes:
    """A protobuf field with a one-byte tag and a one-byte length."""
    return bytes([number * 8 + kind, len(content)]) + content


def entry(key: str, value: str) -> bytes:
    return field(14, field(1, key.encode()) + field(2, value.encode()))


def test_a_file_of_ours_is_read(model_file: Path) -> None:
    file = read_checked(model_file, operators_of)
    assert file.content[:] == model_file.read_bytes()
    assert (file.path, file.info.model) == (model_file, "tiny")


def test_the_onnx_package_reads_it_and_the_graph_stays_as_it_was(model_file: Path, graph: bytes) -> None:
    content = model_file.read_bytes()
    assert content.startswith(graph)
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY, SEAL_KEY]
    assert model.SerializeToString() == content


@pytest.mark.parametrize("label", ["tiny", "short", "Käse 犬", "long" * 1000, "x" * 127, "x" * 9000])
def test_a_record_replaces_the_one_before(model_file: Path, graph: bytes, label: str) -> None:
    for _ in range(2):
        info = OnnxFile(model_file).info
        info = replace(info, weights=replace(info.weights, notes=(label,)))
        write_record(model_file, info)
        assert read_checked(model_file, operators_of).info == info
        assert model_file.read_bytes() == sealed(graph, info.to_json())


@pytest.mark.parametrize(
    "odd", [b"\x72\x00", field(14, field(2, b"v")), entry("author", "nobody"), entry("rest_deploy", "")]
)
def test_a_record_is_not_written_behind_other_metadata(model_file: Path, graph: bytes, odd: bytes) -> None:
    info = OnnxFile(model_file).info
    model_file.write_bytes(graph + odd)
    with pytest.raises(ArtifactError, match=r"model\.onnx: it has metadata already"):
        write_record(model_file, info)
    assert model_file.read_bytes() == graph + odd


@pytest.mark.parametrize("where", ["graph", "record", "seal"])
def test_the_seal_covers_all(model_file: Path, graph: bytes, where: str) -> None:
    content = bytearray(model_file.read_bytes())
    at = {"graph": graph.index(b"\x4a\xc0") + 20 if b"\x4a\xc0" in graph else len(graph) // 2, "seal": -3}
    at["record"] = content.index(b'"tiny"') + 1
    content[at[where]] ^= 1
    model_file.write_bytes(content)
    file = OnnxFile(model_file)
    with pytest.raises(ArtifactError, match="not as it was when it was made"):
        file.check_seal()


@pytest.mark.parametrize("there", [True, False])
def test_the_seal_is_checked_beside_a_block_or_before_it(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool
) -> None:
    """Before it where no thread is to be had."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    if not there:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    with OnnxFile(model_file).checking_seal():
        pass
    content = model_file.read_bytes()
    model_file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="not as it was when it was made"), OnnxFile(model_file).checking_seal():
        pass


def test_a_folder_is_refused_and_not_kept_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ArtifactError, match="a folder, not a file"):
            OnnxFile(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_record_and_a_record_of_another_kind(model_file: Path, graph: bytes) -> None:
    model_file.write_bytes(graph + entry("author", "nobody"))
    with pytest.raises(ArtifactError, match=r"model\.onnx: an ONNX file that rest-export did not make"):
        OnnxFile(model_file)
    model_file.write_bytes(sealed(graph, "{}"))
    with pytest.raises(ArtifactError, match=r"model\.onnx.*export it again"):
        OnnxFile(model_file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x00\x00", "an unknown field, number 0 of wire type 0"),
        (b"\x0b", "an unknown field, number 1 of wire type 3"),
        (b"\x0f", "an unknown field, number 1 of wire type 7"),
        (b"\x19" + bytes(8), "an unknown field, number 3 of wire type 1"),
        (b"\x80", "a number that reaches past its end"),
        (b"\xff" * 10, "a number of more than 64 bits"),
        (b"\x88\x00\x01", "a number of more bytes or bits than it has"),
        (b"\x08\x80\x00", "a number of more bytes or bits than it has"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "a number of more bytes or bits than it has"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "a number of more than 64 bits"),
        (field(7, b"graph")[:-1], "the field graph reaching past its end"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "the field graph reaching past its end"),  # a length of 2 ** 64 - 1
        (b"\x3a", "a number that reaches past its end"),
        (b"\x08\x08\x08\x08", "the field ir_version twice"),
        (b"\x28\x01\x08\x08", "the field ir_version out of order"),
        (field(14, b"\x0a\x09key"), "the field key reaching past its end"),
        (field(14, b"\x1a\x03key"), "an unknown field, number 3 of wire type 2"),
        (field(14, b"\x08\x03"), "an unknown field, number 1 of wire type 0"),
        (field(14, b"\x0a\xff") + b"\x01", "a number that reaches past its end"),  # it goes on behind its entry
        (field(14, field(1, b"\xff\xfe")), "can't decode byte"),
        (entry("k", "v") * 1001, "more than 1,000 times metadata_props"),
        (b"<html>", "an unknown field, number 7 of wire type 4"),
    ],
)
def test_what_is_no_model_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"bad\.onnx: damaged, truncated, or not made by rest-export \(.*{reason}"):
        OnnxFile(path)


def test_numbers_are_read_as_they_are() -> None:
    for number in (0, 1, 127, 128, 1 << 14, (1 << 31) - 1, (1 << 63) - 1):
        content = onnx.ModelProto(model_version=number).SerializeToString()
        assert read_model(content) == {"model_version": number}
        content = onnx.ModelProto(model_version=-number - 1).SerializeToString()
        assert read_model(content) == {"model_version": -number - 1}
    assert struct.pack("<q", -1) == b"\xff" * 8


def test_an_empty_file_a_missing_one_a_folder_a_pipe_and_a_device(tmp_path: Path) -> None:
    empty, pipe = tmp_path / "empty.onnx", tmp_path / "pipe.onnx"
    empty.touch()
    os.mkfifo(pipe)  # nobody writes to it: it is not waited for
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    for path, reason in [
        (empty, r"empty\.onnx: empty file"),
        (tmp_path / "none.onnx", r"no such file; make it: rest-export --checkpoint CHECKPOINT --output .*none\.onnx$"),
        (tmp_path, "a folder, not a file"),
        (pipe, "a pipe or a device, not a file"),
        (tmp_path / "zero.onnx", "a pipe or a device, not a file"),
        (tmp_path / "nul\0.onnx", "cannot be read: .*embedded null"),
    ]:
        with pytest.raises(ArtifactError, match=reason):
            OnnxFile(path)


def test_a_file_is_read_at_once_and_let_go(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Reader(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            asked.append(size)
            return super().read(size) or b""

    opened, whole = set(os.listdir("/proc/self/fd")), model_file.read_bytes()
    monkeypatch.setattr(onnx_file, "open", Reader, raising=False)
    file = read_checked(model_file, operators_of)
    model_file.write_bytes(b"something else, in place")
    assert file.content == whole
    assert asked == [len(whole) + 1]  # Python has that much ready at once, whatever the file holds
    assert set(os.listdir("/proc/self/fd")) == opened


def test_large_weights_stay_where_they_are_in_the_file(model_file: Path) -> None:
    file = read_checked(model_file, operators_of)
    small = onnx.load_model_from_string(file.without_weights("elsewhere"))
    apart = [tensor for tensor in small.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in apart:
        told = {entry.key: entry.value for entry in tensor.external_data}
        assert told.pop("location") == "elsewhere"
        first, size = int(told.pop("offset")), int(told.pop("length"))
        assert not told
        assert size >= 1024
        assert not tensor.HasField("raw_data")
        tensor.raw_data = file.content[first : first + size]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    assert small == onnx.load_model_from_string(file.content)
    assert apart
    assert all(len(tensor.raw_data) < 1024 for tensor in small.graph.initializer if tensor not in apart)


def test_too_little_memory_is_no_fault_of_the_file(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            raise MemoryError

    opened = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(onnx_file, "open", Reader, raising=False)
    with pytest.raises(PredictorError, match=r"model\.onnx: not enough memory to read its [\d,]+ bytes"):
        OnnxFile(model_file)
    assert set(os.listdir("/proc/self/fd")) == opened


def test_a_record_is_written_behind_a_file_that_could_be_read(tmp_path: Path, model_file: Path) -> None:
    info = OnnxFile(model_file).info
    with pytest.raises(ArtifactError, match=r"none\.onnx: no such file"):
        write_record(tmp_path / "none.onnx", info)
    with pytest.raises(ArtifactError, match="a folder, not a file"):
        write_record(tmp_path, info)


def test_a_file_beyond_two_gib_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ArtifactError, match=r"huge\.onnx: 1,099,511,627,776 bytes"):
        OnnxFile(path)


def test_every_length_of_a_file_is_refused_but_the_whole(model_file: Path, graph: bytes, tmp_path: Path) -> None:
    whole, path = model_file.read_bytes(), tmp_path / "cut.onnx"
    generator = random.Random(0)
    lengths = {
        *range(1, 200),
        *range(len(graph) - 50, len(whole)),
        *(generator.randrange(len(whole)) for _ in range(50)),
    }
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"cut\.onnx"):
            read_checked(path, operators_of)


def test_random_bytes_are_no_model() -> None:
    generator = random.Random(0)
    for _ in range(3000):
        content = generator.randbytes(generator.randrange(1, 300))
        try:
            read_model(content)
        except (Refused, UnicodeDecodeError):
            continue
        assert onnx.ModelProto.FromString(content).SerializeToString(deterministic=True) == content
