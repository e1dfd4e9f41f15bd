"""Checkpoints from somebody else: nothing in them runs, and nothing of a few bytes takes all memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import tracemalloc
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
from tests.reliability.conftest import Amount, Worker
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
        torch.save({"stem.conv1.weight": torch.ones(1), "head.weight": tensor}, path)
        with pytest.raises(CheckpointError, match=r"have more values than are stored, or none: head\.weight"):
            load_checkpoint(path)


def test_an_archive_that_unfolds(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.pth", tmp_path / "bomb.pth"
    torch.save({"stem.conv1.weight": torch.ones(1), "head.weight": torch.zeros(4 << 20)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"bomb\.pth: [0-9,]+ bytes that unfold to 16,[0-9,]+, where torch\.save"):
        load_checkpoint(path)
    assert load_checkpoint(plain).state_dict["head.weight"].numel() == 4 << 20


@pytest.mark.parametrize("write", [lambda path, value: torch.save(value, path), _legacy])
def test_what_asks_for_memory_is_inert(write: Callable[[Path, object], None], tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    write(path, {"norm.weight": torch.ones(3), "x": _Allocates()})
    with pytest.raises(CheckpointError, match=r"large\.pth: .*, but others, such as 'norm\.weight'"):
        load_checkpoint(path)


class _Allocates:
    """Unpickled, it is gigabytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (3 << 30,)


#: Names that PyTorch's own reader lets be called, and some that only unpickling in full would.
CALLED = (
    *("torch.Tensor", "torch.FloatTensor", "torch.nn.parameter.Parameter", "torch.Size", "torch.device"),
    *("torch.FloatStorage", "torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.IntStorage"),
    *(f"torch._utils.{name}" for name in (
        "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_qtensor",
        "_rebuild_parameter_with_state", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage",
        "_rebuild_nested_tensor", "_rebuild_wrapper_subclass", "_rebuild_device_tensor_from_numpy",
    )),
    *("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type", "torch.storage._load_from_bytes"),
    *("collections.OrderedDict", "collections.Counter", "collections.defaultdict", "builtins.bytearray"),
    *("builtins.set", "builtins.range", "numpy.zeros", "numpy._core.multiarray._reconstruct", "copyreg._reconstructor"),
)  # fmt: skip
HUGE = b"\x8a\x05\0\0\0\0\x08"  # LONG1 of 2**35


def _calls(name: str) -> dict[str, bytes]:
    """Pickles that call a name with one large number, each in another way."""
    module, _, last = name.rpartition(".")
    there = f"c{module}\n{last}\n".encode()
    return {
        "REDUCE": there + HUGE + b"\x85R",
        "NEWOBJ": there + HUGE + b"\x85\x81",
        "NEWOBJ_EX": there + HUGE + b"\x85}\x92",
        "INST": b"(" + HUGE + f"i{module}\n{last}\n".encode(),
        "OBJ": b"(" + there + HUGE + b"o",
        "STACK_GLOBAL": f"V{module}\nV{last}\n".encode() + b"\x93" + HUGE + b"\x85R",
        "twice": there + HUGE + b"\x85R" + HUGE + b"\x85R",
        "BUILD": there + HUGE + b"\x85R" + HUGE + b"b",
    }


def _archived(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", b"3\n")
    return buffer.getvalue()


def _before_1_6(pickled: bytes) -> bytes:
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + pickled + pickle.dumps([], 2)


def _peak_mib(call: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", [_archived, _before_1_6])
@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_with_a_large_number_takes_no_memory(
    name: str, form: Callable[[bytes], bytes], tmp_path: Path, record: Record
) -> None:
    path = tmp_path / "a.pth"

    def refuse() -> None:
        with pytest.raises(CheckpointError, match=r"a\.pth: "):
            load_checkpoint(path)

    for way, call in _calls(name).items():
        place = b"\x80\x02}(X\x11\0\0\0stem.conv1.weight" + call + b"u."
        path.write_bytes(form(place))
        assert _peak_mib(refuse) < 16, way
        record.count("calls of every such name with a large number", "refused, in under 16 MiB", way)


#: Names that only an attack needs, in places that lead to them.
ATTACKS = (
    *("os.system", "posix.system", "nt.system", "subprocess.Popen", "builtins.eval", "__builtin__.exec"),
    *("builtins.__import__", "builtins.open", "importlib.import_module", "runpy.run_path", "sys.exit", "ctypes.CDLL"),
    *("pty.spawn", "socket.socket", "shutil.rmtree", "torch.serialization.os.system", "torch.hub.sys.exit"),
    *("pickle.loads", "_pickle.Unpickler", "torch.load", "numpy.testing._private.utils.runstring", "os.path.os.system"),
)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_name_that_only_an_attack_needs_is_refused_by_its_full_name(
    name: str, tiny_model: torch.nn.Module, tmp_path: Path
) -> None:
    """Beside good weights, called or only named, as a value, a key, a state, an argument or an attribute."""
    buffer = io.BytesIO()
    torch.save(dict(tiny_model.state_dict()), buffer)
    with zipfile.ZipFile(buffer) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    good = next(content for entry, content in entries.items() if entry.endswith("data.pkl"))
    module, _, last = name.rpartition(".")
    there = f"c{module}\n{last}\n".encode()
    thing = b"cproject\nThing\n)R"
    for planted in (
        there,
        there + b"(Vtrue\ntR",
        b"}" + there + b"K\x01s",
        b"cproject\nThing\n(" + there + b"tR",
        thing + there + b"b",
        b"]" + there + b"a",
        f"V{module}\nV{last}\n".encode() + b"\x93",
        b"(Vtrue\ni" + there[1:],
    ):
        path = tmp_path / "a.pth"
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in entries.items():
                data = good[:-1] + b"V#\n" + planted + b"s." if content is good else content
                archive.writestr(entry, data)
        with pytest.raises(CheckpointError, match=rf"refused: it names {re.escape(name)},"):
            load_checkpoint(path)


def _nested(count: int) -> bytes:
    return b"\x80\x02" + b"]" * count + b"a" * (count - 1) + b"."


SPENDS = {
    "a memo index of 2**31": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a tuple of tuples as a key": b"\x80\x02}" + b")" + b"\x85" * 50_000 + b"K\x01s.",
    "shared tuples as a key": b"\x80\x02})" + b"".join(b"q\x00h\x00\x86" for _ in range(200)) + b"K\x01s.",
    "a number of a million digits": b"\x80\x02L" + b"9" * 50_000 + b"L\n.",
    "a number of a megabyte": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "text longer than the file": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "bytes longer than memory": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "a frame longer than memory": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",
    "lists in lists": _nested(500_000),
    "objects in objects": b"\x80\x02cproject\nThing\nq\0" + b"h\0" * 100_000 + b")" + b"\x81\x85" * 100_000 + b".",
    "lists that share each other": b"\x80\x02]q\0" + b"".join(
        b"](" + b"h\0" * 50 + b"eq\0" for _ in range(500)) + b".",
    "no end": b"\x80\x02" + b"]" * 100,
    "an operation of no checkpoint": b"\x80\x02\x82\x01.",
    "an object from elsewhere": b"\x80\x02U\x01xQ.",
    "a list of itself": b"\x80\x02]q\0h\0a.",
}  # fmt: skip


@pytest.mark.parametrize("form", [_archived, _before_1_6])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if len(SPENDS[name]) > 200_000 else name for name in SPENDS]
)
def test_what_would_take_forever_or_all_memory(name: str, form: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(form(SPENDS[name]))

    def refuse() -> None:
        with pytest.raises(CheckpointError, match=r"a\.pth: "):
            load_checkpoint(path)

    assert _peak_mib(refuse) < 256


def test_a_pickle_of_too_many_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rest_deploy.models.pickled.MAX_OPERATIONS", 1000)
    path = tmp_path / "a.pth"
    path.write_bytes(_archived(_nested(5000)))
    with pytest.raises(CheckpointError, match="more than 1,000 operations"):
        load_checkpoint(path)


def _with(change: Callable[[bytearray, list[int]], object], tiny: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(tiny, buffer)
    content = bytearray(buffer.getvalue())
    entries = [at.start() for at in re.finditer(rb"PK\x01\x02", content)]
    change(content, entries)
    return bytes(content)


def _set(at: int, value: int, size: int = 4) -> Callable[[bytearray, list[int]], object]:
    def change(content: bytearray, entries: list[int]) -> None:
        content[entries[0] + at : entries[0] + at + size] = value.to_bytes(size, "little")

    return change


def _twice(content: bytearray, entries: list[int]) -> None:
    """A second archive before the first: its reader would find it from the front."""
    content[:0] = content


ARCHIVES: dict[str, Callable[[bytearray, list[int]], object]] = {
    "a size of 4 GiB": _set(24, 0xFFFFFFFE),
    "a packed size of 4 GiB": _set(20, 0xFFFFFFFE),
    "another method": _set(10, 8, 2),
    "encrypted": _set(8, 0x809, 2),
    "a header elsewhere": _set(42, 64),
    "a header of another entry": lambda c, e: c.__setitem__(slice(e[0] + 42, e[0] + 46), c[e[1] + 42 : e[1] + 46]),
    "two archives": _twice,
    "bytes before": lambda c, e: c.__setitem__(slice(0, 0), b"PK\x03\x04" + bytes(60)),
    "bytes behind": lambda c, e: c.extend(b"x"),
    "a comment": lambda c, e: (c.__setitem__(slice(len(c) - 2, len(c)), b"\x01\0"), c.extend(b"x")),
    "two ends that differ": lambda c, e: c.__setitem__(slice(len(c) - 10, len(c) - 6), b"\xfe\xff\xff\xff"),
    "a directory of 4 GiB": lambda c, e: c.__setitem__(slice(len(c) - 58, len(c) - 54), b"\xff\xff\xff\x7f"),
    "another name": lambda c, e: c.__setitem__(e[0] + 46, ord("b")),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_two_readers_would_read_differently(
    name: str, tiny_model: torch.nn.Module, tmp_path: Path, record: Record
) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(_with(ARCHIVES[name], dict(tiny_model.state_dict())))
    with pytest.raises(CheckpointError, match=r"a\.pth: (damaged|refused|truncated|its ZIP|[0-9,]+ bytes that unfold)"):
        load_checkpoint(path)
    record.count("archives that two readers read differently", "refused", name)


def test_names_that_differ_in_case(tiny_model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(tiny_model.state_dict(), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("A/DATA.PKL", b"x")
    with pytest.raises(CheckpointError, match="has a name twice"):
        load_checkpoint(path)


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
    with pytest.raises(CheckpointError, match="accepted: 1 to 100 letters, digits"):
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
    count, refusals = 0, []
    for suffix, content in ((".pth", buffer.getvalue()), (".safetensors", tiny_checkpoint.read_bytes())):
        path = tmp_path / f"x{suffix}"
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(generator.choice((1, 3, 20))):
                damaged[generator.randrange(generator.choice((400, len(damaged))))] = generator.randrange(256)
            path.write_bytes(damaged[: generator.choice((len(damaged), generator.randrange(len(damaged))))])
            count += 1
            try:
                load_model(None, path)
            except CheckpointError as exc:
                refusals.append(str(exc))
    assert refusals
    assert all(told.isprintable() for told in refusals)
    record.add("damaged checkpoints", count, "read or refused, each refusal one clear error")


def _refused(path: Path) -> str:
    """What a refusal says: one line that does not grow with the file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    told = str(caught.value)
    assert len(told.splitlines()) == 1
    assert len(told) < 5000
    return told


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _looks(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("rest_deploy.models.inside._MAX_LOOKS", count)


def test_modules_that_share_a_large_one_are_looked_at_within_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = torch.nn.Sequential(*(torch.nn.BatchNorm1d(1) for _ in range(100)))
    path = tmp_path / "a.pth"
    torch.save([torch.nn.Sequential(big) for _ in range(50)], path)
    assert "holds a list" in _refused(path)
    _looks(monkeypatch, 20_000)  # the whole has fewer entries
    assert "more than 20,000 entries" in _refused(path)


def test_many_places_of_one_list_are_not_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(_archived(b"\x80\x02](](K\x01eq\0" + b"h\0" * 20_000 + b"e."))
    assert "holds a list" in _refused(path)
    _looks(monkeypatch, 10_000)
    assert "more than 10,000 entries" in _refused(path)


@pytest.mark.parametrize("shared", [True, False])
def test_more_than_a_hundred_state_dicts(shared: bool, tmp_path: Path) -> None:
    one = {"stem.conv1.weight": torch.ones(1)}
    path = tmp_path / "a.pth"
    torch.save([one if shared else dict(one) for _ in range(101)], path)
    assert "more than 100 state dicts" in _refused(path)


def test_keys_longer_than_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"x" * 1001: {"stem.conv1.weight": torch.ones(1)}}, path)
    assert "more than 1,000 characters" in _refused(path)
    torch.save({"x" * 10**6: torch.ones(1), "one\ntwo": 1}, path)
    assert "holds no weights of a ResT" in _refused(path)


def test_modules_in_modules_make_no_names_without_end(tmp_path: Path) -> None:
    """A chain of modules, each in the one before it: its names would take the square of its length."""
    child = b"cproject\nThing\n)R}" + _text("_modules") + b"}" + _text("child")
    path = tmp_path / "a.pth"
    path.write_bytes(_archived(b"\x80\x02" + child * 20_000 + b"N" + b"ssb" * 20_000 + b"."))
    assert "a name of more than 1,000 characters" in _refused(path)


def test_a_list_handed_to_many_ordered_dicts_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rest_deploy.models.pickled.MAX_OPERATIONS", 50_000)
    pairs = b"](" + b"".join(_text(str(n)) + b"N\x86" for n in range(5000)) + b"eq\0"
    calls = b"](" + b"ccollections\nOrderedDict\nh\0\x85R" * 100 + b"e."
    path = tmp_path / "a.pth"
    path.write_bytes(_archived(b"\x80\x02" + pairs + calls))
    assert "more than 50,000 entries" in _refused(path)


def test_a_mapping_handed_to_many_ordered_dicts_is_not_copied(tmp_path: Path) -> None:
    pairs = b"}(" + b"".join(_text(str(n)) + b"N" for n in range(20_000)) + b"uq\0"
    calls = b"](" + b"ccollections\nOrderedDict\nh\0\x85R" * 1000 + b"e."
    path = tmp_path / "a.pth"
    path.write_bytes(_archived(b"\x80\x02" + pairs + calls))
    assert _peak_mib(lambda: _refused(path)) < 64


def test_a_name_that_knows_no_end(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for name in ("x" * 2000, "a." * 20_000 + "b"):
        path.write_bytes(_archived(f"\x80\x02c{name}\nThing\n.".encode("latin-1")))
        assert "at most 1,000 are read" in _refused(path)


def test_the_result_of_a_call_called_many_times(tmp_path: Path) -> None:
    """Its name does not grow with each call."""
    path = tmp_path / "a.pth"
    path.write_bytes(_archived(b"\x80\x02cproject\nThing\n" + b")R" * 20_000 + b"."))
    assert "holds a project.Thing(...)" in _refused(path)


def test_parts_of_one_storage_that_overlap_are_not_copied_without_end(tmp_path: Path) -> None:
    values = torch.arange(100_000, dtype=torch.float32)
    path = tmp_path / "a.pth"
    parts = {f"stage1.{n}.x": values[n : n + 90_000] for n in range(50)}
    torch.save({"stem.conv1.weight": torch.ones(1), **parts}, path)
    assert "are parts of each other" in _refused(path)
    tied = {f"stage1.{n}.x": values[5:90_000] for n in range(50)}
    torch.save({"stem.conv1.weight": torch.ones(1), **tied}, path)
    assert torch.equal(load_checkpoint(path).state_dict["stage1.49.x"], values[5:90_000])


@pytest.mark.slow
def test_calls_of_all_that_pytorch_allows_and_archives_of_two_readings(
    tiny_model: torch.nn.Module, tmp_path: Path, worker: Worker, amount: Amount, record: Record
) -> None:
    """With a gigabyte of memory, ten seconds a file: refused in one line, or inert beside weights that are read."""
    good, legacy = tmp_path / "good.pth", tmp_path / "legacy.pth"
    torch.save(dict(tiny_model.state_dict()), good)
    _legacy(legacy, dict(tiny_model.state_dict()))
    told = worker("hostile_checkpoints", tmp_path, good, legacy, amount(17, 1))
    assert told["bad"] == []
    assert told["names"] > 100  # of the allow-list of the PyTorch that is installed
    found = told["found"]
    assert found.keys() == {
        *("good: read", "alone: refused", "in place of a weight: refused", "beside weights: read"),
        *("in a wrapper: read", "archive: refused"),
    }
    assert told["grown_mib"] < 256
    calls = sum(count for outcome, count in found.items() if not outcome.startswith(("good", "archive")))
    assert calls > 2 * told["names"]
    record.add(
        f"one of {told['names']} names that PyTorch lets be called, with 2^40; six ways, two containers, four places",
        calls,
        f"alone or as a weight refused in one line, beside weights inert; at most {told['grown_mib']:.0f} MiB",
    )
    record.add("archives that two readers read differently", found["archive: refused"], "refused in one line")
