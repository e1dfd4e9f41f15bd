"""What a run is called by what happened meanwhile, and the machine's rate of matrix products."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rest_deploy.benchmarking import conditions
from rest_deploy.benchmarking.conditions import Conditions, measure_rate, probe
from rest_deploy.environment import Load

QUIET = Load(others=0.01, stolen=0.0, throttled=0)
STEADY = (0.010,) * 30


def test_a_quiet_run_has_no_flags() -> None:
    quiet = Conditions(QUIET, STEADY)
    assert quiet.flags == []
    assert (quiet.spread, quiet.drift) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("load", "seconds", "words"),
    [
        (QUIET._replace(others=0.2), STEADY, "noisy: other processes used 20%"),
        (QUIET._replace(stolen=0.05), STEADY, "noisy: the hypervisor took 5%"),
        (QUIET._replace(throttled=4), STEADY, "throttled: the CPU slowed down for heat (count: 4)"),
        (QUIET, (0.010, 0.013) * 15, "noisy: the time of a fixed matrix product"),
        (QUIET, (0.010,) * 20 + (0.0112,) * 10, "throttled or loaded: the machine was 12% slower at the end"),
    ],
)
def test_each_flag(load: Load, seconds: tuple[float, ...], words: str) -> None:
    (flag,) = Conditions(load, seconds).flags
    assert words in flag


def test_what_the_system_does_not_tell_is_no_flag() -> None:
    unknown = Load(others=None, stolen=None, throttled=None)
    assert Conditions(unknown, ()).flags == []
    assert Conditions(unknown, (0.01,)).to_dict()["probe_spread"] is None


def test_the_graph_is_what_onnx_makes_of_it() -> None:
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
              for name, shape in (("a", ["m", "k"]), ("b", ["k", "n"]), ("y", ["m", "n"]))}  # fmt: skip
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "rest_deploy", [values["a"], values["b"]], [values["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    assert onnx.load_from_string(conditions._GRAPH) == model


def test_products_are_right() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 32, 32)).astype(np.float32)
    products = dict(conditions._products(32, 1))
    assert set(products) == {"onnxruntime", "torch"}
    assert products["onnxruntime"]()[0] == pytest.approx(a @ b, rel=1e-4, abs=1e-4)  # type: ignore[index]
    assert np.asarray(products["torch"]()) == pytest.approx(a @ b, rel=1e-4, abs=1e-4)


def test_the_best_of_all_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each library and side takes its own time on a clock that the test sets."""
    now = [0.0]
    seconds = {("slow", 512): 0.1, ("slow", 1024): 0.1, ("fast", 512): 0.001, ("fast", 1024): 0.1}

    def products(side: int, threads: int) -> Iterator[tuple[str, conditions.Product]]:
        assert threads == 3
        for by in ("slow", "fast"):

            def run(by: str = by) -> None:
                now[0] += seconds[by, side]

            yield by, run

    monkeypatch.setattr(conditions.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(conditions, "_products", products)
    monkeypatch.setattr(conditions, "_SIDES", (512, 1024))
    monkeypatch.setattr(conditions, "_SECONDS", 0.25)
    rate = measure_rate(3)
    assert (rate.by, rate.side, rate.threads) == ("fast", 512, 3)
    assert rate.gflops == pytest.approx(2 * 512**3 / 0.001 / 1e9)


def test_without_onnx_runtime_and_torch_there_is_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "torch")  # it is not loaded for this
    assert [by for by, _ in conditions._products(8, 1)] == ["numpy"]


def test_the_probe_is_a_product() -> None:
    a, b = conditions._matrices(96)
    assert np.asarray(probe()()) == pytest.approx(a @ b, rel=1e-4, abs=1e-4)
