"""A network of several outputs, from its record to its figures: each is run, measured and judged by itself."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rest_deploy import Predictor
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.cli import verify as command
from rest_deploy.cli.record_text import figures as words
from rest_deploy.errors import ArtifactError, ConfigError, PredictorError, VerificationError
from rest_deploy.recipes import recipe_of
from rest_deploy.report.fields import read_record
from rest_deploy.report.report import render
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import ImageSize, Output, Precision
from rest_deploy.verification import Case, Limits, Reference, verify
from rest_deploy.verification.figures import ValueFigures, joined, measure_images, measure_values
from rest_deploy.verification.result import ArtifactResult
from tests.conftest import IMAGES, TINY
from tests.two_outputs import INFO, MAP, write_two_outputs

CASES = [Case(2, ImageSize(33, 40)), Case(1, ImageSize(1, 1))]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_two_outputs(tmp_path / "good.onnx")


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """Its map is off, its logits are not."""
    return write_two_outputs(tmp_path / "wrong.onnx", fault=0.125)


def test_a_runtime_gives_every_output_by_its_name(good: Path, rng: np.random.Generator) -> None:
    batch = rng.standard_normal((3, 3, 33, 40)).astype(np.float32)
    with open_runtime(good) as runtime:
        outputs = runtime.run(batch)
    assert {name: values.shape for name, values in outputs.items()} == {"logits": (3, 7), "stage1": (3, 4, 9, 10)}
    with Predictor(good) as predictor:
        assert predictor.info.num_classes == 7
        np.testing.assert_array_equal(predictor.logits(batch), outputs["logits"])


@pytest.mark.parametrize("rows", [[1], [0, 2], [0, 1, 2]])
def test_an_image_that_is_not_finite_has_no_output(good: Path, rng: np.random.Generator, rows: list[int]) -> None:
    batch = rng.standard_normal((3, 3, 33, 40)).astype(np.float32)
    with open_runtime(good) as runtime:
        whole = runtime.run(batch)
        batch[rows, 1, 7, 9] = np.nan
        outputs = runtime.run(batch)
    others = [row for row in range(3) if row not in rows]
    for name, values in outputs.items():
        assert values.shape == whole[name].shape
        assert np.isnan(values[rows]).all()
        np.testing.assert_allclose(values[others], whole[name][others], rtol=0, atol=1e-6)


def test_a_map_of_another_stride_than_its_record_says(tmp_path: Path, rng: np.random.Generator) -> None:
    lying = replace(INFO, outputs=(INFO.outputs[0], replace(MAP, stride=8)))
    with open_runtime(write_two_outputs(tmp_path / "lying.onnx", info=lying)) as runtime:
        for bad in (0.0, np.nan):
            batch = rng.standard_normal((2, 3, 33, 40)).astype(np.float32)
            batch[0, 0, 0, 0] += bad
            with pytest.raises(PredictorError, match=r"stage1 is of shape .* 9, 10\), and by its record \(\d, 4, 5"):
                runtime.run(batch)


@pytest.mark.parametrize(
    "outputs", [INFO.outputs[:1], INFO.outputs[::-1], (*INFO.outputs, replace(MAP, name="stage2"))]
)
def test_a_record_of_other_outputs_than_the_graph(tmp_path: Path, outputs: tuple[Output, ...]) -> None:
    path = write_two_outputs(tmp_path / "x.onnx", info=replace(INFO, outputs=outputs))
    with pytest.raises(ArtifactError, match="record describes another network"):
        open_runtime(path)


def test_a_fault_in_one_output_alone_is_found(good: Path, wrong: Path) -> None:
    found = verify([good, wrong], good, cases=CASES)
    assert [artifact.passed for artifact in found.artifacts] == [True, False]
    artifact = found.artifacts[1]
    assert artifact.synthetic is not None
    assert [failure.split(" error")[0] for failure in artifact.failures] == [
        "2x33x40 stage1: largest",
        "1x1x1 stage1: largest",
    ]
    for case in artifact.synthetic.cases:
        logits, own = case.outputs["logits"], case.outputs["stage1"]
        assert logits.max_error == 0
        assert own.max_error == pytest.approx(0.125, rel=1e-5)
        assert own.rms_error == pytest.approx(0.125, rel=1e-5)
        assert own.reference_error is None


def test_a_table_has_the_columns_of_which_there_are_figures(good: Path) -> None:
    both = verify([good], good, cases=CASES).artifacts[0].synthetic
    assert both is not None
    cases = tuple(replace(own, outputs={"stage1": own.outputs["stage1"]}) for own in both.cases)
    maps = replace(both, cases=cases)
    (head, rows), (fewer, less) = both.columns(), maps.columns()
    assert {"KL", "top-1", "rms error"} < set(head)
    assert set(head) - set(fewer) == {"mean error", "KL", "top-1", "top-5"}
    assert [dict(zip(fewer, row, strict=True)).items() <= dict(zip(head, whole, strict=True)).items()
            for row, whole in zip(less, rows[1::2], strict=True)] == [True, True]  # fmt: skip


def test_a_fault_in_one_output_alone_is_found_on_images(good: Path, wrong: Path) -> None:
    found = verify([good, wrong], good, data=IMAGES, synthetic=False)
    assert [artifact.passed for artifact in found.artifacts] == [True, False]
    (images,) = found.artifacts[1].images
    assert images.figures.max_error == 0
    assert images.maps["stage1"].max_error == pytest.approx(0.125, rel=1e-4)
    assert all(" stage1: largest error" in failure for failure in found.artifacts[1].failures)


def test_a_fault_in_the_logits_alone_is_not_the_maps(good: Path, tmp_path: Path) -> None:
    """What is measured of one output is not of another."""
    import onnx
    from onnx import numpy_helper

    from rest_deploy.artifact.onnx_file import write_record

    model = onnx.load(good)
    head = next(own for own in model.graph.initializer if own.name == "head")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(1.1), "head"))
    del model.metadata_props[:]
    other = tmp_path / "other.onnx"
    onnx.save(model, other)
    write_record(other, INFO)
    (artifact,) = verify(other, good, cases=CASES[:1]).artifacts
    (failure,) = artifact.failures
    assert failure.startswith("2x33x40 logits: largest error")


def test_the_outputs_are_named_wherever_figures_are_shown(
    good: Path, wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"v.{suffix}" for suffix in ("json", "csv", "md")]
    argv = [str(wrong), "--reference", str(good), "--data", str(IMAGES), "--sizes", "33x40"]
    assert command.main([*argv, *(word for file in files for word in ("-o", str(file)))]) == 1
    told = capsys.readouterr().out
    assert "errors of each output" in told
    assert "errors of each map" in told
    (artifact,) = json.loads(files[0].read_text())["artifacts"]
    assert [(row["output"], row["passed"]) for row in artifact["synthetic"]] == [("logits", True), ("stage1", False)]
    assert [(row["output"], row["passed"]) for row in artifact["images"][0]["maps"]] == [("stage1", False)]
    kinds = [row["what"] for row in csv.DictReader(files[1].open())]
    assert kinds == ["synthetic logits", "synthetic stage1", "images", "images stage1"]
    page = render(read_record(files[0]), None)
    assert "errors of each output" in page
    assert "errors of each map" in page


def test_a_checkpoint_that_gives_other_outputs_is_no_reference(good: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"7 classes, stage1 of 4 channels and stride 4, .* stage1 of 8 channels"):
        verify(good, tiny_checkpoint, cases=CASES)
    assert INFO.num_classes == TINY.num_classes


def _reference(baseline_error: float) -> Reference:
    """Logits that are as they are, and a map whose baseline loses something."""

    def exact(batch: np.ndarray) -> dict[str, np.ndarray]:
        wide = batch.astype(np.float64)
        return {"logits": wide.mean(axis=(2, 3)), "stage1": wide[:, :2, ::4, ::4]}

    def baseline(batch: np.ndarray) -> dict[str, np.ndarray]:
        own = exact(batch)
        return {**own, "stage1": own["stage1"] + baseline_error}

    return Reference(exact, baseline, channels=3, cases=CASES[:1])


@pytest.mark.parametrize("precision", list(Precision))
def test_each_output_has_its_own_baseline_and_its_own_limit(precision: Precision) -> None:
    def candidate(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": batch.mean(axis=(2, 3)), "stage1": batch[:, :2, ::4, ::4] + np.float32(1.9)}

    limits = replace(recipe_of(precision).on_synthetic, floor=0.0, max_error=None)
    allowed = limits.baseline_factor or 1.0  # INT8 asks for no baseline
    within, over = (_reference(error / allowed).compare(candidate, limits) for error in (2.0, 0.2))
    (case,) = within.cases
    assert case.outputs["stage1"].reference_error == pytest.approx(2.0 / allowed)
    assert case.outputs["logits"].reference_error == 0
    both = ["2x33x40 logits", "2x33x40 stage1"]
    assert [failure.split(":")[0] for failure in over.failures] == both
    assert [failure.split(":")[0] for failure in within.failures] == both[: 2 if precision is Precision.INT8 else 1]
    if precision is Precision.INT8:  # by what most of the values lose, in standard deviations of the map
        assert over.failures[1].startswith("2x33x40 stage1: root mean squared error 1.9")


@pytest.mark.parametrize(
    ("precision", "rms_error", "passed"),
    [(Precision.FP32, 1e-4, False), (Precision.INT8, 0.2, True), (Precision.INT8, 0.8, False)],
)
def test_maps_on_images_are_judged_as_the_export_judges_them(
    precision: Precision, rms_error: float, *, passed: bool
) -> None:
    """A value far off is no fault of an INT8 map; that most of them are off is."""
    logits = np.eye(7)
    off = ValueFigures(max_error=1.2, rms_error=rms_error, reference_error=1e-6, scale=3.0, std=1.0, cosine=0.9)
    names = [str(number) for number in range(7)]
    figures = measure_images(
        None, logits, logits, names=names, classes=[None] * 7, reference_error=0.0, maps={"stage1": off}
    )
    result = ArtifactResult({"name": "x"}, recipe_of(precision), None, None, Limits(), (figures,))
    assert result.passed == passed
    assert [own["passed"] for own in result.to_dict()["images"][0]["maps"]] == [passed]


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ({"logits": (2, 3)}, "the artifact gives logits, the reference logits, stage1"),
        ({"logits": (2, 3), "stage1": (2, 2, 9, 9)}, r"stage1: .*\(2, 2, 9, 9\), the reference \(2, 2, 9, 10\)"),
    ],
)
def test_other_outputs_or_shapes_are_refused(ours: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(VerificationError, match=said):
        _reference(0.0).compare(lambda _: {name: np.zeros(shape) for name, shape in ours.items()}, Limits(1.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_that_is_no_number_is_past_every_limit(bad: float) -> None:
    def candidate(batch: np.ndarray) -> dict[str, np.ndarray]:
        values = batch[:, :2, ::4, ::4].copy()
        values[1, 1, 2, 3] = bad
        return {"logits": batch.mean(axis=(2, 3)), "stage1": values}

    for limits in (Limits(1e9), Limits(1e9, max_block_rms=1e9)):
        (failure,) = _reference(0.0).compare(candidate, limits).failures
        assert failure.startswith("2x33x40 stage1: ")


def test_figures_in_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((6, 4, 5, 5))
    ours = exact + 0.1 * rng.standard_normal(exact.shape)
    whole, cut = measure_values(ours, exact, 0.5), (0, 1, 4, 6)
    parts = [
        (exact[a:b].size, measure_values(ours[a:b], exact[a:b], lost))
        for a, b, lost in zip(cut, cut[1:], (0.1, 0.5, 0.2), strict=False)
    ]
    made = joined(parts)
    assert (made.max_error, made.scale, made.reference_error) == (whole.max_error, whole.scale, 0.5)
    assert made.rms_error == pytest.approx(whole.rms_error)
    assert made.std == pytest.approx(whole.std, rel=0.05)  # within a part
    assert np.isnan(joined([*parts, (1, ValueFigures(np.nan, np.nan, np.nan, 1.0, 1.0, 1.0))]).max_error)


def test_the_figures_of_a_record_name_their_outputs(good: Path, wrong: Path) -> None:
    synthetic = verify(good, wrong, cases=CASES).artifacts[0].synthetic
    assert synthetic is not None
    info = replace(INFO, verification=synthetic.to_dict())
    assert ArtifactInfo.from_json(info.to_json(), "x.onnx") == info
    told = words(synthetic.to_dict())
    assert "at 2 sizes; largest error of logits 0 at" in told
    assert "; largest error of stage1 0.12" in told or "; largest error of stage1 0.13" in told
