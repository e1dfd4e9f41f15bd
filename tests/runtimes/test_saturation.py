"""Whether 8-bit sums saturate, asked of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rest_deploy.errors import DeviceError
from rest_deploy.runtimes import saturation


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    saturation.sums_saturate.cache_clear()
    yield
    saturation.sums_saturate.cache_clear()


def test_the_graph_is_what_the_onnx_package_writes() -> None:
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("a", TensorProto.UINT8, ["m", "k"]),
            ("b", TensorProto.INT8, ["k", "n"]),
            ("y", TensorProto.INT32, ["m", "n"]),
        )
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "saturation", values[:2], values[2:]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5, producer_name="rest_deploy"
    )
    onnx.checker.check_model(model)
    assert model.SerializeToString() == saturation._GRAPH


class _Session:
    """ONNX Runtime on a CPU that adds as it is told to."""

    limit = 2**31

    def __init__(self, *_: object, **__: object) -> None: ...

    def run(self, _: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        pairs = feed["a"].astype(np.int64).reshape(1, -1, 2) @ feed["b"].astype(np.int64).reshape(-1, 2, 64)
        return [np.minimum(pairs, self.limit).sum(axis=0)]


@pytest.mark.parametrize(("limit", "saturates"), [(2**15 - 1, True), (2**31, False)])
def test_sums_that_are_too_small_are_seen(monkeypatch: pytest.MonkeyPatch, limit: int, *, saturates: bool) -> None:
    """Vpmaddubsw adds pairs in 16 bits: docs/precision.md has what a real such CPU gave."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", _Session)
    monkeypatch.setattr(_Session, "limit", limit)
    assert saturation.sums_saturate() is saturates


def test_this_cpu_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = saturation.sums_saturate()
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    assert saturation.sums_saturate() is first


def test_a_runtime_without_integers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no MatMulInteger")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(DeviceError, match="cannot multiply 8-bit integers on this CPU: no MatMulInteger"):
        saturation.sums_saturate()
