"""What must be right before an engine is deserialised, and before it is run: version, GPU, tensors.

TensorRT's own refusals come late, as None and a line in its log; some mismatches it does not notice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import ArtifactError, DeviceError, install
from rest_deploy.nvidia import AMPERE, HOPPER, LIBRARIES, TURING, Gpu, Library, TensorRTLog
from rest_deploy.specs import Precision

#: DataType of TensorRT -> dtype of a record.
DTYPES = {"FLOAT": "float32", "HALF": "float16"}


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


def check_gpu(record: EngineRecord, precision: Precision, gpu: Gpu, path: Path) -> None:
    """An engine runs on the GPUs that it was built for.

    Raises:
        DeviceError: Another one.
    """
    here = gpu.compute_capability
    if record.library == "trt-rtx":
        if str(here) not in record.targets:
            raise DeviceError(_no_target(record, precision, gpu, path))
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


def _no_target(record: EngineRecord, precision: Precision, gpu: Gpu, path: Path) -> str:
    """What to do where an engine of TensorRT-RTX is not for the GPU here; not each GPU can have one."""
    here, built = gpu.compute_capability, f"{path}: built for {', '.join(record.targets)}, here is {gpu}"
    with_tensorrt = f"{install('trt')}, and build here: {record.rebuild(path, library='trt')}"
    if here == HOPPER:
        return f"{built}; TensorRT-RTX does not run on Hopper; {with_tensorrt}"
    if here < TURING or (here == TURING and precision is Precision.FP32):
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
    channels = int(info.input.shape[1])
    return tuple(end.shape(channels) for end in (profile.min, profile.opt, profile.max))
