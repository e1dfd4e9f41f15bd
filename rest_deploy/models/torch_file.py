"""Files of weights: what kind a file is, told by its first bytes, and its tensors, read from one open handle.

Three containers hold weights: the ZIP archives that ``torch.save`` writes, its format from before PyTorch 1.6, and
safetensors. All three give the same: a content of plain values, in which each weight is a :class:`StoredTensor` that
is read when it is wanted, so that an optimizer's state costs nothing. PyTorch's own reader takes no part.
"""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from rest_deploy.artifact.identity import sha256_of_rest
from rest_deploy.errors import listed, one_line
from rest_deploy.models.pickled import Inert, UnreadableError, read_pickle
from rest_deploy.models.stored import MAKERS, MAX_RANK, MAX_STORED, Storage, StoredTensor, storage_of
from rest_deploy.values import distinct

_MAX_PICKLE = 256 << 20  # bytes of an archive's pickle
_MAX_DIRECTORY = 16 << 20  # bytes of an archive's directory; an entry takes about 70
_MAX_HEADER = 100 << 20  # bytes of a safetensors header, as its own library has it
_DESCRIPTOR = 24  # bytes that may follow an entry
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

TRUSTED = "; this runs what is in the file, so only where you trust whoever made it"


def converting(path: Path, expression: str) -> str:
    """A line for a shell that opens a file as PyTorch does, all code in it included, and saves what we can read."""
    code = f'import torch; x = torch.load({json.dumps(str(path))}, map_location="cpu", weights_only=False); '
    return f"convert it: {_line(code, expression)}{TRUSTED}"


def _line(code: str, expression: str) -> str:
    """A line for a shell: Python code that makes something, and saves it."""
    return "python -c " + shlex.quote(f'{code}torch.save({expression}, "weights.pth")')


_SAFE_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64,
}  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """Where the bytes of a storage are."""

    offset: int
    nbytes: int
    crc: int | None = None


@dataclass
class WeightFile:
    """An open file of weights.

    Attributes:
        path: As it was given.
        sha256: Of all its bytes.
        content: What it holds, each tensor a :class:`StoredTensor`, each object an :class:`Inert`.
        metadata: Of a safetensors file.
        places: Where the bytes of each storage are.
    """

    path: Path
    sha256: str
    _file: BinaryIO
    _size: int
    content: Any = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    places: dict[str, _Place] = field(default_factory=dict)
    _read: dict[str, Tensor] = field(default_factory=dict)
    _parts: dict[StoredTensor, Tensor] = field(default_factory=dict)
    _copied: int = 0  # bytes of the parts

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor.

        Raises:
            UnreadableError: Its values are not all there, or not as they were written.
        """
        if stored in self._parts:
            return self._parts[stored]
        storage = stored.storage
        last = stored.offset + sum((size - 1) * step for size, step in zip(stored.shape, stored.stride, strict=True))
        if stored.numel and last >= storage.nbytes // stored.dtype.itemsize:
            raise UnreadableError(f"damaged: a tensor of the shape {stored.shape} reaches outside of what is stored")
        raw = self._bytes_of(storage.key)
        start = storage.start * storage.dtype.itemsize
        if start + storage.nbytes > len(raw) or start % stored.dtype.itemsize:
            raise UnreadableError(f"damaged: the file has {len(raw):,} bytes of the storage {storage.key!r}")
        usable = storage.nbytes // stored.dtype.itemsize * stored.dtype.itemsize
        numbers = raw[start : start + usable].view(stored.dtype)
        tensor = torch.as_strided(numbers, stored.shape, stored.stride, numbers.storage_offset() + stored.offset)
        if tensor.nbytes == len(raw):
            return tensor
        self._copied += tensor.nbytes
        if self._copied > self._size:
            raise UnreadableError(
                f"its tensors are parts of each other, and together are larger than the file's {self._size:,} bytes"
            )
        self._parts[stored] = tensor.clone()  # a part does not keep the whole in memory
        return self._parts[stored]

    def _bytes_of(self, key: str) -> Tensor:
        if key not in self._read:
            place = self.places.get(key)
            if place is None:
                raise UnreadableError(f"damaged: the storage {key!r} is named in its pickle and is not in the file")
            values = np.empty(place.nbytes, np.uint8)
            self._file.seek(place.offset)
            if self._file.readinto(values.data) != place.nbytes:  # type: ignore[attr-defined]
                raise UnreadableError("truncated: it ended while its tensors were read")
            if place.crc is not None and zlib.crc32(values.data) != place.crc:
                raise UnreadableError(f"damaged: the checksum of the storage {key!r} is not that of its bytes")
            self._read[key] = torch.from_numpy(values)
        return self._read[key]


@contextmanager
def open_weights(path: Path) -> Iterator[WeightFile]:
    """Open a file of weights for the time of a block; hash and content are of the same bytes.

    Raises:
        UnreadableError: It is another kind of file, is damaged, or changed while the block ran.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        before = _state(file)
        opened = WeightFile(path, sha256_of_rest(file), file, before[0])
        file.seek(0)
        head = file.read(_HEAD)
        size = before[0]
        if head[5:9] == b"\0\0\0{":  # a header of under 1 TiB; first, as its length may begin as a pickle does
            _open_safetensors(opened, file, size)
        elif head.startswith(b"PK\x03\x04"):
            _open_archive(opened, file, size)
        elif head.startswith(b"\x80"):
            _open_legacy(opened, file, size)
        else:
            raise UnreadableError(_what_it_is(head, size))
        yield opened
        if _state(file) != before:
            raise UnreadableError("it was written to while it was read; try again")


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


# What other files are

_HEAD = 512
_NEEDED = "needed: a PyTorch or safetensors file"
_UNPACK = f"unpack it first; {_NEEDED}"
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the weights; fetch them: git lfs pull"),
    (b"\x1f\x8b", f"a gzip file; {_UNPACK}"),
    (b"BZh", f"a bzip2 file; {_UNPACK}"),
    (b"\xfd7zXZ\0", f"an xz file; {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"a Zstandard file; {_UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive; {_UNPACK}"),
    (b"Rar!", f"a RAR archive; {_UNPACK}"),
    (b"PK\x05\x06", f"an empty ZIP archive; {_NEEDED}"),
    (b"\x89HDF", f"an HDF5 file, as Keras writes; {_NEEDED}"),
    (b"\x93NUMPY", f"a NumPy array; {_NEEDED}"),
    (b"GGUF", f"a GGUF file; {_NEEDED}"),
    (b"ptrt", f"a TensorRT engine; {_NEEDED}"),
    (b"\x89PNG", f"a PNG picture; {_NEEDED}"),
    (b"\xff\xd8\xff", f"a JPEG picture; {_NEEDED}"),
    (b"%PDF", f"a PDF document; {_NEEDED}"),
    (b"\x7fELF", f"a program; {_NEEDED}"),
)


def _what_it_is(head: bytes, size: int) -> str:
    """In words, for a file that holds no weights."""
    if not size:
        return f"an empty file; {_NEEDED}"
    signed = [words for signature, words in _SIGNATURES if head.startswith(signature)]
    if signed or head[257:262] == b"ustar":
        return signed[0] if signed else f"a tar archive; {_UNPACK}"
    start = head.lstrip()[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")) or (start.startswith(b"<") and b"html" in start):
        return f"an HTML page, as a failed download leaves; download the file itself; {_NEEDED}"
    if head[0] == 8 and len(head) > 2 and head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42):
        return f"an ONNX file, whose weights are not those of a checkpoint; {_NEEDED}"
    try:
        text = head.decode("utf-8").strip()
    except UnicodeDecodeError as exc:
        text = head[: exc.start].decode("utf-8").strip() if exc.start > len(head) - 4 else ""
    if text and all(letter.isprintable() or letter.isspace() for letter in text):
        kind = "XML" if start.startswith(b"<") else "JSON" if start.startswith((b"{", b"[")) else "plain"
        return f"{kind} text that begins with {text.splitlines()[0][:40]!r}; {_NEEDED}"
    return f"of an unknown kind: {size:,} bytes that begin with {head[:8].hex(' ')}; {_NEEDED}"


# ZIP archives


def _open_archive(opened: WeightFile, file: BinaryIO, size: int) -> None:
    entries = _entries(file, size)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UnreadableError(_other_archive(list(entries), len(pickles), opened.path))
    prefix = pickles[0].removesuffix("data.pkl")
    packed = {n: e for n, e in entries.items() if e.compress_type and not n.startswith(f"{prefix}code/")}
    if packed:
        unfolded = sum(entry.file_size for entry in packed.values())
        line = converting(opened.path, "x")
        raise UnreadableError(
            f"{size:,} bytes that unfold to {unfolded:,}, where torch.save compresses nothing; {line}"
        )
    checked = any(entry.CRC for entry in entries.values())  # torch.serialization.set_crc32_options(False) writes none

    def place(name: str) -> _Place:
        entry = entries[name]
        return _Place(entry.header_offset, entry.file_size, entry.CRC if checked else None)

    def content(name: str, most: int) -> bytes:
        where = place(name)
        if where.nbytes > most:
            raise UnreadableError(f"its entry {name} has {where.nbytes:,} bytes; at most {most:,} are read")
        file.seek(where.offset)
        data = file.read(where.nbytes)
        if where.crc is not None and zlib.crc32(data) != where.crc:
            raise UnreadableError(f"damaged: the checksum of its entry {name} is not that of its bytes")
        return data

    order = content(f"{prefix}byteorder", 16) if f"{prefix}byteorder" in entries else b"little"
    if order != b"little":
        raise UnreadableError(
            f"its numbers are in the byte order {order.decode('latin-1')!r}; little is read; "
            f"{converting(opened.path, 'x')}"
        )
    storages = {n.removeprefix(f"{prefix}data/"): place(n) for n in entries if n.startswith(f"{prefix}data/")}
    opened.places = storages
    opened.content = read_pickle(io.BytesIO(content(pickles[0], _MAX_PICKLE)), MAKERS, storage_of)


def _other_archive(names: list[str], pickles: int, path: Path) -> str:
    if pickles:
        return f"a ZIP archive with {pickles} PyTorch files in it; unpack it, and give one of them"
    if names and all(name.endswith(".npy") for name in names):
        code = f"import numpy, torch; x = numpy.load({json.dumps(str(path))}); "
        return f"a NumPy archive (.npz); convert it: {_line(code, '{k: torch.from_numpy(x[k]) for k in x}')}"
    return f"a ZIP archive of {listed(names) or 'nothing'}, with no data.pkl in a folder; {_NEEDED}"


def _entries(file: BinaryIO, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries of an archive, each with the offset of its *data*, all inside of the file and apart.

    Raises:
        UnreadableError: The archive is cut off, or not as every reader would read it.
    """
    count = _check_end(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            entries, directory = sorted(archive.infolist(), key=lambda e: e.header_offset), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error, UnicodeError) as exc:
        raise UnreadableError(f"damaged: its ZIP directory cannot be read ({one_line(exc)})") from exc
    if len({entry.filename.casefold() for entry in entries}) != len(entries):
        raise UnreadableError("refused: its ZIP directory has a name twice, so that two readers could read two files")
    if len(entries) != count or any(entry.volume for entry in entries):
        raise UnreadableError(f"damaged: its ZIP directory has {len(entries):,} entries, and its end says {count:,}")
    end, slack = 0, 0
    for entry in entries:
        if not end <= entry.header_offset <= end + slack:
            raise UnreadableError(f"damaged: its entry {entry.filename[:60]!r} does not follow the one before it")
        entry.header_offset = _data_of(file, entry)
        end, slack = entry.header_offset + entry.compress_size, _DESCRIPTOR
        if end > directory:
            raise UnreadableError(f"damaged: its entry {entry.filename[:60]!r} reaches outside of what is stored")
    if directory > end + slack:
        raise UnreadableError(f"damaged: {directory - end:,} bytes before its ZIP directory belong to no entry")
    return {entry.filename: entry for entry in entries}


def _check_end(file: BinaryIO, size: int) -> int:
    """One end record, at the end, right behind a directory that is not too large; how many entries that has."""
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise UnreadableError(f"truncated: a ZIP archive of {size:,} bytes without its end; copy or download it again")
    if at != len(tail) - 22 or tail[-2:] != b"\0\0":
        raise UnreadableError("damaged: its ZIP archive ends before the file does, or was cut within its end")
    short = struct.unpack("<4H2L", tail[at + 4 : at + 20])
    found, end = short, size - 22
    if tail[at - 20 : at - 16] == b"PK\x06\x07" and at >= 76:  # the same in 64 bits, which then counts
        end -= 76
        place = struct.unpack("<LQL", tail[at - 16 : at])  # disk, offset, disks
        found = struct.unpack("<2L4Q", tail[at - 60 : at - 20])
        same = all(
            s in (w, limit) for s, w, limit in zip(short, found, (*[0xFFFF] * 4, *[0xFFFFFFFF] * 2), strict=True)
        )
        if not same or tail[at - 76 : at - 72] != b"PK\x06\x06" or place != (0, end, 1):
            raise UnreadableError("refused: its ZIP archive has two ends that differ, so that two readers could differ")
    disk, first, here, entries, length, start = found
    if length > _MAX_DIRECTORY:
        raise UnreadableError(f"its ZIP directory has {length:,} bytes; at most {_MAX_DIRECTORY:,} are read")
    if (disk, first, here) != (0, 0, entries) or start + length != end:
        raise UnreadableError("damaged: the end of its ZIP archive does not tell where its directory is")
    return int(entries)


def _data_of(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where the data of an entry begins; its own header must agree with the directory."""
    file.seek(entry.header_offset)
    header = file.read(30)
    plain = entry.orig_filename == entry.filename and not entry.flag_bits & 1 and len(header) == 30
    if plain and header[:4] == b"PK\x03\x04":
        method, _, _, packed, unpacked, length, extra = struct.unpack("<HHHLLHH", header[8:10] + header[10:14] +
                                                                      header[18:30])  # fmt: skip
        name = file.read(length)
        encoding = "utf-8" if entry.flag_bits & 0x800 else "cp437"
        sizes = {(packed, entry.compress_size), (unpacked, entry.file_size)}
        told = all(here in (there, 0, 0xFFFFFFFF) for here, there in sizes)
        fits = entry.compress_type or entry.compress_size == entry.file_size
        if told and fits and method == entry.compress_type and name == entry.orig_filename.encode(encoding):
            return entry.header_offset + 30 + length + extra
    raise UnreadableError(f"damaged: its entry {entry.filename[:60]!r} is not what its ZIP directory says")


# The format from before PyTorch 1.6

#: Arrays become tensors: model zoos of detectors are pickles of arrays, some of them made by Python 2.
_UNPICKLE = (
    "import pickle, torch; f = lambda v: {k: f(e) for k, e in v.items()} if isinstance(v, dict) else "
    'torch.as_tensor(v) if hasattr(v, "__array__") else v; '
)


class _Bounded:
    """A file whose reads ask for no more than there is."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int = 0, /) -> bytes:
        return self._file.read(min(count, self._size) if count >= 0 else 0)

    def readline(self, limit: int = 0, /) -> bytes:
        return self._file.readline(limit)


def _open_legacy(opened: WeightFile, file: BinaryIO, size: int) -> None:
    file.seek(0)
    source = _Bounded(file, size)
    magic = read_pickle(source, {})
    if magic != _LEGACY_MAGIC or isinstance(magic, bool):
        what = magic.name if isinstance(magic, Inert) else type(magic).__name__
        code, made = _UNPICKLE, f'f(pickle.load(open({json.dumps(str(opened.path))}, "rb"), encoding="latin1"))'
        raise UnreadableError(
            f"a plain pickle of a {what}, not written by torch.save; convert it: {_line(code, made)}{TRUSTED}"
        )
    version, machine = read_pickle(source, {}), read_pickle(source, {})
    if version != _LEGACY_VERSION or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnreadableError(
            f"of a kind that is not read: version {version!r}, little endian "
            f"{machine.get('little_endian') if isinstance(machine, dict) else None}; {converting(opened.path, 'x')}"
        )
    found: dict[str, torch.dtype] = {}

    def persistent(pid: Any) -> Any:
        storage = storage_of(pid)
        if isinstance(storage, Storage) and found.setdefault(storage.key, storage.dtype) != storage.dtype:
            raise UnreadableError(f"damaged: the storage {storage.key!r} has two kinds of number")
        return storage

    opened.content = read_pickle(source, MAKERS, persistent)
    keys = read_pickle(source, {})
    if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
        raise UnreadableError("damaged: it has no list of its storages")
    opened.places = dict(_legacy_places(file, size, [str(key) for key in keys], found))


def _legacy_places(
    file: BinaryIO, size: int, keys: list[str], dtypes: Mapping[str, torch.dtype]
) -> Iterator[tuple[str, _Place]]:
    for key in keys:
        header = file.read(8)
        if len(header) != 8:
            raise UnreadableError(f"truncated: it ends before the storage {key!r}; copy or download it again")
        if key not in dtypes:
            raise UnreadableError(f"damaged: its pickle does not say what the storage {key!r} is")
        (count,) = struct.unpack("<q", header)
        offset, nbytes = file.tell(), count * dtypes[key].itemsize
        if count < 0 or offset + nbytes > size:
            raise UnreadableError(f"truncated: it ends within the storage {key!r}; copy or download it again")
        yield key, _Place(offset, nbytes)
        file.seek(offset + nbytes)


# safetensors


def _open_safetensors(opened: WeightFile, file: BinaryIO, size: int) -> None:
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _MAX_HEADER or 8 + length > size:
        raise UnreadableError(f"damaged or truncated: a safetensors header of {length:,} bytes in a file of {size:,}")
    try:
        header = json.loads(file.read(length), object_pairs_hook=distinct)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata is not all text")
        tensors = {name: _safe_tensor(name, values) for name, values in header.items()}
        end = 8 + length
        for stored, start in sorted(tensors.values(), key=lambda pair: (pair[1], pair[0].storage.nbytes)):
            if start + 8 + length != end:
                raise ValueError(f"{stored.storage.key[:60]!r} does not follow the tensor before it")
            end += stored.storage.nbytes
        if end != size:
            raise ValueError(f"its tensors end at {end:,}, the file at {size:,}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise UnreadableError(f"damaged or truncated safetensors file ({one_line(exc)})") from exc
    opened.content = {name: stored for name, (stored, _) in tensors.items()}
    opened.metadata = metadata
    opened.places = {n: _Place(start + 8 + length, s.storage.nbytes) for n, (s, start) in tensors.items()}


def _safe_tensor(name: str, values: Mapping[str, Any]) -> tuple[StoredTensor, int]:
    dtype, shape, (start, end) = _SAFE_DTYPES.get(values["dtype"]), values["shape"], values["data_offsets"]
    if dtype is None:
        raise ValueError(f"{name[:60]!r} has numbers of the kind {str(values['dtype'])[:20]}, which are not read")
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise ValueError(f"{name[:60]!r} has an impossible shape")
    numbers = [*shape, start, end]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= MAX_STORED for n in numbers):
        raise ValueError(f"{name[:60]!r} has an impossible size")
    if math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError(f"{name[:60]!r} has another size than its shape")
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return StoredTensor(Storage(name, dtype, math.prod(shape)), dtype, 0, tuple(shape), stride), start
