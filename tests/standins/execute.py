"""Execution contexts of the TensorRT stand-in, and how they are configured. They run on the CUDA stand-in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from cuda.bindings import runtime as real

from tests.standins.config import setting
from tests.standins.enums import Dims
from tests.standins.faces import Behaviour, takes
from tests.standins.memory import ALIGNMENT, CudaFault
from tests.standins.plan import NUMPY_TYPES, default_network, scratch_bytes
from tests.standins.streams import Refused, Ticket

if TYPE_CHECKING:
    from tests.standins.engine import ICudaEngine

_MAGIC = b"FAKERUNTIMECACHE"
_EXECUTE = "IExecutionContext::enqueueV3: "
_PARAMETER = "Error Code 3: API Usage Error (Parameter check failed, condition: "
_GARBAGE = 0xEE  # what an engine leaves in its scratch memory


class IRuntimeCache(Behaviour):
    """Kernels that TensorRT-RTX made where an engine ran, kept for later runs on the same GPU."""

    face_name = "IRuntimeCache"

    def __init__(self, owner: Any, logger: Any) -> None:
        super().__init__(owner, logger)
        self.kernels: list[str] = []

    def _origin(self) -> str:
        return f"{self.owner.library} {self.owner.target()}"

    @takes("Buffer")
    def deserialize(self, blob: bytes) -> bool:
        try:
            said = json.loads(blob[len(_MAGIC) :]) if blob.startswith(_MAGIC) else {}
        except ValueError:
            said = {}
        if said.get("origin") != self._origin():
            return False
        self.kernels = said["kernels"]
        return True

    def serialize(self) -> Any:
        said = {"origin": self._origin(), "kernels": self.kernels}
        return self.owner.host_memory(_MAGIC + json.dumps(said).encode())

    def reset(self) -> bool:
        self.kernels.clear()
        return True


class IRuntimeConfig(Behaviour):
    """How a context is to run."""

    face_name = "IRuntimeConfig"

    def __init__(self, owner: Any, logger: Any) -> None:
        super().__init__(owner, logger)
        self.strategy = "STATIC"
        self.cache: IRuntimeCache | None = None

    cuda_graph_strategy = setting("cuda_graph_strategy", "CudaGraphStrategy", "DISABLED")
    dynamic_shapes_kernel_specialization_strategy = setting(
        "specialization", "DynamicShapesKernelSpecializationStrategy", "LAZY"
    )

    @takes("ExecutionContextAllocationStrategy?")
    def set_execution_context_allocation_strategy(self, strategy: Any = None) -> None:
        self.strategy = "STATIC" if strategy is None else strategy.name

    def get_execution_context_allocation_strategy(self) -> Any:
        return getattr(self.owner.module.ExecutionContextAllocationStrategy, self.strategy)

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self.owner, self.logger)

    @takes("IRuntimeCache?")
    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        self.cache = cache
        return True

    def get_runtime_cache(self) -> IRuntimeCache | None:
        return self.cache


class IExecutionContext(Behaviour):
    """One run of an engine at a time: profile, shapes, addresses, scratch memory."""

    face_name = "IExecutionContext"

    def __init__(self, owner: Any, logger: Any, engine: ICudaEngine, config: IRuntimeConfig) -> None:
        super().__init__(owner, logger)
        self._engine, self._config = engine, config
        self._profile = 0
        self._shapes = {tensor.name: tensor.shape for tensor in engine.plan.inputs if -1 not in tensor.shape}
        self._addresses: dict[str, int] = {}
        self._scratch: tuple[int, int | None] | None = None  # address, and size where it was told
        self._scratch_needed = engine.get_device_memory_size_for_profile_v2(0)
        self._settled = False  # whether it has run with these shapes, as capture needs
        self._switch: Ticket | None = None
        self._last: Ticket | None = None

    @property
    def engine(self) -> ICudaEngine:
        return self._engine

    def get_runtime_config(self) -> IRuntimeConfig:
        return self._config

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    @takes("int", "int")
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < len(self._engine.plan.profiles):
            self.log(
                "ERROR", f"IExecutionContext::setOptimizationProfileAsync: {_PARAMETER}no profile {profile_index})"
            )
            raise RuntimeError("Error in set optimization profile async.")
        self._switch = self.owner.gpu().queue(stream_handle, lambda: None)
        self._profile = profile_index
        self._shapes = {name: shape for name, shape in self._shapes.items() if not self._is_free(name)}
        self._changed()
        return True

    def _is_free(self, name: str) -> bool:
        tensor = self._engine.plan.tensor(name)
        return tensor is not None and -1 in tensor.shape

    def _changed(self) -> None:
        """Shapes or profile are others: memory has to be given again, and the next run is no run to capture."""
        self._settled = False
        self._scratch = None
        self._scratch_needed = self._engine.get_device_memory_size_for_profile_v2(self._profile)

    @takes("str", "Dims")
    def set_input_shape(self, name: str, shape: Dims) -> bool:
        said = "IExecutionContext::setInputShape: " + _PARAMETER
        ends = self._engine.plan.profiles[self._profile].get(name)
        if ends is None or name not in [tensor.name for tensor in self._engine.plan.inputs]:
            return self.fail(f"{said}{name} is no input with a profile.)", False)
        sizes = tuple(shape)
        low, _, high = ends
        within = len(sizes) == len(low) and all(a <= b <= c for a, b, c in zip(low, sizes, high, strict=True))
        if not within:
            words = f"Set dimension {list(sizes)} for tensor {name} does not satisfy any optimization profiles."
            valid = f"Valid range for profile {self._profile}: {list(low)}..{list(high)}."
            return self.fail(f"{said}satisfyProfile. {words} {valid})", False)
        if self._shapes.get(name) != sizes:
            self._shapes[name] = sizes
            self._changed()
        return True

    def infer_shapes(self) -> list[str]:
        return [tensor.name for tensor in self._engine.plan.inputs if tensor.name not in self._shapes]

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self.infer_shapes()

    @takes("str")
    def get_tensor_shape(self, name: str) -> Dims:
        tensor = self._engine.plan.tensor(name)
        if tensor is None:
            return self.fail(f"IExecutionContext::getTensorShape: {_PARAMETER}no tensor {name})", Dims(None))
        return Dims(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; free axes of an output are the batch of the first input, and its size over the stride."""
        tensor = self._engine.plan.tensor(name)
        assert tensor is not None
        if name in self._shapes:
            return self._shapes[name]
        given = self._shapes.get(self._engine.plan.inputs[0].name)
        if given is None or tensor not in self._engine.plan.outputs:
            return tensor.shape
        free = (given[0], -1, *(-(-size // self.owner.stride) for size in given[2:]))
        return tuple(free[axis] if size == -1 else size for axis, size in enumerate(tensor.shape))

    def update_device_memory_size_for_shapes(self) -> int:
        if self.infer_shapes():
            return self.fail("IExecutionContext::updateDeviceMemorySizeForShapes: not all input shapes are set", 0)
        self._scratch_needed = scratch_bytes(self._shapes)
        return self._scratch_needed

    @takes("size")
    def _set_device_memory(self, value: int) -> None:
        self.set_device_memory(value, None)

    device_memory = property(None, _set_device_memory)

    @takes("size", "int?")
    def set_device_memory(self, memory: int, size: int | None) -> None:
        if memory % ALIGNMENT:
            self.fail(f"IExecutionContext::setDeviceMemory: {_PARAMETER}memory is not aligned to {ALIGNMENT} bytes)")
            return
        self._scratch = (memory, size)

    @takes("str", "size")
    def set_tensor_address(self, name: str, memory: int) -> bool:
        said = "IExecutionContext::setTensorAddress: " + _PARAMETER
        if self._engine.plan.tensor(name) is None:
            return self.fail(f"{said}found. Invalid tensor name: {name}.)", False)
        if memory % ALIGNMENT:
            return self.fail(f"{said}{memory:#x} is not aligned to {ALIGNMENT} bytes.)", False)
        self._addresses[name] = memory
        return True

    @takes("str")
    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    @takes("int")
    def is_stream_capturable(self, stream: int) -> bool:
        return self._settled

    @takes("int")
    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda = self.owner.gpu()
        stream = cuda.stream(stream_handle)
        if stream.device != self._engine.device:
            raise CudaFault(f"an engine of GPU {self._engine.device} is run on a stream of GPU {stream.device}")
        for ticket, what in ((self._switch, "a change of its profile"), (self._last, "its last run")):
            if ticket is not None and ticket.stream is not stream and not ticket.done:
                raise CudaFault(f"a context runs on one stream while {what} is not done on another")
        fault = self._fault()
        if fault is not None:
            return self.fail(_EXECUTE + fault, False)
        if stream_handle == 0:
            self.log("WARNING", "Using default stream in enqueueV3() may lead to performance issues.")
        if stream.capture is not None and not self._settled:
            cuda.invalidate(stream)
            error = real.cudaError_t.cudaErrorStreamCaptureUnsupported
            return self.fail(f"{_EXECUTE}Error Code 1: Cuda Runtime (cudaError {int(error)}: {error.name})", False)
        try:
            self._last = cuda.queue(stream_handle, self._work())
        except Refused as exc:
            return self.fail(f"{_EXECUTE}Error Code 1: Cuda Runtime (cudaError {int(exc.error)})", False)
        self._settled = True
        self._note_kernel()
        return True

    def _fault(self) -> str | None:
        """Why it cannot run as it stands."""
        plan = self._engine.plan
        for name in self.infer_shapes():
            return f"Error Code 7: Internal Error (Input shape of {name} is not set)"
        for tensor in plan.inputs + plan.outputs:
            if not self._addresses.get(tensor.name):
                return f"{_PARAMETER}Address is not set for tensor {tensor.name}.)"
        if self._config.strategy != "USER_MANAGED":
            return None
        if self._scratch is None or not self._scratch[0]:
            return f"{_PARAMETER}device memory is not set since shapes or profile changed.)"
        size = self._scratch_room()
        if size < self._scratch_needed:
            return f"{_PARAMETER}device memory has {size} bytes, and {self._scratch_needed} are needed.)"
        return None

    def _scratch_room(self) -> int:
        """Bytes of scratch memory, as told, or as they are."""
        assert self._scratch is not None
        address, size = self._scratch
        block = self.owner.gpu().memory.find(address)
        if block is None or not block.live:
            raise CudaFault(f"scratch memory {address:#x} is no device memory that lives")
        room = block.address + block.size - address
        return room if size is None else min(size, room)

    def _work(self) -> Any:
        """What the engine does, with the addresses, shapes and memory of now."""
        cuda, plan, device = self.owner.gpu(), self._engine.plan, self._engine.device
        source = plan.inputs[0]
        places = {t.name: (self._addresses[t.name], self._shape(t.name), t.dtype) for t in plan.inputs + plan.outputs}
        scratch = None
        if self._config.strategy == "USER_MANAGED" and self._scratch is not None:
            scratch = (self._scratch[0], self._scratch_needed)
        network = self.owner.network

        def tensor(name: str) -> np.ndarray:
            address, shape, dtype = places[name]
            return cuda.array(address, shape, NUMPY_TYPES[dtype], device, f"tensor {name} of an engine")

        def run() -> None:
            if scratch is not None:
                cuda.array(scratch[0], scratch[1:], np.uint8, device, "scratch memory")[:] = _GARBAGE
            images = tensor(source.name).astype(np.float32)
            made = default_network(images, plan.classes) if network is None else network(images)
            outputs = made if isinstance(made, dict) else {plan.outputs[0].name: made}
            for target in plan.outputs:
                given, wanted = outputs[target.name], tensor(target.name)
                assert given.shape == wanted.shape, f"the network gave {given.shape}, the engine has {wanted.shape}"
                wanted[:] = given.astype(wanted.dtype)

        return run

    def _note_kernel(self) -> None:
        """Keep in the runtime cache that there are kernels for these shapes now."""
        cache = self._config.cache
        if cache is not None and str(self._shapes) not in cache.kernels:
            cache.kernels.append(str(self._shapes))
