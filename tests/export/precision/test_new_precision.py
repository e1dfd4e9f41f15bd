"""A precision is a member of the enum, a row and a module: a toy is made by Python and by the command, and refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rest_deploy import Predictor, export, recipes, verify
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.cli import export as rest_export
from rest_deploy.cli import info as rest_info
from rest_deploy.doctor.artifacts import artifact_keys
from rest_deploy.errors import ConfigError, VerificationError
from rest_deploy.export.engine.config import check_targets
from rest_deploy.export.formats import FORMATS
from rest_deploy.export.precision.plan import ConvertInput, PrecisionPlan
from rest_deploy.models.family import network_bytes
from rest_deploy.pipeline import ExportRequest, reduce_precision, run_export
from rest_deploy.recipes import Limits, Recipe
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import ImageSize, Precision
from rest_deploy.verification import Case, Reference, candidate_of
from tests.cli.test_commands import Outcome
from tests.conftest import TINY
from tests.export.precision import toy

#: The line of specs.py.
MEMBER, NAME = "TOY", "toy"


def _row(precision: Precision) -> Recipe:
    """The row of recipes.py."""
    return Recipe(
        precision,
        converter="tests.export.precision.toy:convert",
        emulator="tests.export.precision.toy:emulate",
        emulated="activations of products rounded to 10 bits",
        on_synthetic=Limits(baseline_factor=1.5 * 2**13, max_error=0.02, reason="it has as many bits as half"),
        on_images=Limits(max_error=0.05, min_top1_agreement=0.99, reason="it has as many bits as half"),
        logits_tolerance=0.02,
        attention_maps=(2, 2),
    )


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The member and the row, for the time of a test."""
    kind: Any = Precision
    member: Any = str.__new__(Precision, NAME)
    member._name_, member._value_ = MEMBER, NAME
    monkeypatch.setitem(kind._member_map_, MEMBER, member)
    monkeypatch.setitem(kind._value2member_map_, NAME, member)
    monkeypatch.setattr(kind, "_member_names_", [*kind._member_names_, MEMBER])
    row = _row(member)
    monkeypatch.setattr(recipes, "_ROWS", [*recipes._ROWS, row])
    assert Precision(NAME) is Precision.parse(NAME) is list(Precision)[-1] is member
    return row


@pytest.fixture(autouse=True)
def few_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic images, so that a search takes seconds."""
    small = (Case(2, ImageSize(33, 47)), Case(1, ImageSize(64, 64)))
    monkeypatch.setitem(Reference.__init__.__kwdefaults__, "cases", small)
    monkeypatch.setattr(reduce_precision, "_PART_CASES", ((48, 64),))


def _export(checkpoint: Path, output: Path, **options: Any) -> ArtifactInfo:
    export(None, output, checkpoint=checkpoint, precision=NAME, compare_speed=False, **options)
    return read_info(output)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((2, 3, 40, 52)).astype(np.float32)


def test_a_toy_is_made_proved_opened_and_verified(
    tmp_path: Path, tiny_checkpoint: Path, tiny_onnx: Path, recipe: Recipe, image: np.ndarray
) -> None:
    path = tmp_path / "x.onnx"
    info = _export(tiny_checkpoint, path)
    assert (info.precision.value, info.recipe) == (NAME, recipe)
    assert info.verification is not None
    assert info.verification["passed"]
    assert info.precision_plan is not None
    assert (dict(info.precision_plan.kept), info.precision_plan.budget["min_top1_agreement"]) == ({}, 0.99)
    with Predictor(path) as lower, Predictor(tiny_onnx) as fp32:
        error = np.abs(lower.logits(image) - fp32.logits(image)).max()
        assert 1e-5 < error / fp32.logits(image).std() < 0.5
    found = verify(path, tiny_checkpoint, sizes=[(32, 48)], per_block=True)
    assert found.passed
    (artifact,) = found.artifacts
    assert artifact.about["precision"] == NAME
    assert artifact.about["computed"] == recipe.emulated  # and not as ONNX Runtime does


def test_the_command_makes_it_and_tells_of_it(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.onnx"
    planned = Outcome(rest_export, ["--checkpoint", tiny_checkpoint, "--toy", "-o", path, "--dry-run"], capsys)
    assert planned.code == 0
    assert "onnx, toy, opset" in planned.out
    argv = ["--checkpoint", tiny_checkpoint, "--toy", "-o", path, "--no-verify", "--no-speed"]
    made = Outcome(rest_export, argv, capsys)
    assert (made.code, made.err) == (0, "")
    told = Outcome(rest_info, [path], capsys)
    assert "onnx, toy" in told.out


@pytest.mark.parametrize(
    ("request_", "fact"),
    [
        ({"format": "trt"}, "format trt is not made in toy; it is made in fp32, fp16, int8"),
        ({"options": {"half_io": True}}, "half_io: only with fp16 or int8"),
        ({"options": {"calibration": "x", "calibration_method": "entropy"}}, "calibration_method: only with int8"),
        ({"options": {"int8_target": "trt"}}, "int8_target: only with int8"),
        ({"precision": "fp32", "options": {"max_error": 0.1}}, "only of fp16 and int8 and toy"),
    ],
)
def test_what_it_does_not_have_is_refused(request_: Mapping[str, Any], fact: str) -> None:
    with pytest.raises(ConfigError, match=fact):
        ExportRequest(**{"model": "rest_lite", "precision": NAME, **request_})


def test_what_is_too_coarse_is_not_kept(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(plan: object, kept_in: object, worst_first: object, failed: Any, judge: object) -> None:
        raise VerificationError("; ".join(failed.failures))

    monkeypatch.setattr(toy, "LOST", 22)
    monkeypatch.setattr(reduce_precision, "keep_worst", give_up)
    with pytest.raises(VerificationError, match=r"1x224x224: largest error \S+ is over \S+ \("):
        _export(tiny_checkpoint, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_too_coarse_is_kept_in_fp32(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(toy.LOST_IN, "stage3_1.mlp", 22)
    table = tmp_path / "table.csv"
    info = _export(tiny_checkpoint, tmp_path / "x.onnx", sensitivity=table)
    assert info.precision_plan is not None
    assert dict(info.precision_plan.kept) == {"stage3.1.mlp": Precision.FP32}
    assert info.precision_plan.steps[0].startswith("stage3.1.mlp FP32: largest error")
    assert table.read_text().splitlines()[1].startswith("stage3.1.mlp,")
    nodes = onnx.load(str(tmp_path / "x.onnx")).graph.node
    lower = {node.name.partition("/")[0] for node in nodes if any(name.endswith("/rounded") for name in node.input)}
    assert {"stage3_0.mlp.fc1", "stage3_1.attn.q"} <= lower
    assert not any(module.startswith("stage3_1.mlp") for module in lower)


def test_it_is_emulated_exactly(recipe: Recipe) -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 5), (5, 4)))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, n]) for name, n in (("image", 5), ("y", 4))]
    node = helper.make_node("MatMul", ["image", "w"], ["y"], "head/product")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    plan = PrecisionPlan({"head": recipe.precision})
    made = recipe.convert(ConvertInput(model, plan, FORMATS["onnx"].config_class(), lambda names: {}))(plan)
    wanted = toy.rounded(x).astype(np.float64) @ toy.rounded(weight)
    ours = candidate_of(made, recipe)(x)["y"]
    assert np.abs(ours - wanted).max() < 1e-6
    assert np.abs(x @ weight - wanted).max() > 1e-4
    assert model.graph.node[0].input[1] == "w"  # its argument is left as it was


def test_the_rest_asks_the_row(recipe: Recipe) -> None:
    precision = recipe.precision
    assert "onnx-toy" in artifact_keys()
    fp32, lower = (network_bytes(TINY, 1, 512, 512, precision=own) for own in (Precision.FP32, precision))
    assert lower > fp32  # by its own number of maps
    check_targets(["sm75"], precision)
    assert FORMATS["onnx"].made_in[-1] is precision


def test_it_is_timed_and_what_to_use_instead_is_said(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rest_deploy.pipeline import speed

    slow = speed.Speed("cpu", "1x224x224", 10.0, 12.0, 0.83, 0.8, 0.9, 9)
    monkeypatch.setattr(speed, "compare_speed", lambda *_: slow)
    made = run_export(
        ExportRequest(None, tmp_path / "x.onnx", tiny_checkpoint, precision=Precision(NAME), verify=False)
    )
    assert any("here use --precision fp32" in note for note in made.notes)
