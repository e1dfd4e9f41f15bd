"""An engine opened: what must be right before, and the plan deserialised and ready to run.

TensorRT's own refusals come late, as None and a line in its log; some mismatches it does not notice.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rest_deploy.artifact.engine import LIBRARIES, EngineRecord
from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.manifest import EngineFile
from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import ArtifactError, DeviceError, ExportError, PredictorError, install
from rest_deploy.nvidia import AMPERE, HOPPER, ComputeCapability, Gpu, Library, TensorRTLog, ran_out_of_memory
from rest_deploy.recipes import Recipe

_log = logging.getLogger(__name__)

_MIB = 2**20
#: DataType of TensorRT -> dtype of a record.
DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}


def check_version(record: EngineRecord, library: Library, path: Path) -> None:
    """An engine runs on the version that built it; a version-compatible one on later ones too.

    Raises:
        ArtifactError: Another version.
    """
    if library.version == record.version:
        return
    if record.version_compatible and _numbers(library.version) >= _numbers(record.version):
        return
    runs_on = "that version or a later one" if record.version_compatible else "the version that built it"
    raise ArtifactError(
        f"{path}: built with {LIBRARIES[record.library].title} {record.version}, here is {library}; it runs on "
        f"{runs_on} alone; rebuild: {record.rebuild(path)}"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def check_gpu(record: EngineRecord, recipe: Recipe, gpu: Gpu, path: Path) -> None:
    """An engine runs on the GPUs that it was built for.

    Raises:
        DeviceError: Another one.
    """
    here = gpu.compute_capability
    if record.library == "trt-rtx":
        if str(here) not in record.targets:
            raise DeviceError(_no_target(record, recipe, gpu, path))
        return
    same = str(here) in record.targets
    fits = {
        "none": same and gpu.name == record.gpu,
        "same-cc": same,
        "ampere+": here >= AMPERE,
    }
    if not fits.get(record.hardware_compatibility, False):
        raise DeviceError(
            f"{path}: built on {record.gpu} ({', '.join(record.targets)}), hardware compatibility "
            f"{record.hardware_compatibility}, here is {gpu}; rebuild on this machine: {record.rebuild(path)}"
        )


def _no_target(record: EngineRecord, recipe: Recipe, gpu: Gpu, path: Path) -> str:
    """What to do where an engine of TensorRT-RTX is not for the GPU here; not each GPU can have one."""
    here, built = gpu.compute_capability, f"{path}: built for {', '.join(record.targets)}, here is {gpu}"
    with_tensorrt = f"{install('trt')}, and build here: {record.rebuild(path, library='trt')}"
    if here == HOPPER:
        return f"{built}; TensorRT-RTX does not run on Hopper; {with_tensorrt}"
    if here < ComputeCapability.parse(recipe.rtx_since):
        return f"{built}; TensorRT-RTX begins with Turing, in FP32 with Ampere; {with_tensorrt}"
    return f"{built}; rebuild: {record.rebuild(path, target=str(here))}"


def check_validity(runtime: Any, plan: bytes, library: Library, log: TensorRTLog, path: Path) -> None:
    """Ask TensorRT-RTX whether it takes a plan; TensorRT cannot be asked.

    Raises:
        ArtifactError: It does not, with its diagnostics.
    """
    if not library.is_rtx:
        return
    start = log.mark()
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity == library.api.EngineValidity.INVALID:
        members = library.api.EngineInvalidityDiagnostics.__members__
        named = [name for name, bit in members.items() if int(bit) & int(diagnostics)]
        raise ArtifactError(f"{path}: {library} refuses it: {', '.join(named) or log.reasons(start)}")


def check_tensors(engine: Any, info: ArtifactInfo, library: Library, path: Path) -> None:
    """The manifest and the plan beside it must tell of the same network and the same profiles.

    Raises:
        ArtifactError: They do not.
    """
    assert info.engine is not None  # read_manifest has looked
    trt = library.api
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
        dtype = engine.get_tensor_dtype(name).name
        found[kind, name] = (DTYPES.get(dtype, dtype), tuple(engine.get_tensor_shape(name)))
    said = {
        (kind, spec.name): (spec.dtype, tuple(size if isinstance(size, int) else -1 for size in spec.shape))
        for kind, spec in (("input", info.input), *(("output", output) for output in info.outputs))
    }
    if found != said:
        differs = f"inputs and outputs {found} where the manifest says {said}"
    else:
        profiles = [
            tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(info.input.name, index))
            for index in range(engine.num_optimization_profiles)
        ]
        told = [_shapes(profile, info) for profile in info.engine.profiles]
        differs = f"profiles {profiles} where the manifest says {told}" if profiles != told else ""
    if differs:
        raise ArtifactError(
            f"{path}: its manifest tells of another network than its plan, which has {differs}; rebuild: "
            f"{info.engine.rebuild(path)}"
        )


def _shapes(profile: Profile, info: ArtifactInfo) -> tuple[tuple[int, ...], ...]:
    return tuple(info.input_shape(*end.sizes) for end in (profile.min, profile.opt, profile.max))


@contextmanager
def _telling_memory(record: EngineRecord) -> Iterator[None]:
    """Say how much memory an engine needs, if the GPU does not have it.

    Raises:
        DeviceError: It does not.
    """
    try:
        yield
    except (ArtifactError, PredictorError) as exc:
        if not ran_out_of_memory(str(exc)):
            raise
        needs = f"its plan has {record.plan_bytes / _MIB:,.0f} MiB, nearly all of them weights"
        if record.activation_bytes is not None:
            needs += f", and its largest size takes {record.activation_bytes / _MIB:,.0f} MiB more for activations"
        raise DeviceError(f"{exc}; {needs}: free memory on the GPU, or use a larger one") from exc


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
        DeviceError: The GPU does not have the memory.
    """

    def __init__(self, file: EngineFile, library: Library, log: TensorRTLog) -> None:
        assert file.info.engine is not None  # read_engine has looked
        self._path, self._library, self._log = file.path, library, log
        self._cache: Any = None
        with _telling_memory(file.info.engine):
            self._open(file, file.info.engine)

    def _open(self, file: EngineFile, record: EngineRecord) -> None:
        path, library, log = self._path, self._library, self._log
        self._runtime = log.attempt("start its runtime", PredictorError, library.api.Runtime, log.logger)
        if record.version_compatible:
            self._runtime.engine_host_code_allowed = True  # such a plan carries the code that runs it
        check_validity(self._runtime, file.plan, library, log, path)
        self._engine = log.attempt(f"load {path}", ArtifactError, self._runtime.deserialize_cuda_engine, file.plan)
        check_tensors(self._engine, file.info, library, path)
        settings = library.api.ExecutionContextAllocationStrategy.USER_MANAGED
        if library.is_rtx:
            settings = self._rtx_settings(settings)
        self.context = self._made(
            f"make an execution context of {path}", self._engine.create_execution_context, settings
        )

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
