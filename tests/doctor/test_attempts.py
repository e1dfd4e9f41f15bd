"""Checks that fail in any way become one line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.doctor.attempts import Outcome, attempt, load_module
from rest_deploy.errors import DeviceError, MissingPackageError, install


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
            Outcome(None, f"onnx is needed to export; install it: {install('export')}", missing=True),
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


def test_a_module_that_needs_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is there; that something it needs is not makes it broken, and not missing."""
    (tmp_path / "needy_module.py").write_text("import no_such_module_of_anyone")
    (tmp_path / "mere_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert attempt(load_module, "needy_module", "test", "x") == Outcome(
        None, "ModuleNotFoundError: No module named 'no_such_module_of_anyone'"
    )
    for name in ("mere_folder", "no_such_module_of_anyone", "no_such_package.inner"):
        assert attempt(load_module, name, "test", "x").missing
    sys.modules.pop("mere_folder", None)
    assert attempt(load_module, "json.decoder", "test", "x").value is sys.modules["json.decoder"]
