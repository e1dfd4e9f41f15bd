"""What works on a machine: packages, providers, GPUs; every way in which one fails becomes one line."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
from cuda.bindings.runtime import cudaError_t
from onnx import TensorProto, helper

from rest_deploy.artifact.engine import LIBRARIES
from rest_deploy.doctor import checks
from rest_deploy.doctor.checks import (
    CUDA_PYTHON,
    ONNXRUNTIME,
    Outcome,
    attempt,
    check_integers,
    check_package,
    check_provider,
    find_gpus,
    is_older,
    least_version,
    load_module,
    modules_to_check,
    not_installed,
    repair,
    requirements,
)
from rest_deploy.doctor.records import Gpus, Integers, Package, Provider, State
from rest_deploy.errors import DeviceError, MissingPackageError
from rest_deploy.errors import install as pip_line
from rest_deploy.nvidia import NONE_SHOWN
from rest_deploy.runtimes import ort
from tests.conftest import ROOT
from tests.doctor.machines import CPU_EP, CUDA_EP, RTX_4090, FakeOnnxRuntime, broken_module, fake_module, hide, install
from tests.standins.cuda import FakeCuda, FakeDevice

MonkeyPatch = pytest.MonkeyPatch


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (DeviceError("no\n GPU"), Outcome(None, "no GPU")),
        (OSError("libx.so:\n not found"), Outcome(None, "OSError: libx.so: not found")),
        (SystemError(), Outcome(None, "SystemError: SystemError")),
        (
            MissingPackageError("onnx", "export", "export"),
            Outcome(None, f"onnx is needed to export; install it: {pip_line('export')}", missing=True),
        ),
    ],
)
def test_errors(error: Exception, outcome: Outcome[None]) -> None:
    assert attempt(_raise, error) == outcome


def test_a_value() -> None:
    assert attempt(max, 3, 4) == Outcome(4)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_ctrl_c_and_sigterm_end_it(error: BaseException) -> None:
    with pytest.raises(type(error)):
        attempt(_raise, error)


def test_warnings_are_no_failures() -> None:
    assert attempt(warnings.warn, "deprecated", DeprecationWarning) == Outcome(None)


def test_a_module_that_needs_another(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    """It is there; that something it needs is not makes it broken, and not missing."""
    (tmp_path / "needy_module.py").write_text("import no_such_module_of_anyone")
    (tmp_path / "mere_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert attempt(load_module, "needy_module") == Outcome(
        None, "ModuleNotFoundError: No module named 'no_such_module_of_anyone'"
    )
    for name in ("mere_folder", "no_such_module_of_anyone", "no_such_package.inner"):
        assert attempt(load_module, name).missing
    sys.modules.pop("mere_folder", None)
    assert attempt(load_module, "json.decoder").value is sys.modules["json.decoder"]


# What rest-deploy asks for.

LINES = [
    "numpy>=1.26", 'torch>=2.9; extra == "export"', "onnxruntime-gpu >= 1.18 ; extra == 'gpu'",
    'cuda-bindings>=13; extra == "trt-rtx"', 'cuda-bindings>=12.6; extra == "trt"', 'odd!=3; extra == "dev"', "bare",
]  # fmt: skip


def test_metadata_is_read(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: LINES)
    assert requirements() == (
        ("numpy", "1.26", ""), ("torch", "2.9", "export"), ("onnxruntime-gpu", "1.18", "gpu"),
        ("cuda-bindings", "13", "trt-rtx"), ("cuda-bindings", "12.6", "trt"),
    )  # fmt: skip
    assert least_version("cuda-bindings") == "12.6"
    assert least_version("bare") is None


def test_metadata_that_is_not_there(monkeypatch: MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none)
    assert requirements() == ()


def test_every_extra_that_is_advised_is_one_of_pyproject() -> None:
    """The registries and the libraries name extras, and rest-doctor puts them into pip lines."""
    from rest_deploy.artifact.engine import LIBRARIES
    from rest_deploy.export.formats import FORMATS
    from rest_deploy.runtimes.registry import RUNTIMES

    extras = set(re.findall(r"^([\w-]+) = \[\"", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    advised = {extra for row in FORMATS.values() for extra in row.packages.values()}
    advised |= {row.extra for row in LIBRARIES.values()}
    advised |= {extra for row in RUNTIMES.values() for extra in row.devices.values()}
    assert advised <= extras


@pytest.mark.parametrize(
    ("version", "least", "older"),
    [
        ("2.9", "2.9", False), ("2.9.0", "2.9", False), ("2.8.1", "2.9", True), ("2.13.0+cpu", "2.9", False),
        ("2.9.0a0+git1", "2.9", False), ("10.0.1", "9.9", False), ("1.18", "1.18.1", True), ("unknown", "1", True),
    ],
)  # fmt: skip
def test_older(version: str, least: str, *, older: bool) -> None:
    assert is_older(version, least) is older


def test_pip_lines() -> None:
    assert pip_line("export", "export", "cpu") == 'pip install "rest-deploy[export,cpu]"'
    assert not_installed([], []) == ""
    assert not_installed(["torch"], ["export"]) == 'torch is not installed; pip install "rest-deploy[export]"'
    assert not_installed(["a", "b"], ["trt"]) == 'a and b are not installed; pip install "rest-deploy[trt]"'


def test_repairs(monkeypatch: MonkeyPatch) -> None:
    known = install(monkeypatch, tensorrt_rtx_cu13_bindings="1.7", cuda_bindings="13.0")
    assert repair("x fails; pip install y", "x") == "x fails; pip install y"
    assert repair("x fails", "x") == "x fails; pip install --force-reinstall x"
    assert repair("x fails", "x", "trt-rtx") == 'x fails; pip install "rest-deploy[trt-rtx]"'  # libs are missing
    known["tensorrt-rtx-cu13-libs"] = "1.7"
    assert repair("x fails", "x", "trt-rtx") == "x fails; pip install --force-reinstall x"
    assert checks.installed_version("numpy") is None


# Packages.

AGAIN = (
    'pip uninstall onnxruntime onnxruntime-gpu, then pip install "rest-deploy[cpu]" or pip install "rest-deploy[gpu]"'
)


def test_torch_comes_last_and_onnxruntime_before_it() -> None:
    """With torch's CUDA libraries in the process providers load that would not without it."""
    modules = modules_to_check(["new_runtime", "torch"])
    assert modules[0] == "new_runtime"
    assert modules[-1] == "torch"
    assert modules.count("torch") == 1
    assert {module for row in LIBRARIES.values() for module in row.modules} <= set(modules)


def test_one_that_works(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch, onnx="1.23.2", numpy="2.0")
    fake_module(monkeypatch, "onnx")
    assert check_package("onnx") == Package("onnx", "onnx", "1.23.2", State.WORKS)
    assert check_package("numpy").state is State.WORKS


def test_one_without_metadata_tells_its_own_version(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch)
    fake_module(monkeypatch, "tensorrt", __version__="10.9.0.34")
    assert check_package("tensorrt") == Package("tensorrt", "tensorrt", "10.9.0.34", State.WORKS)


def test_tensorrt_is_called_as_its_wheel(monkeypatch: MonkeyPatch) -> None:
    """The package tensorrt needs tensorrt-cu13: both are installed, and that is no conflict."""
    install(monkeypatch, tensorrt_cu13="11.4.0.106", tensorrt="11.4.0.106")
    fake_module(monkeypatch, "tensorrt")
    assert check_package("tensorrt") == Package("tensorrt", "tensorrt", "11.4.0.106", State.WORKS)


def test_one_that_is_not_installed(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch)
    hide(monkeypatch, "torch", "PIL", "onnxruntime", CUDA_PYTHON)
    for module, name in (("torch", "torch"), ("PIL", "pillow"), (CUDA_PYTHON, "cuda-bindings"), (ONNXRUNTIME,) * 2):
        assert check_package(module) == Package(name, module, None, State.MISSING)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("raise OSError('libtorch.so: cannot open\\nshared object file')", "OSError: libtorch.so: cannot open shared"),
        ("raise RuntimeError('compiled against ABI version 0x1')", "RuntimeError: compiled against ABI version 0x1"),
        ("import no_such_module_of_anyone", "ModuleNotFoundError: No module named 'no_such_module_of_anyone'"),
        ("def", "SyntaxError: "),
    ],
)  # fmt: skip
def test_one_that_does_not_load(monkeypatch: MonkeyPatch, tmp_path: Path, statement: str, words: str) -> None:
    install(monkeypatch, torch="2.13.0")
    broken_module(monkeypatch, tmp_path, "torch", statement)
    package = check_package("torch")
    assert (package.version, package.state) == ("2.13.0", State.BROKEN)
    assert package.note.startswith(f"torch is installed but does not load: {words}")
    assert package.note.endswith("; pip install --force-reinstall torch")
    assert "\n" not in package.note


def test_one_whose_files_are_gone(monkeypatch: MonkeyPatch) -> None:
    """Of which pip would say that they are installed already."""
    install(monkeypatch, onnx="1.23.2")
    hide(monkeypatch, "onnx")
    note = "onnx 1.23.2 is installed, but its module onnx is missing; pip install --force-reinstall onnx"
    assert check_package("onnx") == Package("onnx", "onnx", "1.23.2", State.BROKEN, note)


def test_one_that_is_too_old(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch, torch="2.8.0+cpu", onnxruntime_gpu="1.9.0")
    fake_module(monkeypatch, "torch")
    FakeOnnxRuntime().install(monkeypatch)
    torch, onnxruntime = check_package("torch"), check_package(ONNXRUNTIME)
    assert (torch.state, torch.note) == (State.OLD, 'torch 2.8.0+cpu is too old; pip install "torch>=2.9"')
    assert onnxruntime.note == 'onnxruntime-gpu 1.9.0 is too old; pip install "onnxruntime-gpu>=1.18"'


def test_which_onnxruntime(monkeypatch: MonkeyPatch) -> None:
    known = install(monkeypatch, onnxruntime_gpu="1.32.0")
    FakeOnnxRuntime().install(monkeypatch)
    assert check_package(ONNXRUNTIME) == Package("onnxruntime-gpu", ONNXRUNTIME, "1.32.0", State.WORKS)
    known["onnxruntime"] = "1.31.0"
    both = check_package(ONNXRUNTIME)
    assert (both.name, both.state, both.conflict) == ("onnxruntime and onnxruntime-gpu", State.WORKS, True)
    assert both.note == (
        "onnxruntime and onnxruntime-gpu are installed together and overwrite each other's files, so which of them "
        f"runs is chance; {AGAIN}"
    )


def test_an_empty_onnxruntime(monkeypatch: MonkeyPatch) -> None:
    """What is left when both were installed and one was uninstalled."""
    install(monkeypatch, onnxruntime="1.32.0")
    fake_module(monkeypatch, "onnxruntime")
    package = check_package(ONNXRUNTIME)
    assert package.state is State.BROKEN
    assert package.note == (
        "onnxruntime is installed but empty, as where onnxruntime and onnxruntime-gpu were both installed; " + AGAIN
    )


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("raise ImportError('DLL load failed')", "onnxruntime is installed but does not load: DLL load failed; "),
        ("raise OSError('libdnnl.so')", "onnxruntime is installed but does not load: OSError: libdnnl.so; "),
        ("import no_such_module_of_anyone",
         "onnxruntime is installed but does not load: ModuleNotFoundError: No module named 'no_such_module_of_anyone'"),
    ],
)  # fmt: skip
def test_an_onnxruntime_that_does_not_load(
    monkeypatch: MonkeyPatch, tmp_path: Path, statement: str, words: str
) -> None:
    install(monkeypatch, onnxruntime="1.32.0")
    broken_module(monkeypatch, tmp_path, "onnxruntime", statement)
    package = check_package(ONNXRUNTIME)
    assert package.state is State.BROKEN
    assert package.note.startswith(words)
    assert package.note.endswith(AGAIN)


def test_cuda_python(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch, cuda_bindings="13.5.0")
    FakeCuda.no_driver().install(monkeypatch)
    assert check_package(CUDA_PYTHON) == Package("cuda-bindings", CUDA_PYTHON, "13.5.0", State.WORKS)


def test_a_package_of_a_new_row(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch, tflite="3.0")
    fake_module(monkeypatch, "tflite")
    assert check_package("tflite") == Package("tflite", "tflite", "3.0", State.WORKS)


# Execution providers.

BOTH = (CUDA_EP, CPU_EP)
LOG = (
    "\x1b[1;31m2026-11-24 07:00:00.0 [E:onnxruntime:Default, provider_bridge_ort.cc:1992 TryGetProviderInfo_CUDA] "
    "[ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: "
    "libcudnn.so.9: cannot open shared object file: No such file or directory\x1b[m\n"
    "\x1b[0;93m [W:onnxruntime:Default] Failed to create CUDAExecutionProvider. Require cuDNN 9.*\x1b[m\n"
)


def test_the_graph_is_what_the_onnx_package_writes() -> None:
    shapes: dict[str, list[Any]] = {"x": [1, 1, "h", "w"], "w": [1, 1, 1, 1], "y": [1, 1, "h", "w"]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "provider", values[:2], values[2:])
    opsets = [helper.make_opsetid("", 11)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=5, producer_name="rest_deploy")
    onnx.checker.check_model(model)
    assert model.SerializeToString() == ort._CONVOLUTION


def test_the_real_onnxruntime_runs_it_on_the_cpu() -> None:
    assert check_provider("cpu") == Provider(CPU_EP, "cpu")
    assert check_integers().problem == ""


def test_a_gpu_that_runs_it(monkeypatch: MonkeyPatch) -> None:
    fake = FakeOnnxRuntime(BOTH).install(monkeypatch)
    assert check_provider("cuda") == Provider(CUDA_EP, "cuda")
    ((asked, entries),) = fake.asked
    assert asked == [(CUDA_EP, {"device_id": 0, "use_tf32": 0})]
    assert entries == {"session.record_ep_graph_assignment_info": "1"}


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (FakeOnnxRuntime(), "the installed ONNX Runtime 1.32.0 has no CUDA provider; install it: pip uninstall onnxr"),
        (FakeOnnxRuntime(BOTH, (CPU_EP,)), "ONNX Runtime could not start its CUDA provider (it has ['CPUExecutionPr"),
        (FakeOnnxRuntime(BOTH, tells=False), "this ONNX Runtime does not tell which provider runs which node"),
        (FakeOnnxRuntime(BOTH, stray=("Conv",)), "one convolution: on cuda:0 ONNX Runtime would run Conv on the CPU"),
        (FakeOnnxRuntime(BOTH, raises=RuntimeError("CUDA failure 999:\n unknown error")),
         "one convolution: ONNX Runtime 1.32.0 cannot load it: CUDA failure 999: unknown error"),
        (FakeOnnxRuntime(BOTH, factor=0.5), "ONNX Runtime multiplies wrongly on cuda:0: 15.0 came out as 7.5"),
    ],
)  # fmt: skip
def test_a_gpu_that_does_not(monkeypatch: MonkeyPatch, fake: FakeOnnxRuntime, words: str) -> None:
    fake.install(monkeypatch)
    monkeypatch.setattr("rest_deploy.nvidia.gpu_count", lambda: 1)
    assert check_provider("cuda").problem.startswith(words)


def test_no_gpu_and_no_provider_for_it(monkeypatch: MonkeyPatch) -> None:
    """Another ONNX Runtime would not help; where the driver cannot say it may."""
    FakeOnnxRuntime().install(monkeypatch)
    monkeypatch.setattr("rest_deploy.nvidia.gpu_count", lambda: 0)
    assert check_provider("cuda").problem == NONE_SHOWN
    monkeypatch.setattr("rest_deploy.nvidia.gpu_count", lambda: None)
    assert "has no CUDA provider" in check_provider("cuda").problem


def test_the_library_that_is_missing_is_told_and_not_printed(
    monkeypatch: MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime has it in its log alone."""
    FakeOnnxRuntime(BOTH, (CPU_EP,), log=LOG).install(monkeypatch)
    problem = check_provider("cuda").problem
    assert problem.endswith("(libcudnn.so.9: cannot open shared object file: No such file or directory)")
    assert capfd.readouterr() == ("", "")


def test_without_a_folder_for_temporary_files_the_rest_is_told(monkeypatch: MonkeyPatch) -> None:
    def refuse() -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    FakeOnnxRuntime(BOTH, (CPU_EP,)).install(monkeypatch)
    assert check_provider("cpu").problem == ""
    assert check_provider("cuda").problem.startswith("ONNX Runtime could not start its CUDA provider")


def test_a_cpu_that_is_not_started(monkeypatch: MonkeyPatch) -> None:
    FakeOnnxRuntime(starts=()).install(monkeypatch)
    monkeypatch.setattr("tests.doctor.machines.CPU_EP", "OtherExecutionProvider")
    assert "did not start its CPUExecutionProvider" in check_provider("cpu").problem


def test_without_onnxruntime(monkeypatch: MonkeyPatch) -> None:
    hide(monkeypatch, "onnxruntime")
    for device, extra in (("cpu", "cpu"), ("cuda", "gpu")):
        problem = check_provider(device).problem
        assert problem == f'onnxruntime is needed to run .onnx files; install it: pip install "rest-deploy[{extra}]"'
    assert check_integers() == Integers(None, "ModuleNotFoundError: import of onnxruntime halted; None in sys.modules")


@pytest.mark.parametrize("saturates", [True, False])
def test_integers(monkeypatch: MonkeyPatch, *, saturates: bool) -> None:
    FakeOnnxRuntime(saturates=saturates).install(monkeypatch)
    assert check_integers() == Integers(saturates)


# GPUs.

H200 = FakeDevice("NVIDIA H200", (9, 0), 139 << 30)


def test_all_are_found(monkeypatch: MonkeyPatch) -> None:
    FakeCuda((RTX_4090, H200)).install(monkeypatch)
    gpus = find_gpus()
    assert [str(gpu) for gpu in gpus.found] == ["NVIDIA GeForce RTX 4090 (sm89)", "NVIDIA H200 (sm90)"]
    assert (gpus.problem, gpus.absent, gpus.driver_cuda) == ("", False, "13.0")


@pytest.mark.parametrize(
    ("cuda", "words", "absent", "driver"),
    [
        (FakeCuda.no_driver(), "there is no NVIDIA driver here; install one", True, None),
        (FakeCuda.no_gpu(), "the NVIDIA driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES", True, "13.0"),
        (FakeCuda.old_driver(), "the NVIDIA driver supports CUDA 12.2, cuda-bindings needs CUDA ", False, "12.2"),
        (FakeCuda((), cudaError_t.cudaErrorDevicesUnavailable), "cudaGetDeviceCount failed: ", False, "13.0"),
    ],
    ids=["no driver", "no GPU", "old driver", "busy"],
)
def test_none_are_found(monkeypatch: MonkeyPatch, cuda: FakeCuda, words: str, driver: str, *, absent: bool) -> None:
    """An old driver has a GPU behind it; that there is none is known only of the others."""
    cuda.install(monkeypatch)
    gpus = find_gpus()
    assert gpus.found == ()
    assert gpus.problem.startswith(words)
    assert (gpus.absent, gpus.driver_cuda) == (absent, driver)


def test_without_cuda_python(monkeypatch: MonkeyPatch) -> None:
    """Where the driver shows no GPU, no package is asked for."""
    for shown in (1, None, 0):
        monkeypatch.setattr("rest_deploy.nvidia.gpu_count", lambda shown=shown: shown)
        hide(monkeypatch, "cuda.bindings.runtime")
        said = 'cuda-bindings is needed to use an NVIDIA GPU; install it: pip install "rest-deploy[trt]"'
        assert find_gpus() == (Gpus(problem=NONE_SHOWN, absent=True) if shown == 0 else Gpus(problem=said))


@pytest.mark.parametrize("lost", [0, 1])
def test_one_that_cannot_be_asked_does_not_hide_the_others(monkeypatch: MonkeyPatch, lost: int) -> None:
    fake = FakeCuda((RTX_4090, H200)).install(monkeypatch)
    real = fake.module.cudaGetDeviceProperties
    none = (cudaError_t.cudaErrorUnknown, None)
    monkeypatch.setattr(fake.module, "cudaGetDeviceProperties", lambda index: none if index == lost else real(index))
    gpus = find_gpus()
    assert [gpu.index for gpu in gpus.found] == [1 - lost]
    assert gpus.problem == "cudaGetDeviceProperties failed: unknown error (cudaErrorUnknown)"
