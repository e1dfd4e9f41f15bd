"""Install lines: they work where they are printed, in a clone and elsewhere."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from rest_deploy import errors

# as they are, before tests/conftest.py says that the package is from a registry
ORIGIN = errors.origin


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package in a folder of its own, as pip installs it, beside no pyproject.toml."""
    package = tmp_path / "site-packages" / "rest_deploy"
    package.mkdir(parents=True)
    monkeypatch.setattr(errors, "__file__", str(package / "errors.py"))
    monkeypatch.setattr(errors, "origin", ORIGIN)
    return package


def _installed_from(monkeypatch: pytest.MonkeyPatch, source: dict[str, Any] | None) -> None:
    class Distribution:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if source is None else json.dumps(source)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())


def test_in_a_clone_the_clone_is_installed(elsewhere: Path) -> None:
    clone = elsewhere.parent
    (clone / "pyproject.toml").touch()
    assert errors.install("export", "cpu", "cpu") == f'pip install -e "{clone}[export,cpu]"'


def test_what_was_installed_from_a_folder_is_installed_from_it(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "a clone {x}"
    clone.mkdir()
    _installed_from(monkeypatch, {"url": clone.as_uri(), "dir_info": {}})
    assert errors.install("gpu") == f'pip install "{clone}[gpu]"'
    clone.rmdir()
    assert errors.install("gpu") == 'pip install "rest-deploy[gpu]"'


def test_what_was_installed_from_a_repository(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _installed_from(monkeypatch, {"url": "https://example.org/r.git", "vcs_info": {"vcs": "git", "commit_id": "0"}})
    assert errors.install("trt") == 'pip install "rest-deploy[trt] @ git+https://example.org/r.git"'


def test_what_came_by_name_is_installed_by_name(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _installed_from(monkeypatch, None)
    assert errors.install("cpu") == 'pip install "rest-deploy[cpu]"'
