"""ONNX Runtime's own part: foreign files, and no silent fallback from a GPU (on stand-ins; tests marked gpu run it)."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rest_deploy.errors import ArtifactError, DeviceError, PredictorError
from rest_deploy.machine import usable_cores
from rest_deploy.runtimes import ort as module
from rest_deploy.runtimes.ort import OnnxRuntime, open_session
from rest_deploy.specs import Device
from tests.conftest import TINY
from tests.export.conftest import all_nodes


class FakeSession:
    """A session as ONNX Runtime gives it: with providers, and the operators that each of them got."""

    def __init__(self, providers: list[str], assigned: dict[str, list[str]]) -> None:
        self._providers, self._assigned = providers, assigned
        self.fallback = True

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image", shape=["batch", 3, "height", "width"])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="logits", shape=["batch", TINY.num_classes])]

    def get_providers(self) -> list[str]:
        return self._providers

    def disable_fallback(self) -> None:
        self.fallback = False

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda nodes=nodes: nodes)
            for name, nodes in (
                (
                    name,
                    [SimpleNamespace(op_type=kind, name=own) for kind, _, own in (one.partition(" ") for one in kinds)],
                )
                for name, kinds in self._assigned.items()
            )
        ]


def _pretend(monkeypatch: pytest.MonkeyPatch, session: FakeSession) -> dict[str, Any]:
    """ONNX Runtime with a CUDA provider whose sessions are ``session``; returns what they were asked for."""
    import onnxruntime

    asked: dict[str, Any] = {}

    def make(path: str, options: Any, providers: Any, enable_fallback: int) -> FakeSession:
        asked.update(providers=providers, options=options, enable_fallback=enable_fallback)
        return session

    fake = SimpleNamespace(
        __version__="0", SessionOptions=onnxruntime.SessionOptions, InferenceSession=make,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )  # fmt: skip
    monkeypatch.setattr(module, "import_onnxruntime", lambda device: fake)
    return asked


def test_a_gpu_session_asks_for_its_gpu_and_disables_fallback(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession(
        ["CUDAExecutionProvider", "CPUExecutionProvider"],
        {"CUDAExecutionProvider": ["MatMul", "Softmax"], "CPUExecutionProvider": ["Shape", "Cast"]},
    )
    asked = _pretend(monkeypatch, session)
    OnnxRuntime(tiny_onnx, "cuda:2")
    assert asked["providers"] == [("CUDAExecutionProvider", {"device_id": 2, "use_tf32": 0})]
    assert asked["options"].get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
    assert session.fallback is False
    assert asked["enable_fallback"] == 0


def test_gelu_is_one_operator_apart_from_its_bias(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's kernel for both takes longer than those of each."""
    own = module._options
    optimized = tmp_path / "optimized.onnx"

    def options(*arguments: Any, **named: Any) -> Any:
        made = own(*arguments, **named)
        made.optimized_model_filepath = str(optimized)
        return made

    monkeypatch.setattr(module, "_options", options)
    OnnxRuntime(tiny_onnx, "cpu").close()
    fused = Counter(node.op_type for node in all_nodes(onnx.load(optimized).graph))
    assert fused["Gelu"] == 2 * sum(TINY.depths)  # as traced, and in blocks
    assert not fused.keys() & {"Erf", "BiasGelu"}


def test_a_provider_that_did_not_start_is_an_error(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, FakeSession(["CPUExecutionProvider"], {"CPUExecutionProvider": ["MatMul"]}))
    with pytest.raises(DeviceError, match="could not start its CUDA provider"):
        OnnxRuntime(tiny_onnx, "cuda")


def test_a_computation_left_on_the_cpu_is_an_error(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession(
        ["CUDAExecutionProvider", "CPUExecutionProvider"],
        {"CUDAExecutionProvider": ["MatMul"], "CPUExecutionProvider": ["Shape", "LayerNormalization", "Erf"]},
    )
    _pretend(monkeypatch, session)
    with pytest.raises(DeviceError, match="would run Erf, LayerNormalization on the CPU"):
        OnnxRuntime(tiny_onnx, "cuda")


@pytest.mark.parametrize(
    ("node", "stray"),
    [
        ("Mul stage1_0.attn/node_blocks_3", False),
        ("Where pixels/node_12", False),
        ("MatMul pixels/node_40", True),
        ("Mul stage1_0.attn/node_mul", True),
        ("Mul a/pixels/node_1", True),
    ],
)
def test_our_arithmetic_on_sizes_may_be_on_the_cpu_and_no_pixels(
    node: str, *, stray: bool, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    _pretend(monkeypatch, FakeSession(providers, {"CUDAExecutionProvider": ["MatMul"], "CPUExecutionProvider": [node]}))
    refused = pytest.raises(DeviceError, match="on the CPU; use device cpu") if stray else nullcontext()
    with refused:
        OnnxRuntime(tiny_onnx, "cuda").close()


def test_a_name_that_is_no_utf8(tiny_onnx: Path, tmp_path: Path) -> None:
    """ONNX Runtime never sees it: it is given the bytes that were checked."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.onnx"))
    shutil.copy(tiny_onnx, path)
    with OnnxRuntime(path, "cpu") as runtime:
        assert runtime.run(np.zeros((1, 3, 9, 9), np.float32))["logits"].shape == (1, 7)


def test_a_foreign_onnx_file(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:])), tmp_path / "f.onnx")
    with pytest.raises(ArtifactError, match="that rest-export did not make"):
        OnnxRuntime(tmp_path / "f.onnx", "cpu")


def test_calls_keep_no_second_copy_of_their_memory(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ONNX Runtime's memory patterns the second call of a size takes up to as much again as the first."""
    asked = _pretend(monkeypatch, FakeSession(["CPUExecutionProvider"], {}))
    OnnxRuntime(tiny_onnx, "cpu")
    assert asked["options"].enable_mem_pattern is False


@pytest.fixture(params=["apart", "whole"])
def handed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How ONNX Runtime is given weights: apart from their graph, or within it, as before 1.24."""
    if request.param == "whole":
        monkeypatch.delattr(onnxruntime.SessionOptions, _APART, raising=False)
    elif not hasattr(onnxruntime.SessionOptions, _APART):
        pytest.skip("this ONNX Runtime takes no weights apart from their graph")
    return str(request.param)


_APART = "add_external_initializers_from_files_in_memory"


def test_what_is_run_is_what_was_checked(
    handed: str, tiny_onnx: Path, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the file as it is afterwards, nor one of the name that weights have in memory; answers to the bit."""
    batch = rng.standard_normal((2, 3, 33, 47)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    bare = onnxruntime.InferenceSession(tiny_onnx, options, providers=["CPUExecutionProvider"])
    (wanted,) = bare.run(None, {"image": batch})
    path, given = tmp_path / "model.onnx", []
    shutil.copy(tiny_onnx, path)
    (tmp_path / module._IN_MEMORY).write_bytes(bytes(path.stat().st_size))
    monkeypatch.chdir(tmp_path)
    make = onnxruntime.InferenceSession

    def made(model: bytes, *arguments: Any, **named: Any) -> Any:
        path.write_bytes(bytes(path.stat().st_size))
        given.append(len(model))
        return make(model, *arguments, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", made)
    with OnnxRuntime(path, "cpu") as runtime:
        np.testing.assert_array_equal(runtime.run(batch)["logits"], wanted)
        assert runtime._session._model_bytes is None
    assert (given[0] < tiny_onnx.stat().st_size) == (handed == "apart")


@pytest.mark.skipif(not hasattr(onnxruntime.SessionOptions, _APART), reason="this ONNX Runtime takes no weights apart")
def test_weights_apart_make_the_same_graph(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ONNX Runtime folds and fuses, and all weights of it; their order differs between two runs of one way too."""
    make, graphs = onnxruntime.InferenceSession, []
    for way in ("apart", "whole"):

        def made(model: bytes, options: Any, *, way: str = way, **named: Any) -> Any:
            options.optimized_model_filepath = str(tmp_path / way)
            return make(model, options, **named)

        monkeypatch.setattr(onnxruntime, "InferenceSession", made)
        OnnxRuntime(tiny_onnx, "cpu").close()
        graph = onnx.load(tmp_path / way).graph
        kinds = Counter((node.domain, node.op_type, str(node.attribute)) for node in graph.node)
        graphs.append((kinds, {own.name: own for own in graph.initializer}))
        monkeypatch.delattr(onnxruntime.SessionOptions, _APART, raising=False)
    assert graphs[0] == graphs[1]


@pytest.mark.gpu
def test_cuda_agrees_with_cpu(tiny_onnx: Path, rng: np.random.Generator) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider (onnxruntime-gpu and an NVIDIA GPU are needed)")
    with OnnxRuntime(tiny_onnx, "cuda") as gpu, OnnxRuntime(tiny_onnx, "cpu") as cpu:
        for shape in ((1, 3, 1, 1), (2, 3, 97, 131), (1, 3, 512, 512)):
            batch = rng.standard_normal(shape).astype(np.float32)
            # TF32 is switched off, so float32 rounding through a dozen layers
            np.testing.assert_allclose(gpu.run(batch)["logits"], cpu.run(batch)["logits"], rtol=0, atol=1e-4)


def test_a_file_that_is_not_ours_may_leave_work_to_the_cpu(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession(["CUDAExecutionProvider", "CPUExecutionProvider"], {"CPUExecutionProvider": ["Erf"]})
    _pretend(monkeypatch, session)
    assert open_session(tiny_onnx.read_bytes(), tiny_onnx, Device("cuda"), None, strict=False) is session
    with pytest.raises(DeviceError, match="would run Erf on the CPU"):
        open_session(tiny_onnx.read_bytes(), tiny_onnx, Device("cuda"), None)


# Whether 8-bit sums saturate, asked of ONNX Runtime.


@pytest.fixture
def asked_anew() -> Iterator[None]:
    module.sums_saturate.cache_clear()
    yield
    module.sums_saturate.cache_clear()


def test_the_product_is_what_the_onnx_package_writes() -> None:
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
    assert model.SerializeToString() == module._PRODUCT


class _Session:
    """ONNX Runtime on a CPU that adds as it is told to."""

    limit = 2**31

    def __init__(self, *_: object, **__: object) -> None: ...

    def run(self, _: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        pairs = feed["a"].astype(np.int64).reshape(1, -1, 2) @ feed["b"].astype(np.int64).reshape(-1, 2, 64)
        return [np.minimum(pairs, self.limit).sum(axis=0)]


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(("limit", "saturates"), [(2**15 - 1, True), (2**31, False)])
def test_sums_that_are_too_small_are_seen(monkeypatch: pytest.MonkeyPatch, limit: int, *, saturates: bool) -> None:
    """Vpmaddubsw adds pairs in 16 bits: docs/precision.md has what a real such CPU gave."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", _Session)
    monkeypatch.setattr(_Session, "limit", limit)
    assert module.sums_saturate() is saturates


@pytest.mark.usefixtures("asked_anew")
def test_this_cpu_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = module.sums_saturate()
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    assert module.sums_saturate() is first


@pytest.mark.usefixtures("asked_anew")
def test_a_runtime_without_integers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no MatMulInteger")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(DeviceError, match="cannot multiply 8-bit integers on this CPU: no MatMulInteger"):
        module.sums_saturate()


@pytest.mark.parametrize("classes", [6, 8])
@pytest.mark.parametrize("bad", [False, True])
def test_logits_of_another_number_than_the_record_says(
    classes: int, bad: bool, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a graph that declares 7 classes and computes others: its last node decides."""
    batch = np.zeros((2, 3, 20, 20), np.float32)
    batch[1, 0, 0, 0] = np.nan if bad else 0
    with OnnxRuntime(tiny_onnx, "cpu") as runtime:
        monkeypatch.setattr(runtime, "_run", lambda batch: {"logits": np.zeros((len(batch), classes), np.float32)})
        with pytest.raises(PredictorError, match=rf"logits is of shape \(\d, {classes}\).*\(\d, 7\)"):
            runtime.run(batch)
