"""ONNX Runtime's providers: those that run, and every way in which one does not."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from rest_deploy.doctor import providers
from rest_deploy.doctor.providers import check_integers, check_provider
from rest_deploy.doctor.records import Integers, Provider
from tests.doctor.machines import CPU_EP, CUDA_EP, FakeOnnxRuntime, hide

MonkeyPatch = pytest.MonkeyPatch
BOTH = (CUDA_EP, CPU_EP)
LOG = (
    "\x1b[1;31m2026-11-24 07:00:00.0 [E:onnxruntime:Default, provider_bridge_ort.cc:1992 TryGetProviderInfo_CUDA] "
    "[ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: "
    "libcudnn.so.9: cannot open shared object file: No such file or directory\x1b[m\n"
    "\x1b[0;93m [W:onnxruntime:Default] Failed to create CUDAExecutionProvider. Require cuDNN 9.*\x1b[m\n"
)


def test_the_graph_is_what_the_onnx_package_writes() -> None:
    shapes: dict[str, list[Any]] = {"x": [1, 1, "h", "w"], "w": [1, 1, 1, 1], "y": [1, 1, "h", "w"]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "provider", values[:2], values[2:])
    opsets = [helper.make_opsetid("", 11)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=5, producer_name="rest_deploy")
    onnx.checker.check_model(model)
    assert model.SerializeToString() == providers._GRAPH


def test_the_real_onnxruntime_runs_it_on_the_cpu() -> None:
    assert check_provider("cpu") == Provider(CPU_EP, "cpu")
    assert check_integers().problem == ""


def test_it_is_run_where_no_file_can_be_had_of_memory(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create", raising=False)
    assert check_provider("cpu") == Provider(CPU_EP, "cpu")


def test_a_gpu_that_runs_it(monkeypatch: MonkeyPatch) -> None:
    fake = FakeOnnxRuntime(BOTH).install(monkeypatch)
    assert check_provider("cuda") == Provider(CUDA_EP, "cuda")
    ((asked, entries),) = fake.asked
    assert asked == [(CUDA_EP, {"device_id": 0, "use_tf32": 0})]
    assert entries == {"session.record_ep_graph_assignment_info": "1"}


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (FakeOnnxRuntime(), "the installed ONNX Runtime 1.32.0 has no CUDA provider; install it: pip uninstall onnxr"),
        (FakeOnnxRuntime(BOTH, (CPU_EP,)), "ONNX Runtime could not start its CUDA provider (it has ['CPUExecutionPr"),
        (FakeOnnxRuntime(BOTH, tells=False), "this ONNX Runtime does not tell which provider runs which node"),
        (FakeOnnxRuntime(BOTH, stray=("Conv",)), "one convolution: on cuda:0 ONNX Runtime would run Conv on the CPU"),
        (FakeOnnxRuntime(BOTH, raises=RuntimeError("CUDA failure 999:\n unknown error")),
         "one convolution: ONNX Runtime 1.32.0 cannot load it: CUDA failure 999: unknown error"),
        (FakeOnnxRuntime(BOTH, factor=0.5), "ONNX Runtime multiplies wrongly on cuda: (3.0, 5.0) gave 7.5"),
    ],
)  # fmt: skip
def test_a_gpu_that_does_not(monkeypatch: MonkeyPatch, fake: FakeOnnxRuntime, words: str) -> None:
    fake.install(monkeypatch)
    assert check_provider("cuda").problem.startswith(words)


def test_the_library_that_is_missing_is_told_and_not_printed(
    monkeypatch: MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime has it in its log alone."""
    FakeOnnxRuntime(BOTH, (CPU_EP,), log=LOG).install(monkeypatch)
    problem = check_provider("cuda").problem
    assert problem.endswith("(libcudnn.so.9: cannot open shared object file: No such file or directory)")
    assert capfd.readouterr() == ("", "")


def test_without_a_folder_for_temporary_files_the_rest_is_told(monkeypatch: MonkeyPatch) -> None:
    def refuse() -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(providers.tempfile, "TemporaryFile", refuse)
    FakeOnnxRuntime(BOTH, (CPU_EP,)).install(monkeypatch)
    assert check_provider("cpu").problem == ""
    assert check_provider("cuda").problem.startswith("ONNX Runtime could not start its CUDA provider")


def test_a_cpu_that_is_not_started(monkeypatch: MonkeyPatch) -> None:
    FakeOnnxRuntime(starts=()).install(monkeypatch)
    monkeypatch.setattr("tests.doctor.machines.CPU_EP", "OtherExecutionProvider")
    assert "did not start its CPUExecutionProvider" in check_provider("cpu").problem


def test_without_onnxruntime(monkeypatch: MonkeyPatch) -> None:
    hide(monkeypatch, "onnxruntime")
    for device, extra in (("cpu", "cpu"), ("cuda", "gpu")):
        problem = check_provider(device).problem
        assert problem == f'onnxruntime is needed to run .onnx files; install it: pip install "rest-deploy[{extra}]"'
    assert check_integers() == Integers(None, "ModuleNotFoundError: import of onnxruntime halted; None in sys.modules")


@pytest.mark.parametrize("saturates", [True, False])
def test_integers(monkeypatch: MonkeyPatch, *, saturates: bool) -> None:
    FakeOnnxRuntime(saturates=saturates).install(monkeypatch)
    assert check_integers() == Integers(saturates)
