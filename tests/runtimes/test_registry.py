"""Which runtime opens which file."""

import importlib
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rest_deploy.artifact.info import ArtifactInfo, Weights
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.errors import ArtifactError, DeviceError, MissingPackageError
from rest_deploy.runtimes import registry
from rest_deploy.runtimes.base import Runtime
from rest_deploy.runtimes.registry import RUNTIMES, RuntimeRow, open_runtime, read_info
from rest_deploy.specs import Output, Precision, Preprocessing, TensorSpec

FUNCTIONS = pytest.mark.parametrize("function", [open_runtime, read_info])


IMAGE = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
LOGITS = Output("logits", "float32", ("batch", 3))
INFO = ArtifactInfo(
    format="onnx",
    precision=Precision.FP32,
    model="mean",
    config={},
    weights=Weights(seed=0),
    labels=None,
    preprocessing=Preprocessing(),
    input=IMAGE,
    outputs=(LOGITS,),
)


@pytest.fixture
def onnx_file(tmp_path):
    """The smallest artifact: the mean of each channel as the logits of three classes."""
    image, logits = (helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in (IMAGE, LOGITS))
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    mean = helper.make_node("ReduceMean", ["image", "axes"], ["logits"], keepdims=0)
    graph = helper.make_graph([mean], "mean", [image], [logits], [axes])
    path = tmp_path / "mean.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    write_record(path, INFO)
    return path


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_every_row_leads_to_a_runtime(suffix):
    row = RUNTIMES[suffix]
    module = importlib.import_module(row.module)
    assert issubclass(getattr(module, row.name), Runtime)
    assert callable(module.read_info)
    assert suffix == suffix.lower()


def test_runtimes_is_read_only():
    with pytest.raises(TypeError, match="does not support item assignment"):
        RUNTIMES[".bin"] = RUNTIMES[".onnx"]
    with pytest.raises(AttributeError, match="cannot assign to field"):
        RUNTIMES[".onnx"].module = "os"


@FUNCTIONS
@pytest.mark.parametrize("name", ["model.bin", "model", "model.onnx.part", ".onnx", "onnx"])
def test_an_unknown_suffix_is_refused(tmp_path, name, function):
    (tmp_path / name).touch()
    with pytest.raises(ArtifactError, match=r"accepted: \.onnx, \.engine, \.pth, \.pt, \.safetensors"):
        function(tmp_path / name)


@pytest.mark.parametrize("name", ["model.onnx", "MODEL.ONNX"])
@FUNCTIONS
def test_a_missing_file_is_refused(tmp_path, name, function):
    with pytest.raises(ArtifactError, match=f"{name}: no such file"):
        function(str(tmp_path / name))


def forget(monkeypatch, module, package):
    """Pretend that a module was never imported and that its package is not installed."""
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)


@FUNCTIONS
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".PTH"])
def test_a_missing_torch_is_named_with_what_installs_it(monkeypatch, tmp_path, function, suffix):
    forget(monkeypatch, "rest_deploy.runtimes.pytorch", "torch")
    message = rf'torch is needed to open {suffix.lower()} files; install it: pip install "rest-deploy\[export\]"'
    with pytest.raises(MissingPackageError, match=f"(?i){message}") as caught:
        function(tmp_path / f"model{suffix}")
    assert (caught.value.package, caught.value.extra) == ("torch", "export")
    assert isinstance(caught.value, ImportError)


def test_a_missing_onnxruntime_is_named_with_what_installs_it(monkeypatch, onnx_file):
    forget(monkeypatch, "rest_deploy.runtimes.ort", "onnxruntime")
    message = r'onnxruntime is needed to .*pip install "rest-deploy\[cpu\]"'
    with pytest.raises(MissingPackageError, match=message) as caught:
        open_runtime(onnx_file)
    assert (caught.value.package, caught.value.extra) == ("onnxruntime", "cpu")


def test_an_onnx_file_tells_of_itself_without_onnxruntime(monkeypatch, onnx_file):
    forget(monkeypatch, "rest_deploy.runtimes.ort", "onnxruntime")
    assert read_info(onnx_file) == INFO


def test_a_missing_module_of_our_own_is_a_bug_and_not_a_missing_package(monkeypatch):
    row = RuntimeRow("rest_deploy.runtimes.none", "None", "none", "cpu", ("none",))
    monkeypatch.setattr(registry, "RUNTIMES", {".onnx": row})
    with pytest.raises(ModuleNotFoundError, match=r"rest_deploy\.runtimes\.none") as caught:
        open_runtime("model.onnx")
    assert not isinstance(caught.value, MissingPackageError)


def test_the_runtime_gets_path_device_and_threads(onnx_file):
    with open_runtime(onnx_file, device="cpu", threads=1) as runtime:
        assert (runtime.path, runtime.device, runtime.threads) == (onnx_file, "cpu", 1)


def test_an_unknown_device_is_refused(onnx_file, tiny_checkpoint):
    for path in (onnx_file, tiny_checkpoint):
        with pytest.raises(DeviceError, match="device 'tpu'; accepted: cpu, cuda"):
            open_runtime(path, device="tpu")
