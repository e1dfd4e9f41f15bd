"""Which runtime opens which file, and what a runtime needs: a module and a row, and no change of any other file."""

import errno
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rest_deploy import Predictor, benchmark, verify
from rest_deploy.artifact.engine import LIBRARIES
from rest_deploy.artifact.info import ArtifactInfo, Weights
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.benchmarking.measure import Effort
from rest_deploy.cli import bench
from rest_deploy.environment import describe_environment
from rest_deploy.errors import ArtifactError, ConfigError, DeviceError, InputError, MissingPackageError, RestDeployError
from rest_deploy.runtimes import registry
from rest_deploy.runtimes.base import Runtime
from rest_deploy.runtimes.registry import RUNTIMES, device_help, is_checkpoint, open_runtime, read_info
from rest_deploy.specs import Output, Precision, Preprocessing, TensorSpec
from rest_deploy.verification.blocks import onnx_blocks
from tests.cli.test_commands import Outcome
from tests.conftest import IMAGES
from tests.doctor.machines import FakeOnnxRuntime, Machine, hide, steps, table
from tests.runtimes.toy import ROW, ToyRuntime, add_toy, make_toy

FUNCTIONS = pytest.mark.parametrize("function", [open_runtime, read_info])


IMAGE = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
LOGITS = Output("logits", "float32", ("batch", 3))
INFO = ArtifactInfo(
    format="onnx",
    precision=Precision.FP32,
    family="rest",
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


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_row_leads_to_a_runtime(name):
    row = RUNTIMES[name]
    kind = row.load("be tested")
    assert issubclass(kind, Runtime)
    assert all(suffix == suffix.lower() for suffix in (*row.suffixes, *row.more_suffixes))


def test_what_an_extra_installs_brings_a_module_of_its_tensorrt():
    for name, library in LIBRARIES.items():
        assert library.package in {name for names in RUNTIMES[name].packages.values() for name in names}


def test_runtimes_is_read_only():
    with pytest.raises(TypeError, match="does not support item assignment"):
        RUNTIMES["bin"] = RUNTIMES["onnx"]
    with pytest.raises(AttributeError, match="cannot assign to field"):
        RUNTIMES["onnx"].title = "os"


def test_rows_are_read_without_any_library():
    code = "import sys; from rest_deploy.runtimes.registry import RUNTIMES; list(RUNTIMES.values()); "
    code += "print([name for name in ('numpy', 'onnxruntime', 'torch', 'cuda', 'tensorrt') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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


@FUNCTIONS
@pytest.mark.parametrize("suffix", ["", ".onnx", ".engine"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, suffix, function):
    with pytest.raises(ArtifactError, match=r"unknown kind|no such file|too long"):
        function(tmp_path / f"{'x' * 300}{suffix}")


@FUNCTIONS
def test_a_folder_is_told_as_one(tmp_path, function):
    with pytest.raises(ArtifactError, match="a folder, not a file; give the file in it"):
        function(tmp_path)


@FUNCTIONS
@pytest.mark.parametrize("suffix", ["", ".engine", ".pth"])
def test_what_cannot_be_looked_at_is_no_missing_file(tmp_path, monkeypatch, suffix, function):
    """Such as in a folder of somebody else: it may be there, so nothing is to be made."""
    path, real = str(tmp_path / f"model{suffix}"), os.stat

    def stat(asked, **options):
        if str(asked) == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(asked, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(RestDeployError, match=r"model.*: it cannot be looked at: Permission denied$"):
        function(path)


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
    row = replace(RUNTIMES["onnx"], runtime=("rest_deploy.runtimes.none", "None"))
    monkeypatch.setitem(registry._ROWS, "onnx", row)
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


# A toy, known by its module and its row alone (tests/runtimes/toy.py): one new file and one changed, and a line of
# pyproject.toml where it needs an extra of its own.

SMALL = [(33, 40)]


@pytest.fixture
def toy(monkeypatch, tmp_path, tiny_onnx):
    """A file of a runtime that is new."""
    add_toy(monkeypatch)
    return make_toy(tiny_onnx, tmp_path)


def test_a_toy_classifies(toy, tiny_onnx):
    with Predictor(toy) as predictor, Predictor(tiny_onnx) as other:
        ours, theirs = (each.classify(IMAGES / "chelsea.png") for each in (predictor, other))
        assert [one.index for one in ours] == [one.index for one in theirs]
        np.testing.assert_allclose([one.score for one in ours], [one.score for one in theirs], atol=1e-5)
        assert (predictor.info.format, repr(predictor).partition(": ")[2][:24]) == ("toy", "tiny, toy fp32 on cpu, 7")


def test_a_toy_is_verified_and_its_blocks_where_it_shows_them(toy, tiny_checkpoint, tiny_onnx, monkeypatch):
    found = verify(toy, reference=tiny_checkpoint, sizes=SMALL)
    assert found.passed
    with pytest.raises(ConfigError, match=r"tiny\.toy: the blocks of such a file"):
        verify(toy, reference=tiny_checkpoint, sizes=SMALL, per_block=True)
    monkeypatch.setattr(ToyRuntime, "blocks", lambda self: onnx_blocks(self.path), raising=False)
    (result,) = verify(toy, reference=tiny_checkpoint, sizes=SMALL, per_block=True).artifacts
    assert result.blocks.first_over_limit is None
    assert list(result.blocks.blocks)[-1] == "head"


def test_a_toy_is_timed_under_its_title(toy, tiny_onnx, capsys):
    found = benchmark([toy, tiny_onnx], sizes=[(8, 8)], effort=Effort(1, 0.0), cold=False)
    assert found.errors == {}
    assert found.descriptions["tiny.toy"].startswith("Toy ")
    assert found.descriptions["tiny.toy"].endswith(" on cpu")
    assert {one.name: one.where for one in found.contenders} == {"tiny.toy": "cpu", "tiny.onnx": "cpu"}
    flags = ["--sizes", "8", "--min-rounds", "1", "--min-seconds", "0", "--no-cold"]
    done = Outcome(bench, [toy, *flags], capsys)
    assert (done.code, done.err) == (0, "")
    assert found.descriptions["tiny.toy"] in done.out


def test_a_toy_is_in_what_rest_doctor_tells(toy, monkeypatch):
    machine = Machine(monkeypatch, onnxruntime=FakeOnnxRuntime(), pluggy="1.6.0")
    report = machine.look()
    assert table(report)["toy"] == "never yes never"
    (package,) = (package for package in report.packages if package.module == "pluggy")
    assert (package.name, package.version) == ("pluggy", "1.6.0")
    with monkeypatch.context() as patch:
        patch.setattr(ToyRuntime, "probe", lambda _: 1 / 0)
        assert steps(machine.look(), "toy", "cpu") == ("ZeroDivisionError: division by zero",)
    machine.versions.pop("pluggy")
    hide(monkeypatch, "pluggy")
    assert steps(machine.look(), "toy", "cpu") == ('pluggy is not installed; pip install "rest-deploy[export]"',)


def test_a_toys_packages_are_recorded(toy):
    assert describe_environment()["packages"].keys() >= {"pluggy", "numpy"}


def test_what_a_toy_does_not_have_is_refused_with_what_it_has(toy, tmp_path, monkeypatch):
    with pytest.raises(DeviceError, match=r"tiny\.toy: device cuda:1: .* on cpu only; use device cpu"):
        open_runtime(toy, "cuda:1")
    with pytest.raises(ConfigError, match=r"tiny\.toy: .*it has no threads"):
        open_runtime(toy, allow_spinning=False)
    with open_runtime(toy) as runtime, pytest.raises(InputError, match="needed: float32"):
        runtime.run(object())
    (tmp_path / "x.other").touch()
    with pytest.raises(ArtifactError, match=r"accepted: .*\.safetensors, \.toy"):
        open_runtime(tmp_path / "x.other")
    with pytest.raises(ArtifactError, match="its record says format toy; accepted: onnx"):
        open_runtime(toy.rename(tmp_path / "x.onnx"))
    assert not is_checkpoint("x.toy")
    monkeypatch.setitem(registry._ROWS, "toy", replace(ROW, devices={"cuda": "gpu"}))
    assert device_help().endswith("(default cpu, of an engine cuda, of a toy cuda)")


def test_a_toy_is_known_by_its_content(toy, tmp_path, monkeypatch):
    named = toy.rename(tmp_path / "no-suffix")
    with pytest.raises(ArtifactError, match="unknown kind of artifact"):
        read_info(named)
    monkeypatch.setitem(registry._ROWS, "toy", replace(ROW, content=re.compile(rb"\x08")))
    assert read_info(named).format == "toy"


def test_a_package_that_a_toy_imports(toy, monkeypatch):
    forget(monkeypatch, "tests.runtimes.toy", "onnx.reference")
    with pytest.raises(MissingPackageError, match=r"needed to open \.toy files") as caught:
        open_runtime(toy)
    assert (caught.value.package, caught.value.extra) == ("onnx", "export")
