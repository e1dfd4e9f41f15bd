"""The npm package onnxruntime-web: what a page takes of it, from its folder or from the archive that npm packs.

Nothing is unpacked and nothing else is read: the files of :data:`BUILDS`, by name.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rest_deploy.errors import ConfigError, listed, one_line

NAME = "onnxruntime-web"
#: What the tests ran with (tests/export/test_web_page.py). Earlier ones have other files.
TESTED = (1, 30)
#: Where npm installs it.
INSTALLED = Path("node_modules") / NAME
_FLAG = f"--{NAME}"
_GET = f"npm pack {NAME}@{TESTED[0]}.{TESTED[1]}.0 brings it"
_PACKAGE = "package.json"
#: Of one file: the largest of 1.30 has 28 MB.
_MOST_BYTES = 1 << 27


@dataclass(frozen=True)
class Build:
    """Files of one build: what a page imports, what that imports, and what this compiles."""

    module: str
    loader: str
    wasm: str

    @property
    def files(self) -> tuple[str, ...]:
        """All of them, as they lie in the package."""
        return self.module, self.loader, self.wasm


#: Way of computing -> the smallest build that has it. That of WebGPU has WebAssembly too, in twice the bytes. Smaller
#: ones, asyncify and jspi, have no float64, in which files compute how to resize: no session opens these.
BUILDS = {
    "wasm": Build("dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"),
    "webgpu": Build(
        "dist/ort.min.mjs", "dist/ort-wasm-simd-threaded.jsep.mjs", "dist/ort-wasm-simd-threaded.jsep.wasm"
    ),
}


@dataclass(frozen=True)
class NpmPackage:
    """A package that has been read.

    Args:
        path: Its folder, or its archive.
        version: As it says itself.
        files: The bytes of those of :data:`BUILDS`, by name.
    """

    path: Path
    version: str
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def untested(self) -> str:
        """What to know of a version that was not tested; empty for one that was."""
        if _numbers(self.version)[:2] == TESTED:
            return ""
        tested = ".".join(map(str, TESTED))
        return (
            f"{NAME} {self.version} was not tested, {tested} was; when the page is opened, it compares its logits with "
            "those of the export"
        )


def find_package(path: str | Path | None) -> NpmPackage:
    """The package at a path; without one, where npm installs it for the current folder.

    Raises:
        ConfigError: It is not there, another one, too old, or incomplete.
    """
    place = Path(path) if path is not None else INSTALLED
    if not os.path.exists(place):
        if path is None:
            raise ConfigError(
                f"a page needs the npm package {NAME}, and there is no {INSTALLED} here; {_GET}: {_FLAG} TGZ"
            )
        raise ConfigError(f"{_FLAG} {path}: no such folder or .tgz; {_GET}")
    needed = [file for build in BUILDS.values() for file in build.files]
    files = _read(place, {_PACKAGE, *needed})
    if _PACKAGE not in files:
        raise ConfigError(f"{_FLAG} {place}: no {_PACKAGE} in it, so it is no npm package; {_GET}")
    version = _version(files.pop(_PACKAGE), place)
    if missing := [name for name in needed if not files.get(name)]:
        raise ConfigError(f"{_FLAG} {place}: {NAME} {version} without {listed(missing)}; {_GET} whole")
    return NpmPackage(place, version, files)


def _read(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Those of the files that are there."""
    found = {}
    try:
        if path.is_dir():
            for name in names:
                if (path / name).is_file():
                    with (path / name).open("rb") as file:
                        found[name] = _content(file, name)
            return found
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/")
                if name in names and member.isfile() and (packed := archive.extractfile(member)) is not None:
                    found[name] = _content(packed, name)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as exc:
        raise ConfigError(
            f"{_FLAG} {path}: cannot be read as a folder or .tgz of npm: {one_line(exc)}; {_GET}"
        ) from exc
    return found


def _content(file: IO[bytes], name: str) -> bytes:
    content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(f"{name} has over {_MOST_BYTES:,} bytes")
    return content


def _version(content: bytes, place: Path) -> str:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{_FLAG} {place}: its {_PACKAGE} is not JSON: {one_line(exc)}; {_GET}") from exc
    name, version = (str(told.get(key))[:100] for key in ("name", "version")) if isinstance(told, dict) else ("?", "?")
    if name != NAME:
        raise ConfigError(f"{_FLAG} {place}: the npm package {name}; needed: {NAME}; {_GET}")
    if _numbers(version)[:2] < TESTED:
        tested = ".".join(map(str, TESTED))
        raise ConfigError(f"{_FLAG} {place}: {NAME} {version}; needed: {tested}, which was tested, or later; {_GET}")
    return version


def _numbers(version: str) -> tuple[int, ...]:
    """1.31.0-dev.20261101 -> (1, 31); () where it is no version."""
    found = re.match(r"(\d{1,9})\.(\d{1,9})\.", version)
    return tuple(map(int, found.groups())) if found is not None else ()
