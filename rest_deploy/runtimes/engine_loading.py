"""A plan deserialised and ready to run: TensorRT's runtime, engine and execution context, and RTX's kernel cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.manifest import EngineFile
from rest_deploy.errors import ArtifactError, ExportError, PredictorError
from rest_deploy.nvidia import Library, TensorRTLog
from rest_deploy.runtimes.engine_checks import check_tensors, check_validity

_log = logging.getLogger(__name__)


class LoadedEngine:
    """TensorRT's objects of one engine, each of which must outlive the next. CUDA's current device is its GPU.

    The scratch memory of ``context`` is its user's to give.

    Args:
        file: The plan and its record.
        library: That built it.
        log: Of what TensorRT says.

    Raises:
        ArtifactError: The library refuses the plan, or it is not the one that the record tells of.
        PredictorError: The library cannot make an execution context.
    """

    def __init__(self, file: EngineFile, library: Library, log: TensorRTLog) -> None:
        path, info = file.path, file.info
        assert info.engine is not None  # read_engine has looked
        self._path, self._library, self._log = path, library, log
        self._cache: Any = None
        self._runtime = log.attempt("start its runtime", PredictorError, library.api.Runtime, log.logger)
        if info.engine.version_compatible:
            self._runtime.engine_host_code_allowed = True  # such a plan carries the code that runs it
        check_validity(self._runtime, file.plan, library, log, path)
        self._engine = log.attempt(f"load {path}", ArtifactError, self._runtime.deserialize_cuda_engine, file.plan)
        check_tensors(self._engine, info, library, path)
        settings = library.api.ExecutionContextAllocationStrategy.USER_MANAGED
        if library.is_rtx:
            settings = self._rtx_settings(settings)
        self.context = self._made("make an execution context", self._engine.create_execution_context, settings)

    def _made(self, what: str, make: Callable[..., Any], *arguments: Any) -> Any:
        return self._log.attempt(what, PredictorError, make, *arguments)

    def _rtx_settings(self, strategy: Any) -> Any:
        """TensorRT-RTX compiles kernels where it runs: keep them; make special ones while general ones already run."""
        trt = self._library.api
        settings = self._made("make a runtime config", self._engine.create_runtime_config)
        settings.set_execution_context_allocation_strategy(strategy)
        settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.LAZY
        settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = self._made("make a runtime cache", settings.create_runtime_cache)
        self._load_cache()
        self._made("use its runtime cache", settings.set_runtime_cache, self._cache)
        return settings

    @property
    def cache_path(self) -> Path:
        """Where TensorRT-RTX's kernels are kept: beside the plan."""
        return self._path.with_name(self._path.name + ".cache")

    def _load_cache(self) -> None:
        try:
            blob = self.cache_path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as exc:
            _log.warning("%s cannot be read: %s", self.cache_path, exc.strerror)
            return
        if not self._cache.deserialize(blob):
            _log.info("%s is of another GPU, driver or version; it is made anew", self.cache_path)

    def save_cache(self) -> None:
        """Keep what TensorRT-RTX compiled; a folder that cannot be written to costs time at the next start, no more."""
        blob = self._cache.serialize() if self._cache is not None else None
        if blob is None:
            return
        try:
            with replacing(self.cache_path) as temporary:
                temporary.write_bytes(bytes(memoryview(blob)))
        except (OSError, ExportError) as exc:
            _log.warning("%s was not kept: %s", self.cache_path, exc)

    def release(self) -> None:
        """Let go of the objects, each before what it was made by."""
        del self.context
        self._cache = None
        del self._engine
        del self._runtime
