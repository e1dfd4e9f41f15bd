"""The builder of the TensorRT stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.standins.config import IBuilderConfig, IOptimizationProfile
from tests.standins.faces import Behaviour, takes, told
from tests.standins.layers import layers_message
from tests.standins.network import INetworkDefinition
from tests.standins.plan import Plan, Tensor

_BUILD = "IBuilder::buildSerializedNetwork: "
_CUDA_FAILED = (
    "CUDA initialization failure with error: {}. Please check your CUDA installation:  "
    "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html"
)
_IGNORED_LOGGER = (
    "WARNING The logger passed into createInferBuilder differs from one already registered for an existing builder, "
    "runtime, or refitter. So the current new logger is ignored, and TensorRT will use the existing one which is "
    "returned by nvinfer1::getLogger() instead."
)
#: What TensorRT-RTX 1.7 tells a progress monitor of a small network, in order: ``+`` starts a phase of so many steps
#: inside the last one that has not finished, ``.`` completes steps, ``-`` finishes a phase.
_PHASES = """
+ Building engine 6
+ Cloning network graph 14
. Cloning network graph 0-13
- Cloning network graph
. Building engine 0-1
+ Preparing graph for optimization 4
. Preparing graph for optimization 0-3
- Preparing graph for optimization
. Building engine 2-3
+ Building engine from subgraph 1
+ Optimizing graph 30
. Optimizing graph 0-29
- Optimizing graph
+ Computing profile costs 5
+ Timing tactics 3
+ Timing graph nodes 3
. Timing graph nodes 0-2
- Timing graph nodes
. Timing tactics 0-0
+ Timing tensor reformats 3
+ Computing reformatting costs 1
. Computing reformatting costs 0-0
- Computing reformatting costs
. Timing tensor reformats 0-1
+ Computing reformatting costs 1
. Computing reformatting costs 0-0
- Computing reformatting costs
. Timing tensor reformats 2-2
- Timing tensor reformats
. Timing tactics 1-1
- Timing tactics
. Computing profile costs 0-2
+ Determining refit engines 1
. Determining refit engines 0-0
. Computing profile costs 3-4
- Determining refit engines
- Computing profile costs
. Building engine from subgraph 0-0
- Building engine from subgraph
. Building engine 4-4
- Building engine
"""


def can_start(behaviour: Behaviour) -> bool:
    """Whether a builder or runtime can be made here; its logger hears why not."""
    owner = behaviour.owner
    others = [face._behaviour for face in owner.alive]
    if any(other.logger is not behaviour.logger for other in others if other.face_name in ("Builder", "Runtime")):
        behaviour.log("WARNING", _IGNORED_LOGGER)
    if owner.is_rtx or owner.cuda is None or owner.cuda.absent is None:
        return True
    behaviour.log("WARNING", "Unable to determine GPU memory usage")
    behaviour.log("WARNING", _CUDA_FAILED.format(int(owner.cuda.absent)))
    return False


class Builder(Behaviour):
    """Makes plans out of networks."""

    face_name = "Builder"
    constructible = True

    @takes("ILogger")
    def __init__(self, owner: Any, logger: Any) -> None:
        super().__init__(owner, logger)
        self.null = not can_start(self)
        self._threads = 1

    @property
    def max_threads(self) -> int:
        return self._threads

    @max_threads.setter
    @takes("int")
    def max_threads(self, value: int) -> None:
        self._threads = value

    @takes("size")
    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(self.owner, self.logger, self, flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self.owner, self.logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile(self.owner, self.logger)

    @property
    def platform_has_tf32(self) -> bool:
        return True

    @property
    def platform_has_fast_fp16(self) -> bool:
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        return True

    @takes("INetworkDefinition", "IBuilderConfig")
    def is_network_supported(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        return self._valid(network, config)

    @takes("INetworkDefinition", "IBuilderConfig")
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        if not self._valid(network, config):
            return None
        targets = self._targets(config)
        if targets is None:
            return None
        if not self._report_progress(config.progress_monitor):
            words = "Build canceled by user In next at /_src/optimizer/common/scopedProgressReporter.cpp:92"
            return self.fail(f"{_BUILD}Error Code 7: BuildCanceled ({words})")
        plan = self._plan(network, config, targets)
        self.log("INFO", "Total Activation Memory: 155785216 bytes")
        if config.profiling_verbosity == self.owner.module.ProfilingVerbosity.DETAILED:
            self._tell_layers(network, plan)
        if config.cache is not None and not self.owner.is_rtx:
            config.cache.entries.append(f"build {len(config.cache.entries)}")
        return self.owner.host_memory(plan.encode())

    def _tell_layers(self, network: INetworkDefinition, plan: Plan) -> None:
        text = self.owner.layers_text
        if text is self.owner.GENERATED:
            old = self.owner.version.startswith("10.")
            text = layers_message(network.model, plan, old, self.owner.datatypes, self.owner.datatype)
        if text is not None:
            self.log("VERBOSE", text)

    def _plan(self, network: INetworkDefinition, config: IBuilderConfig, targets: tuple[str, ...]) -> Plan:
        profiles = [dict(profile.shapes) for profile in config.profiles]
        flags = self.owner.module.BuilderFlag.__members__.items()
        return Plan(
            library=self.owner.library,
            inputs=tuple(network.inputs),
            outputs=tuple(network.outputs),
            profiles=tuple(profiles) or ({tensor.name: (tensor.shape,) * 3 for tensor in network.inputs},),
            targets=targets,
            compatibility=config.hardware_compatibility_level.name,
            flags=tuple(name for name, flag in flags if config.mask >> int(flag) & 1),
        )

    def _targets(self, config: IBuilderConfig) -> tuple[str, ...] | None:
        """Compute capabilities to build for; None where it cannot."""
        here = self.owner.target()
        if not self.owner.is_rtx:
            return (here,) if here else ()
        if None in config.capabilities:
            return self.fail("Unexpected exception bad optional access")
        names = [capability.name.lower() for capability in config.capabilities]
        if "current" in names and here is None:
            error = "cudaError 35: CUDA driver version is insufficient for CUDA runtime version"
            return self.fail(f"{_BUILD}Error Code 1: Cuda Runtime (In generateForCurrent ({error}))")
        return tuple(str(here) if name == "current" else name for name in names)

    def _valid(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        for message in _faults(network, config):
            return self.fail(f"{_BUILD}Error Code 4: API Usage Error ({message}. In validate at network.cpp)", False)
        return True

    def _report_progress(self, monitor: Any) -> bool:
        """Tell a monitor of the phases; False where it asks to stop, whose open phases then finish."""
        if monitor is None:
            return True
        opened: list[str] = []

        def finish(name: str) -> None:
            opened.remove(name)
            told(lambda: monitor.phase_finish(name), "phase_finish", None)

        for sign, name, first, last in _events():
            if sign == "+":
                parent = opened[-1] if opened else None
                opened.append(name)
                told(lambda n=name, p=parent, s=last: monitor.phase_start(n, p, s), "phase_start", None)
            elif sign == "-":
                finish(name)
            for step in range(first, last + 1) if sign == "." else ():
                if not told(lambda n=name, s=step: monitor.step_complete(n, s), "step_complete", False):
                    for unfinished in opened[::-1]:
                        finish(unfinished)
                    return False
        return True


def _events() -> Iterator[tuple[str, str, int, int]]:
    """(sign, phase, first step, last step or number of steps) of the phases."""
    for line in _PHASES.strip().splitlines():
        sign, rest = line[0], line[2:]
        if sign == "-":
            yield sign, rest, 0, 0
            continue
        name, numbers = rest.rsplit(" ", 1)
        first, _, last = numbers.rpartition("-")
        yield sign, name, int(first or 0), int(last)


def _faults(network: INetworkDefinition, config: IBuilderConfig) -> Iterator[str]:
    """What the real builder finds wrong, in its order and words."""
    if not network.outputs:
        yield "Network must have at least one output"
    if any(-1 in tensor.shape for tensor in network.inputs) and not config.profiles:
        yield "Network has dynamic or shape inputs, but no optimization profile has been defined"
    for number, profile in enumerate(config.profiles):
        if not profile:
            yield f"Optimization profile {number} is invalid"
        for tensor in network.inputs:
            yield from _profile_faults(tensor, number, profile.shapes.get(tensor.name))


def _profile_faults(tensor: Tensor, number: int, ends: tuple[tuple[int, ...], ...] | None) -> Iterator[str]:
    if -1 not in tensor.shape:
        for name, shape in zip(("kMIN", "kOPT", "kMAX"), ends or (), strict=False):
            if shape != tensor.shape:
                sizes = [str(list(each)).replace(" ", "") for each in (tensor.shape, shape)]
                differ = f"Input dimensions are {sizes[0]} but profile dimensions are {sizes[1]}"
                where = f"{name} dimensions in profile index {number}"
                yield f"Input tensor {tensor.name} has static dimensions that don't match {where}. {differ}"
        return
    if ends is None:
        yield f"Dynamic input tensor {tensor.name} is missing dimensions in profile {number}"
        return
    rank = len(ends[0])
    if rank != len(tensor.shape):
        counts = f"has {len(tensor.shape)} dimensions but profile {number} has {rank} dimensions"
        yield f"Dynamic-shaped input tensor {tensor.name} {counts}"
        return
    for axis, size in enumerate(tensor.shape):
        low, best, high = (end[axis] for end in ends)
        if size != -1 and (low, best, high) != (size,) * 3:
            yield (
                f"Dimension mismatch for tensor {tensor.name} and profile {number}. At dimension axis {axis}, profile "
                f"has min={low}, opt={best}, max={high} but tensor has {size}"
            )
