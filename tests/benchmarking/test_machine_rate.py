"""The machine's rate of matrix products."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rest_deploy.benchmarking import machine_rate
from rest_deploy.benchmarking.machine_rate import measure_rate, pulse


def test_the_graph_is_what_onnx_makes_of_it() -> None:
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
              for name, shape in (("a", ["m", "k"]), ("b", ["k", "n"]), ("y", ["m", "n"]))}  # fmt: skip
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "rest_deploy", [values["a"], values["b"]], [values["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    assert onnx.load_from_string(machine_rate._GRAPH) == model


def test_products_are_right() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 32, 32)).astype(np.float32)
    products = dict(machine_rate._products(32, 1))
    assert set(products) == {"onnxruntime", "torch"}
    assert products["onnxruntime"]()[0] == pytest.approx(a @ b, rel=1e-4, abs=1e-4)  # type: ignore[index]
    assert np.asarray(products["torch"]()) == pytest.approx(a @ b, rel=1e-4, abs=1e-4)


def test_the_best_of_all_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each library and side takes its own time on a clock that the test sets."""
    now = [0.0]
    seconds = {("slow", 512): 0.1, ("slow", 1024): 0.1, ("fast", 512): 0.001, ("fast", 1024): 0.1}

    def products(side: int, threads: int) -> Iterator[tuple[str, machine_rate.Product]]:
        assert threads == 3
        for by in ("slow", "fast"):

            def run(by: str = by) -> None:
                now[0] += seconds[by, side]

            yield by, run

    monkeypatch.setattr(machine_rate.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(machine_rate, "_products", products)
    monkeypatch.setattr(machine_rate, "_SIDES", (512, 1024))
    rate = measure_rate(3)
    assert (rate.by, rate.side, rate.threads) == ("fast", 512, 3)
    assert rate.gflops == pytest.approx(2 * 512**3 / 0.001 / 1e9)


def test_without_onnx_runtime_and_torch_there_is_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "torch")  # it is not loaded for this
    assert [by for by, _ in machine_rate._products(8, 1)] == ["numpy"]


def test_the_pulse_is_a_product() -> None:
    a, b = machine_rate._matrices(96)
    assert np.asarray(pulse()()) == pytest.approx(a @ b, rel=1e-4, abs=1e-4)
