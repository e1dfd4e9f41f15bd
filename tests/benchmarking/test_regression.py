"""A run against an earlier one, with planted changes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from rest_deploy.benchmarking.regression import compare_runs
from rest_deploy.errors import ConfigError

Record = dict[str, Any]


def _record(seed: int = 0, *, factor: float = 1.0, pace: float = 1.0, noise: float = 0.02) -> Record:
    """A run of two contenders at one size; ``factor`` slows one of them, ``pace`` the whole machine."""
    rng = np.random.default_rng(seed)

    def result(name: str, ms: float) -> Record:
        rounds = [list(ms * pace * rng.lognormal(0.0, noise, 4)) for _ in range(20)]
        return {"contender": name, "rounds_ms": rounds, "p50_ms": float(np.median(rounds))}

    return {
        "kind": "rest-bench",
        "contenders": [{"name": name, "device": "cpu"} for name in ("a.onnx", "b.onnx")],
        "environment": {"cpu": "a CPU", "physical_cores": 2, "affinity": [0, 1], "packages": {"onnxruntime": "1.32.0"}},
        "settings": {"threads": 2, "device": None, "min_rounds": 15, "min_seconds": 2.0},
        "cases": [
            {
                "batch": 1, "height": 224, "width": 224, "conditions": {"probe_ms": 2.0 * pace},
                "results": [result("a.onnx", 10.0 * factor), result("b.onnx", 20.0)],
            }
        ],
    }  # fmt: skip


def _verdicts(new: Record, old: Record) -> dict[str, str]:
    return {row.contender: row.verdict.value for row in compare_runs(new, old, "old.json", 0.99).rows}


def test_an_equal_run() -> None:
    assert _verdicts(_record(1), _record(2)) == dict.fromkeys(["a.onnx", "b.onnx"], "no difference beyond noise")


def test_runs_of_one_network_are_never_called_different() -> None:
    found = [verdict for seed in range(40) for verdict in _verdicts(_record(seed), _record(seed + 100)).values()]
    assert set(found) == {"no difference beyond noise"}


def test_what_became_slower_and_what_faster() -> None:
    slower = compare_runs(_record(1, factor=1.2), _record(2), "old.json", 0.99)
    assert [row.contender for row in slower.found] == ["a.onnx"]
    (row,) = slower.found
    assert row.ratio == pytest.approx(1.2, rel=0.02)
    assert row.low < row.ratio < row.high
    assert (row.old_ms, row.new_ms) == (pytest.approx(10.0, rel=0.02), pytest.approx(12.0, rel=0.02))
    assert _verdicts(_record(1, factor=0.8), _record(2))["a.onnx"] == "improvement"


def test_a_machine_that_became_slower_is_no_regression() -> None:
    rows = compare_runs(_record(1, pace=1.5), _record(2), "old.json", 0.99).rows
    assert [row.verdict.value for row in rows] == ["no difference beyond noise"] * 2
    assert rows[0].machine_ratio == pytest.approx(1.5)
    assert rows[0].new_ms / rows[0].old_ms == pytest.approx(1.5, rel=0.02)


def test_without_a_probe_times_are_taken_as_they_are() -> None:
    old = _record(2)
    del old["cases"][0]["conditions"]["probe_ms"]
    assert _verdicts(_record(1, pace=1.5), old)["b.onnx"] == "regression"


def test_another_machine_is_refused() -> None:
    other = _record()
    other["environment"]["cpu"] = "another CPU"
    with pytest.raises(ConfigError, match=r"old.json: made on another machine.*another CPU then, a CPU now"):
        compare_runs(_record(), other, "old.json", 0.99)


def test_another_gpu_is_refused() -> None:
    old, new = _record(), _record()
    old["environment"]["gpus"], new["environment"]["gpus"] = [{"name": "H100"}], [{"name": "H200"}]
    with pytest.raises(ConfigError, match="gpus H100 then, H200 now"):
        compare_runs(new, old, "old.json", 0.99)


def test_the_cpus_pace_says_nothing_of_a_gpu() -> None:
    new = _record(1, pace=1.5)
    new["contenders"][0]["device"] = "cuda:0"
    assert _verdicts(new, _record(2)) == {"a.onnx": "regression", "b.onnx": "no difference beyond noise"}


def test_a_record_of_another_command_is_refused() -> None:
    with pytest.raises(ConfigError, match="rest-verify; accepted: rest-bench"):
        compare_runs(_record(), {"kind": "rest-verify"}, "old.json", 0.99)


def test_nothing_in_common_is_refused() -> None:
    other = copy.deepcopy(_record())
    other["cases"][0]["height"] = 96
    with pytest.raises(ConfigError, match=r"^old\.json: .* no contender and size"):
        compare_runs(_record(), other, "old.json", 0.99)


def test_what_was_not_measured_is_left_out() -> None:
    old = _record()
    old["cases"][0]["results"][1]["rounds_ms"] = []
    assert list(_verdicts(_record(), old)) == ["a.onnx"]


def test_other_versions_and_settings_are_told() -> None:
    old = _record()
    old["environment"]["packages"] = {"onnxruntime": "1.31.0", "openvino": "2026.1"}
    old["settings"]["threads"] = 1
    assert compare_runs(_record(), old, "old.json", 0.99).notes == (
        "onnxruntime was 1.31.0, is 1.32.0",
        "openvino was 2026.1, is not installed",
        "threads was 1, is 2",
    )
