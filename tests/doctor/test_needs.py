"""What rest-deploy asks for by its own metadata, and the pip lines made of it."""

from __future__ import annotations

import importlib.metadata
import re

import pytest

from rest_deploy.doctor import needs
from rest_deploy.doctor.needs import is_older, least_version, not_installed, repair, requirements
from rest_deploy.errors import install
from tests.conftest import ROOT
from tests.doctor.machines import install as planted

LINES = [
    "numpy>=1.26", 'torch>=2.9; extra == "export"', "onnxruntime-gpu >= 1.18 ; extra == 'gpu'",
    'cuda-bindings>=13; extra == "trt-rtx"', 'cuda-bindings>=12.6; extra == "trt"', 'odd!=3; extra == "dev"', "bare",
]  # fmt: skip


def test_metadata_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: LINES)
    assert requirements() == (
        ("numpy", "1.26", ""), ("torch", "2.9", "export"), ("onnxruntime-gpu", "1.18", "gpu"),
        ("cuda-bindings", "13", "trt-rtx"), ("cuda-bindings", "12.6", "trt"),
    )  # fmt: skip
    assert least_version("cuda-bindings") == "12.6"
    assert least_version("bare") is None


def test_metadata_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none)
    assert requirements() == ()


def test_every_extra_that_is_advised_is_one_of_pyproject() -> None:
    """The registries and the libraries name extras, and rest-doctor puts them into pip lines."""
    from rest_deploy.export.formats import FORMATS
    from rest_deploy.nvidia.library import LIBRARIES
    from rest_deploy.runtimes.registry import RUNTIMES

    extras = set(re.findall(r"^([\w-]+) = \[\"", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    advised = {extra for row in FORMATS.values() for extra in row.packages.values()}
    advised |= {row.extra for row in (*LIBRARIES.values(), *RUNTIMES.values())} | {"cpu", "gpu"}
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
    assert install("export", "export", "cpu") == 'pip install "rest-deploy[export,cpu]"'
    assert not_installed([], []) == ""
    assert not_installed(["torch"], ["export"]) == 'torch is not installed; pip install "rest-deploy[export]"'
    assert not_installed(["a", "b"], ["trt"]) == 'a and b are not installed; pip install "rest-deploy[trt]"'


def test_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    known = planted(monkeypatch, tensorrt_rtx_cu13_bindings="1.7", cuda_bindings="13.0")
    assert repair("x fails; pip install y", ["x"]) == "x fails; pip install y"
    assert repair("x fails", ["x", "y"]) == "x fails; pip install --force-reinstall x y"
    assert repair("x fails", ["x"], "trt-rtx") == 'x fails; pip install "rest-deploy[trt-rtx]"'  # libs are missing
    known["tensorrt-rtx-cu13-libs"] = "1.7"
    assert repair("x fails", ["x"], "trt-rtx") == "x fails; pip install --force-reinstall x"
    assert needs.installed_version("numpy") is None
