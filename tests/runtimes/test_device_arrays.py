"""Device arrays in and out, on the CUDA stand-in, whose memory is the host's; torch and NumPy read the capsules."""

from __future__ import annotations

import ctypes
import gc
import math
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cuda.bindings.runtime import cudaError_t, cudaMemoryType

from rest_deploy.errors import InputError, RestDeployError
from rest_deploy.nvidia import Cuda, CudaError
from rest_deploy.runtimes import cuda_arrays
from rest_deploy.runtimes.cuda_arrays import DeviceArray, DeviceInput, device_input
from tests.standins.cuda import RTX_4090, FakeCuda

CUDA, MANAGED, ROCM = 2, 13, 10
FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)
STREAM = 0x5EED


class Producer:
    """A NumPy array that says it is on a GPU; ``changes`` are written into the DLTensor of its capsule."""

    def __init__(self, array: Any, device: tuple[int, int] = (CUDA, 0), **changes: Any) -> None:
        self.array, self.device, self.changes = array, device, changes
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **asked: Any) -> Any:
        self.asked.append(asked)
        capsule = self.array.__dlpack__(max_version=asked.get("max_version"))
        managed = cuda_arrays.open_capsule(capsule)[0]
        managed.tensor.device_type, managed.tensor.device_id = self.device
        for name, value in self.changes.items():
            setattr(managed if name == "major" else managed.tensor, name, value)
        return capsule


class OldProducer(Producer):
    """One from before DLPack 1.0."""

    def __dlpack__(self, stream: int | None = None) -> Any:
        return super().__dlpack__(stream=stream)


class Interface:
    """An array by the CUDA array interface alone."""

    def __init__(self, array: Any, **changes: Any) -> None:
        data = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, False)}
        told = {**data, "strides": array.strides, "stream": None, "version": 3, **changes}
        self.array = array
        self.__cuda_array_interface__ = {key: value for key, value in told.items() if value is not ...}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """Six GPUs, all of whose memory is free again at the end of each test."""
    found = FakeCuda([RTX_4090] * 6).install(monkeypatch)
    yield found
    if live(found):
        gc.collect()  # slow, with torch imported
    assert live(found) == 0


@pytest.fixture
def cuda(gpus: FakeCuda) -> Cuda:
    return Cuda()


def live(gpus: FakeCuda) -> int:
    return gpus.live()["device"]


def asked(gpus: FakeCuda, function: str) -> list[Any]:
    """The first argument of each call of a function."""
    return [arguments[0] for name, arguments, _ in gpus.calls if name == function]


def filled(cuda: Cuda, values: Any, device_index: int = 0) -> DeviceArray:
    array = DeviceArray.empty(cuda, device_index, values.shape, values.dtype)
    ctypes.memmove(array.pointer, np.ascontiguousarray(values).ctypes.data, values.nbytes)
    return array


def counting(dtype: np.dtype[Any] = FLOAT32) -> Any:
    return np.arange(24).reshape(2, 3, 4).astype(dtype)


def taken(value: object, cuda: Cuda, device_index: int = 0, stream: int = STREAM) -> DeviceInput:
    view = device_input(value, cuda, device_index, stream)
    assert view is not None
    return view


def by_interface(array: DeviceArray, **changes: Any) -> Any:
    """The same memory by the CUDA array interface alone."""
    return SimpleNamespace(__cuda_array_interface__={**array.__cuda_array_interface__, **changes}, array=array)


def contents(view: Any) -> Any:
    raw = ctypes.string_at(view.pointer, math.prod(view.shape) * view.dtype.itemsize)
    return np.frombuffer(raw, view.dtype).reshape(view.shape)


# Out: memory, and who keeps it.


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_an_array_has_its_shape_and_copies_to_the_host(gpus: FakeCuda, cuda: Cuda, dtype: str) -> None:
    values = counting(np.dtype(dtype))
    array = filled(cuda, values, device_index=1)
    assert gpus.device == 1
    assert (array.shape, array.dtype, array.nbytes, array.device_index) == ((2, 3, 4), values.dtype, values.nbytes, 1)
    gpus.device = 0
    np.testing.assert_array_equal(array.numpy(), values)
    assert gpus.device == 1
    assert repr(array) == f"DeviceArray(shape=(2, 3, 4), dtype={dtype}, device=cuda:1)"


@pytest.mark.parametrize("shape", [(), (2, 0), (-1,)])
def test_an_array_without_elements_is_refused(gpus: FakeCuda, cuda: Cuda, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="each at least 1"):
        DeviceArray.empty(cuda, 0, shape, FLOAT32)


def test_an_array_of_objects_is_refused(gpus: FakeCuda, cuda: Cuda) -> None:
    with pytest.raises(InputError, match="dtype object; accepted: bool"):
        DeviceArray.empty(cuda, 0, (2,), np.dtype(object))


def test_memory_is_freed_once_and_the_thread_keeps_its_gpu(gpus: FakeCuda, cuda: Cuda) -> None:
    array = filled(cuda, counting(), device_index=1)
    gpus.device = 3
    del array
    assert (live(gpus), gpus.device) == (0, 3)
    assert [name for name, *_ in gpus.calls][-4:] == ["cudaGetDevice", "cudaSetDevice", "cudaFree", "cudaSetDevice"]
    assert asked(gpus, "cudaSetDevice") == [1, 1, 3]


def test_the_end_of_the_process_asks_nothing_of_cuda() -> None:
    program = (
        "import numpy as np; from rest_deploy.runtimes.cuda_arrays import DeviceArray\n"
        "class Gone:\n    def call(self, *_): raise RuntimeError('CUDA is gone')\n"
        "array = DeviceArray(Gone(), 0, (1,), np.dtype('f4'), 64)\n"
        "capsule, cycle = array.__dlpack__(), [array]; cycle.append(cycle)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")


# Out: capsules. With device type 1 for 2, torch and NumPy, which know nothing of this code, read them.


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (1, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_torch_reads_a_capsule_and_keeps_its_memory(
    gpus: FakeCuda, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int] | None, dtype: type
) -> None:
    monkeypatch.setattr(cuda_arrays, "CUDA", 1)
    values = counting(np.dtype(dtype))
    array = filled(cuda, values)
    capsule = array.__dlpack__(max_version=version)
    kind = "dltensor_versioned" if version and version >= (1, 0) else "dltensor"
    assert f'"{kind}"' in repr(capsule)
    tensor = torch.utils.dlpack.from_dlpack(capsule)
    assert tensor.data_ptr() == array.pointer
    del array, capsule
    assert live(gpus) == 1
    assert tensor.numpy().dtype == values.dtype
    np.testing.assert_array_equal(tensor.numpy(), values)
    part = tensor[1:]
    del tensor
    assert live(gpus) == 1
    del part
    assert live(gpus) == 0


@pytest.mark.parametrize("read", [np.from_dlpack, torch.from_dlpack])
def test_from_dlpack_shares_the_memory(gpus: FakeCuda, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, read: Any) -> None:
    monkeypatch.setattr(cuda_arrays, "CUDA", 1)
    array = filled(cuda, counting())
    shared = read(array)
    shared[0, 0, 0] = 9
    assert array.numpy()[0, 0, 0] == 9
    del array
    assert live(gpus) == 1
    del shared
    assert live(gpus) == 0


def test_a_capsule_tells_cuda_and_the_gpu(gpus: FakeCuda, cuda: Cuda) -> None:
    array = filled(cuda, counting(), device_index=5)
    assert array.__dlpack_device__() == (CUDA, 5)
    for version in (None, (1, 0)):
        capsule = array.__dlpack__(stream=1, max_version=version, dl_device=(CUDA, 5), copy=False)
        tensor = cuda_arrays.open_capsule(capsule)[0].tensor
        assert (tensor.device_type, tensor.device_id, tensor.data) == (CUDA, 5, array.pointer)


def test_a_capsule_that_nobody_takes_lets_go(gpus: FakeCuda, cuda: Cuda) -> None:
    array = filled(cuda, counting())
    capsule = array.__dlpack__(max_version=(1, 0))
    del array
    assert live(gpus) == 1
    del capsule
    assert live(gpus) == 0


def test_a_capsule_that_dies_of_an_error_keeps_the_error(gpus: FakeCuda, cuda: Cuda) -> None:
    # A destructor by ctypes runs Python while the error is set, and loses it.
    with pytest.raises(TypeError, match="must be real number"):
        math.sqrt(filled(cuda, counting()).__dlpack__())
    with pytest.raises((RuntimeError, AssertionError), match=r"(?i)cuda"):
        torch.from_dlpack(filled(cuda, counting()))
    gc.collect()
    assert live(gpus) == 0


@pytest.mark.parametrize("asked", [{"copy": True}, {"dl_device": (1, 0)}, {"dl_device": (CUDA, 1)}])
def test_a_copy_or_another_device_is_refused(gpus: FakeCuda, cuda: Cuda, asked: dict[str, Any]) -> None:
    with pytest.raises(BufferError, match="only as it is"):
        filled(cuda, counting()).__dlpack__(**asked)


def test_the_interface_tells_of_the_array(gpus: FakeCuda, cuda: Cuda) -> None:
    array = filled(cuda, counting(FLOAT16))
    told = {"shape": (2, 3, 4), "typestr": "<f2", "data": (array.pointer, False), "strides": None, "stream": None}
    assert array.__cuda_array_interface__ == {**told, "version": 3}


# In: what is no array on a GPU, and round trips.


@pytest.mark.parametrize(
    "value",
    [counting(), torch.ones(2), torch.ones(2, requires_grad=True), [1.0], "text", None, Producer(counting(), (3, 0))],
    ids=["numpy", "torch", "grad", "list", "text", "none", "pinned"],
)
def test_what_is_not_on_a_gpu_is_none(gpus: FakeCuda, cuda: Cuda, value: object) -> None:
    assert device_input(value, cuda, 0, STREAM) is None


@pytest.mark.parametrize("protocol", ["dlpack", "interface"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.bool_])
def test_an_array_comes_back_in_place(gpus: FakeCuda, cuda: Cuda, protocol: str, dtype: type) -> None:
    values = counting(np.dtype(dtype))
    array = filled(cuda, values)
    value = array if protocol == "dlpack" else by_interface(array)
    view = taken(value, cuda)
    assert (view.pointer, view.shape, view.dtype) == (array.pointer, (2, 3, 4), values.dtype)
    np.testing.assert_array_equal(contents(view), values)
    del array, value
    assert live(gpus) == 1
    del view
    assert live(gpus) == 0


@pytest.mark.parametrize("kind", [Producer, OldProducer])
def test_a_view_keeps_its_producer_s_memory(gpus: FakeCuda, cuda: Cuda, kind: Any) -> None:
    values = counting()
    alive = weakref.ref(values)
    view = taken(kind(values), cuda)
    expected = values.copy()
    del values
    np.testing.assert_array_equal(contents(view), expected)
    assert alive() is not None
    owner = view.owner
    del view
    assert alive() is not None
    del owner
    assert alive() is None


@pytest.mark.parametrize("name", list(cuda_arrays._CAPSULES))
def test_a_capsule_is_marked_as_taken_and_its_deleter_called_once(gpus: FakeCuda, cuda: Cuda, name: bytes) -> None:
    struct, used = cuda_arrays._CAPSULES[name]
    values, deleted = counting(), []
    deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deleted.append)
    managed = struct(deleter=ctypes.cast(deleter, ctypes.c_void_p).value)
    sizes = (ctypes.c_int64 * 3)(*values.shape)
    tensor = cuda_arrays.Tensor(values.ctypes.data, CUDA, 0, 3, 2, 32, 1, sizes, None, 0)
    managed.tensor = tensor
    if name.endswith(b"versioned"):
        managed.major = 1
    new = cuda_arrays._python_api("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    capsule = new(ctypes.addressof(managed), name, None)
    held = [capsule]
    value = SimpleNamespace(__dlpack_device__=lambda: (CUDA, 0), __dlpack__=lambda **_: held[0])
    view = taken(value, cuda)
    assert f'"{used.decode()}"' in repr(capsule)
    with pytest.raises(InputError, match="taken before"):
        device_input(value, cuda, 0, STREAM)
    np.testing.assert_array_equal(contents(view), values)
    assert deleted == []
    del view
    assert deleted == [ctypes.addressof(managed)]
    held.clear()
    del capsule
    assert deleted == [ctypes.addressof(managed)]


@pytest.mark.parametrize(
    ("stream", "named"), [(STREAM, STREAM), (0, 1), (2, 2)], ids=["a stream", "legacy default", "per thread"]
)
def test_a_producer_is_told_the_stream_and_version(gpus: FakeCuda, cuda: Cuda, stream: int, named: int) -> None:
    producer, old = Producer(counting(), (CUDA, 1)), OldProducer(counting(), (CUDA, 1))
    for value in (producer, old):
        assert device_input(value, cuda, 1, stream) is not None
    assert gpus.device == 1
    assert producer.asked == [{"stream": named, "max_version": (1, 0)}]
    assert old.asked == [{"stream": named}]
    assert asked(gpus, "cudaStreamSynchronize") == []


@pytest.mark.parametrize("changes", [{"stream": None}, {"version": 2}], ids=str)
def test_an_interface_without_a_stream_has_nothing_to_wait_for(
    gpus: FakeCuda, cuda: Cuda, changes: dict[str, Any]
) -> None:
    taken(by_interface(filled(cuda, counting()), **changes), cuda)
    assert asked(gpus, "cudaStreamSynchronize") == []


@pytest.mark.parametrize("default", [False, True], ids=["a stream", "legacy default"])
def test_what_the_interface_s_stream_has_under_way_is_waited_for(gpus: FakeCuda, cuda: Cuda, default: bool) -> None:
    array = filled(cuda, counting(), device_index=1)
    stream = 1 if default else int(cuda.call("cudaStreamCreate"))
    memory = gpus.array(array.pointer, array.shape, array.dtype)
    gpus.queue(stream, lambda: memory.fill(7))
    gpus.device = 0
    view = taken(by_interface(array, stream=stream), cuda, device_index=1)
    assert (contents(view) == 7).all()
    assert asked(gpus, "cudaStreamSynchronize") == [stream]


def test_an_error_of_cuda_stays_one(gpus: FakeCuda, cuda: Cuda) -> None:
    gpus.fail_once("cudaStreamSynchronize", cudaError_t.cudaErrorInvalidResourceHandle)
    with pytest.raises(CudaError, match="cudaStreamSynchronize failed"):
        device_input(by_interface(filled(cuda, counting()), stream=2), cuda, 0, STREAM)
    assert asked(gpus, "cudaStreamSynchronize") == [2]
    gpus.fail_once("cudaMalloc", cudaError_t.cudaErrorMemoryAllocation)
    with pytest.raises(CudaError, match="out of memory"):
        DeviceArray.empty(cuda, 0, (2,), FLOAT32)


def test_an_offset_and_missing_strides_are_read(gpus: FakeCuda, cuda: Cuda) -> None:
    values = np.arange(6, dtype=np.float32)
    view = taken(Producer(values, byte_offset=8, shape=(ctypes.c_int64 * 1)(4), strides=None), cuda)
    np.testing.assert_array_equal(contents(view), [2, 3, 4, 5])


def test_managed_memory_is_on_every_gpu(gpus: FakeCuda, cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(Producer(counting(), (MANAGED, 0)), cuda, device_index=1).shape == (2, 3, 4)
    managed = SimpleNamespace(type=cudaMemoryType.cudaMemoryTypeManaged, device=0)
    answer = (cudaError_t.cudaSuccess, managed)
    monkeypatch.setattr(gpus.module, "cudaPointerGetAttributes", lambda _: answer, raising=False)
    assert taken(by_interface(filled(cuda, counting())), cuda, device_index=1).shape == (2, 3, 4)


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "whole": lambda base: base,
    "first rows": lambda base: base[:1],
    "last rows": lambda base: base[1:],
    "size 1 with free strides": lambda base: base[:1, ::2][:, :1],
    "every second": lambda base: base[:, :, ::2],
    "transposed": lambda base: base.transpose(2, 1, 0),
    "reversed": lambda base: base[::-1],
    "broadcast": lambda base: np.lib.stride_tricks.as_strided(base, (2, 3), (0, 0)),
    "one column": lambda base: base[..., :1],
    "cut middle": lambda base: base[:, :2],
}


@pytest.mark.parametrize("kind", [Producer, OldProducer, Interface])
@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_are_taken_as_numpy_judges_them(gpus: FakeCuda, cuda: Cuda, kind: Any, lay: Any) -> None:
    array = filled(cuda, counting())
    values = lay(gpus.array(array.pointer, array.shape, array.dtype))
    if values.flags.c_contiguous:
        np.testing.assert_array_equal(contents(taken(kind(values), cuda)), values)
    else:
        with pytest.raises(InputError, match="not C-contiguous; accepted: C order; make it contiguous"):
            device_input(kind(values), cuda, 0, STREAM)


# In: refusals.


def told(**changes: Any) -> Interface:
    return Interface(counting(), **changes)


def failing(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


class Grad(Producer):
    """A torch tensor that requires grad, as if on a GPU."""

    def __dlpack__(self, **asked: Any) -> Any:
        return torch.ones(2, requires_grad=True).__dlpack__()


def broken(error: BaseException) -> Any:
    return type("Broken", (), {"__cuda_array_interface__": property(failing(error))})()


REFUSED: dict[str, tuple[Any, str]] = {
    "other gpu": (Producer(counting(), (CUDA, 1)), r"input is a Producer on cuda:1; accepted: arrays on cuda:0; copy"),
    "rocm": (Producer(counting(), (ROCM, 0)), "on DLPack's device type 10; accepted: arrays on cuda:0"),
    "capsule of other gpu": (Producer(counting(), device_id=1), "on cuda:1"),
    "grad": (Grad(counting()), r"whose __dlpack__ fails \(BufferError: Can't export tensors that require gradient"),
    "meta": (torch.ones(2, device="meta"), r"input is a Tensor whose __dlpack_device__ fails \(ValueError"),
    "no capsule": (
        SimpleNamespace(__dlpack_device__=lambda: (CUDA, 0), __dlpack__=lambda **_: 7),
        "int is no DLPack capsule",
    ),
    "odd device": (SimpleNamespace(__dlpack_device__=lambda: (CUDA,), __dlpack__=None), "__dlpack_device__ fails"),
    "DLPack 2": (Producer(counting(), major=2), r"of DLPack 2\.\d+; accepted: DLPack 0 and 1"),
    "bfloat16": (Producer(counting(np.dtype("u2")), code=4), "of dtype bfloat16; accepted: bool, .* convert it"),
    "lanes": (Producer(counting(), lanes=4), r"DLPack \(2, 32, 4\)"),
    "empty": (Producer(np.zeros((0, 3), "f4")), r"of shape \(0, 3\) without memory; accepted: sizes of at least 1"),
    "empty interface": (told(shape=(0, 3), strides=None), r"of shape \(0, 3\) without memory"),
    "null": (told(data=(0, False)), "without memory"),
    "mask": (told(mask=object()), "with a mask; accepted: arrays without one"),
    "big endian": (told(typestr=">f4"), "of dtype >f4; accepted: bool"),
    "structure": (told(typestr="|V8"), r"of dtype \|V8"),
    "typestr": (told(typestr="no such"), r"__cuda_array_interface__ fails \(TypeError"),
    "version 1": (told(version=1), "version 1; accepted: 2 and 3"),
    "stream 0": (told(stream=0), "stream 0, which the interface forbids"),
    "stream of text": (told(stream="default"), r"fails \(TypeError"),
    "no data": (told(data=...), r"fails \(KeyError: 'data'\)"),
    "no dict": (SimpleNamespace(__cuda_array_interface__=3), r"fails \(TypeError"),
    "strides": (told(strides=(4,)), "1 strides for 3 sizes"),
    "grad by interface": (broken(RuntimeError("requires grad;\n use detach")), r"RuntimeError: requires grad; use det"),
}


@pytest.mark.parametrize(("value", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(gpus: FakeCuda, cuda: Cuda, value: object, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        device_input(value, cuda, 0, STREAM)
    assert "\n" not in str(caught.value)
    assert "accepted: " in str(caught.value)


def test_the_interface_s_pointer_is_asked_where_it_lies(gpus: FakeCuda, cuda: Cuda) -> None:
    there = by_interface(filled(cuda, counting(), device_index=1), stream=STREAM)
    with pytest.raises(InputError, match="on cuda:1; accepted: arrays on cuda:0; copy it there"):
        device_input(there, cuda, 0, STREAM)
    with pytest.raises(InputError, match="no memory of a GPU; accepted: arrays on cuda:0"):
        device_input(told(stream=STREAM), cuda, 0, STREAM)
    pinned = int(cuda.call("cudaMallocHost", 96))
    with pytest.raises(InputError, match="no memory of a GPU; accepted: arrays on cuda:0"):
        device_input(told(data=(pinned, False)), cuda, 0, STREAM)
    assert asked(gpus, "cudaStreamSynchronize") == []


@pytest.mark.parametrize("changes", [{"lanes": 2}, {"device_id": 1}, {"code": 4}])
@pytest.mark.parametrize("kind", [Producer, OldProducer])
def test_a_refused_capsule_is_let_go(gpus: FakeCuda, cuda: Cuda, kind: Any, changes: dict[str, int]) -> None:
    values = counting()
    alive = weakref.ref(values)
    with pytest.raises(InputError):
        device_input(kind(values, **changes), cuda, 0, STREAM)
    del values
    gc.collect()
    assert alive() is None


@pytest.mark.gpu
def test_on_a_gpu_an_array_goes_out_and_comes_back() -> None:
    try:
        cuda = Cuda()
        cuda.call("cudaGetDeviceCount")
    except RestDeployError as exc:
        pytest.skip(f"needs an NVIDIA GPU: {exc}")
    values = counting(FLOAT16)
    array = DeviceArray.empty(cuda, 0, values.shape, values.dtype)
    to_device = cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
    cuda.call("cudaMemcpy", array.pointer, values.ctypes.data, values.nbytes, to_device)
    np.testing.assert_array_equal(array.numpy(), values)
    stream = int(cuda.call("cudaStreamCreate"))
    interface = SimpleNamespace(__cuda_array_interface__={**array.__cuda_array_interface__, "stream": stream})
    views = [device_input(array, cuda, 0, stream), device_input(interface, cuda, 0, stream)]
    if torch.cuda.is_available():
        tensor = torch.from_dlpack(array)
        np.testing.assert_array_equal(tensor.cpu().numpy(), values)
        views.append(device_input(tensor, cuda, 0, stream))
    assert [view.pointer for view in views if view] == [array.pointer] * len(views)
    cuda.call("cudaStreamDestroy", stream)
