"""Which TensorRT is there: found without importing it, and imported under the first of its names."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from rest_deploy.errors import DeviceError, MissingPackageError
from rest_deploy.nvidia import LIBRARIES, Library, is_installed, load_library

NAMES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


@pytest.fixture
def machine(monkeypatch):
    """A machine on which only the modules named, with their versions, are installed."""

    def make(**versions):
        for name in NAMES:
            module = None
            if name in versions:
                module = ModuleType(name)
                module.__spec__ = ModuleSpec(name, None)
                module.__version__ = versions[name]
            monkeypatch.setitem(sys.modules, name, module)

    return make


@pytest.fixture
def broken(machine, monkeypatch, tmp_path):
    """A tensorrt that is there and raises when it is imported."""

    def make(statement):
        machine()
        monkeypatch.delitem(sys.modules, "tensorrt")
        (tmp_path / "tensorrt.py").write_text(statement)
        monkeypatch.syspath_prepend(tmp_path)

    return make


@pytest.mark.parametrize(
    ("there", "installed"),
    [
        ({}, set()),
        ({"tensorrt": "10.9.0.34"}, {"trt"}),
        ({"tensorrt_rtx": "1.7.1.116"}, {"trt-rtx"}),
        ({"tensorrt_rtx_bindings": "1.7.1.116"}, {"trt-rtx"}),
        ({"tensorrt": "10.9.0.34", "tensorrt_rtx": "1.7.1.116"}, {"trt", "trt-rtx"}),
    ],
)
def test_what_is_installed(machine, there, installed):
    machine(**there)
    assert {name for name in LIBRARIES if is_installed(name)} == installed


def test_looking_does_not_import(broken):
    broken("raise SystemExit('it was imported')")
    assert is_installed("trt")
    assert "tensorrt" not in sys.modules


@pytest.mark.parametrize(
    ("name", "there", "module", "title"),
    [
        ("trt", {"tensorrt": "10.9.0.34", "tensorrt_rtx": "1.7"}, "tensorrt", "TensorRT 10.9.0.34"),
        ("trt-rtx", {"tensorrt": "10", "tensorrt_rtx_bindings": "1.7"}, "tensorrt_rtx_bindings", "TensorRT-RTX 1.7"),
        ("trt-rtx", {"tensorrt_rtx": "1.8", "tensorrt_rtx_bindings": "1.7"}, "tensorrt_rtx", "TensorRT-RTX 1.8"),
    ],
)
def test_a_library_is_imported_under_its_first_name(machine, name, there, module, title):
    machine(**there)
    library = load_library(name, "run this engine")
    assert library.api is sys.modules[module]
    assert library.version == there[module]
    assert (library.name, str(library)) == (name, title)


@pytest.mark.parametrize(("name", "is_rtx"), [("trt", False), ("trt-rtx", True)])
def test_which_is_rtx(name, is_rtx):
    assert Library(name, None, "1.0").is_rtx is is_rtx


@pytest.mark.parametrize(
    ("name", "other", "package"),
    [("trt", "tensorrt_rtx", "tensorrt"), ("trt-rtx", "tensorrt", "tensorrt-rtx-cu13-bindings")],
)
def test_a_missing_library_names_its_package(machine, name, other, package):
    """One does not stand for the other."""
    machine(**{other: "10.9.0.34"})
    said = rf'^{package} is needed to run this engine; install it: pip install "rest-deploy\[{name}\]"$'
    with pytest.raises(MissingPackageError, match=said):
        load_library(name, "run this engine")


@pytest.mark.parametrize(
    "error",
    [
        "OSError('libnvinfer.so.10: cannot open shared object file')",
        "ImportError('libnvinfer.so.10: cannot open shared object file')",
        "RuntimeError('libnvinfer.so.10: cannot open shared\\nobject file')",
    ],
)
def test_a_library_that_does_not_load(broken, error):
    broken(f"raise {error}")
    said = r"^tensorrt is installed but does not load: libnvinfer\.so\.10: cannot open shared object file$"
    with pytest.raises(DeviceError, match=said):
        load_library("trt", "run this engine")


@pytest.mark.skipif(not is_installed("trt-rtx"), reason="pip install 'rest-deploy[trt-rtx]'")
def test_the_real_one():
    library = load_library("trt-rtx", "test")
    assert library.version.startswith("1.")
    assert library.api.Builder
