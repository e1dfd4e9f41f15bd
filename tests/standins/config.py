"""How the TensorRT stand-in is told to build: builder config, optimization profiles, timing cache."""

from __future__ import annotations

import json
from typing import Any

from tests.standins.enums import Dims
from tests.standins.faces import Behaviour, takes
from tests.standins.interfaces import HostMemory

_MAGIC = b"FAKECACHE"
_MOST_LEVEL = 5
_USAGE = "Error Code 3: API Usage Error (Parameter check failed, condition: "
_CONFIG = "In addOptimizationProfile at /_src/optimizer/api/builderConfig.cpp:569"


def setting(name: str, kind: str, default: Any = None) -> property:
    """A property that keeps what it is set to; until then its default, of an enum by the name of the member."""
    key = f"_{name}"

    def get(self: Any) -> Any:
        if key in vars(self):
            return vars(self)[key]
        return getattr(getattr(self.owner.module, kind), default) if isinstance(default, str) else default

    @takes(kind)
    def put(self: Any, value: Any) -> None:
        vars(self)[key] = value

    return property(get, put)


class IOptimizationProfile(Behaviour):
    """The shapes that an engine takes: smallest, best, largest for each input."""

    face_name = "IOptimizationProfile"

    def __init__(self, owner: Any, logger: Any) -> None:
        super().__init__(owner, logger)
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    @takes("str", "Dims", "Dims", "Dims")
    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        for end, shape in (("min", min), ("opt", opt), ("max", max)):
            if any(size < 0 for size in shape):
                raise RuntimeError(f"Shape provided for {end} is inconsistent with other shapes.")
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))

    @takes("str")
    def get_shape(self, input: str) -> list[Dims]:
        return [Dims(shape) for shape in self.shapes.get(input, ())]

    def wrong(self) -> list[str]:
        """Inputs whose shapes do not go up from min over opt to max."""

        def goes_up(ends: tuple[tuple[int, ...], ...]) -> bool:
            same_rank = len({len(end) for end in ends}) == 1
            return same_rank and all(low <= best <= high for low, best, high in zip(*ends, strict=True))

        return [name for name, ends in self.shapes.items() if not goes_up(ends)]

    def __bool__(self) -> bool:
        """Whether it goes up; the logger hears where it does not."""
        if not self.wrong():
            return True
        words = "please ensure that the optimization profiles satisfy MIN<=OPT<=MAX. In isValid at"
        said = f"Invalid optimization profiles for input tensors {', '.join(self.wrong())}, {words}"
        return self.fail(
            f"IOptimizationProfile::isValid: Error Code 4: API Usage Error ({said} "
            "/_src/optimizer/api/optimizationProfile.cpp:367)",
            False,
        )


class ITimingCache(Behaviour):
    """What builds measured, kept for later ones of the same library and GPU."""

    face_name = "ITimingCache"

    def __init__(self, owner: Any, logger: Any, data: bytes = b"") -> None:
        super().__init__(owner, logger)
        self.origin = f"{owner.library} {owner.target() or 'any'}"
        self.entries: list[str] = []
        if data:
            self._read(data)

    def _read(self, data: bytes) -> None:
        said = json.loads(data[len(_MAGIC) :]) if data.startswith(_MAGIC) else None
        if said is None or said["library"] != self.owner.library:
            self.log("WARNING", "Failed to deserialize timing cache. Returning an empty timing cache.")
            return
        self.origin, self.entries = said["origin"], said["entries"]

    def fits(self, ignore_mismatch: bool) -> bool:
        """Whether it was measured here."""
        return ignore_mismatch or self.origin == ITimingCache(self.owner, self.logger).origin

    def serialize(self) -> HostMemory:
        self.log("INFO", f"Serialized {len(self.entries)} timing cache entries")
        said = {"library": self.owner.library, "origin": self.origin, "entries": self.entries}
        return self.owner.host_memory(_MAGIC + json.dumps(said).encode())

    @takes("ITimingCache", "bool")
    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not input_cache.fits(ignore_mismatch):
            return False
        self.entries += [entry for entry in input_cache.entries if entry not in self.entries]
        return True

    def reset(self) -> bool:
        self.entries.clear()
        return True


class IBuilderConfig(Behaviour):
    """Settings of a build."""

    face_name = "IBuilderConfig"

    def __init__(self, owner: Any, logger: Any) -> None:
        super().__init__(owner, logger)
        module = owner.module
        self.mask = 1 << int(module.BuilderFlag.TF32)
        self.pools: dict[Any, int] = {}
        self.profiles: list[IOptimizationProfile] = []
        self.cache: ITimingCache | None = None
        self.capabilities: list[Any] = []
        self._level = 3

    avg_timing_iterations = setting("avg_timing_iterations", "int", 1)
    max_aux_streams = setting("max_aux_streams", "int", -1)
    max_num_tactics = setting("max_num_tactics", "int", -1)
    profiling_verbosity = setting("profiling_verbosity", "ProfilingVerbosity", "LAYER_NAMES_ONLY")
    progress_monitor = setting("progress_monitor", "IProgressMonitor?")
    tiling_optimization_level = setting("tiling_optimization_level", "TilingOptimizationLevel", "NONE")
    engine_capability = setting("engine_capability", "EngineCapability", "STANDARD")
    runtime_platform = setting("runtime_platform", "RuntimePlatform", "SAME_AS_BUILD")
    _compatibility = setting("compatibility", "HardwareCompatibilityLevel", "NONE")

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._compatibility

    @hardware_compatibility_level.setter
    @takes("HardwareCompatibilityLevel")
    def hardware_compatibility_level(self, value: Any) -> None:
        if self.owner.is_rtx:
            self.log("WARNING", "setHardwareCompatibilityLevel() is unsupported in TensorRT-RTX.")
            return
        self._compatibility = value

    @property
    def builder_optimization_level(self) -> int:
        return self._level

    @builder_optimization_level.setter
    @takes("int")
    def builder_optimization_level(self, value: int) -> None:
        self._level = min(value, _MOST_LEVEL)

    @property
    def flags(self) -> int:
        return self.mask

    @flags.setter
    @takes("size")
    def flags(self, value: int) -> None:
        self.mask = value

    @takes("BuilderFlag")
    def set_flag(self, flag: Any) -> None:
        self.mask |= 1 << int(flag)

    @takes("BuilderFlag")
    def clear_flag(self, flag: Any) -> None:
        self.mask &= ~(1 << int(flag))

    @takes("BuilderFlag")
    def get_flag(self, flag: Any) -> bool:
        return bool(self.mask >> int(flag) & 1)

    @takes("MemoryPoolType", "size")
    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.pools[pool] = pool_size

    @takes("MemoryPoolType")
    def get_memory_pool_limit(self, pool: Any) -> int:
        return self.pools.get(pool, self.owner.memory_bytes())

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    @takes("IOptimizationProfile")
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        if not profile:
            said = f"IBuilderConfig::addOptimizationProfile: {_USAGE}profile->isValid().  {_CONFIG})"
            return self.fail(said, -1)
        self.profiles.append(profile)
        return len(self.profiles) - 1

    @takes("Buffer")
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(self.owner, self.logger, serialized_timing_cache)

    @takes("ITimingCache", "bool")
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not cache.fits(ignore_mismatch):
            return self.fail("IBuilderConfig::setTimingCache: the timing cache is of another device", False)
        self.cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self.cache

    @property
    def num_compute_capabilities(self) -> int:
        return len(self.capabilities)

    @num_compute_capabilities.setter
    @takes("int")
    def num_compute_capabilities(self, value: int) -> None:
        if value < 0:
            raise ValueError("Provided number of compute capabilities is incorrect")
        self.capabilities = [None] * value

    @takes("int")
    def get_compute_capability(self, index: int) -> Any:
        here = self.capabilities[index] if 0 <= index < len(self.capabilities) else None
        return self.owner.module.ComputeCapability.NONE if here is None else here

    @takes("ComputeCapability", "int")
    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        kind = self.owner.module.ComputeCapability
        said = f"IBuilderConfig::setComputeCapability: {_USAGE}"
        if not 0 <= index < len(self.capabilities):
            return self.fail(f"{said}index >= 0. Index of compute capability is not in a valid range.)", False)
        if compute_capability == kind.NONE:
            return self.fail(f"{said}computeCapability != kNONE. Compute capability cannot be kNONE.)", False)
        if compute_capability not in kind.__members__.values():
            return self.fail(f"{said}false. Compute capability is invalid or not supported.)", False)
        self.capabilities[index] = compute_capability
        return True
