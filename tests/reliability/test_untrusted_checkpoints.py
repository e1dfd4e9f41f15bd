"""Checkpoints from somebody else: nothing in them runs, and nothing of a few bytes takes all memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rest_deploy.cli import export, info
from rest_deploy.errors import CheckpointError
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import load_checkpoint
from rest_deploy.models.factory import load_model
from tests.reliability.record import Record


class _Runs:
    """Unpickled, it makes a file: stands for whatever code somebody could want to run."""

    def __init__(self, path: Path) -> None:
        self._command = f"touch {path}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


class _Evaluates:
    def __init__(self, path: Path) -> None:
        self._code = f"open({str(path)!r}, 'w')"

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (self._code,)


def _bare_pickle(path: Path, value: object) -> None:
    path.write_bytes(pickle.dumps(value))


def _legacy(path: Path, value: object) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [lambda path, value: torch.save(value, path), _legacy, _bare_pickle])
@pytest.mark.parametrize("payload", [_Runs, _Evaluates])
@pytest.mark.parametrize("place", ["alone", "beside weights", "as a key", "in the wrapper"])
def test_code_in_a_checkpoint_does_not_run(
    write: Callable[[Path, object], None], payload: Callable[[Path], object], place: str, tmp_path: Path, record: Record
) -> None:
    ran = tmp_path / "ran"
    evil: Any = payload(ran)
    value = {
        "alone": evil,
        "beside weights": {"norm.weight": torch.ones(3), "x": evil},
        "as a key": {evil: torch.ones(3)},
        "in the wrapper": {"model": {"norm.weight": torch.ones(3)}, "optimizer": [evil]},
    }[place]
    path = tmp_path / "evil.pth"
    write(path, value)
    with pytest.raises(CheckpointError, match=r"evil\.pth: (refused|damaged)"):
        load_checkpoint(path)
    assert not ran.exists()
    record.count("checkpoints with code in them", "refused; nothing ran", f"{payload.__name__[1:].lower()}, {place}")


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(module, str(path))
    with pytest.raises(CheckpointError, match=r"script\.pt: "):
        load_checkpoint(path)


def _header(values: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text + data


SAFETENSORS = {
    "a header of 2**60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "a tensor of terabytes": _header({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "sizes that overflow": _header({"x": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 4]}}, b"1234"),
    "negative sizes": _header({"x": {"dtype": "F32", "shape": [-1, -4], "data_offsets": [0, 16]}}, bytes(16)),
    "offsets outside": _header({"x": {"dtype": "F32", "shape": [4], "data_offsets": [2**50, 2**50 + 16]}}, bytes(16)),
    "overlapping tensors": _header(
        {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in "xy"}, bytes(16)
    ),
    "nested JSON": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "no values": _header({"head.weight": {"dtype": "F32", "shape": [10**9, 0], "data_offsets": [0, 0]}}),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_absurd_safetensors(name: str, tmp_path: Path, record: Record) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFETENSORS[name])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: "):
        load_checkpoint(path)
    record.count("absurd safetensors files", "refused", name)


def test_strides_that_make_terabytes_of_a_few_bytes(tmp_path: Path) -> None:
    values = torch.zeros(200_001)
    for name, tensor in {
        "overlapping": torch.as_strided(values, (100_000, 100_000), (1, 1)),  # 40 GB in float32
        "repeated": torch.zeros(1).expand(10**12),
        "without values": torch.zeros(10**9, 0),
    }.items():
        path = tmp_path / f"{name}.pth"
        torch.save({"head.weight": tensor}, path)
        with pytest.raises(CheckpointError, match=r"have more values than are stored, or none: head\.weight"):
            load_checkpoint(path)


def test_an_archive_that_unfolds(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.pth", tmp_path / "bomb.pth"
    torch.save({"head.weight": torch.zeros(4 << 20)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"bomb\.pth: [0-9,]+ bytes that unfold to 16,[0-9,]+, where torch\.save"):
        load_checkpoint(path)
    assert load_checkpoint(plain).state_dict["head.weight"].numel() == 4 << 20


@pytest.mark.parametrize("write", [lambda path, value: torch.save(value, path), _legacy])
def test_a_pickle_that_makes_what_no_state_dict_has(write: Callable[[Path, object], None], tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    write(path, {"norm.weight": torch.ones(3), "x": _Allocates()})
    with pytest.raises(CheckpointError, match=r"large\.pth: refused, as it makes a bytearray"):
        load_checkpoint(path)


class _Allocates:
    """Unpickled, it is gigabytes; PyTorch's own check lets it through."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (3 << 30,)


def test_a_network_of_a_hundred_thousand_blocks(tmp_path: Path, tiny_checkpoint: Path) -> None:
    weights = dict(load_checkpoint(tiny_checkpoint).state_dict)
    weights |= {f"stage3.{number}.x": torch.zeros(1) for number in range(2, 2000)}
    path = tmp_path / "deep.pth"
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match="2000 blocks in stage3; at most 1000 are read"):
        load_model(None, path)


@pytest.mark.parametrize(
    "name", ["../../etc/cron.d/x", "/tmp/x", "..", "a/b", "a\\b", "", "\x1b[2J", "x" * 101, ".ssh"]
)
def test_a_name_that_is_a_path_is_refused(name: str, tiny_model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "named.pth"
    card = json.dumps({"name": name, "labels": None, "preprocessing": None})
    torch.save({"state_dict": tiny_model.state_dict(), "rest_deploy": card}, path)
    with pytest.raises(CheckpointError, match="a name must be 1 to 100 letters, digits"):
        load_checkpoint(path)


def test_a_card_of_a_gigabyte_is_not_parsed() -> None:
    with pytest.raises(CheckpointError, match="has 16,777,217 characters; at most 16,777,216"):
        Card.from_json(" " * ((16 << 20) + 1))


def test_control_characters_in_keys_do_not_reach_the_terminal(
    tiny_model: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.pth"
    torch.save({**tiny_model.state_dict(), "\x1b[2J\x07\u202ehead": torch.ones(1)}, path)
    for command, arguments in ((export, ["--checkpoint", str(path)]), (info, [str(path)])):
        assert command.main(arguments) == 1
        told = capsys.readouterr().err
        assert r"\x1b[2J\x07\u202ehead" in told
        assert told.strip().isprintable()


def test_random_damage_is_an_error_and_no_more(tiny_checkpoint: Path, tmp_path: Path, record: Record) -> None:
    import random

    generator = random.Random(0)
    buffer = io.BytesIO()
    torch.save(load_checkpoint(tiny_checkpoint).state_dict, buffer)
    count = 0
    for suffix, content in ((".pth", buffer.getvalue()), (".safetensors", tiny_checkpoint.read_bytes())):
        path = tmp_path / f"x{suffix}"
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(generator.choice((1, 3, 20))):
                damaged[generator.randrange(generator.choice((400, len(damaged))))] = generator.randrange(256)
            path.write_bytes(damaged[: generator.choice((len(damaged), generator.randrange(len(damaged))))])
            count += 1
            with contextlib.suppress(CheckpointError):
                load_model(None, path)
    record.add("damaged checkpoints", count, "read or refused, each refusal one clear error")
