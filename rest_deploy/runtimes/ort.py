"""ONNX files in ONNX Runtime, on the CPU or on an NVIDIA GPU, never silently on another device than asked.

Another provider is a subclass of :class:`OnnxRuntime` with a :class:`Plugin` (``runtimes/webgpu.py``,
``runtimes/onnx_tensorrt.py``).
"""

from __future__ import annotations

import base64
import functools
import logging
import os
import queue
import re
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import OnnxFile, sealed_info
from rest_deploy.errors import (
    ArtifactError,
    DeviceError,
    InputError,
    MissingPackageError,
    PredictorError,
    RestDeployError,
    install,
    one_line,
)
from rest_deploy.machine import USUAL, describe_cpu, importing, usable_cores
from rest_deploy.models.family import config_of, network_bytes, operators_of
from rest_deploy.runtimes.base import Runtime
from rest_deploy.specs import Device

_log = logging.getLogger(__name__)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

#: On a GPU maps are computed whole in calls that would take up to so many bytes on the CPU, and in blocks of so many
#: numbers, half a GiB, in larger ones. Two ways to choose from cost 8% at 224 pixels there, and blocks of 2 million
#: numbers 98% at 1024. Of maps of 2**31 numbers and more ONNX Runtime 1.31 computes wrong ones (docs/benchmarks.md): a
#: call of that size takes over 8 GiB in FP32.
_GPU_WHOLE = 4 << 30
_GPU_WRONG = 8 << 30
_GPU_BLOCK = 1 << 27

#: In the names of our own arithmetic on sizes, and on weights of a resize (``export/blockwise.py``,
#: ``export/pixels.py``), which may be on the CPU too; and the products of a resize, which may not.
_SIZES_NAMED = re.compile(r"/node_blocks_|^pixels/")
_WITH_PIXELS = frozenset({"MatMul", "Split", "Transpose"})
#: Arithmetic on sizes, which ONNX Runtime keeps on the CPU by design: a few integers, no image data.
_SHAPE_OPERATORS = frozenset({"Shape", "Gather", "Concat", "Cast", "Reciprocal", "Squeeze", "Unsqueeze"})


#: ONNX files for asking ONNX Runtime what it does here, where the onnx package is not installed; tests/runtimes/
#: test_ort.py builds the same bytes with it. One float32 Conv (1, 1, h, w) by (1, 1, 1, 1), which on a GPU needs cuDNN
#: as ResT does; and one MatMulInteger of uint8 (m, k) and int8 (k, n).
_CONVOLUTION = base64.b64decode(
    "CAUSC3Jlc3RfZGVwbG95OnYKDwoBeAoBdxIBeSIEQ29udhIIcHJvdmlkZXJaHQoBeBIYChYIARISCgIIAQoCCAEKAxIBaAoDEgF3WhsKAXcSFgoU"
    "CAESEAoCCAEKAggBCgIIAQoCCAFiHQoBeRIYChYIARISCgIIAQoCCAEKAxIBaAoDEgF3QgQKABAL"
)
_PRODUCT = base64.b64decode(
    "CAUSC3Jlc3RfZGVwbG95OmsKGAoBYQoBYhIBeSINTWF0TXVsSW50ZWdlchIKc2F0dXJhdGlvbloVCgFhEhAKDggCEgoKAxIBbQoDEgFrWhUKAWISEAoO"
    "CAMSCgoDEgFrCgMSAW5iFQoBeRIQCg4IBhIKCgMSAW0KAxIBbkIECgAQCg=="
)
_FACTORS = 3.0, 5.0
#: Name under which ONNX Runtime finds weights in memory; by none of that name it would look for a file.
_IN_MEMORY = "rest_deploy-weights-in-memory"
_SIDE = 64


@dataclass(frozen=True)
class Plugin:
    """A provider beside the CPU's and CUDA's.

    Args:
        provider: Its name.
        add: Adds it to the options of a session, for a device; raises DeviceError where it cannot.
        advice: What to check where it does not start.
        on_cpu: What may be on the CPU, as it does not have it: operators on levels of pictures, loops around its own.
        weights_apart: Whether it takes weights apart from their graph.
        blocks: Whether it runs the loops by which large maps are computed in blocks.
    """

    provider: str
    add: Callable[[Any, Device], None]
    advice: str
    on_cpu: frozenset[str] = frozenset()
    weights_apart: bool = True
    blocks: bool = True


#: Where CUDA's provider does not start.
_CUDA_ADVICE = "check the NVIDIA driver, CUDA and cuDNN that this version needs"
#: Names under which plugins are registered -> the process that did it.
registered: dict[str, int] = {}


def plugin_devices(name: str, library: str, plugin: str, device: Device) -> list[Any]:
    """What a plugin finds, in ONNX Runtime's order; it is registered once in a process.

    Args:
        name: Under which it is registered.
        library: Its file.
        plugin: Name of its provider.
        device: That is asked for.

    Raises:
        DeviceError: ONNX Runtime takes no plugins, or not this one.
    """
    ort, extra = import_onnxruntime(device), _EXTRAS[device.kind]
    if not hasattr(ort, "register_execution_provider_library"):
        version = ort.__version__
        raise DeviceError(f"device {device}: ONNX Runtime {version} takes no plugins; upgrade it: {install(extra)}")
    if name not in registered:
        try:
            ort.register_execution_provider_library(name, library)
        except Exception as exc:  # ONNX Runtime's errors share no public base class
            raise DeviceError(
                f"device {device}: ONNX Runtime {ort.__version__} does not take the plugin {Path(library).name}: "
                f"{one_line(exc)}; install the library that it misses, or upgrade both: {install(extra)}"
            ) from exc
        registered[name] = os.getpid()
    return [own for own in ort.get_ep_devices() if own.ep_name == plugin]


class OnnxRuntime(Runtime):
    """An ONNX file of ours in ONNX Runtime."""

    spinning_advice = None
    plugin: ClassVar[Plugin | None] = None
    #: Of a GPU: bytes that a call takes on the CPU at most for its maps to be computed whole; numbers of a block else.
    whole: ClassVar[int] = _GPU_WHOLE
    block: ClassVar[int] = _GPU_BLOCK

    def _load(self) -> None:
        self._large: Any = None
        self._opening = threading.Lock()
        self._session: Any
        self._session, self.info = self._opened()
        inputs = {value.name: value.shape for value in self._session.get_inputs()}
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        self.info.check_tensors(inputs, outputs, self.path)
        self._turns = _turns(self.threads or usable_cores())
        self._names = [output.name for output in self.info.outputs]
        self._input = self.info.input.name

    def _opened(self, *, large: bool = False) -> tuple[Any, ArtifactInfo]:
        """A session and the record of its file; on a GPU with large maps whole, or in blocks."""
        # unless there is no file that it will be needed for
        with importing("onnxruntime") if os.path.isfile(self.path) else nullcontext():
            file = OnnxFile(self.path)
        info = file.info
        with file.checking_seal():
            file.check_graph(operators_of)
            import_onnxruntime(self.target)
            self._check_numbers(info)
            content: bytes = file.content
            without_weights: Callable[[str], bytes] = file.without_weights
            if self.target.kind != "cpu" and info.map_block:
                content, without_weights = file.with_blocks_of(self.block) if large else file.without_blocks()
            session = open_session(
                content,
                self.path,
                self.target,
                self.threads,
                without_weights=without_weights,
                fuse_qdq=not info.recipe.qdq,
                allow_spinning=self.allow_spinning,
                plugin=self.plugin,
            )
        return session, info

    def _check_numbers(self, info: ArtifactInfo) -> None:
        """Refuse a file that would be computed in other numbers than it was made for."""
        if info.recipe.integers:
            _check_integers(info, self.target, self.path)

    @classmethod
    def read_info(cls, path: Path) -> ArtifactInfo:
        """The record inside an ONNX file, without ONNX Runtime, once the file has been found to be as it was made."""
        return sealed_info(path)

    @classmethod
    def probe(cls, device: Device) -> None:
        """Run a network of one operator."""
        content, feeds, wanted = one_convolution()
        session = open_session(content, Path("one convolution"), device, 1, plugin=cls.plugin)
        provider = cls.plugin.provider if cls.plugin is not None else _CUDA if device.kind == "cuda" else _CPU
        if session.get_providers()[:1] != [provider]:
            raise DeviceError(f"ONNX Runtime did not start its {provider}; it has {session.get_providers()}")
        (product,) = session.run(None, feeds)
        if float(product.item()) != wanted:
            raise DeviceError(f"ONNX Runtime multiplies wrongly on {device}: {wanted} came out as {product.item()}")

    def _run(self, batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        self._turns.get()
        try:
            sizes = self.info.input_sizes(batch.shape)
            session = self._session_for(sizes)
            if session is None:  # closed by another thread, after run() looked
                self.check_usable()
            more = (_giving_back(),) if self.call_bytes(*sizes) > USUAL else ()
            return dict(zip(self._names, session.run(self._names, {self._input: batch}, *more), strict=True))
        except RestDeployError:
            raise
        except Exception as exc:  # ONNX Runtime's errors share no public base class
            raise PredictorError(f"{self.path}: ONNX Runtime failed on input {batch.shape}: {one_line(exc)}") from exc
        finally:
            self._turns.put(None)

    def _session_for(self, sizes: tuple[int, int, int]) -> Any:
        """The session; on a GPU for large maps another, which is opened with the first of them."""
        if self.target.kind == "cpu" or self._session is None:
            return self._session
        size = self.info.network_sizes(*sizes)
        taken = network_bytes(config_of(self.info), *size)
        loops = self.plugin is None or self.plugin.blocks
        if taken > _GPU_WRONG and not (loops and self.info.map_block):
            other = "export it again in fp32, without --no-blockwise" if loops else "use device cuda"
            raise InputError(
                f"{self.path}: on {self.device} ONNX Runtime would compute maps of an input of "
                f"{'x'.join(map(str, size))} wrongly, as they have 2**31 numbers or more; run fewer at a time, scale "
                f"it down first, or {other}"
            )
        if taken <= self.whole or not (loops and self.info.map_block):
            return self._session
        with self._opening:
            if self._large is None:
                self._large = self._reopened()
            return self._large

    def _reopened(self) -> Any:
        """A session of the same file, with blocks.

        Raises:
            ArtifactError: It is another file now.
            PredictorError: The runtime was closed meanwhile.
        """
        session, info = self._opened(large=True)
        if info.to_json() != self.info.to_json():
            raise ArtifactError(f"{self.path}: it is another file than the one that was opened; open it again")
        self.check_usable()
        return session

    def _close(self) -> None:
        with self._opening:  # what another thread opens is let go of too
            self._session = self._large = None


def one_convolution() -> tuple[bytes, dict[str, NDArray[np.float32]], float]:
    """An ONNX file of one convolution, its inputs, and the one number that comes out."""
    first, second = (np.full((1, 1, 1, 1), factor, np.float32) for factor in _FACTORS)
    return _CONVOLUTION, {"x": first, "w": second}, _FACTORS[0] * _FACTORS[1]


def _giving_back() -> Any:
    """Options of a run that gives its memory back: else a large image's stays, and the next finds it taken.

    After an image of 1000x1000 a tiny network held 1,052 MiB, and with this 66 MiB.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _turns(threads: int) -> queue.SimpleQueue[None]:
    """One token for each call that may run at a time, the others wait: each that runs takes memory for its activations.

    Measured with 64 threads on two cores: with 8 at a time as many calls a second as with 64, and memory that stays.
    """
    turns: queue.SimpleQueue[None] = queue.SimpleQueue()  # a semaphore of threading takes half as long again
    for _ in range(max(8, 2 * usable_cores() // threads)):
        turns.put(None)
    return turns


def _check_integers(info: ArtifactInfo, device: Device, path: Path) -> None:
    """An INT8 file for CPUs runs on CPUs, and with weights of 8 bits only on those that add their products exactly.

    Raises:
        DeviceError: It would run elsewhere, or be silently wrong here.
    """
    if device.kind != "cpu":
        raise DeviceError(
            f"{path}: INT8 made for CPUs, whose integer operators ONNX Runtime does not have on {device}; "
            "use device cpu, or for a GPU export with --fp16"
        )
    assert info.precision_plan is not None
    if info.precision_plan.reduced_range is False and sums_saturate():
        raise DeviceError(
            f"{path}: its INT8 weights have 8 bits, and on this CPU, {describe_cpu()}, sums of 8-bit products "
            "saturate, so its answers would be wrong; export it with --reduced-range"
        )


@functools.cache
def sums_saturate() -> bool:
    """Whether sums of 8-bit products saturate in ONNX Runtime on this CPU.

    x86 without VNNI multiplies unsigned by signed bytes with vpmaddubsw, which adds two products in 16 bits and
    saturates: with weights of the full range, sums come out too small, and nothing says so. Whether it happens depends
    on the CPU and on ONNX Runtime's kernels, so it is tried: 255 times 127, summed.

    Raises:
        DeviceError: ONNX Runtime cannot multiply integers here.
    """
    import onnxruntime

    largest = np.full((1, _SIDE), 255, np.uint8), np.full((_SIDE, _SIDE), 127, np.int8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(_PRODUCT, options, providers=[_CPU])
        (sums,) = session.run(None, dict(zip(("a", "b"), largest, strict=True)))
    except Exception as exc:  # ONNX Runtime's errors share no public base class
        raise DeviceError(f"ONNX Runtime cannot multiply 8-bit integers on this CPU: {one_line(exc)}") from exc
    return bool((np.asarray(sums) != 255 * 127 * _SIDE).any())


def open_session(
    model: bytes | str,
    path: Path,
    device: Device,
    threads: int | None,
    *,
    without_weights: Callable[[str], bytes] | None = None,
    fuse_qdq: bool = True,
    strict: bool = True,
    allow_spinning: bool = True,
    plugin: Plugin | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on the device that was asked for.

    Args:
        model: Any ONNX file, its weights in it: its bytes, or the path of a copy that nobody writes to.
        path: Where it lies, for errors.
        device: Where.
        threads: CPU threads of a call; None takes one for each usable core.
        without_weights: Name -> the bytes without large weights, which are external data of that name. Of a whole file
            ONNX Runtime makes two copies more, which take a tenth of a start.
        fuse_qdq: Whether Q/DQ pairs may become integer operators.
        strict: Whether on a GPU all that computes must run there.
        allow_spinning: Whether its threads spin for some 50 ms after a call, to be quick at the next.
        plugin: What computes there; None for what ONNX Runtime has itself.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
        DeviceError: The provider is not there or does not start, or would leave computing to the CPU.
        ArtifactError: The file cannot be loaded.
    """
    ort = import_onnxruntime(device)
    _check_provider(ort, device)
    options = _options(ort, device, threads, fuse_qdq=fuse_qdq, allow_spinning=allow_spinning)
    providers: list[Any] | None = [_CPU]
    if plugin is not None:
        providers = None
        plugin.add(options, device)
    elif device.kind == "cuda":
        providers = [(_CUDA, {"device_id": device.index, "use_tf32": 0})]  # TF32, its default, has 10 bits
    given, apart = model, hasattr(options, "add_external_initializers_from_files_in_memory")  # from 1.24
    if without_weights is not None and apart and (plugin is None or plugin.weights_apart):
        options.add_external_initializers_from_files_in_memory([_IN_MEMORY], [model], [len(model)])
        given = without_weights(_IN_MEMORY)
    try:
        # enable_fallback=0: else a provider that fails is replaced in the constructor, with a line on stdout
        session = ort.InferenceSession(given, options, providers=providers, enable_fallback=0)
    except Exception as exc:  # ONNX Runtime's errors share no public base class
        if plugin is not None and type(exc).__name__ in ("EPFail", "RuntimeError"):  # a provider's own
            raise DeviceError(f"device {device}: it could not be started; {plugin.advice} ({one_line(exc)})") from exc
        if plugin is not None and "requires f16" in str(exc):
            raise DeviceError(f"{path}: the adapter of {device} has no float16; export it in fp32") from exc
        raise ArtifactError(f"{path}: ONNX Runtime {ort.__version__} cannot load it: {one_line(exc)}") from exc
    session.disable_fallback()
    session._model_bytes = None  # which it keeps to begin anew on another provider: as much memory again as the file
    if device.kind != "cpu":
        provider, advice = (plugin.provider, plugin.advice) if plugin is not None else (_CUDA, _CUDA_ADVICE)
        _check_started(session, device, provider, advice)
        if strict:
            _check_on_gpu(session, device, path, provider, plugin.on_cpu if plugin is not None else frozenset())
    return session


def _options(ort: Any, device: Device, threads: int | None, *, fuse_qdq: bool, allow_spinning: bool) -> Any:
    """Options of a session: as of :func:`open_session`."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is told by us, and what matters of the warnings is checked below
    options.intra_op_num_threads = threads or usable_cores()
    if device.kind == "cpu":
        # The second call of a size would take all its memory in one piece, beside the pieces of the first, which stay:
        # 9.8 GB in place of 4.9 for rest_lite in INT8 at 480x6400. At 224 pixels times showed no difference.
        options.enable_mem_pattern = False
        # A bias and a GELU take 0.67 of the time of BiasGelu with AVX-512, and 0.86 before 1.25, which has no kernel.
        options.add_session_config_entry("optimization.disable_specified_optimizers", "BiasGeluFusion")
    else:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not allow_spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fuse_qdq:  # as TensorRT rounds them; fused into integer operators they may saturate, and are no faster
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


#: Kind of device -> the extra that brings ONNX Runtime there.
_EXTRAS = {"cuda": "gpu", "webgpu": "webgpu", "tensorrt": "ort-trt", "tensorrt-rtx": "ort-rtx"}


def import_onnxruntime(device: Device) -> Any:
    """The module ``onnxruntime``.

    Raises:
        MissingPackageError: It is not installed; which extra brings it depends on the device.
        DeviceError: It is installed and does not load, or nothing is left of it.
    """
    extra = _EXTRAS.get(device.kind, "cpu")
    try:
        import onnxruntime
    except ModuleNotFoundError as exc:
        raise MissingPackageError("onnxruntime", "run .onnx files", extra) from exc
    except ImportError as exc:
        raise DeviceError(f"onnxruntime is installed but does not load: {one_line(exc)}") from exc
    if not hasattr(onnxruntime, "InferenceSession"):  # what is left when one of the two packages was uninstalled
        raise DeviceError(
            "onnxruntime is installed but empty, as where onnxruntime and onnxruntime-gpu were both installed; "
            f"pip uninstall onnxruntime onnxruntime-gpu, then {install(extra)}"
        )
    return onnxruntime


def _check_provider(ort: Any, device: Device) -> None:
    if device.kind == "cuda" and _CUDA not in ort.get_available_providers():
        from rest_deploy import nvidia

        if nvidia.gpu_count() == 0:
            raise DeviceError(f"device {device}: {nvidia.NONE_SHOWN}")
        raise DeviceError(
            f"device {device}: the installed ONNX Runtime {ort.__version__} has no CUDA provider; install it: "
            f"pip uninstall onnxruntime && {install('gpu')}, or use device cpu"
        )


def _check_started(session: Any, device: Device, provider: str, advice: str) -> None:
    """ONNX Runtime falls back to the CPU with no more than a log line; here that is an error."""
    active = session.get_providers()
    if not active or active[0] != provider:
        raise DeviceError(
            f"device {device}: ONNX Runtime could not start its {_short(provider)} provider (it has {active}); "
            f"{advice}, or use device cpu"
        )


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _check_on_gpu(session: Any, device: Device, path: Path, provider: str, on_cpu: frozenset[str]) -> None:
    """Nodes that the provider does not know go to another without a word; here that is an error."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        package = "onnxruntime-gpu" if device.kind in ("cuda", "tensorrt") else "onnxruntime"
        raise DeviceError(
            f"device {device}: this ONNX Runtime does not tell which provider runs which node, so a fallback to the "
            f"CPU cannot be ruled out; upgrade it: pip install --upgrade {package}, or use device cpu"
        )
    stray: dict[str, set[str]] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        if subgraph.ep_name == provider:
            continue
        place = "on the CPU" if subgraph.ep_name == _CPU else f"by its {_short(subgraph.ep_name)} provider"
        for node in subgraph.get_nodes():
            if node.op_type not in _SHAPE_OPERATORS | (on_cpu - _WITH_PIXELS) and (
                node.op_type in _WITH_PIXELS - on_cpu or not _SIZES_NAMED.search(node.name)
            ):
                stray.setdefault(place, set()).add(node.op_type)
    if stray:
        told = " and ".join(f"{', '.join(sorted(kinds))} {place}" for place, kinds in sorted(stray.items()))
        raise DeviceError(f"{path}: on {device} ONNX Runtime would run {told}; use device cpu")
