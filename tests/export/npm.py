"""The npm package onnxruntime-web: a stand-in of a few bytes, and where the real one is."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from rest_deploy.export.onnxruntime_web import BUILDS, NAME
from tests.conftest import ROOT


def write_package(folder: Path, *, name: str = NAME, version: str = "1.30.0", without: str = "") -> Path:
    """A folder as npm installs it, with files of a few bytes."""
    place = folder / NAME
    (place / "dist").mkdir(parents=True)
    (place / "package.json").write_text(json.dumps({"name": name, "version": version}))
    for build in BUILDS.values():
        for file in build.files:
            if file != without:
                (place / file).write_bytes(f"these are the bytes of {file}".encode())
    return place


def pack(package: Path) -> Path:
    """The archive that npm packs of a folder."""
    target = package.with_suffix(".tgz")
    with tarfile.open(target, "w:gz") as archive:
        archive.add(package, "package")
    return target


def real_package() -> Path:
    """The real one, from a folder of NODE_PATH or as ``make others`` brings it; skips where it is not."""
    places = [Path(place) / NAME for place in os.environ.get("NODE_PATH", "").split(os.pathsep) if place]
    for place in (*places, ROOT / "node_modules" / NAME, ROOT / ".venv-others" / f"{NAME}-1.30.0.tgz"):
        if place.exists():
            return place
    pytest.skip(f"{NAME} is in no folder of NODE_PATH; make others brings it")
