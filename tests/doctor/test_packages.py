"""Packages that work, are missing, too old, broken in every way, or in each other's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from rest_deploy.doctor.packages import CUDA_PYTHON, ONNXRUNTIME, check_package, package_rows
from rest_deploy.doctor.records import Package, State
from rest_deploy.nvidia.library import LIBRARIES
from tests.doctor.machines import FakeOnnxRuntime, broken_module, fake_module, hide, install
from tests.standins.cuda import FakeCuda

MonkeyPatch = pytest.MonkeyPatch
AGAIN = (
    'pip uninstall onnxruntime onnxruntime-gpu, then pip install "rest-deploy[cpu]" or pip install "rest-deploy[gpu]"'
)


def check(module: str) -> Package:
    """The package of a module, as the table has it."""
    return check_package(next(row for row in package_rows([module]) if row.module == module))


def test_torch_comes_last_and_onnxruntime_before_it() -> None:
    """With torch's CUDA libraries in the process providers load that would not without it."""
    modules = [row.module for row in package_rows(["new_runtime", "torch"])]
    assert modules[0] == "new_runtime"
    assert modules[-1] == "torch"
    assert modules.count("torch") == 1
    assert {module for row in LIBRARIES.values() for module in row.modules} <= set(modules)


def test_one_that_works(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch, onnx="1.23.2", numpy="2.0")
    fake_module(monkeypatch, "onnx")
    assert check("onnx") == Package("onnx", "onnx", "1.23.2", State.WORKS)
    assert check("numpy").state is State.WORKS


def test_one_without_metadata_tells_its_own_version(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch)
    fake_module(monkeypatch, "tensorrt", __version__="10.9.0.34")
    assert check("tensorrt") == Package("tensorrt", "tensorrt", "10.9.0.34", State.WORKS)


def test_tensorrt_is_called_as_its_wheel(monkeypatch: MonkeyPatch) -> None:
    """The package tensorrt needs tensorrt-cu13: both are installed, and that is no conflict."""
    install(monkeypatch, tensorrt_cu13="11.4.0.106", tensorrt="11.4.0.106")
    fake_module(monkeypatch, "tensorrt")
    assert check("tensorrt") == Package("tensorrt", "tensorrt", "11.4.0.106", State.WORKS)


def test_one_that_is_not_installed(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch)
    hide(monkeypatch, "torch", "PIL", "onnxruntime", CUDA_PYTHON)
    for module, name in (("torch", "torch"), ("PIL", "pillow"), (CUDA_PYTHON, "cuda-bindings"), (ONNXRUNTIME,) * 2):
        assert check(module) == Package(name, module, None, State.MISSING)


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
    package = check("torch")
    assert (package.version, package.state) == ("2.13.0", State.BROKEN)
    assert package.note.startswith(f"torch is installed but does not load: {words}")
    assert package.note.endswith("; pip install --force-reinstall torch")
    assert "\n" not in package.note


def test_one_whose_files_are_gone(monkeypatch: MonkeyPatch) -> None:
    """Of which pip would say that they are installed already."""
    install(monkeypatch, onnx="1.23.2")
    hide(monkeypatch, "onnx")
    note = "onnx 1.23.2 is installed, and there is no onnx; pip install --force-reinstall onnx"
    assert check("onnx") == Package("onnx", "onnx", "1.23.2", State.BROKEN, note)


def test_one_that_is_too_old(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch, torch="2.8.0+cpu", onnxruntime_gpu="1.9.0")
    fake_module(monkeypatch, "torch")
    FakeOnnxRuntime().install(monkeypatch)
    torch, onnxruntime = check("torch"), check(ONNXRUNTIME)
    assert (torch.state, torch.note) == (State.OLD, 'torch 2.8.0+cpu is too old; pip install "torch>=2.9"')
    assert onnxruntime.note == 'onnxruntime-gpu 1.9.0 is too old; pip install "onnxruntime-gpu>=1.18"'


def test_which_onnxruntime(monkeypatch: MonkeyPatch) -> None:
    known = install(monkeypatch, onnxruntime_gpu="1.32.0")
    FakeOnnxRuntime().install(monkeypatch)
    assert check(ONNXRUNTIME) == Package("onnxruntime-gpu", ONNXRUNTIME, "1.32.0", State.WORKS)
    known["onnxruntime"] = "1.31.0"
    both = check(ONNXRUNTIME)
    assert (both.name, both.state, both.conflict) == ("onnxruntime and onnxruntime-gpu", State.WORKS, True)
    assert both.note == (
        "onnxruntime and onnxruntime-gpu are installed together and overwrite each other's files, so which of them "
        f"runs is chance; {AGAIN}"
    )


def test_an_empty_onnxruntime(monkeypatch: MonkeyPatch) -> None:
    """What is left when both were installed and one was uninstalled."""
    install(monkeypatch, onnxruntime="1.32.0")
    fake_module(monkeypatch, "onnxruntime")
    package = check(ONNXRUNTIME)
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
    package = check(ONNXRUNTIME)
    assert package.state is State.BROKEN
    assert package.note.startswith(words)
    assert package.note.endswith(AGAIN)


def test_cuda_python(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch, cuda_bindings="13.5.0")
    FakeCuda.no_driver().install(monkeypatch)
    assert check(CUDA_PYTHON) == Package("cuda-bindings", CUDA_PYTHON, "13.5.0", State.WORKS)


def test_a_package_of_a_new_row(monkeypatch: MonkeyPatch) -> None:
    install(monkeypatch, tflite="3.0")
    fake_module(monkeypatch, "tflite")
    assert check("tflite") == Package("tflite", "tflite", "3.0", State.WORKS)
