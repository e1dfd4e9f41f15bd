"""TensorRT's timing cache: what it measured of its kernels in earlier builds, kept by library version and GPU."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from rest_deploy.artifact.files import replacing
from rest_deploy.errors import ExportError
from rest_deploy.export.engine.choice import LibraryChoice
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.nvidia import TensorRTLog

_log = logging.getLogger(__name__)


def timing_cache_path(config: EngineConfig, choice: LibraryChoice) -> Path | None:
    """File of the cache, or None where none is used: asked so, or TensorRT-RTX, which times nothing at build."""
    if not config.use_timing_cache or choice.gpu is None:
        return None
    if config.timing_cache is not None:
        return Path(config.timing_cache)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rest_deploy"
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", choice.gpu.name).strip("-").lower()
    return folder / f"timing-{choice.library.version}-{gpu}-{choice.gpu.compute_capability}.cache"


def load_timing_cache(path: Path, build_config: Any, log: TensorRTLog) -> None:
    """Give a build what earlier ones measured; a file that TensorRT does not take is started anew.

    Raises:
        ExportError: TensorRT takes no empty cache either.
    """
    blob = b""
    try:
        blob = path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as exc:
        _log.warning("timing cache %s cannot be read, and is not used: %s", path, exc.strerror)
    cache = build_config.create_timing_cache(blob)
    if cache is None or build_config.set_timing_cache(cache, False) is False:
        _log.warning("timing cache %s is of another version or GPU; it is made anew", path)
        empty = log.attempt("make a timing cache", ExportError, build_config.create_timing_cache, b"")
        log.attempt("use a timing cache", ExportError, build_config.set_timing_cache, empty, False)


def save_timing_cache(path: Path, build_config: Any) -> None:
    """Keep what a build measured; a folder that cannot be written to costs time in the next build, no more."""
    cache = build_config.get_timing_cache()
    blob = cache.serialize() if cache is not None else None
    if blob is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(bytes(memoryview(blob)))
    except (OSError, ExportError) as exc:
        _log.warning("timing cache %s was not kept: %s", path, exc)
