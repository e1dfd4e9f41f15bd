"""What every runtime must do, run over every runtime."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rest_deploy.artifact.address import Address
from rest_deploy.artifact.manifest import manifest_path
from rest_deploy.errors import ArtifactError, CheckpointError, DeviceError, InputError, PredictorError, RestDeployError
from rest_deploy.runtimes.base import Runtime
from rest_deploy.runtimes.registry import open_runtime, read_info
from tests.conftest import TINY, slow
from tests.engines import Machine
from tests.runtimes.toy import add_toy, make_toy
from tests.runtimes.vulkan import needs_software_vulkan
from tests.standins.onnx_providers import PROVIDERS, FakeProvider
from tests.standins.tensorrt import API_CASES

_DEVICES = ("openvino", pytest.param("webgpu:software", marks=pytest.mark.slow), *PROVIDERS)


@pytest.fixture(params=["onnx", *_DEVICES, "pytorch", "toy", *API_CASES, *slow(["http", "grpc"])])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of artifact, or the device of an ONNX file; TensorRT in ONNX Runtime is a stand-in."""
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO, an extra of its own, is not installed")
    if request.param == "webgpu:software":
        needs_software_vulkan()
    if request.param in PROVIDERS:
        FakeProvider(request.param).install(monkeypatch)
    return str(request.param)


@pytest.fixture
def device(kind: str) -> str | None:
    """What is asked for; None for the runtime's default."""
    return kind if kind in ("openvino", "webgpu:software", *PROVIDERS) else None


@pytest.fixture
def artifact(
    kind: str, device: str | None, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path | Address:
    """An artifact of each kind; engines are built and run by the stand-in of each version of TensorRT, and a model on a
    server by a real one.
    """
    if kind in ("http", "grpc"):
        address: Address = request.getfixturevalue("served").address(kind, "tiny")
        return address
    if kind == "pytorch":
        return Path(request.getfixturevalue("tiny_checkpoint"))
    onnx = Path(request.getfixturevalue("tiny_onnx"))
    if kind == "onnx" or device is not None:
        return onnx
    folder = tmp_path / "built"
    folder.mkdir()
    if kind == "toy":
        add_toy(monkeypatch)
        return make_toy(onnx, folder)
    return Machine.make(monkeypatch, kind).build(onnx, folder)


@pytest.fixture
def runtime(artifact: Path | Address, device: str | None) -> Iterator[Runtime]:
    with open_runtime(artifact, device) as opened:
        yield opened


def _batch(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def test_names_and_shapes(runtime: Runtime, artifact: Path | Address) -> None:
    assert (runtime.info.input.name, [output.name for output in runtime.info.outputs]) == ("image", ["logits"])
    assert runtime.info.input.shape == ("batch", 3, "height", "width")
    assert runtime.info.num_classes == TINY.num_classes
    assert read_info(artifact) == runtime.info


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (4, 3, 1, 30), (2, 3, 33, 17), (1, 3, 96, 160)])
def test_logits_are_float32_for_any_size(runtime: Runtime, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    logits = runtime.run(_batch(rng, *shape))["logits"]
    assert logits.dtype == np.float32
    assert logits.shape == (shape[0], TINY.num_classes)
    assert np.isfinite(logits).all()


def test_outputs_are_the_callers(runtime: Runtime, rng: np.random.Generator) -> None:
    batch = _batch(rng, 1, 3, 20, 20)
    first = runtime.run(batch)["logits"]
    kept = first.copy()
    second = runtime.run(_batch(rng, 1, 3, 20, 20))["logits"]
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)
    first[:] = 0  # writable
    np.testing.assert_array_equal(runtime.run(batch)["logits"], kept)


def test_the_input_is_left_alone_and_may_be_strided(runtime: Runtime, rng: np.random.Generator) -> None:
    images = _batch(rng, 2, 20, 24, 3).transpose(0, 3, 1, 2)
    before = images.copy()
    np.testing.assert_array_equal(runtime.run(images)["logits"], runtime.run(np.ascontiguousarray(images))["logits"])
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 3, 8, 8)),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((3, 8, 8), np.float32),
        np.zeros((1, 4, 8, 8), np.float32),
        np.zeros((1, 3, 0, 8), np.float32),
        np.zeros((0, 3, 8, 8), np.float32),
        [[1.0]],
        None,
    ],
    ids=["float64", "uint8", "rank 3", "4 channels", "height 0", "batch 0", "list", "None"],
)
def test_wrong_input(runtime: Runtime, batch: object) -> None:
    with pytest.raises(InputError, match=r"needed: float32 of shape \(batch, 3, height, width\)"):
        runtime.run(batch)  # type: ignore[arg-type]


def test_closing_twice(artifact: Path | Address, device: str | None) -> None:
    runtime = open_runtime(artifact, device)
    runtime.close()
    runtime.close()
    with pytest.raises(RestDeployError, match="is closed"):
        runtime.run(np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on; the child ends at once
def test_a_forked_child_is_refused(runtime: Runtime) -> None:
    batch = np.zeros((1, 3, 8, 8), np.float32)
    child = os.fork()
    if not child:
        try:
            runtime.run(batch)
        except PredictorError as exc:
            os._exit(7 if "forked" in str(exc) else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert np.isfinite(runtime.run(batch)["logits"]).all()


@pytest.mark.parametrize("unknown", ["gpu", "cuda:x", "CPU", "", "cuda:-1", "gpu:0", "cpu:1", "cuda:1000"])
def test_unknown_device(artifact: Path | Address, unknown: str) -> None:
    with pytest.raises(DeviceError, match="accepted: cpu, cuda, cuda:0"):
        open_runtime(artifact, unknown)


def test_no_fallback_from_a_gpu_that_is_not_there(artifact: Path | Address) -> None:
    with pytest.raises(DeviceError, match=r"cuda:63: .*(use device cpu|accepted: cuda:0|leave the device out)"):
        open_runtime(artifact, "cuda:63")


def test_threads(artifact: Path | Address, device: str | None, rng: np.random.Generator) -> None:
    with open_runtime(artifact, device, threads=1) as one:
        assert one.run(_batch(rng, 1, 3, 9, 9))["logits"].shape == (1, TINY.num_classes)


def test_missing_empty_and_damaged_files(artifact: Path | Address, device: str | None, tmp_path: Path) -> None:
    if isinstance(artifact, Address):
        pytest.skip("a server's model is no file; tests/runtimes/test_triton.py has what may be wrong with one")
    path = tmp_path / artifact.name
    with pytest.raises((ArtifactError, CheckpointError), match="no such"):
        open_runtime(path, device)
    if manifest_path(artifact).exists():
        shutil.copy(manifest_path(artifact), manifest_path(path))
    path.write_bytes(b"")
    with pytest.raises((ArtifactError, CheckpointError), match=r"empty|damaged"):
        open_runtime(path, device)
    whole = artifact.read_bytes()
    for cut in (7, len(whole) // 3, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises((ArtifactError, CheckpointError), match=r"damaged|cannot|rest-export did not make"):
            open_runtime(path, device)
