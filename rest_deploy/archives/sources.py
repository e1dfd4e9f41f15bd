"""What is classified: images of folders, lists and tar files, each once, in a fixed order, in blocks."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
import posixpath
import re
import sqlite3
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from rest_deploy.errors import ConfigError, ImageError, counted, listed, no_file, one_line
from rest_deploy.preprocess.dataset import as_text, files_below, is_image_file
from rest_deploy.preprocess.image_files import MAX_BYTES
from rest_deploy.preprocess.images import is_image

#: Images that run together. A larger block is done sooner, a smaller one loses less to a killed process.
BLOCK = 128
LIST, TAR = ".txt", ".tar"
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MOST_SHARDS = 99_999  # which have five digits in the names of their files
_LONGEST_LINE = 1 << 16
_TOLD = 10  # names of files that were left out
_CHUNK = 1 << 20
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
#: What tarfile raises for files that are none, or damaged; a header may claim more bytes than there is memory.
_DAMAGED = (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError, MemoryError)


def is_uri(path: str) -> bool:
    """Whether a path is that of another file system, as s3://bucket/file."""
    return bool(_URI.match(path))


@dataclass(frozen=True)
class Shard:
    """One of the equal parts of the blocks, which follow each other: the shards' rows in turn are those of one run."""

    number: int  # from 1
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``3/16``.

        Raises:
            ConfigError: It is no shard.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= count <= _MOST_SHARDS:
            raise ConfigError(f"--shard {text}: accepted: I/N, such as 3/16, with N from 1 to {_MOST_SHARDS:,}")
        if not 1 <= number <= count:
            raise ConfigError(f"--shard {text}: shards count from 1; give 1/{count} to {count}/{count}")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def blocks(self, images: int) -> tuple[int, int]:
        """The first of its blocks, and the one behind its last."""
        blocks = -(-images // BLOCK)
        return blocks * (self.number - 1) // self.count, blocks * self.number // self.count


class Item(NamedTuple):
    """An image: what it is called, and where its bytes are."""

    name: str  # as it was given; of a member TAR/MEMBER; bytes that are not UTF-8 as escapes
    path: str  # of its file, or of the tar file that it is in; from the root, as other processes have other folders
    offset: int | None = None  # of a member
    size: int | None = None
    seen: bool = False  # whether it was there when images were listed, which of a line of a list is not asked

    def is_gone(self) -> bool:
        """Whether it was there when images were listed, and is there no more: no image is at fault for that."""
        if not self.seen:
            return False
        try:
            return os.stat(self.path).st_size < (self.offset or 0) + (self.size or 0)
        except OSError:
            return True

    def source(self) -> str | bytes | IO[bytes]:
        """What ``Predictor.stream`` takes; a member is read here, an image file by a thread of the predictor."""
        if self.offset is None or self.size is None:
            return self.path
        if self.size > MAX_BYTES:
            return _Unreadable(self.name, f"over {MAX_BYTES:,} bytes, more than an accepted image can have")
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as exc:
            return _Unreadable(self.name, exc)
        if len(content) < self.size:
            return _Unreadable(self.name, f"{self.path} has become shorter")
        return content


class _Unreadable(io.BytesIO):
    """A file object that cannot be read, of which the predictor makes the error of one image, or of all."""

    def __init__(self, name: str, why: str | OSError) -> None:
        super().__init__()
        self.name, self._why = name, why

    def read(self, size: int | None = -1, /) -> bytes:
        raise self._why if isinstance(self._why, OSError) else OSError(self._why)


class _LeftOut:
    """Files that were left out: how many, and as text the first of them."""

    def __init__(self) -> None:
        self.count, self._first = 0, list[str]()

    def add(self, name: str) -> None:
        self.count += 1
        if len(self._first) < _TOLD:
            self._first.append(as_text(name))

    def __str__(self) -> str:
        return listed(self._first) + (f" and {self.count - _TOLD} more" if self.count > _TOLD else "")


class Listing:
    """All images of some sources, in a temporary file that goes with it, however many they are.

    An image that is given twice, by its path or as members of one name, is where it was given first.

    Args:
        sources: Paths of folders, of lists of paths (``.txt``), of tar files (``.tar``) and of images.
        ours: Whether a file of a folder is none of it, as results that are written there.

    Raises:
        ImageError: A source is missing or cannot be read, or there are no images.
        ConfigError: A list or a tar file is damaged, or the temporary file cannot be kept.
        PredictorError: No memory or no file handles are left.
    """

    def __init__(self, sources: Sequence[str], ours: Callable[[str], bool] = lambda _: False) -> None:
        self._ours, self.twice = ours, 0
        #: Files that were left out, and the first of them: those that are no images, and tar files of folders.
        self._others, self._tars = _LeftOut(), _LeftOut()
        digest = hashlib.sha256()
        try:
            self._items = sqlite3.connect("")  # a file in the temporary folder that has no name
            self._items.execute("PRAGMA journal_mode=OFF")
            self._items.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, seen BLOB UNIQUE, item TEXT)")
            for source in sources:
                for item, same in self._found(source):
                    line, seen = json.dumps(item), hashlib.blake2b(os.fsencode(same), digest_size=16).digest()
                    new = self._items.execute("INSERT OR IGNORE INTO items (seen, item) VALUES (?, ?)", (seen, line))
                    if new.rowcount:
                        digest.update(line.encode() + b"\n")
                    else:
                        self.twice += 1
            ((self.count,),) = self._items.execute("SELECT COUNT(*) FROM items")
        except sqlite3.Error as exc:
            where = "the list of images cannot be kept in the temporary folder"
            raise ConfigError(f"{where}: {exc}; set TMPDIR to a folder with room") from exc
        if not self.count:
            raise ImageError(f"{listed(sources)}: no images{f'; {self.note}' if self.note else ''}")
        #: SHA-256 of all images' names and places.
        self.digest = digest.hexdigest()

    @property
    def note(self) -> str:
        """What was left out, in words; empty if nothing was."""
        words = []
        if self._others.count:
            words += [
                f"{counted(self._others.count, 'file')} left out, not images that can be read here: {self._others}"
            ]
        if self._tars.count:
            words += [
                f"{counted(self._tars.count, 'tar file')} in a folder left out: {self._tars}; to take their images "
                f"give them by their own names, as FOLDER/*{TAR}"
            ]
        if self.twice:
            words += [f"{counted(self.twice, 'image')} given more than once, taken once"]
        return "; ".join(words)

    def blocks(self, first: int, end: int) -> Iterator[list[Item]]:
        """Blocks by their numbers."""
        for number in range(first, end):
            rows = self._items.execute(
                "SELECT item FROM items WHERE id > ? ORDER BY id LIMIT ?", (number * BLOCK, BLOCK)
            )
            yield [Item(*json.loads(text)) for (text,) in rows]

    def close(self) -> None:
        """Remove the temporary file."""
        self._items.close()

    def _found(self, source: str) -> Iterator[tuple[Item, str]]:
        """Images of a source, and what is the same for the same image."""
        suffix = Path(source).suffix.lower()
        if os.path.isdir(source):
            for path in files_below(Path(source)):
                if is_image_file(path):
                    yield _file(str(path), seen=True)
                elif path.suffix.lower() == TAR:
                    self._tars.add(str(path))
                elif not self._ours(str(path)):
                    self._others.add(str(path))
        elif not os.path.isfile(source):
            _refuse_uri(source)
            raise ImageError(f"{source}: {no_file(source)}; give folders, images, lists ({LIST}) or tar files ({TAR})")
        elif suffix == LIST:
            for line in _lines(source):
                yield from self._named(line)
        else:
            yield from self._named(source)

    def _named(self, path: str) -> Iterator[tuple[Item, str]]:
        """What a path is that was given by itself, or by a line of a list."""
        if path.lower().endswith(_PACKED):
            raise ConfigError(
                f"{path}: a packed tar file, whose members cannot be read by their place; unpack it to a {TAR} first"
            )
        _refuse_uri(path)
        if path.lower().endswith(TAR):
            yield from self._members(path)
        else:
            yield _file(path)

    def _members(self, path: str) -> Iterator[tuple[Item, str]]:
        """Images of a tar file in its order, without hidden ones; links, devices and sparse files are left out."""
        again = "make it again; nothing was predicted"
        place, same = _placed(path)
        try:
            with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it keeps all of them
                    if member.isdir() or _hidden(member.name):
                        continue
                    if member.isreg() and not member.issparse() and _is_image(tar, member):
                        item = Item(as_text(f"{path}/{member.name}"), place, member.offset_data, member.size, seen=True)
                        yield item, f"{same}\0{posixpath.normpath(member.name)}"
                    else:
                        self._others.add(f"{path}/{member.name}")
                damage = _behind(file, tar.offset)
        except _DAMAGED as exc:
            raise ConfigError(f"{path}: no tar file, or damaged: {one_line(exc)}; {again}") from exc
        except OSError as exc:
            raise ImageError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
        if damage:
            raise ConfigError(f"{path}: {damage}; {again}")


def _refuse_uri(path: str) -> None:
    if is_uri(path) and not os.path.lexists(path):
        raise ConfigError(
            f"{as_text(path)}: a URI, and images are read by their paths, on Ray's machines too; mount that file "
            "system, or copy the images"
        )


def _file(path: str, *, seen: bool = False) -> tuple[Item, str]:
    """An image by its path, and what is the same for the same image."""
    place, same = _placed(path)
    return Item(as_text(path), place, seen=seen), same


def _placed(path: str) -> tuple[str, str]:
    """A path from the root, and what is the same for all paths of a file but links to it.

    A folder may be a link, behind which ".." leads elsewhere than the text says.
    """
    place = os.path.join(os.getcwd(), path)
    folder, name = os.path.split(place)
    return place, os.path.join(os.path.realpath(folder), name)


def _lines(path: str) -> Iterator[str]:
    """Paths of a list, one a line; empty lines are none, nor is the mark that editors put before UTF-8."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
                if len(line) == _LONGEST_LINE:
                    raise ConfigError(f"{path}: line {number} is longer than any path; give a list with a path a line")
                if b"\0" in line:
                    raise ConfigError(f"{path}: line {number} holds bytes of no path; give a list with a path a line")
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line  # noqa: PLW2901
                if text := os.fsdecode(line.rstrip(b"\r\n")):
                    yield text
    except OSError as exc:
        raise ImageError(f"{path}: cannot be read: {exc.strerror}") from exc


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in PurePosixPath(name).parts)


def _is_image(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    def opened() -> IO[bytes]:
        file = tar.extractfile(member)
        assert file is not None  # of a regular file
        return file

    return is_image(Path(member.name), opened)


def _behind(file: IO[bytes], offset: int) -> str:
    """What is wrong with the end of a tar file, which is zeros; tarfile takes damage for the end."""
    file.seek(offset)
    empty = True
    while chunk := file.read(_CHUNK):
        empty = False
        if chunk.strip(b"\0"):
            return f"damaged at byte {offset:,}, or more follows its end"
    return "it ends before its end: it was cut off" if empty else ""
