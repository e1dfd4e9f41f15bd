"""ONNX files in OpenVINO: as exact as in ONNX Runtime, in float32 or not at all."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from rest_deploy import Predictor, benchmark, export, verify
from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking.run import Effort
from rest_deploy.errors import ConfigError, DeviceError, MissingPackageError
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.runtimes import openvino as module
from rest_deploy.runtimes import ort
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import STAGE_MAPS, Device, ImageSize, InputKind, PreprocessingChange
from tests.conftest import DIGITS, IMAGES, ROOT, further
from tests.golden import golden_model

openvino = pytest.importorskip("openvino", reason="OpenVINO, an extra of its own, is not installed")

#: Batch, height and width: from 96x96 on its fused attention is wrong.
CASES = [
    InputSize(count, ImageSize(*size))
    for count, size in [(1, (1, 1)), (2, (33, 300)), (1, (57, 91)), (2, (96, 96)), (2, (224, 224)), (1, (225, 193))]
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rest_lite", "restv2_tiny", *further(["rest_small", "rest_base", "rest_large"])])
def test_published_networks_are_as_exact_as_in_onnxruntime(name: str, tmp_path: Path) -> None:
    """Within the limit of ONNX Runtime."""
    save_checkpoint(tmp_path / "x.safetensors", golden_model(name).float().state_dict(), Card())
    path = run_export(ExportRequest(None, tmp_path / "x.onnx", tmp_path / "x.safetensors", verify=False)).path
    assert verify(path, reference=tmp_path / "x.safetensors", cases=CASES, device="openvino").passed


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("openvino") / "digits.onnx"
    return run_export(ExportRequest(None, output, DIGITS, verify=False)).path


def test_digits_at_any_size(digits: Path) -> None:
    assert verify(digits, reference=DIGITS, cases=CASES, device="openvino").passed


def test_an_output_of_two_names(tmp_path: Path) -> None:
    """Where onnxsim does not run, a map is also what the next stage takes, under that name."""
    options = {"simplify": False}
    path = run_export(ExportRequest(None, tmp_path / "x.onnx", DIGITS, features=STAGE_MAPS, options=options)).path
    image = np.random.default_rng(0).standard_normal((1, 3, 57, 91)).astype(np.float32)
    with Predictor(path) as wanted, Predictor(path, device="openvino") as predictor:
        for name, values in wanted.features(image).items():
            np.testing.assert_allclose(
                predictor.features(image)[name], values, rtol=0, atol=1e-4 * np.abs(values).max()
            )


def test_no_map_is_turned_round(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms, residual additions and what puts channels last: by maps a network takes a quarter more time."""
    left: list[str] = []

    def in_rows(model: Any, own: Callable[[Any], None] = module.in_rows) -> None:
        before = [node.get_type_name() for node in model.get_ops() if len(_shape(node)) == 4]
        assert {"Add", "MVN", "Transpose"} < set(before)
        own(model)
        of_rows = module._of_rows(model)
        for node in model.get_ops():
            if len(_shape(node)) == 4 and _shape(node)[3].is_static:  # its channels
                turns = node.get_type_name() == "Transpose" and node.input_value(1).get_node().get_data()[3] == 1
                if turns or node.get_friendly_name() in of_rows:
                    left.append(node.get_friendly_name())

    monkeypatch.setattr(module, "in_rows", in_rows)
    with open_runtime(digits, "openvino") as runtime:
        network = runtime._request.get_compiled_model().get_runtime_model()  # type: ignore[attr-defined]
        turned = [node for node in network.get_ops() if node.get_rt_info()["layerType"].astype(str) == "Reorder"]
    assert left == []
    assert len(turned) < 25  # and 60 by maps, with OpenVINO 2026.4.1


def test_rows_give_the_numbers_of_maps(digits: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the rounding of norms, which OpenVINO computes otherwise."""
    batches = [rng.standard_normal((case.batch, 3, *case.size.to_plain()), np.float32) for case in CASES]

    def logits() -> list[NDArray[np.float32]]:
        with Predictor(digits, "openvino") as predictor:
            return [predictor.logits(batch) for batch in batches]

    by_rows = logits()
    monkeypatch.setattr(module, "in_rows", lambda _: None)
    for own, wanted in zip(by_rows, logits(), strict=True):
        np.testing.assert_allclose(own, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


def _shape(node: Any) -> Any:
    return node.get_output_partial_shape(0) if node.get_output_size() == 1 else ()


def test_maps_of_another_kind_stay(rng: np.random.Generator) -> None:
    """What would be another network by rows: additions of what has not one shape."""
    graph = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        maps (float[b, 5, w, 6] x, float[6] g) => (float[b, 5, w, 6] normed, float[b, 5, w, 6] twice,
                                                   float[b, 5, w, 6] lined, float[b, 5, w, 6] crossed,
                                                   float[b, 5, w, 6] pooled, float[b, 5, w, 6] same) {
            normed = LayerNormalization (x, g)
            twice = Add (x, normed)
            first = Constant <value_ints = [0]> ()
            next = Constant <value_ints = [1]> ()
            batch = Constant <value_ints = [0]> ()
            right = Constant <value_ints = [2]> ()
            line = Slice (x, first, next, batch)
            column = Slice (x, first, next, right)
            lined = Add (line, x)
            crossed = Add (line, column)
            planes = Transpose <perm = [0, 3, 1, 2]> (x)
            means = GlobalAveragePool (planes)
            mean = Transpose <perm = [0, 2, 3, 1]> (means)
            pooled = Add (mean, x)
            same = InstanceNormalization (x, one, zero)
        }""")
    for name, value in (("one", 1.0), ("zero", 0.0)):
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.full(5, value, np.float32), name))
    feeds = {"x": rng.standard_normal((2, 5, 5, 6), np.float32), "g": rng.standard_normal(6, np.float32)}
    wanted = onnx.reference.ReferenceEvaluator(graph).run(None, feeds)
    reshapes: list[int] = []

    def prepare(model: Any) -> None:
        for change in (lambda _: None, module.in_rows):
            change(model)
            reshapes.append(sum(node.get_type_name() == "Reshape" for node in model.get_ops()))

    request = module.compile_network(graph.SerializeToString(), Device("openvino", name="CPU"), 1, prepare)
    found = request.create_infer_request().infer(feeds)
    for own, value in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(own, value, atol=1e-5)
    assert reshapes[1] - reshapes[0] == 3 + 2 + 2  # of one Add, one norm and one Transpose


def _convolution(weights: NDArray[Any], bias: NDArray[Any]) -> bytes:
    """With strides, pads and dilations, none of which is that of the other axis or side."""
    outputs, channels, dtype = *weights.shape[:2], weights.dtype.name.removesuffix("32")
    graph = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 18]>
        maps ({dtype}[b, {channels}, h, w] x) => ({dtype}[b, {outputs}, h2, w2] y) {{
            y = Conv <strides = [2, 1], pads = [1, 0, 2, 1], dilations = [1, 2]> (x, weights, bias)
        }}""")
    values = {"weights": weights, "bias": bias}
    graph.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    return bytes(graph.SerializeToString())


def _in_float64(image: NDArray[Any], weights: NDArray[Any], bias: NDArray[Any]) -> NDArray[np.float64]:
    tensors = [torch.from_numpy(own).double() for own in (image, weights, bias)]
    padded = torch.nn.functional.pad(tensors[0], (0, 1, 1, 2))
    return torch.nn.functional.conv2d(padded, *tensors[1:], stride=(2, 1), dilation=(1, 2)).numpy()


def _infer(content: bytes, image: NDArray[Any], prepare: Callable[[Any], None] = lambda _: None) -> NDArray[Any]:
    compiled = module.compile_network(content, Device("openvino", name="CPU"), 1, prepare)
    return np.array(compiled.create_infer_request().infer({"x": image})[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("kernel", "groups"),
    [((1, 3, 3), 1), ((32, 3, 3), 1), ((33, 3, 3), 2), ((97, 3, 5), 6), ((5, 17, 18), 5), ((300, 1, 1), 2)],
)
def test_sums_are_short(kernel: tuple[int, int, int], groups: int, dtype: type, rng: np.random.Generator) -> None:
    """288 products, or those of one channel; all of them are there."""
    sizes = [(2, kernel[0], 33, 47), (24, *kernel), (24,)]
    image, weights, bias = (rng.standard_normal(size).astype(dtype) for size in sizes)
    products: list[int] = []

    def prepare(model: Any) -> None:
        module.in_short_sums(model)
        taken = [node.input_value(1) for node in model.get_ops() if node.get_type_name() == "Convolution"]
        products.extend(math.prod(port.get_shape()[1:]) for port in taken)

    found, wanted = _infer(_convolution(weights, bias), image, prepare), _in_float64(image, weights, bias)
    assert len(products) == groups
    assert max(products) <= max(288, kernel[1] * kernel[2])
    assert sum(products) == math.prod(kernel)
    roundings = 1 if dtype is np.float16 else 10  # a half is rounded once, where it goes out; else those of a sum
    np.testing.assert_allclose(found, wanted, rtol=0, atol=roundings * np.finfo(dtype).eps * np.abs(wanted).max())


def test_sums_lose_about_what_those_of_onnxruntime_do(rng: np.random.Generator) -> None:
    """Once the last line fails, OpenVINO adds otherwise, and needs no short sums any more."""
    sizes = [(2, 256, 28, 28), (64, 256, 3, 3), (64,)]
    image, weights, bias = (rng.standard_normal(size).astype(np.float32) for size in sizes)
    content, wanted = _convolution(weights, bias), _in_float64(image, weights, bias)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"x": image})[0], _infer(content, image, module.in_short_sums), _infer(content, image)]
    theirs, ours, plain = (float(np.sqrt(np.mean((own - wanted) ** 2))) for own in found)
    assert ours < 2 * theirs  # 1.35 with AVX-512, 1.65 with AVX2
    assert plain > 2 * ours


def test_a_file_is_computed_in_short_sums(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[Any] = []
    monkeypatch.setattr(module, "in_short_sums", models.append)
    open_runtime(digits, "openvino").close()
    assert len(models) == 1


def test_fused_attention_is_found_to_be_wrong(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once this fails, OpenVINO has been mended, and may fuse again."""
    monkeypatch.setattr(module, "_ON_CPU", MappingProxyType({}))
    assert not verify(digits, reference=DIGITS, cases=CASES, device="openvino").passed


@pytest.mark.parametrize("hint", ["bf16", "f16"])
def test_a_planted_hint_is_noticed_by_the_verification(
    hint: str, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, where OpenVINO says so, and else by its figures; on a CPU that has such floats."""
    asked = {"INFERENCE_PRECISION_HINT": hint}
    convolution = openvino.Core().read_model(ort.one_convolution()[0])
    if openvino.Core().compile_model(convolution, "CPU", asked).get_property(*asked).to_string() != hint:
        pytest.skip(f"OpenVINO has no {hint} on this CPU")
    settings = MappingProxyType({**module._SETTINGS, "INFERENCE_PRECISION_HINT": hint})
    monkeypatch.setattr(module, "_SETTINGS", settings)
    with pytest.raises(
        DeviceError, match=rf"device openvino:CPU: OpenVINO would compute in {hint} where f32 was asked"
    ):
        open_runtime(digits, "openvino")
    monkeypatch.setattr(module, "_TAKEN", module._TAKEN | {hint})
    assert not verify(digits, reference=DIGITS, cases=CASES[2:3], device="openvino").passed


@pytest.mark.parametrize("name", ["GPU", "NPU", "GPU.7", "TPU", "cpu"])
def test_a_device_that_is_not_there(name: str, tiny_onnx: Path) -> None:
    if name in openvino.Core().available_devices:
        pytest.skip(f"this machine has an {name} for OpenVINO")
    with pytest.raises(DeviceError, match=rf"device openvino:{name}: OpenVINO has no such device here; accepted: CPU"):
        open_runtime(tiny_onnx, f"openvino:{name}")


def test_what_it_would_compute_in_other_numbers(tmp_path: Path, tiny_checkpoint: Path) -> None:
    steps, made = PreprocessingChange(size=(32, 32)), {}
    for kind in (InputKind.UINT8, InputKind.PIXELS):
        request = ExportRequest(
            None, tmp_path / f"{kind.value}.onnx", tiny_checkpoint, verify=False, input=kind, preprocessing=steps
        )
        made[kind] = run_export(request).path
    with pytest.raises(DeviceError, match=r"pixels\.onnx: it resizes pictures by weights in float64"):
        open_runtime(made[InputKind.PIXELS], "openvino")
    with Predictor(made[InputKind.UINT8], "openvino") as ours, Predictor(made[InputKind.UINT8]) as theirs:
        picture = theirs.preprocess(IMAGES / "chelsea.png")
        np.testing.assert_allclose(ours.logits(picture), theirs.logits(picture), atol=5e-5)


def test_it_is_timed_under_its_name(tiny_onnx: Path) -> None:
    found = benchmark([tiny_onnx], sizes=[(16, 16)], effort=Effort(1, 0.0), cold=False, device="openvino")
    assert found.errors == {}
    assert [own.where for own in found.contenders] == ["openvino:CPU"]
    assert found.descriptions[tiny_onnx.name].startswith("OpenVINO 20")


#: How much more a process takes at its peak once a call of a size has run.
MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
from rest_deploy import Predictor

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

side = int(sys.argv[2])
with Predictor(sys.argv[1], "openvino", max_pixels=None) as predictor:
    predictor.logits(np.zeros((1, 3, 64, 64), np.float32))
    before = peak()
    predictor.logits(np.zeros((1, 3, side, side), np.float32))
    print(predictor._runtime.call_bytes(1, side, side), peak() - before)
"""


@pytest.mark.slow
def test_memory_is_as_predicted(digits: Path) -> None:
    """Within what ONNX Runtime's is (``StagesFamily.call_bytes``)."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, digits, "1000"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    predicted, measured = map(int, done.stdout.split())
    assert 0.9 <= predicted / measured <= 1.6


def test_halves_go_in_and_out(tmp_path: Path, tiny_checkpoint: Path, rng: np.random.Generator) -> None:
    options = {"verify": False, "compare_speed": False, "half_io": True}
    path = export(None, tmp_path / "x.onnx", checkpoint=tiny_checkpoint, precision="fp16", **options)
    batch = rng.standard_normal((2, 3, 40, 33)).astype(np.float32)
    with Predictor(path, "openvino") as ours, Predictor(path) as theirs:
        np.testing.assert_allclose(ours.logits(batch), theirs.logits(batch), atol=0.02)  # as halves round


def test_a_device_that_does_not_tell_what_it_computes_in(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_computed_in", lambda _: {"f32", ""})
    with pytest.raises(DeviceError, match="would compute in what it does not tell where f32 was asked for"):
        open_runtime(tiny_onnx, "openvino")


def test_baselines_run_where_they_can(tiny_onnx: Path) -> None:
    quick = {"sizes": [(16, 16)], "effort": Effort(1, 0.0), "cold": False}
    for baseline, device in [("torch", "openvino"), ("as-written", "openvino"), ("openvino", "openvino:NPU")]:
        with pytest.raises(ConfigError, match=rf"baseline {baseline} runs on .* only, and device {device} was asked"):
            benchmark([tiny_onnx], baselines=[baseline], device=device, **quick)
    found = benchmark([tiny_onnx], baselines=["openvino"], device="openvino", **quick)
    assert found.errors == {}
    assert {own.where for own in found.contenders} == {"openvino:CPU"}


def test_blocks_are_not_those_of_another_runtime(tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="blocks are computed by ONNX Runtime on the CPU, not on openvino:CPU"):
        verify(tiny_onnx, reference=tiny_checkpoint, cases=CASES[:1], per_block=True, device="openvino")


def test_its_threads_sleep(tiny_onnx: Path) -> None:
    with pytest.raises(ConfigError, match="OpenVINO's threads sleep between calls"):
        Predictor(tiny_onnx, "openvino", allow_spinning=False)


def test_probe_finds_a_cpu_that_multiplies_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device("openvino", name="CPU")
    module.OpenVinoRuntime.probe(device)
    content, feeds, _ = ort.one_convolution()
    monkeypatch.setattr(ort, "one_convolution", lambda: (content, feeds, 16.0))
    with pytest.raises(DeviceError, match=r"multiplies wrongly on openvino:CPU: 16\.0 came out as 15\.0"):
        module.OpenVinoRuntime.probe(device)


def test_without_its_package(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError) as caught:
        open_runtime(tiny_onnx, "openvino")
    assert (caught.value.package, caught.value.extra) == ("openvino", "openvino")


def test_with_an_older_one(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino.opset13", None)
    with pytest.raises(DeviceError, match=r"openvino that is installed is older than 2025\.0; pip install"):
        open_runtime(tiny_onnx, "openvino")
