"""Runtimes and engines of the TensorRT stand-in."""

from __future__ import annotations

from typing import Any

from tests.standins.build import can_start
from tests.standins.enums import Dims
from tests.standins.execute import IExecutionContext, IRuntimeConfig
from tests.standins.faces import Behaviour, takes
from tests.standins.plan import NUMPY_TYPES, Plan, Tensor, scratch_bytes

_DESERIALIZE = "IRuntime::deserializeCudaEngine: "
_FORMATS = {"FLOAT": "FP32", "HALF": "FP16"}


class Runtime(Behaviour):
    """Makes engines out of plans."""

    face_name = "Runtime"
    constructible = True

    @takes("ILogger")
    def __init__(self, owner: Any, logger: Any) -> None:
        super().__init__(owner, logger)
        self.null = not can_start(self)
        self._host_code_allowed = False
        self._threads = 1

    @property
    def engine_host_code_allowed(self) -> bool:
        return self._host_code_allowed

    @engine_host_code_allowed.setter
    @takes("bool")
    def engine_host_code_allowed(self, value: bool) -> None:
        self._host_code_allowed = value

    @property
    def max_threads(self) -> int:
        return self._threads

    @max_threads.setter
    @takes("int")
    def max_threads(self, value: int) -> None:
        self._threads = value

    @takes("Buffer")
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        plan = Plan.decode(serialized_engine)
        said, _ = self._fault(plan)
        if plan is None or said is not None:
            return self.fail(f"{_DESERIALIZE}{said}")
        if "VERSION_COMPATIBLE" in plan.flags and not self._host_code_allowed and not self.owner.is_rtx:
            return self.fail(
                f"{_DESERIALIZE}Error Code 4: API Usage Error (Cannot deserialize engine with lean runtime since "
                "engineHostCodeAllowed is false.)"
            )
        self.log("INFO", f"Loaded engine size: {len(serialized_engine) >> 20} MiB")
        return ICudaEngine(self.owner, self.logger, self, plan)

    @takes("Buffer")
    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        module = self.owner.module
        if self.owner.cuda is not None and self.owner.cuda.absent is not None:
            return module.EngineValidity.INVALID, 0  # what TensorRT-RTX 1.7 says without a GPU
        said, why = self._fault(Plan.decode(buffer))
        if said is None:
            return module.EngineValidity.VALID, 0
        return module.EngineValidity.INVALID, int(getattr(module.EngineInvalidityDiagnostics, why))

    def _fault(self, plan: Plan | None) -> tuple[str | None, str]:
        """Why a plan does not load here, and its name among the diagnostics of TensorRT-RTX."""
        owner = self.owner
        if owner.cuda is not None and owner.cuda.absent is not None:
            return (
                f"Error Code 1: Cuda Runtime (In ScopedCudaStream (cudaError {int(owner.cuda.absent)}))",
                "CUDA_ERROR",
            )
        if plan is None:
            return "Error Code 1: Serialization (Serialization assertion magicTagRead failed.)", "MALFORMED_ENGINE"
        if plan.library != owner.library and "VERSION_COMPATIBLE" not in plan.flags:
            words = f"expecting library version {owner.library} got {plan.library}"
            said = f"The engine plan file is not compatible with this version of TensorRT, {words}, please rebuild."
            return f"Error Code 6: API Usage Error ({said})", "VERSION_MISMATCH"
        here = owner.target()
        if here is not None and not plan.fits(here):
            words = f"expecting compute {here} got compute {', '.join(plan.targets)}, please rebuild."
            said = f"The engine plan file is generated on an incompatible device, {words}"
            return f"Error Code 6: API Usage Error ({said})", "UNSUPPORTED_CC"
        return None, ""


class ICudaEngine(Behaviour):
    """An engine: its tensors, its profiles, and the contexts that run it."""

    face_name = "ICudaEngine"

    def __init__(self, owner: Any, logger: Any, runtime: Runtime, plan: Plan) -> None:
        super().__init__(owner, logger)
        self.plan = plan
        self.device = 0 if owner.cuda is None else owner.cuda.device
        self._runtime = runtime  # must outlive it

    @property
    def name(self) -> str:
        return "Unnamed Network 0"

    @property
    def num_io_tensors(self) -> int:
        return len(self.plan.inputs + self.plan.outputs)

    @property
    def num_layers(self) -> int:
        return 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.plan.profiles)

    @property
    def refittable(self) -> bool:
        return False

    @property
    def hardware_compatibility_level(self) -> Any:
        return getattr(self.owner.module.HardwareCompatibilityLevel, self.plan.compatibility)

    @takes("int")
    def get_tensor_name(self, index: int) -> str | None:
        tensors = self.plan.inputs + self.plan.outputs
        if not 0 <= index < len(tensors):
            return self.fail(f"ICudaEngine::getIOTensorName: Error Code 3: API Usage Error (no index {index})")
        return tensors[index].name

    def _tensor(self, name: str) -> Tensor | None:
        tensor = self.plan.tensor(name)
        if tensor is None:
            self.log("ERROR", f"ICudaEngine: Error Code 3: Internal Error (Given invalid tensor name: {name}.)")
        return tensor

    def _member(self, enum: str, member: str) -> Any:
        return getattr(getattr(self.owner.module, enum), member)

    @takes("str")
    def get_tensor_mode(self, name: str) -> Any:
        tensor = self._tensor(name)
        mode = "NONE" if tensor is None else "INPUT" if tensor in self.plan.inputs else "OUTPUT"
        return self._member("TensorIOMode", mode)

    @takes("str")
    def get_tensor_dtype(self, name: str) -> Any:
        tensor = self._tensor(name)
        return self._member("DataType", "FLOAT" if tensor is None else tensor.dtype)

    @takes("str")
    def get_tensor_shape(self, name: str) -> Dims:
        tensor = self._tensor(name)
        return Dims(None if tensor is None else tensor.shape)

    @takes("str")
    def get_tensor_location(self, name: str) -> Any:
        self._tensor(name)
        return self._member("TensorLocation", "DEVICE")

    @takes("str", "int?")
    def get_tensor_format(self, name: str, profile_index: int | None = None) -> Any:
        self._tensor(name)
        return self._member("TensorFormat", "LINEAR")

    @takes("str", "int?")
    def get_tensor_format_desc(self, name: str, profile_index: int | None = None) -> str:
        tensor = self._tensor(name)
        return f"Row major linear {_FORMATS.get(tensor.dtype, tensor.dtype) if tensor else ''} format (kLINEAR)"

    @takes("str", "int?")
    def get_tensor_bytes_per_component(self, name: str, profile_index: int | None = None) -> int:
        tensor = self._tensor(name)
        return -1 if tensor is None else int(NUMPY_TYPES[tensor.dtype]().itemsize)

    @takes("str")
    def is_shape_inference_io(self, name: str) -> bool:
        self._tensor(name)
        return False

    @takes("str", "int")
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if not 0 <= profile_index < len(self.plan.profiles) or name not in self.plan.profiles[profile_index]:
            words = f"no input {name} with a profile {profile_index}"
            return self.fail(f"ICudaEngine::getProfileShape: Error Code 3: API Usage Error ({words})", [Dims(None)] * 3)
        return [Dims(shape) for shape in self.plan.profiles[profile_index][name]]

    @takes("int")
    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return scratch_bytes({name: ends[2] for name, ends in self.plan.profiles[profile_index].items()})

    get_device_memory_size_for_profile = get_device_memory_size_for_profile_v2

    @property
    def device_memory_size_v2(self) -> int:
        return max(self.get_device_memory_size_for_profile_v2(p) for p in range(len(self.plan.profiles)))

    device_memory_size = device_memory_size_v2

    def serialize(self) -> Any:
        return self.owner.host_memory(self.plan.encode())

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self.owner, self.logger)

    def create_execution_context_without_device_memory(self) -> IExecutionContext:
        return IExecutionContext(self.owner, self.logger, self, self._config("USER_MANAGED"))

    @takes("ExecutionContextAllocationStrategy|IRuntimeConfig?", "IRuntimeConfig?")
    def create_execution_context(self, strategy: Any = None, runtime_config: Any = None) -> IExecutionContext:
        given = strategy if runtime_config is None else runtime_config
        config = given if isinstance(given, IRuntimeConfig) else self._config("STATIC" if given is None else given.name)
        return IExecutionContext(self.owner, self.logger, self, config)

    def _config(self, strategy: str) -> IRuntimeConfig:
        config = IRuntimeConfig(self.owner, self.logger)
        config.strategy = strategy
        return config
