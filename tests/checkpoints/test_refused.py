"""Files that are refused: each is called what it is, and a line of Python that is shown makes one that is read."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import shlex
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rest_deploy.errors import CheckpointError
from rest_deploy.models.checkpoint import load_checkpoint
from rest_deploy.models.factory import load_model
from rest_deploy.models.rest import ResT
from tests.checkpoints.files import State
from tests.checkpoints.test_read import logits

Weights = dict[str, Any]


def refused(path: Path) -> str:
    """The error, which is one line and names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_model(None, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def _arrays(weights: State) -> Weights:
    return {name: value.numpy() for name, value in weights.items()}


class _Kind(torch.Tensor):
    """A tensor of a class of its own."""


def _quantized(weights: State) -> Weights:
    return {
        name: torch.quantize_per_tensor(value, 2**-12, 0, torch.qint32) if value.is_floating_point() else value
        for name, value in weights.items()
    }


# Files that another process can convert by the line that is shown: name -> writer, and the full name that is told.
CONVERTED: dict[str, tuple[Callable[[State, Path], Any], str]] = {
    "NumPy arrays": (lambda w, p: torch.save({"state_dict": _arrays(w)}, p), "numpy.ndarray"),
    "NumPy arrays, bare": (lambda w, p: torch.save(_arrays(w), p), "numpy.ndarray"),
    "sparse tensors": (
        lambda w, p: torch.save({**w, "head.weight": w["head.weight"].to_sparse()}, p),
        "head.weight is a torch._utils._rebuild_sparse_tensor",
    ),
    "a class of tensors of its own": (
        lambda w, p: torch.save({"a": {"b c": {n: v.as_subclass(_Kind) for n, v in w.items()}}}, p),
        "tests.checkpoints.test_refused._Kind",
    ),
    "a plain pickle": (lambda w, p: p.write_bytes(pickle.dumps(w)), "a plain pickle of a dict"),
    "an .npz": (lambda w, p: np.savez(p.open("wb"), **_arrays(w)), "NumPy archive"),
    "complex numbers": (
        lambda w, p: torch.save({n: v + 0j if v.is_floating_point() else v for n, v in w.items()}, p),
        "stem.conv1.weight",
    ),
    "packed by another archiver": (lambda w, p: _packed(w, p), "unfold to"),  # noqa: PLW0108  (defined below)
}


def _packed(weights: State, path: Path) -> None:
    torch.save(weights, path)
    with zipfile.ZipFile(path) as source:
        entries = {entry.filename: source.read(entry) for entry in source.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in entries.items():
            target.writestr(name, content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONVERTED)
def test_the_line_that_is_shown_converts_the_file(
    name: str, tmp_path: Path, tiny_model: ResT, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, fact = CONVERTED[name]
    path = tmp_path / 'it\'s a "file".pth'
    write({n: v.clone() for n, v in tiny_model.state_dict().items()}, path)
    message = refused(path)
    assert fact in message
    line = re.search(r"convert it: python (-c .*?)(; this runs what is in the file|$)", message)
    assert line, message
    if name == "complex numbers":
        return  # there is no such ResT; the line drops the imaginary parts with a warning
    arguments = shlex.split(line[1])
    option, code, *files = arguments
    assert option == "-c"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["-c", *files])
    exec(code, {"__name__": "__main__"})
    assert torch.equal(logits(load_model(None, tmp_path / "weights.pth").model), logits(tiny_model))


@pytest.mark.filterwarnings("ignore")
def test_quantized_weights_are_named(tmp_path: Path, tiny_model: ResT) -> None:
    torch.save(_quantized(tiny_model.state_dict()), tmp_path / "a.pth")
    message = refused(tmp_path / "a.pth")
    assert "torch._utils._rebuild_qtensor" in message
    assert "v.dequantize()" in message


def test_distributed_tensors_are_named(tmp_path: Path, tiny_model: ResT) -> None:
    """As each process of FSDP saves its shard; a stand-in, as a real one needs processes."""
    sharded = {n: _Sharded() if n.startswith("stem") else v for n, v in tiny_model.state_dict().items()}
    torch.save({"model": sharded}, tmp_path / "a.pth")
    message = refused(tmp_path / "a.pth")
    assert "torch.distributed.tensor" in message
    assert "get_model_state_dict" in message


class _Sharded:
    def __reduce__(self) -> tuple[Any, ...]:
        from torch.distributed.tensor import DTensor

        return torch._utils._rebuild_wrapper_subclass, (
            DTensor, torch.float32, (4,), (1,), 0, torch.strided, torch.device("cpu"), False,
        )  # fmt: skip


def test_empty_weights_of_zero_3_name_its_script(tmp_path: Path, tiny_model: ResT) -> None:
    weights = {name: torch.zeros(0) for name in tiny_model.state_dict()}
    torch.save({"module": weights, "param_shapes": [], "ds_version": "0.16"}, tmp_path / "mp_rank_00_model_states.pt")
    assert "zero_to_fp32.py" in refused(tmp_path / "mp_rank_00_model_states.pt")


def test_a_restv2_that_lacks_what_it_needs(tmp_path: Path) -> None:
    for content in (
        {"model": {"stem.proj.0.weight": torch.ones(3), "patch_2.proj.weight": torch.ones(3)}},
        {"patch_2.proj.weight": torch.ones(3)},
    ):
        torch.save(content, tmp_path / "a.pth")
        assert "of a ResTv2" in refused(tmp_path / "a.pth")
        assert "stage1.0.norm1.weight" in refused(tmp_path / "a.pth")


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


def _zip(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


OTHER_FILES = {
    "empty": (b"", "an empty file"),
    "HTML": (b"\n<!DOCTYPE html><html><head><title>Sign in</title>", "an HTML page"),
    "XHTML": (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">', "an HTML page"),
    "gzip": (gzip.compress(b"weights"), "a gzip file"),
    "tar": (_tar(), "a tar archive"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
    "JSON": (b'{"error": "not found"}', 'JSON text that begins with \'{"error": "not found"}\''),
    "text": ("Käse\n".encode(), "plain text that begins with 'Käse'"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x03" + bytes(60), "an ONNX file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "npy": (b"\x93NUMPY\x01\0", "a NumPy array"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    "engine": (b"ptrt\0\0", "a TensorRT engine"),
    "zeros": (bytes(99), "99 bytes that begin with 00 00"),
    "escapes": (b"\x1b[2J\x07", "of an unknown kind"),
    "another archive": (_zip(readme=b"hello"), "a ZIP archive of readme"),
    "no archive": (b"PK\x05\x06" + bytes(18), "an empty ZIP archive"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_is_called_what_it_is(name: str, suffix: str, tmp_path: Path) -> None:
    content, fact = OTHER_FILES[name]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    message = refused(path)
    assert fact in message
    assert message.isprintable()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_off_is_called_truncated(zipped: bool, tmp_path: Path, tiny_model: ResT) -> None:
    path = tmp_path / "a.pth"
    torch.save(tiny_model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for share in (0.3, 0.7, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        assert "truncated" in refused(path), share


def test_a_wrong_checksum_names_the_storage(tmp_path: Path, tiny_model: ResT) -> None:
    path = tmp_path / "a.pth"
    torch.save(tiny_model.state_dict(), path)
    damaged = bytearray(path.read_bytes())
    values = tiny_model.state_dict()["stem.conv2.weight"].numpy().tobytes()
    damaged[damaged.index(values) + 5] ^= 1
    path.write_bytes(damaged)
    assert "damaged: the checksum of the storage" in refused(path)


def test_numbers_of_another_byte_order_are_refused(tmp_path: Path, tiny_model: ResT) -> None:
    path = tmp_path / "a.pth"
    torch.save(tiny_model.state_dict(), path)
    with zipfile.ZipFile(path) as source:
        entries = {entry.filename: source.read(entry) for entry in source.infolist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in entries.items():
            target.writestr(name, b"big" if name.endswith("byteorder") else content)
    assert "byte order 'big'" in refused(path)


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, tiny_model: ResT, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rest_deploy.models import checkpoint

    path = tmp_path / "a.pth"
    torch.save(tiny_model.state_dict(), path)
    real = checkpoint.choose

    def choose(*args: Any) -> Any:
        with path.open("ab") as file:
            file.write(b"x")
        return real(*args)

    monkeypatch.setattr(checkpoint, "choose", choose)
    with pytest.raises(CheckpointError, match="written to while it was read"):
        load_checkpoint(path)


def test_a_file_that_is_replaced_while_it_is_read_is_read_whole(
    tmp_path: Path, tiny_model: ResT, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rest_deploy.models import checkpoint

    path = tmp_path / "a.pth"
    torch.save(tiny_model.state_dict(), path)
    sha256 = load_checkpoint(path).sha256
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "b.pth")
    real = checkpoint.choose
    monkeypatch.setattr(checkpoint, "choose", lambda *args: ((tmp_path / "b.pth").replace(path), real(*args))[1])
    found = load_checkpoint(path)
    assert found.sha256 == sha256
    assert torch.equal(found.state_dict["head.weight"], tiny_model.head.weight)


def test_two_archives_in_a_folder_of_an_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(_zip(**{"a/data.pkl": b"x", "b/data.pkl": b"y"}))
    assert "2 PyTorch files" in refused(tmp_path / "a.pth")


def test_an_absurd_safetensors_header_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(struct.pack("<Q", 1 << 30) + b"{}")
    assert "1,073,741,824" in refused(tmp_path / "a.bin")
