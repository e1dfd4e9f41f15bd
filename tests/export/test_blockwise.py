"""Large maps in blocks of rows: the same function, by ONNX Runtime and by the standard's own evaluator."""

from __future__ import annotations

import copy
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

from rest_deploy import Predictor, export, verify
from rest_deploy.artifact.onnx_encoding import read_model
from rest_deploy.artifact.onnx_file import read_checked, write_record
from rest_deploy.artifact.onnx_graph import refuse_hostile
from rest_deploy.errors import ArtifactError, ConfigError, ExportError, InputError, PredictorError
from rest_deploy.export import blockwise as blocks
from rest_deploy.export import checks
from rest_deploy.export.blockwise import BLOCK_NAME, WHOLE_NAME, blockwise, whole, with_block
from rest_deploy.export.checks import answers, checked_blockwise
from rest_deploy.export.cpu_session import CpuSession
from rest_deploy.models.family import MAP_BLOCK, WHOLE_BLOCKS, config_of, network_bytes, operators_of
from rest_deploy.models.stages_family import stage_sizes
from rest_deploy.pipeline import ExportRequest, run_export, run_exports
from rest_deploy.runtimes import ort
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import STAGE_MAPS
from tests.conftest import TINY, TINY_V2
from tests.export.conftest import all_nodes

#: float32 through a dozen layers whose largest activations are about 10.
CLOSE = 2e-5


@pytest.fixture(params=["tiny_onnx", "tiny_v2_onnx"], ids=["ResT", "ResTv2"])
def graph(request: pytest.FixtureRequest) -> onnx.ModelProto:
    model = whole(onnx.load(request.getfixturevalue(request.param)))
    del model.metadata_props[:]
    return model


@pytest.fixture(scope="module")
def at_once(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(None, tmp_path_factory.mktemp("whole") / "tiny.onnx", checkpoint=tiny_checkpoint, blockwise=False)


def _batch(rng: np.random.Generator, size: tuple[int, int, int]) -> NDArray[np.float32]:
    batch, height, width = size
    return rng.standard_normal((batch, 3, height, width)).astype(np.float32)


@pytest.mark.parametrize("name", ["tiny", "tiny_v2"])
def test_blocks_lose_no_more_than_all_queries_at_random_sizes(
    name: str, rng: np.random.Generator, request: pytest.FixtureRequest
) -> None:
    """Against float64; lively weights amplify rounding, whatever the order is."""
    graph, model = whole(onnx.load(request.getfixturevalue(f"{name}_onnx"))), request.getfixturevalue(f"{name}_model")
    exact, both = copy.deepcopy(model).double(), blockwise(graph)
    at_once, *in_blocks = (CpuSession(own) for own in (graph, *(with_block(both, size) for size in (64, 3000))))
    for size in ((1, 1, 1), *map(tuple, rng.integers(1, (4, 150, 150), (40, 3)).tolist())):
        image = _batch(rng, size)
        with torch.inference_mode():
            right, plain = exact(torch.from_numpy(image).double()).numpy(), model(torch.from_numpy(image)).numpy()
        lost = max(np.abs(plain - right).max(), np.abs(at_once.run(image)["logits"] - right).max())
        for session in in_blocks:
            error = np.abs(session.run(image)["logits"] - right).max()
            assert error <= max(2 * lost, CLOSE * np.abs(right).max()), size


def test_an_image_of_one_block_takes_the_way_as_traced(graph: onnx.ModelProto, rng: np.random.Generator) -> None:
    image = _batch(rng, (2, 40, 56))
    at_once, both = (CpuSession(model).run(image)["logits"] for model in (graph, blockwise(graph)))
    assert np.array_equal(at_once, both)


def test_the_standard_s_evaluator_agrees(graph: onnx.ModelProto, rng: np.random.Generator) -> None:
    image = _batch(rng, (2, 37, 20))
    ours = CpuSession(graph).run(image)["logits"]
    (theirs,) = ReferenceEvaluator(with_block(blockwise(graph), 50)).run(None, {"image": image})
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=CLOSE)


def test_the_way_as_traced_is_there_to_the_byte(graph: onnx.ModelProto) -> None:
    both = blockwise(graph)
    onnx.checker.check_model(both, full_check=True)
    assert sum(node.op_type == "If" for node in both.graph.node) == 5 + 5  # attentions and MLPs
    assert whole(both).SerializeToString() == graph.SerializeToString()


@pytest.mark.parametrize("fault", ["the factor", "the rows that are left", "rows of one block for all"])
def test_a_fault_in_the_blocks_is_found(tiny_onnx: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = whole(onnx.load(tiny_onnx))
    assert checked_blockwise(graph, 1e-4, answers(graph))

    def broken(model: onnx.ModelProto) -> onnx.ModelProto:
        both = blockwise(model)
        for node in both.graph.node:
            for branch in (one.g for one in node.attribute if one.name == "then_branch"):
                if fault == "the factor":
                    for inner in branch.node:
                        if inner.op_type == "Reciprocal":
                            inner.op_type = "Sqrt"
                elif fault == "the rows that are left":  # the block's own first rows in their place
                    cut = [inner for inner in branch.node if inner.op_type == "Slice"][1]
                    cut.input[1], cut.input[2] = blocks._ONE, cut.input[2]
                else:
                    for inner in branch.node:
                        if inner.op_type == "Transpose" and list(inner.attribute[0].ints) == [1, 2, 0, 3, 4]:
                            inner.attribute[0].ints[:] = [1, 2, 3, 0, 4]
        return both

    monkeypatch.setattr(checks, "blockwise", broken)
    with pytest.raises(ExportError, match=r"blocks changed the logits|does not run"):
        checked_blockwise(graph, 1e-4, answers(graph))


def test_what_rounding_does_to_a_graph_is_no_fault_of_its_blocks(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INT8 rounds a number that is near the middle of two levels to one or the other, and all behind it is changed."""
    graph = whole(onnx.load(tiny_onnx))
    wanted = answers(graph)
    noisy = [{name: values + 0.2 for name, values in given.items()} for given in wanted]
    monkeypatch.setattr(checks, "answers", lambda model, nudge=None: noisy)
    assert checked_blockwise(graph, 1e-4, wanted)
    monkeypatch.setattr(checks, "answers", lambda model, nudge=None: noisy if nudge is None else wanted)
    with pytest.raises(ExportError, match="blocks changed the logits by"):
        checked_blockwise(graph, 1e-4, wanted)


def test_an_attention_of_another_form_is_refused(tiny_onnx: Path) -> None:
    graph = whole(onnx.load(tiny_onnx))
    softmax = next(node for node in graph.graph.node if node.op_type == "Softmax")
    softmax.input[0] = graph.graph.input[0].name
    with pytest.raises(ExportError, match="is not in an attention of the form that goes in blocks"):
        blockwise(graph)


def test_mlps_of_large_weights_are_as_they_were(graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime would hold these weights twice."""
    monkeypatch.setattr(blocks, "MLP_WEIGHT", 16 * 64)  # of the first two stages
    ways = [node.name for node in blockwise(graph).graph.node if node.op_type == "If"]
    assert [name.partition(".")[0] for name in ways if ".mlp" in name] == ["stage1_0", "stage2_0"]
    assert len(ways) == 5 + 2


# Files


def test_a_file_in_blocks(tiny_onnx: Path, at_once: Path, tiny_checkpoint: Path, rng: np.random.Generator) -> None:
    info = read_info(tiny_onnx)
    assert (info.map_block, read_info(at_once).map_block) == (MAP_BLOCK, None)
    assert info.verification is not None
    assert whole(onnx.load(tiny_onnx)).graph == onnx.load(at_once).graph
    with Predictor(tiny_onnx) as ours, Predictor(at_once) as other:
        for size in ((1, 1, 1), (2, 33, 50), (1, 224, 224)):
            image = _batch(rng, size)
            assert np.array_equal(ours.logits(image), other.logits(image))
        in_blocks, all_at_once = (own._runtime.call_bytes for own in (ours, other))
        assert in_blocks(1, 224, 224) == all_at_once(1, 224, 224)
        assert in_blocks(1, 2048, 2048) < all_at_once(1, 2048, 2048) / 8
        assert 3.6 < in_blocks(1, 8192, 8192) / in_blocks(1, 4096, 4096) < 4.1  # with the pixels
    assert verify(tiny_onnx, tiny_checkpoint, sizes=[(64, 64)], per_block=True).passed


@pytest.mark.parametrize("name", ["tiny_onnx", "tiny_v2_onnx"])
def test_what_a_file_has_in_blocks(name: str, request: pytest.FixtureRequest) -> None:
    """Five attentions and five MLPs, both ways; a graph as it was traced is in it once more."""
    graph = onnx.load(request.getfixturevalue(name)).graph
    counts = Counter(node.op_type for node in all_nodes(graph))
    assert (counts["If"], counts["Scan"], counts["Softmax"]) == (10, 10, 2 * 5)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    sizes = [numpy_helper.to_array(weights[key]).tolist() for key in ("map_block", "map_whole")]
    assert sizes == [[2_097_152], [6_291_456]]


@pytest.mark.parametrize("simplify", [True, False])
def test_mlps_without_biases_have_blocks_too(simplify: bool, tmp_path: Path) -> None:
    """Onnxsim leaves a bias of zeros out, and turns weights; without it they are turned at run time."""
    result = run_export(
        ExportRequest(TINY, tmp_path / "random.onnx", verify=False, options={"simplify": simplify})
    )  # random weights have biases of zero
    assert sum(node.op_type == "If" for node in onnx.load(result.path).graph.node) == 10


def test_several_lines_in_blocks(tiny_onnx: Path, rng: np.random.Generator) -> None:
    """With the blocks as they are exported."""
    model = onnx.load(tiny_onnx)
    images = _batch(rng, (3, 4, 24_000))
    in_blocks, at_once = (CpuSession(own).run(images)["logits"] for own in (model, whole(model)))
    assert not np.array_equal(in_blocks, at_once)
    np.testing.assert_allclose(in_blocks, at_once, rtol=0, atol=CLOSE * max(1.0, np.abs(at_once).max()))


@pytest.mark.parametrize("block", [0, -1, True, 1.5, "2097152", 1 << 62])
def test_a_record_of_another_block_is_refused(block: Any, tiny_onnx: Path) -> None:
    info = read_info(tiny_onnx)
    with pytest.raises(ConfigError, match=r"map_block .*accepted: a whole number from 1 to 1,099,511,627,776"):
        replace(info, extra={**info.extra, "map_block": block})


@pytest.mark.parametrize("name", ["tiny", pytest.param("tiny_v2", marks=pytest.mark.slow)])
def test_a_line_so_long_that_it_goes_in_blocks(name: str, request: pytest.FixtureRequest) -> None:
    """With the blocks as they are exported; of a line nothing is reduced across it, so that maps are large soon."""
    file, size = request.getfixturevalue(f"{name}_onnx"), (4, 48_000)
    config = config_of(read_info(file))
    maps = [stage.attention for stage in stage_sizes(config, *size)]
    assert min(maps) > WHOLE_BLOCKS * MAP_BLOCK
    assert verify(file, request.getfixturevalue(f"{name}_checkpoint"), sizes=[size]).passed


def test_integers_in_blocks(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = export(None, tmp_path / "i.onnx", checkpoint=tiny_checkpoint, precision="int8", reduced_range=True,
                  compare_speed=False)  # fmt: skip
    assert read_info(made).map_block == MAP_BLOCK
    ways = [node.name for node in onnx.load(made).graph.node if node.op_type == "If"]
    assert len(ways) == 5
    assert not any(".mlp" in name for name in ways)  # an MLP in INT8 is left whole
    assert verify(made, tiny_checkpoint, sizes=[(64, 64)], per_block=True).passed


@pytest.mark.parametrize(
    "asked",
    [{"precision": "fp16", "compare_speed": False}, {"precision": "int8", "int8_target": "trt", "verify": False}],
    ids=["FP16", "INT8 for TensorRT"],
)
def test_what_has_no_blocks(asked: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path) -> None:
    """TensorRT does not know a Scan."""
    if asked.get("int8_target"):
        (tmp_path / "images").mkdir()
        for number in range(24):  # the fewest that are taken
            pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        asked = {**asked, "calibration": tmp_path / "images"}
    made = export(None, tmp_path / "x.onnx", checkpoint=tiny_checkpoint, **asked)
    assert read_info(made).map_block is None
    assert {node.op_type for node in onnx.load(made).graph.node}.isdisjoint({"If", "Scan"})


def test_maps_in_blocks(tmp_path: Path, rng: np.random.Generator) -> None:
    made = export(TINY_V2, tmp_path / "maps.onnx", features=STAGE_MAPS)
    batch = _batch(rng, (1, 40, 50))
    model = onnx.load(made)
    few = onnxruntime.InferenceSession(with_block(model, 50).SerializeToString(), providers=["CPUExecutionProvider"])
    with Predictor(made) as predictor:
        for name, values in zip(STAGE_MAPS, few.run(list(STAGE_MAPS), {"image": batch}), strict=True):
            found = predictor.features(batch)[name]
            np.testing.assert_allclose(values, found, rtol=0, atol=CLOSE * max(1.0, np.abs(found).max()))


def test_without_its_blocks_a_file_is_what_it_was(tiny_onnx: Path, rng: np.random.Generator) -> None:
    """What runtimes on GPUs get: made of the bytes alone, as onnx is not there where files run."""
    content, without_weights = read_checked(tiny_onnx, operators_of).without_blocks()
    flat, known = onnx.load_model_from_string(content), whole(onnx.load(tiny_onnx))
    onnx.checker.check_model(flat, full_check=True)
    kinds = {node.op_type for node in flat.graph.node}
    assert kinds.isdisjoint({"If", "Scan", "Greater"})  # what would choose is gone too: it would run on the CPU
    assert len(flat.graph.node) == len(known.graph.node) + 5 + 5
    assert b"here" in without_weights("here")
    wanted = [node.SerializeToString() for node in known.graph.node]
    found = {node.SerializeToString() for node in flat.graph.node}
    assert sum(node not in found for node in wanted) == 5 + 5  # of each part the last, whose value has another name
    image = _batch(rng, (2, 33, 50))
    assert np.array_equal(CpuSession(flat).run(image)["logits"], CpuSession(known).run(image)["logits"])
    refuse_hostile(content, read_model(content), operators_of(read_info(tiny_onnx)))


def test_a_file_with_other_blocks(tiny_onnx: Path) -> None:
    file = read_checked(tiny_onnx, operators_of)
    content, without_weights = file.with_blocks_of(50)
    assert len(content) == len(file.content)
    assert b"here" in without_weights("here")
    found, wanted = onnx.load_model_from_string(content), with_block(onnx.load(tiny_onnx), 50)
    assert found.graph == wanted.graph


class _Sessions:
    """A stand-in for ONNX Runtime on a GPU: sessions that answer with their number, from 1 on.

    Args:
        meanwhile: Called as one after the first is opened.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.opened: list[onnx.ModelProto] = []
        self._meanwhile = meanwhile
        monkeypatch.setattr(ort, "open_session", self._open)
        monkeypatch.setattr(ort, "import_onnxruntime", lambda device: SimpleNamespace())
        limit = network_bytes(TINY, 1, 64, 64)
        monkeypatch.setattr(ort.OnnxRuntime, "whole", limit)
        monkeypatch.setattr(ort, "_GPU_WRONG", limit)

    def _open(self, content: bytes, *_: object, **__: object) -> Any:
        if self.opened:
            self._meanwhile()
        self.opened.append(onnx.load_model_from_string(bytes(content)))
        number = len(self.opened)

        def run(names: list[str], given: dict[str, Any], *_: object) -> list[Any]:
            return [np.full((len(given["image"]), TINY.num_classes), number, np.float32)]

        return SimpleNamespace(
            get_inputs=lambda: [SimpleNamespace(name="image", shape=["batch", 3, "height", "width"])],
            get_outputs=lambda: [SimpleNamespace(name="logits", shape=["batch", TINY.num_classes])],
            run=run,
        )


def _answer(runtime: ort.OnnxRuntime, *shape: int) -> float:
    return float(runtime.run(np.zeros(shape, np.float32))["logits"][0, 0])


def test_on_a_gpu_a_second_session_takes_large_maps(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is opened once."""
    sessions = _Sessions(monkeypatch)
    with ort.OnnxRuntime(tiny_onnx, "cuda:0") as runtime:
        sizes = [(1, 3, 64, 64), (1, 3, 96, 96), (2, 3, 64, 64), (1, 3, 32, 32)]
        assert [_answer(runtime, *size) for size in sizes] == [1, 2, 2, 1]
    assert ["If" in {node.op_type for node in own.graph.node} for own in sessions.opened] == [False, True]
    weights = {tensor.name: tensor for tensor in sessions.opened[1].graph.initializer}
    assert all(numpy_helper.to_array(weights[name]).tolist() == [ort._GPU_BLOCK] for name in (BLOCK_NAME, WHOLE_NAME))


def test_on_a_gpu_maps_that_would_be_wrong_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file without blocks."""
    made = export(None, tmp_path / "whole.onnx", checkpoint=tiny_checkpoint, verify=False, blockwise=False)
    _Sessions(monkeypatch)
    with ort.OnnxRuntime(made, "cuda:0") as runtime:
        assert _answer(runtime, 1, 3, 64, 64) == 1
        with pytest.raises(InputError, match=r"1x96x96 wrongly, as they have 2.*without --no-blockwise"):
            _answer(runtime, 1, 3, 96, 96)


def test_a_file_that_changes_before_its_second_session(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record stays that of the first session."""
    path = tmp_path / "x.onnx"
    shutil.copy(tiny_onnx, path)
    _Sessions(monkeypatch)
    with ort.OnnxRuntime(path, "cuda:0") as runtime:
        before = runtime.info
        write_record(path, replace(before, model="another"))
        with pytest.raises(ArtifactError, match="another file than the one that was opened"):
            _answer(runtime, 1, 3, 96, 96)
        path.write_bytes(b"no file of ours")
        with pytest.raises(ArtifactError):
            _answer(runtime, 1, 3, 96, 96)
        assert runtime.info is before
        assert _answer(runtime, 1, 3, 64, 64) == 1


def test_a_second_session_of_a_runtime_that_was_closed_meanwhile(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing: list[threading.Thread] = []

    def close() -> None:
        closing.append(threading.Thread(target=runtime.close))
        closing[0].start()
        while not runtime.closed:
            pass

    _Sessions(monkeypatch, close)
    runtime = ort.OnnxRuntime(tiny_onnx, "cuda:0")
    with pytest.raises(PredictorError, match="this predictor is closed"):
        _answer(runtime, 1, 3, 96, 96)
    closing[0].join()
    assert (runtime._session, runtime._large) == (None, None)


def test_on_a_gpu_no_blocks_are_opened(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []

    def open_session(content: bytes, *_: object, **__: object) -> Any:
        opened.append(bytes(content))
        raise KeyboardInterrupt

    monkeypatch.setattr(ort, "open_session", open_session)
    monkeypatch.setattr(ort, "import_onnxruntime", lambda device: SimpleNamespace())
    for device in ("cpu", "cuda:0"):
        with pytest.raises(KeyboardInterrupt):
            ort.OnnxRuntime(tiny_onnx, device)
    kinds = [{node.op_type for node in onnx.load_model_from_string(own).graph.node} for own in opened]
    assert ["If" in own for own in kinds] == [True, False]


@pytest.mark.slow
def test_an_engine_is_built_of_all_queries_at_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    request = ExportRequest(None, tmp_path / "a", format="onnx,trt-rtx", checkpoint=tiny_checkpoint,
                            options={"max_size": (128, 128)})  # fmt: skip
    assert [made.info.map_block for made in run_exports(request)] == [MAP_BLOCK, None]
