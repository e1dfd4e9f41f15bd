"""Versions of packages, of broken ones too."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from rest_deploy.machine.packages import installed_version


def test_versions() -> None:
    assert installed_version("numpy") == np.__version__
    assert installed_version("no-such-package-of-anyone") is None


@pytest.mark.parametrize("error", [KeyError("Version"), TypeError("None"), OSError("gone"), None])
def test_metadata_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """As versions of Python tell of a folder without its METADATA."""

    def version(name: str) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert installed_version("numpy") is None


def test_what_an_uninstall_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leftover_pkg-1.2.dist-info").mkdir()
    (tmp_path / "whole_pkg-3.4.dist-info").mkdir()
    (tmp_path / "whole_pkg-3.4.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: whole-pkg\nVersion: 3.4\n"
    )
    (tmp_path / "nameless-1.dist-info").mkdir()
    (tmp_path / "nameless-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [installed_version(name) for name in ("leftover-pkg", "whole-pkg", "nameless")] == [None, "3.4", None]
