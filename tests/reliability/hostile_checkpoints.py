"""Read hostile checkpoints: python -m tests.reliability.hostile_checkpoints FOLDER GOOD_ZIP GOOD_LEGACY EVERY

Every name that PyTorch's own reader lets a pickle call, each called with one large number in every way that a pickle
can call, in both containers and in each place of a checkpoint; and archives that two readers read differently. The
names are taken from the PyTorch that is installed. One of EVERY files is tried. Runs in a process of its own, with a
gigabyte of memory more than it has loaded, and an alarm for each file. Prints one line of JSON.
"""

from __future__ import annotations

import faulthandler
import io
import json
import pickletools
import resource
import signal
import struct
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import _weights_only_unpickler

from rest_deploy.environment import peak_mib
from rest_deploy.errors import CheckpointError
from rest_deploy.models.checkpoint import load_checkpoint
from rest_deploy.models.factory import load_model

_ROOM = 1 << 30  # of address space, beyond what is loaded
_SECONDS = 10  # after which a file counts as hanging
_HUGE = b"\x8a\x06\0\0\0\0\0\x01"  # LONG1 of 2**40
_LONGEST = 5000  # characters of what is said

#: Name -> a pickle's operations that leave a call of it with one large number on the stack.
WAYS: dict[str, Callable[[str, str], bytes]] = {
    "REDUCE": lambda module, name: _global(module, name) + _HUGE + b"\x85R",
    "NEWOBJ": lambda module, name: _global(module, name) + _HUGE + b"\x85\x81",
    "NEWOBJ_EX": lambda module, name: _global(module, name) + _HUGE + b"\x85}\x92",
    "INST": lambda module, name: b"(" + _HUGE + f"i{module}\n{name}\n".encode(),
    "OBJ": lambda module, name: b"(" + _global(module, name) + _HUGE + b"o",
    "BUILD": lambda module, name: _global(module, name) + b")R" + _HUGE + b"b",
}


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


#: Place -> the pickle of a checkpoint with something in it, from a good one. Whether the good weights are still to be
#: read: what is unknown beside them is inert, and so are the settings of a training script in a wrapper.
PLACES: dict[str, tuple[bool, Callable[[bytes, bytes], bytes]]] = {
    "alone": (False, lambda good, thing: b"\x80\x02" + thing + b"."),
    "in place of a weight": (False, lambda good, thing: good[:-1] + _text("stem.conv1.weight") + thing + b"s."),
    "beside weights": (True, lambda good, thing: good[:-1] + _text("extra") + thing + b"s."),
    "in a wrapper": (
        True,
        lambda good, thing: b"\x80\x02}" + _text("model") + good[2:-1] + b"s" + _text("epoch") + thing + b"s.",
    ),
}


class Form:
    """A container: a good checkpoint, and the same with another pickle."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self._entries: dict[str, bytes] = {}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                self._entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
            self._name = next(name for name in self._entries if name.endswith("/data.pkl"))
            self.good = self._entries[self._name]
            return
        stream, ends = io.BytesIO(content), []
        for _ in range(4):
            for _ in pickletools.genops(stream):
                pass
            ends.append(stream.tell())
        self._head, self.good, self._tail = content[: ends[2]], content[ends[2] : ends[3]], content[ends[3] :]

    def made(self, pickled: bytes) -> bytes:
        """The file with that pickle."""
        if not self._entries:
            return self._head + pickled + self._tail
        return archive([(name, pickled if name == self._name else data) for name, data in self._entries.items()])


def archive(entries: list[tuple[str, bytes]]) -> bytes:
    """A ZIP archive of entries in this order."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as made:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in entries:
            made.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def names() -> list[str]:
    """What the reader of the installed PyTorch lets be called."""
    return sorted(_weights_only_unpickler._get_allowed_globals())


def calls(forms: dict[str, Form]) -> Iterator[tuple[str, str, bool, bytes]]:
    """(what it is, its place, whether the good weights are still to be read, the file)."""
    for name in names():
        module, _, last = name.rpartition(".")
        for way, call in WAYS.items():
            for form, container in forms.items():
                for place, (read, planted) in PLACES.items():
                    content = container.made(planted(container.good, call(module, last)))
                    yield f"{name}, {way}, {form}, {place}", place, read, content


def archives(good: bytes) -> dict[str, bytes]:
    """Archives that a reader from the front, one from the back, and one of another system read differently."""
    with zipfile.ZipFile(io.BytesIO(good)) as opened:
        entries = [(entry.filename, opened.read(entry)) for entry in opened.infolist()]
    pickled = next(name for name, _ in entries if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    plain = archive(entries)
    evil = b"\x80\x02" + WAYS["REDUCE"]("torch", "Tensor") + b"."
    other = archive([(name, evil if name == pickled else data) for name, data in entries])
    at = plain.rindex(b"PK\x05\x06")
    start, length = struct.unpack("<I", plain[at + 16 : at + 20])[0], struct.unpack("<I", plain[at + 12 : at + 16])[0]
    directory = plain[start : start + length]
    made = {
        "one archive behind another": plain + other,
        "one archive before another": other + plain,
        "an archive as the comment of another": plain[:-2] + struct.pack("<H", min(65535, len(other))) + other[:65535],
        "an end in the comment": plain[:-2] + struct.pack("<H", 22) + plain[at:],
        "a second directory before the first": plain[:start] + directory + directory + _end(plain, at, start + length),
        "a second directory behind the first": plain[:start] + directory + directory + _end(plain, at, start),
        "bytes between directory and end": plain[:at] + b"PK\x01\x02" + bytes(42) + plain[at:],
        "more entries than its end says": plain[:-14] + struct.pack("<HH", 1, 1) + plain[-10:],
        "another disk": plain[:-18] + struct.pack("<HH", 1, 1) + plain[-14:],
        "a pickle twice": archive([*entries, (pickled, evil)]),
        "a pickle in capitals": archive([*entries, (pickled.upper(), evil)]),
        "a pickle whose folder is in capitals": archive([*entries, (f"{folder.upper()}data.pkl", evil)]),
        "two folders": archive([*entries, ("other/data.pkl", evil)]),
        "a pickle in no folder": archive([*((n.removeprefix(folder), d) for n, d in entries)]),
        "a name with an end in it": _renamed(plain, pickled, pickled[:-1] + "\0"),
        "a name with a backslash": _renamed(plain, pickled, pickled.replace("/", "\\")),
        "a name in a folder above": archive([(f"../{name}", data) for name, data in entries]),
        "a name from the root": archive([(f"/{name}", data) for name, data in entries]),
    }
    first, second = (found for found in _directory_entries(plain, start, at))
    for what, change in {
        "entries at one place": (42, plain[second + 42 : second + 46]),
        "an entry over the next": (20, struct.pack("<II", len(plain) // 2, len(plain) // 2)),
        "an entry over the directory": (20, struct.pack("<II", len(plain), len(plain))),
        "a size of zero": (20, struct.pack("<II", 0, 0)),
        "packed and plain sizes that differ": (24, struct.pack("<I", 1)),
        "a checksum of another": (16, b"\1\2\3\4"),
        "on disk 7": (34, struct.pack("<H", 7)),
        "a size in 64 bits that is not there": (20, struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF)),
        "a place in 64 bits that is not there": (42, struct.pack("<I", 0xFFFFFFFF)),
        "a comment longer than the directory": (32, struct.pack("<H", 0xFFFF)),
    }.items():
        offset, value = change
        made[what] = plain[: first + offset] + value + plain[first + offset + len(value) :]
    for what, numbers in {
        "of terabytes": (1 << 42, 1 << 42),
        "of nothing": (0, 0),
        "beyond 63 bits": (1 << 63, 1 << 63),
    }.items():
        made[f"sizes in 64 bits {what}"] = _long_sizes(plain, start, at, first, numbers)
    for what, record in {
        "another directory": struct.pack("<QQQ", len(entries), length, 0),
        "a directory of terabytes": struct.pack("<QQQ", len(entries), 1 << 42, start),
        "a directory beyond the file": struct.pack("<QQQ", len(entries), length, 1 << 62),
        "a billion entries": struct.pack("<QQQ", 1 << 30, length, start),
    }.items():
        made[f"an end in 64 bits of {what}"] = _long_end(plain, at, record)
    made["an end in 64 bits that is elsewhere"] = _long_end(
        plain, at, struct.pack("<QQQ", len(entries), length, start), 5
    )
    return made


def _end(plain: bytes, at: int, start: int) -> bytes:
    return plain[at : at + 16] + struct.pack("<I", start) + plain[at + 20 :]


def _renamed(plain: bytes, name: str, other: str) -> bytes:
    return plain.replace(name.encode(), other.encode())


def _directory_entries(plain: bytes, start: int, end: int) -> tuple[int, int]:
    first = plain.index(b"PK\x01\x02", start, end)
    return first, plain.index(b"PK\x01\x02", first + 4, end)


def _long_sizes(plain: bytes, start: int, at: int, entry: int, numbers: tuple[int, int]) -> bytes:
    """The first entry's sizes as a field of 64 bits, in the directory alone."""
    extra = struct.pack("<HHQQ", 1, 16, *numbers)
    length = struct.unpack("<H", plain[entry + 28 : entry + 30])[0]
    head = bytearray(plain[entry : entry + 46 + length])
    head[20:28] = b"\xff" * 8
    head[30:32] = struct.pack("<H", len(extra))
    old = 46 + length + struct.unpack("<H", plain[entry + 30 : entry + 32])[0]
    body = plain[:entry] + bytes(head) + extra + plain[entry + old : at]
    end = bytearray(plain[at:])
    end[12:16] = struct.pack("<I", len(body) - start)
    return body + bytes(end)


def _long_end(plain: bytes, at: int, record: bytes, away: int = 0) -> bytes:
    """The end with one of 64 bits before it, which counts where the short one says so."""
    long = b"PK\x06\x06" + struct.pack("<QHHII", 44, 45, 45, 0, 0) + record[:8] + record
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, at + away, 1)
    short = plain[at : at + 8] + b"\xff" * 12 + plain[at + 20 :]
    return plain[:at] + long + locator + short


class Reader:
    """Reads files and counts what happens."""

    def __init__(self, folder: Path, good: Path) -> None:
        self._path, self._now = folder / "x.pth", folder / "now"
        self._good = load_checkpoint(good).state_dict
        self.found: Counter[str] = Counter()
        self.bad: list[str] = []

    def read(self, what: str, group: str, read: bool | None, content: bytes) -> None:
        """Read one; ``read`` says whether the good weights are to come of it, None where both is right."""
        self._path.write_bytes(content)
        self._now.write_text(what)
        signal.alarm(_SECONDS)
        try:
            weights = load_checkpoint(self._path).state_dict
            same = weights.keys() == self._good.keys()
            same = same and all(torch.equal(weights[key], value) for key, value in self._good.items())
            if not same:  # what stands in place of a weight is none, and a network without it is refused
                load_model(None, self._path)
            outcome = "read" if same else "other weights"
        except CheckpointError as exc:
            told = str(exc)
            whole = str(self._path) in told and len(told.splitlines()) == 1 and len(told) < _LONGEST
            outcome = "refused" if whole else f"said {told[:200]}"
        except BaseException as exc:
            outcome = f"{type(exc).__name__}: {exc}"[:200]
        signal.alarm(0)
        self.found[f"{group}: {outcome if outcome in ('read', 'refused') else 'bad'}"] += 1
        if outcome != ("refused" if not read else "read"):
            self.bad.append(f"{what}: {outcome}")


def main(folder: Path, good_zip: Path, good_legacy: Path, every: int) -> None:
    """Read one of so many."""
    warnings.simplefilter("ignore")
    faulthandler.register(signal.SIGALRM, chain=True)
    reader = Reader(folder, good_zip)
    forms = {"zip": Form(good_zip), "legacy": Form(good_legacy)}
    for name, form in forms.items():
        reader.read(f"good, {name}", "good", True, form.made(form.good))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + _ROOM, held + _ROOM))
    before = peak_mib()
    for number, (what, place, read, content) in enumerate(calls(forms)):
        if number % every == 0:
            reader.read(what, place, read, content)
    for what, content in archives(good_zip.read_bytes()).items():
        reader.read(what, "archive", False, content)
    told: dict[str, Any] = {"found": reader.found, "bad": reader.bad, "names": len(names())}
    print(json.dumps(told | {"grown_mib": peak_mib() - before}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
