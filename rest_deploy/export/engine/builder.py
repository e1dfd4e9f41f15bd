"""ONNX file -> TensorRT plan, by one code path for TensorRT 10 and 11 and TensorRT-RTX.

The network is strongly typed: precision stands in the ONNX graph and nowhere else. TensorRT reports failure by None,
False or -1 and gives the reason to its logger alone; here each is an :class:`ExportError` with that reason.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import ExportError
from rest_deploy.export.engine.choice import LibraryChoice
from rest_deploy.export.engine.config import EngineConfig, HardwareCompatibility
from rest_deploy.export.engine.layers import Layer, read_layers
from rest_deploy.nvidia import Cuda, Library, TensorRTLog, frames_let_go, readable
from rest_deploy.specs import StepProgress

_log = logging.getLogger(__name__)

#: HardwareCompatibilityLevel of TensorRT.
_LEVELS = {HardwareCompatibility.SAME_CC: "SAME_COMPUTE_CAPABILITY", HardwareCompatibility.AMPERE_PLUS: "AMPERE_PLUS"}
_ACTIVATION = re.compile(r"Total Activation Memory: (\d+)")


@dataclass(frozen=True)
class Built:
    """A plan, and what its build told.

    Args:
        plan: Its bytes.
        profiles: Of the engine, by number.
        layers: Of the engine, out of the build's log.
        activation_bytes: Memory for activations, where the log tells.
        options: What of the config differs from the library's defaults.
        warnings: Of the library.
    """

    plan: bytes
    profiles: tuple[Profile, ...]
    layers: tuple[Layer, ...]
    activation_bytes: int | None
    options: Mapping[str, Any]
    warnings: tuple[str, ...]


def build(
    model: bytes,
    path: Path,
    info: ArtifactInfo,
    choice: LibraryChoice,
    config: EngineConfig,
    *,
    report: StepProgress | None = None,
) -> Built:
    """Build an engine.

    Args:
        model: ONNX file.
        path: Where it lies, for errors.
        info: Its record.
        choice: With what, and for which GPU.
        config: How.
        report: Called as the build goes on.

    Raises:
        ExportError: TensorRT refused, failed or was cancelled; the message holds its reasons.
        KeyboardInterrupt: Ctrl-C, once the build has come to a stop.
    """
    with frames_let_go():
        if choice.gpu is None:
            return _Build(choice, config, info).run(model, path, report)
        with Cuda().on_device(choice.gpu.index):
            return _Build(choice, config, info).run(model, path, report)


class _Build:
    """One build: the objects of TensorRT, which must outlive each other in order."""

    def __init__(self, choice: LibraryChoice, config: EngineConfig, info: ArtifactInfo) -> None:
        self._choice, self._config, self._info = choice, config, info
        self._trt = choice.library.api
        self._log = TensorRTLog(choice.library)
        self._builder = self._made("start its builder", self._trt.Builder, self._log.logger)

    def run(self, model: bytes, path: Path, report: StepProgress | None) -> Built:
        network = self._parse(model, path)
        profiles = self._config.resolve_profiles(self._info.image_size, resizes=self._info.resizes)
        settings, options = self._settings(profiles)
        cache = timing_cache_path(self._config, self._choice)
        if cache is not None:
            load_timing_cache(cache, settings, self._log)
        progress = BuildProgress(report)
        settings.progress_monitor = progress_monitor(self._choice.library, progress)
        start = self._log.mark()
        plan = self._serialized(network, settings, progress)
        if cache is not None:
            save_timing_cache(cache, settings)
        messages = self._log.messages(start)
        told = [int(found[1]) for message in messages if (found := _ACTIVATION.search(message))]
        return Built(
            plan=bytes(memoryview(plan)),
            profiles=profiles,
            layers=read_layers(messages),
            activation_bytes=max(told, default=None),
            options=options,
            warnings=self._log.warnings(),
        )

    def _made(self, what: str, make: Callable[..., Any], *arguments: Any) -> Any:
        return self._log.attempt(what, ExportError, make, *arguments)

    def _parse(self, model: bytes, path: Path) -> Any:
        flag = 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._made("make a network", self._builder.create_network, flag)
        parser = self._made("start its ONNX parser", self._trt.OnnxParser, network, self._log.logger)
        start = self._log.mark()
        if not parser.parse(model):
            told = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
            reasons = "; ".join(told) or self._log.reasons(start)
            raise ExportError(f"{self._choice.library} cannot read {path.name}: {reasons}")
        self._check_network(network, path)
        return network

    def _check_network(self, network: Any, path: Path) -> None:
        """An empty ONNX file parses as success, and a profile for a tensor that is not there is accepted."""
        found = {
            "input": [network.get_input(i) for i in range(network.num_inputs)],
            "output": [network.get_output(i) for i in range(network.num_outputs)],
        }
        for kind, said in (("input", (self._info.input,)), ("output", self._info.outputs)):
            tensors = [(tensor.name, tuple(tensor.shape)) for tensor in found[kind]]
            wanted = [(one.name, tuple(size if isinstance(size, int) else -1 for size in one.shape)) for one in said]
            if tensors != wanted:
                needed = " and ".join(f"{name} of shape {shape}" for name, shape in wanted)
                raise ExportError(
                    f"{path.name}: its {kind}s are {tensors}; needed: {needed} alone, -1 being free; export the ONNX "
                    "file again"
                )

    def _settings(self, profiles: Sequence[Profile]) -> tuple[Any, dict[str, Any]]:
        """TensorRT's builder config, and what of it is no default."""
        settings = self._made("make a builder config", self._builder.create_builder_config)
        settings.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED  # the log tells each layer's datatypes
        for number, profile in enumerate(profiles):
            self._add_profile(settings, number, profile)
        options = self._set_options(settings)
        if self._choice.library.is_rtx:
            self._set_targets(settings)
        return settings, options

    def _add_profile(self, settings: Any, number: int, profile: Profile) -> None:
        shapes = [self._info.input_shape(*end.sizes) for end in (profile.min, profile.opt, profile.max)]
        made = self._made("make a profile", self._builder.create_optimization_profile)
        start = self._log.mark()
        made.set_shape(self._info.input.name, *shapes)
        given = settings.add_optimization_profile(made)
        if given != number:
            raise ExportError(f"{self._choice.library} refuses the profile {profile}: {self._log.reasons(start)}")

    def _set_options(self, settings: Any) -> dict[str, Any]:
        trt, config = self._trt, self._config
        options: dict[str, Any] = {}
        if config.tf32:
            settings.set_flag(trt.BuilderFlag.TF32)
            options["tf32"] = True
        else:
            settings.clear_flag(trt.BuilderFlag.TF32)  # on by default
        if config.workspace_mib is not None:
            settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_mib << 20)
            options["workspace_mib"] = config.workspace_mib
        if config.optimization_level is not None:
            settings.builder_optimization_level = options["optimization_level"] = config.optimization_level
        if config.version_compatible:
            settings.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            options["version_compatible"] = True
        level = config.hardware_compatibility
        if level is not HardwareCompatibility.NONE:
            settings.hardware_compatibility_level = self._compatibility(level)
            options["hardware_compatibility"] = level.value
        return options

    def _compatibility(self, level: HardwareCompatibility) -> Any:
        known = self._trt.HardwareCompatibilityLevel.__members__
        if _LEVELS[level] not in known:
            has = ", ".join(value.value for value, name in _LEVELS.items() if name in known)
            raise ExportError(
                f"{self._choice.library} has no hardware compatibility {level.value}; it has {has}; upgrade it, "
                "or leave it out"
            )
        return known[_LEVELS[level]]

    def _set_targets(self, settings: Any) -> None:
        settings.num_compute_capabilities = len(self._choice.targets)
        for number, target in enumerate(self._choice.targets):
            capability = self._trt.ComputeCapability.__members__[target.upper()]
            self._made(f"build for {target}", settings.set_compute_capability, capability, number)

    def _serialized(self, network: Any, settings: Any, progress: BuildProgress) -> Any:
        """The plan, built in a thread of its own, so that this one hears of Ctrl-C and can cancel the build."""
        plan: Future[Any] = Future()
        thread = threading.Thread(target=self._work, args=(plan, network, settings), name="tensorrt-build")
        try:
            thread.start()
            return plan.result()
        except BaseException:  # Ctrl-C or SIGTERM, at any moment; a failed build has ended already
            progress.cancel()
            while thread.is_alive():
                with suppress(KeyboardInterrupt):  # asked twice: it is on its way, and cannot be left behind
                    thread.join()
            raise

    def _work(self, plan: Future[Any], network: Any, settings: Any) -> None:
        """What the thread does. No closure: a frame keeps those, whatever is cleared (see frames_let_go)."""
        try:
            if self._choice.gpu is not None:  # CUDA's current GPU is the thread's
                Cuda().call("cudaSetDevice", self._choice.gpu.index)
            plan.set_result(self._made("build the engine", self._builder.build_serialized_network, network, settings))
        except BaseException as exc:  # for the thread that waits
            plan.set_exception(exc)


def _parser_error(error: Any) -> str:
    """One error of the parser: node, operator, words."""
    node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_operator() else ""
    words = readable(error.desc())
    return node + ("this TensorRT has no such operator" if node and words in ("", "false") else words)


# ---- how far a build is


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """What the monitor's callbacks tell; they come from several threads, and must not raise.

    Args:
        report: Where to tell it; None for nowhere.
    """

    def __init__(self, report: StepProgress | None = None) -> None:
        self._report = report
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._best = 0.0

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Have TensorRT stop at its next step."""
        self._cancelled.set()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; its steps are those of its parent's current one."""
        with self._lock:
            self._phases[name] = _Phase(name, parent, max(1, steps))
        self._tell(name)

    def step(self, name: str, index: int) -> bool:
        """A step of a phase is done; whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = index + 1
        self._tell(name)
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase ends, whether it was done or not."""
        with self._lock:
            self._phases.pop(name, None)

    def _tell(self, name: str) -> None:
        if self._report is None:
            return
        with self._lock:
            self._best = max(self._best, self._fraction())  # phases may repeat; a bar that goes back tells nothing
            best = self._best
        try:
            self._report(best, name)
        except Exception:  # a callback that raises would end the process within TensorRT
            self._report = None

    def _fraction(self) -> float:
        """Done steps of the outermost phase, and of the phases within its current step."""
        roots = [phase for phase in self._phases.values() if phase.parent is None or phase.parent not in self._phases]
        return self._share(roots[0]) if roots else 0.0

    def _share(self, phase: _Phase) -> float:
        within = [self._share(child) for child in self._phases.values() if child.parent == phase.name != child.name]
        return min(1.0, (phase.done + min(1.0, max(within, default=0.0))) / phase.steps)


def progress_monitor(library: Library, progress: BuildProgress) -> Any:
    """A progress monitor of TensorRT that tells ``progress``; it must outlive the build."""
    base: Any = library.api.IProgressMonitor

    class Monitor(base):  # known only when the library is
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

    return Monitor()


# ---- timing cache: what TensorRT measured of its kernels in earlier builds, by library version and GPU


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
        _log.warning("timing cache %s is of another version or GPU; it is replaced", path)
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
