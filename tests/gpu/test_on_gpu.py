"""On a real GPU: engines and ONNX Runtime's CUDA provider against PyTorch float64. They skip where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rest_deploy import verify
from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import DeviceError, MissingPackageError
from rest_deploy.models.reference import reference_runs
from rest_deploy.models.rest import ResT
from rest_deploy.nvidia import Gpu, find_gpu, is_installed
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.recipes import recipe_of
from rest_deploy.runtimes.cuda_arrays import DeviceArray
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import STAGE_MAPS, ImageSize, InputKind, Precision, PreprocessingChange, Resize
from rest_deploy.verification import Reference, cases_within
from rest_deploy.verification.limits import on_synthetic
from tests.conftest import DIGITS
from tests.engines import images
from tests.golden import golden_model

pytestmark = pytest.mark.gpu

PROFILES = (Profile.parse("1x1x1:1x224x224:4x640x640"), Profile.parse("1x16x16:1x24x24:8x32x32"))


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    try:
        return find_gpu(0)
    except (DeviceError, MissingPackageError) as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module", params=["trt", "trt-rtx"])
def engine(
    request: pytest.FixtureRequest, gpu: Gpu, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An engine for this GPU, not yet verified, where the library is installed and has it."""
    if not is_installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    asked = ExportRequest(
        None,
        folder / "tiny.engine",
        checkpoint=tiny_checkpoint,
        format=request.param,
        verify=False,
        options={"profiles": PROFILES, "use_timing_cache": False},
    )
    made = run_export(asked)
    targets = made.info.engine.targets if made.info.engine is not None else ()
    if str(gpu.compute_capability) not in targets:
        with pytest.raises(DeviceError, match=r"rest-export .*--format trt "):  # the expected refusal, as RTX on Hopper
            open_runtime(made.path)
        pytest.skip(f"TensorRT-RTX has no {gpu}; the refusal was checked")
    return made.path


def test_the_engine_agrees_with_pytorch(engine: Path, tiny_model: ResT) -> None:
    exact, plain = reference_runs(tiny_model)
    with open_runtime(engine) as runtime:
        reference = Reference(exact, plain, channels=3, cases=cases_within(PROFILES))
        found = reference.compare(runtime.run, on_synthetic(recipe_of(Precision.FP32)))
    assert found.failures == []


def test_shapes_profiles_and_graphs_give_the_same_as_alone(engine: Path, tiny_model: ResT) -> None:
    exact, _ = reference_runs(tiny_model)
    shapes = [(1, 3, 20, 20)] * 5 + [(2, 3, 100, 60), (8, 3, 32, 32)] * 3 + [(1, 3, 20, 20)] * 4
    with open_runtime(engine) as runtime:
        for seed, shape in enumerate(shapes):
            batch = images(*shape, seed=seed)
            np.testing.assert_allclose(runtime.run(batch)["logits"], exact(batch)["logits"], atol=2e-3)
        if runtime.info.format == "trt":
            assert runtime._session._graph is not None  # type: ignore[attr-defined]


def test_arrays_on_the_gpu(engine: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    batch = images(2, 3, 40, 40)
    with open_runtime(engine) as runtime:
        given = torch.from_numpy(batch).cuda()
        made = runtime.run(given)["logits"]
        assert isinstance(made, DeviceArray)
        np.testing.assert_allclose(torch.from_dlpack(made).cpu().numpy(), runtime.run(batch)["logits"], atol=1e-5)


def test_onnx_runtime_on_the_gpu_agrees_with_pytorch(gpu: Gpu, tiny_onnx: Path, tiny_model: ResT) -> None:
    _require_cuda_provider()
    exact, plain = reference_runs(tiny_model)
    with open_runtime(tiny_onnx, "cuda") as runtime:
        found = Reference(exact, plain, channels=3).compare(runtime.run, on_synthetic(recipe_of(Precision.FP32)))
    assert found.failures == []


@pytest.mark.parametrize("name", ["rest_lite", "restv2_tiny"])
def test_maps_and_embeddings_by_onnx_runtime_on_the_gpu(name: str, gpu: Gpu, tmp_path: Path) -> None:
    """Both families, golden weights, each output against float64."""
    from rest_deploy.models.checkpoint import save_checkpoint
    from rest_deploy.models.factory import load_model

    _require_cuda_provider()
    features = (*STAGE_MAPS, "embedding")
    checkpoint = tmp_path / "weights.safetensors"
    save_checkpoint(checkpoint, golden_model(name).float())
    asked = ExportRequest(name, tmp_path / "x.onnx", checkpoint=checkpoint, features=features, verify=False)
    path = run_export(asked).path
    exact, plain = reference_runs(load_model(name, checkpoint, features=features).model)
    with open_runtime(path, "cuda") as runtime:
        found = Reference(exact, plain, channels=3).compare(runtime.run, on_synthetic(recipe_of(Precision.FP32)))
    assert found.failures == []
    assert {output for case in found.cases for output in case.outputs} == set(features)


def test_pictures_on_the_gpu(gpu: Gpu, tmp_path: Path) -> None:
    """Proved from pictures on the GPU by the export itself."""
    _require_cuda_provider()
    steps = PreprocessingChange(Resize.CROP, ImageSize(48, 48))
    asked = ExportRequest(None, tmp_path / "x.onnx", DIGITS, preprocessing=steps, input=InputKind.PIXELS)
    made = run_export(asked)
    assert made.comparison is not None
    assert made.comparison.passed
    assert verify(made.path, DIGITS, device="cuda").passed


def test_large_maps_on_the_gpu_are_those_of_the_cpu(gpu: Gpu, tmp_path: Path) -> None:
    """Of maps of 2**31 numbers and more ONNX Runtime 1.31 computes others there, where they are not in blocks."""
    _require_cuda_provider()
    path = run_export(ExportRequest("rest_lite", tmp_path / "x.onnx", verify=False)).path
    image = np.random.default_rng(0).standard_normal((1, 3, 3072, 3072), np.float32)
    with open_runtime(path, "cuda") as ours, open_runtime(path, "cpu") as theirs:
        found, wanted = ours.run(image)["logits"], theirs.run(image)["logits"]
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("half_io", [False, True])
@pytest.mark.parametrize("format", ["onnx", "trt", "trt-rtx"])
def test_half_on_the_gpu_holds_its_tolerance_and_is_timed(
    *, format: str, half_io: bool, gpu: Gpu, tmp_path: Path
) -> None:
    """The trained digits, verified on the GPU by the export itself, and measured again from the file."""
    if format == "onnx":
        _require_cuda_provider()
    elif not is_installed(format):
        pytest.skip(f"{format} is not installed")
    output = tmp_path / ("x.onnx" if format == "onnx" else "x.engine")
    options = {"half_io": half_io}
    if format != "onnx":
        options |= {"use_timing_cache": False}
    asked = ExportRequest(None, output, DIGITS, format, precision=Precision.FP16, options=options)
    made = run_export(asked)
    engine = made.info.engine
    if engine is not None and str(gpu.compute_capability) not in engine.targets:
        pytest.skip(f"TensorRT-RTX has no {gpu}")
    assert made.info.precision_plan is not None
    speed = made.info.precision_plan.speed
    assert speed is not None
    assert speed["device"].startswith("cuda")
    assert verify(output, DIGITS, device="cuda").passed


def test_int8_on_the_gpu(gpu: Gpu, tmp_path: Path) -> None:
    from benchmarks.precision import write_pictures
    from examples.digits.data import load_split

    name = next((name for name in ("trt", "trt-rtx") if is_installed(name)), None)
    if name is None:
        pytest.skip("no TensorRT is installed")
    write_pictures(load_split()[0][:40], tmp_path / "images")
    options = {"use_timing_cache": False, "calibration": tmp_path / "images"}
    asked = ExportRequest(None, tmp_path / "x.engine", DIGITS, name, precision=Precision.INT8, options=options)
    made = run_export(asked)
    if made.info.engine is not None and str(gpu.compute_capability) not in made.info.engine.targets:
        pytest.skip(f"TensorRT-RTX has no {gpu}")
    assert made.comparison is not None
    assert made.comparison.passed


def _require_cuda_provider() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
