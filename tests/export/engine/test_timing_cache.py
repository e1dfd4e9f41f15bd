"""The timing cache: kept by version and GPU, taken up by the next build, and never a reason for a build to fail."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rest_deploy.artifact import files
from rest_deploy.errors import ExportError
from rest_deploy.export.engine.builder import load_timing_cache, save_timing_cache, timing_cache_path
from rest_deploy.export.engine.choice import LibraryChoice
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.nvidia import ComputeCapability, Gpu, Library, TensorRTLog
from tests.standins.bench import make_logger
from tests.standins.cuda import FakeCuda, FakeDevice
from tests.standins.tensorrt import FakeTensorRT

LOG = TensorRTLog(Library("trt", FakeTensorRT("tensorrt-10.9.0.34").module, "10.9.0.34"))
#: Before the JSON in a cache of the stand-in.
MAGIC = b"FAKECACHE"
LOG = TensorRTLog(Library("trt", FakeTensorRT("tensorrt-10.9.0.34").module, "10.9.0.34"))
GPU = Gpu(0, "NVIDIA GeForce RTX 4090", ComputeCapability(8, 9), 24 << 30)


def choice(gpu: Gpu | None = GPU, version: str = "10.9.0.34") -> LibraryChoice:
    return LibraryChoice(Library("trt" if gpu else "trt-rtx", None, version), gpu, ("sm89",), "a test")


def settings(capability: tuple[int, int] = (8, 9)) -> Any:
    """A builder config of a machine's own TensorRT."""
    fake = FakeTensorRT("tensorrt-10.9.0.34", FakeCuda((FakeDevice("GPU", capability, 24 << 30),)))
    return fake.module.Builder(make_logger(fake.module)).create_builder_config()


def load(path: Path, build_config: Any) -> None:
    load_timing_cache(path, build_config, LOG)


def entries(build_config: Any) -> list[str]:
    """What is in the cache of a build."""
    blob = bytes(memoryview(build_config.get_timing_cache().serialize()))
    return list(json.loads(blob.removeprefix(MAGIC))["entries"])


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Any:
    """What is warned of, as text."""
    caplog.set_level(logging.WARNING, "rest_deploy")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The cache of a build that measured something."""
    build_config = settings()
    path = tmp_path / "kept.cache"
    load(path, build_config)
    save_timing_cache(path, build_config)
    said = json.loads(path.read_bytes().removeprefix(MAGIC))
    path.write_bytes(MAGIC + json.dumps({**said, "entries": ["conv: tactic 7"]}).encode())
    return path


def test_the_folder_of_the_user_s_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = timing_cache_path(EngineConfig(), choice())
    assert path == tmp_path / "rest_deploy" / "timing-10.9.0.34-nvidia-geforce-rtx-4090-sm89.cache"


@pytest.mark.parametrize("value", [None, ""])
def test_the_folder_where_none_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = timing_cache_path(EngineConfig(), choice())
    assert path is not None
    assert path.parent == tmp_path / ".cache" / "rest_deploy"


@pytest.mark.parametrize(
    "other",
    [
        choice(version="10.9.0.35"),
        choice(Gpu(0, "NVIDIA A10", ComputeCapability(8, 9), 0)),
        choice(Gpu(0, GPU.name, ComputeCapability(8, 6), 0)),
    ],
    ids=["version", "name", "capability"],
)
def test_each_version_and_gpu_has_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: LibraryChoice
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert timing_cache_path(EngineConfig(), other) != timing_cache_path(EngineConfig(), choice())


def test_the_name_of_a_gpu_makes_no_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = timing_cache_path(EngineConfig(), choice(Gpu(0, "../Tesla T4 (PCIe/x8)", ComputeCapability(7, 5), 0)))
    assert path == tmp_path / "rest_deploy" / "timing-10.9.0.34-tesla-t4-pcie-x8-sm75.cache"


@pytest.mark.parametrize("given", ["my.cache", Path("my.cache")])
def test_a_file_that_was_named(given: str | Path) -> None:
    assert timing_cache_path(EngineConfig(timing_cache=given), choice()) == Path("my.cache")


@pytest.mark.parametrize(
    ("config", "where"),
    [(EngineConfig(use_timing_cache=False), choice()), (EngineConfig(), choice(None))],
    ids=["no", "rtx"],
)
def test_none_is_kept(config: EngineConfig, where: LibraryChoice) -> None:
    assert timing_cache_path(config, where) is None


def test_the_next_build_knows_what_the_last_one_measured(kept: Path, warnings: Any) -> None:
    build_config = settings()
    load(kept, build_config)
    assert entries(build_config) == ["conv: tactic 7"]
    assert warnings() == []


def test_the_first_build_starts_with_none(tmp_path: Path, warnings: Any) -> None:
    build_config = settings()
    load(tmp_path / "none.cache", build_config)
    assert entries(build_config) == []
    assert warnings() == []


def test_a_cache_of_another_gpu_is_made_anew(kept: Path, warnings: Any) -> None:
    build_config = settings((12, 0))
    load(kept, build_config)
    assert entries(build_config) == []
    assert warnings() == [f"timing cache {kept} is of another version or GPU; it is replaced"]


class Refusing:
    """A builder config whose library gives None for a cache that it cannot read, as TensorRT does for some."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def create_timing_cache(self, blob: bytes) -> Any:
        return None if blob else "empty"

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.taken.append(cache)
        return True


def test_a_cache_that_the_library_gives_none_for_is_made_anew(tmp_path: Path, warnings: Any) -> None:
    (tmp_path / "bad.cache").write_bytes(b"junk")
    build_config = Refusing()
    load(tmp_path / "bad.cache", build_config)
    assert build_config.taken == ["empty"]
    assert warnings() == [f"timing cache {tmp_path / 'bad.cache'} is of another version or GPU; it is replaced"]


@pytest.mark.parametrize(
    ("name", "given", "what"),
    [("create_timing_cache", None, "make a timing cache"), ("set_timing_cache", False, "use a timing cache")],
)
def test_a_library_that_takes_no_empty_cache_either(tmp_path: Path, name: str, given: Any, what: str) -> None:
    (tmp_path / "bad.cache").write_bytes(b"junk")
    build_config = Refusing()
    setattr(build_config, name, lambda *_: given)
    with pytest.raises(ExportError, match=rf"^TensorRT 10\.9\.0\.34 could not {what}: "):
        load(tmp_path / "bad.cache", build_config)


def test_a_file_that_cannot_be_read_is_not_used(tmp_path: Path, warnings: Any) -> None:
    build_config = settings()
    load(tmp_path, build_config)
    assert entries(build_config) == []
    assert warnings() == [f"timing cache {tmp_path} cannot be read, and is not used: Is a directory"]


def test_the_folder_is_made_and_the_file_is_replaced_whole(tmp_path: Path, warnings: Any) -> None:
    path = tmp_path / "a" / "b" / "new.cache"
    build_config = SimpleNamespace(get_timing_cache=lambda: SimpleNamespace(serialize=lambda: bytearray(b"one")))
    save_timing_cache(path, build_config)
    build_config.get_timing_cache = lambda: SimpleNamespace(serialize=lambda: memoryview(b"2"))
    save_timing_cache(path, build_config)
    assert path.read_bytes() == b"2"
    assert list(path.parent.iterdir()) == [path]
    assert warnings() == []


@pytest.mark.parametrize("cache", [None, SimpleNamespace(serialize=lambda: None)], ids=["no cache", "no bytes"])
def test_nothing_to_keep(tmp_path: Path, cache: Any, warnings: Any) -> None:
    save_timing_cache(tmp_path / "a" / "none.cache", SimpleNamespace(get_timing_cache=lambda: cache))
    assert list(tmp_path.iterdir()) == []
    assert warnings() == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, warnings: Any) -> None:
    (tmp_path / "file").touch()
    save_timing_cache(tmp_path / "file" / "a" / "new.cache", settings_with(b"one"))
    (warning,) = warnings()
    assert warning.startswith(f"timing cache {tmp_path / 'file' / 'a' / 'new.cache'} was not kept: ")
    assert "Not a directory" in warning


def test_a_full_disk_leaves_the_cache_that_was_there(
    kept: Path, warnings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    save_timing_cache(kept, settings_with(b"one"))
    assert kept.read_bytes() == before
    assert list(kept.parent.iterdir()) == [kept]
    assert warnings() == [f"timing cache {kept} was not kept: {kept}: cannot be written: No space left on device"]


def settings_with(blob: bytes) -> Any:
    """A builder config whose cache has these bytes."""
    return SimpleNamespace(get_timing_cache=lambda: SimpleNamespace(serialize=lambda: blob))


def test_a_library_that_makes_no_cache_at_all_is_an_error(tmp_path: Path) -> None:
    build_config = SimpleNamespace(create_timing_cache=lambda blob: None)
    with pytest.raises(ExportError, match=r"TensorRT 10\.9\.0\.34 could not make a timing cache"):
        load_timing_cache(tmp_path / "none.cache", build_config, LOG)
