"""First starts: processes that end as they should not are told of."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking import cold
from rest_deploy.benchmarking.cold import measure_cold, start
from rest_deploy.benchmarking.contenders import Contender, artifact_contenders

CASES = [InputSize.parse("2x24x24"), InputSize.parse("16")]


@pytest.fixture
def contender(tiny_onnx: Path) -> Contender:
    (made,) = artifact_contenders([tiny_onnx], None, 1)
    return made


def test_a_contender_goes_to_another_process_as_it_is(contender: Contender) -> None:
    assert Contender.from_json(contender.to_json()) == contender


def test_small_cases_come_first(contender: Contender) -> None:
    told: list[cold.Cold] = []
    start(contender, CASES, told.append)
    assert [list(known.peak_mib) for known in told] == [["1x16x16"], ["1x16x16", "2x24x24"]]
    assert told[-1].error is None


def test_a_file_that_is_gone(contender: Contender) -> None:
    found = measure_cold(replace(contender, file="/none.onnx"), CASES)
    assert (found.load_ms, found.first_answer_ms, found.peak_mib) == (None, None, {})
    assert found.error is not None
    assert "no such file" in found.error


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9 "),
        ("raise SystemExit('no such thing')", " 1: no such thing"),
        ("print('not a record')", " 0: no message"),
        ("", " 0: no message"),
    ],
)
def test_a_process_that_dies(
    contender: Contender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    (tmp_path / "dies.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cold, "__name__", "dies")
    error = measure_cold(contender, CASES).error
    assert error is not None
    assert "its process" in error
    assert words in error


def test_what_was_known_before_a_process_was_killed(
    contender: Contender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asdict(cold.Cold(12.0, 5.0, {"1x16x16": 80.0}, None))
    code = f"import os, signal; print({json.dumps(told)!r}, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    (tmp_path / "dies.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cold, "__name__", "dies")
    found = measure_cold(contender, CASES)
    assert (found.load_ms, found.peak_mib, found.killed) == (12.0, {"1x16x16": 80.0}, True)
