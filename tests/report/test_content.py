"""What the page says of what was planted in the records."""

from __future__ import annotations

import base64
import io
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from PIL import Image

from rest_deploy.report import report
from rest_deploy.report.charts import ChartRow, Line
from rest_deploy.report.report import Records, on_frontier, picture, render, short_names
from tests.report import samples
from tests.report.pages import Page, read

Record = dict[str, Any]


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    """What is to be drawn, in place of the charts."""
    found: list[tuple[str, Any, dict[str, Any]]] = []

    def keep(title: str, _: str, what: Any, **options: Any) -> Markup:
        found.append((title, what, options))
        return Markup("<svg></svg>")

    monkeypatch.setattr(report, "rows", keep)
    monkeypatch.setattr(report, "plane", keep)
    return found


def _page(verification: Record | None, benchmark: Record | None) -> Page:
    return read(render(verification, benchmark))


def _text(verification: Record | None, benchmark: Record | None) -> str:
    return _page(verification, benchmark).text


def test_a_pass_and_a_failure_are_told_in_words() -> None:
    assert "Passed. All 4 artifacts agree with rest_small.safetensors" in _text(samples.verification(), None)
    told = _text(*samples.troubled())
    assert "FAILED. 1 of 4 artifacts" in told
    assert "agreement 0.914 is under 0.95" in told
    checked = samples.verification() | {"passed": False}
    assert "1 image could not be read" in _text(checked, None)


def test_only_measured_is_no_pass() -> None:
    told = _text(None, samples.benchmark())
    assert "Speed only: 5 contenders, not verified" in told
    assert "Passed" not in told


def test_cautions() -> None:
    words = ("INTERRUPTED", "Noisy", "Not measured", "Slower", "Assumed")
    told = _text(*samples.troubled())
    assert all(word in told for word in words)
    assert "1 of 6 cases with warnings (8x384x384)" in told
    assert "rest_lite torch, rest_large.engine" in told
    assert "1 regression against old.json" in told
    timed, checked = samples.benchmark(), samples.verification()
    timed["cases"] = timed["cases"][:3]
    for artifact in checked["artifacts"]:
        artifact["assumed"] = {}
    assert not any(word in _text(checked, timed) for word in words)
    for artifact in checked["artifacts"][:2]:
        artifact["assumed"] = {"image size": "224x224", "labels": "ImageNet's"}
    names = ", ".join(artifact["name"] for artifact in checked["artifacts"][:2])
    assert f"{names}: image size 224x224; labels ImageNet's." in _text(checked, None)


def test_sections_without_data_are_left_out() -> None:
    def names(*pair: Record | None) -> list[str]:
        return [own["id"] for own in _page(*pair).all("section")]

    assert names(*samples.small()) == ["compared", "tradeoff", "latency", "error", "making"]
    assert names(None, samples.benchmark()) == ["compared", "latency", "making"]
    assert "classes" not in names(samples.verification(labelled=False), None)
    every = (
        "compared",
        "tradeoff",
        "latency",
        "error",
        "images",
        "classes",
        "pictures",
        "blocks",
        "regression",
        "making",
    )
    assert names(*samples.troubled()) == list(every)


def test_the_frontier_in_words() -> None:
    told = _text(samples.verification(), samples.benchmark())
    assert "1 rest_small.onnx 99.17% 26.3 yes passed" in told
    assert "2 rest_small_fp16.onnx 98.77% 36.3 no passed" in told
    assert "4 rest_small.engine 98.77% 1.67 yes passed" in told
    assert "5 rest_small torch 99.17% 50.8 no PyTorch's own" in told


def test_pytorchs_own_accuracy_is_in_the_plot(drawn: list[tuple[str, Any, dict[str, Any]]]) -> None:
    """As a level, and as a point where PyTorch was timed with the same network."""
    checked, timed = samples.verification(), samples.benchmark()
    checked["data"]["reference"][0]["top1_accuracy"] = 0.875
    render(checked, timed)
    title, lines, options = drawn[0]
    assert title.startswith("1x224x224")
    assert options["level"][1] == 0.875
    assert "87.50%" in options["level"][0]
    (torch,) = (line for line in lines if line.label == "5 torch")
    assert torch.stops[0].y == 0.875
    assert torch.look.hollow, "slower and worse than others"
    timed["contenders"][4]["network"] = "another"
    drawn.clear()
    render(checked, timed)
    assert "torch" not in str([line.label for line in drawn[0][1]])


def test_a_file_of_the_same_name_is_not_the_one_that_was_verified() -> None:
    assert "not verified: the file of that name has another SHA-256" in _text(*samples.troubled())
    assert "No contender of the benchmark is both" in _text(samples.verification(network="huge"), samples.benchmark())


def test_errors_and_missing_percentiles_are_told() -> None:
    told = _text(*samples.troubled())
    for words in ("out of memory: 3.1 GiB asked", "could not be opened: no CUDA device", "signal 9 ended"):
        assert words in told
    assert "too few calls for that percentile" in told


def test_gpu_figures_only_where_there_are_any() -> None:
    timed = samples.benchmark()
    assert "rest_small on the GPU" in _text(None, timed)
    for case in timed["cases"]:
        for result in case["results"]:
            result["gpu"] = None
    assert "on the GPU" not in _text(None, timed)


def test_blocks_name_the_first_past_its_limit() -> None:
    checked = samples.verification()
    first = checked["artifacts"][2]["blocks"]["first_over_limit"]
    assert first is not None
    assert f"the difference begins at block {first}." in _text(checked, None)
    checked["artifacts"][2]["blocks"]["first_over_limit"] = None
    assert "every block is within its limit." in _text(checked, None)


def test_accuracy_by_class_and_confusions() -> None:
    page = _page(samples.verification(), None)
    assert "three (3) 36 35 97.2% 36 100.0% 36 100.0% 29 80.6% 36 100.0%" in page.text  # reference, then artifacts
    assert "four (4) 22 14" in page.text, "so many rightly, so many as a nine"
    confused = "verification.artifacts[2].images[0].confused"
    assert page.numbers[f"{confused}[0].images"] == "14"
    assert page.numbers["verification.artifacts[2].images[0].by_class[3].right"] == "29"


def test_of_many_classes_the_most_frequent_confusions_are_shown() -> None:
    checked = samples.verification()
    row = checked["artifacts"][2]["images"][0]
    row["by_class"] += [{"label": n, "label_name": None, "images": 9, "right": 9} for n in range(10, 30)]
    told = _text(checked, None)
    assert "the most frequent wrong answers class answer images four (4) nine (9) 14 three (3) eight (8) 7" in told


def test_pictures_that_were_answered_wrongly_come_first_and_once() -> None:
    checked = samples.verification()
    row = checked["artifacts"][2]["images"][0]
    records = Records(checked, None)
    names = [card["image"].text for card in records.pictures(records.every("images", [records.artifacts[2]])[0])]
    assert names[:24] == [one["image"] for one in row["worst_wrong"]]
    assert set(names) == {one["image"] for one in row["worst_wrong"] + row["worst_flips"]}
    assert len(set(names)) == len(names)
    told = _text(checked, None)
    assert "34 wrong, 31 flips (36 shown)" in told
    assert "zero (0): reference right" in told
    assert "both wrong" in told


def test_thumbnails_and_what_is_none() -> None:
    checked = samples.verification()
    worst = checked["artifacts"][2]["images"][0]["worst_flips"]
    worst[0]["thumbnail"] = "data:image/svg+xml;base64,PHN2Zy8+"
    worst[1]["thumbnail"] = None
    before, page = _page(samples.verification(), None), _page(checked, None)
    assert len(page.all("img")) == len(before.all("img")) - 2
    assert page.text.count("no picture") == 2
    encoded = [own["src"].partition(";base64,")[2] for own in page.all("img")]
    sides = {max(Image.open(io.BytesIO(base64.b64decode(one, validate=True))).size) for one in encoded}
    assert sides == {8, 128}


@pytest.mark.parametrize(("kind", "side"), [("PNG", 8), ("JPEG", 96), ("JPEG", 200)])
def test_a_picture_is_written_anew(kind: str, side: int) -> None:
    source = samples.picture(1, side, kind)
    assert picture(source).startswith("data:image/jpeg;base64,")
    assert picture(source) != source


@pytest.mark.parametrize(
    "source",
    [
        *("", "http://example.org/x.png", "javascript:alert(1)", "data:image/svg+xml;base64,PHN2Zy8+"),
        *(
            "data:text/html;base64,PGI+",
            "data:image/png;base64,",
            "data:image/png;base64,AAAA",
            "data:image/png;base64,A",
        ),
        *("data:image/jpeg;base64,/9j/", 'data:image/png;base64,AAAA"onerror="alert(1)', " " + samples.picture(1)),
        *(samples.picture(1) + "\n", samples.picture(1)[:-30], samples.picture(1, 600)),
    ],
)
def test_what_is_no_picture(source: str) -> None:
    assert picture(source) == ""


def test_regressions() -> None:
    told = _text(*samples.troubled())
    assert "1 x improvement, 1 x no difference beyond noise, 1 x regression" in told
    assert "rest_large.onnx: only in the new record" in told


def test_commands_and_machine() -> None:
    told = _text(samples.verification(), samples.benchmark())
    assert "rest-verify rest_small.onnx --reference rest_small.safetensors" in told
    assert "240 GFLOP/s (onnxruntime, float32), on 2 threads" in told
    assert "NVIDIA H100 80GB HBM3" in told
    assert "bound to processors 0, 1 0, 1 clocks, MHz 2,600, 2,596" in told
    assert "2026-11-24 07:10 UTC" in told


def test_ratios_name_what_they_are_formed_to(drawn: list[tuple[str, Any, dict[str, Any]]]) -> None:
    timed = samples.benchmark()
    for case in timed["cases"]:
        case["results"][0]["ratio"], case["results"][1]["ratio"] = case["results"][1]["ratio"], None
        for result in case["results"]:
            if result["ratio"] is not None:
                result["ratio"]["to"] = "rest_small_fp16.onnx"
    assert "x rest_small_fp16.onnx interval" in _text(None, timed)
    (groups,) = (what for title, what, _ in drawn if title.startswith("x rest_small_fp16.onnx"))
    assert [len(rows) for _, rows in groups] == [5] * 6


def test_an_error_past_its_limit_looks_different(drawn: list[tuple[str, Any, dict[str, Any]]]) -> None:
    checked, _ = samples.troubled()
    render(checked, None)
    (groups,) = (what for title, what, _ in drawn if title == "error of rest_small_int8.onnx" and len(what[0][1]) == 8)
    over = {row.label: row for _, rows in groups for row in rows if row.told.endswith("over")}
    assert list(over) == ["1x1x1", "1x384x384"]
    assert over["1x384x384"].limit == 0.6
    assert over["1x1x1"].node.number is None


def _match(**changes: Any) -> tuple[str, str | None]:
    timed, checked = samples.benchmark(), samples.verification()
    timed["contenders"] = [timed["contenders"][1] | changes]
    records = Records(checked, timed | {"cases": []})
    artifact, words = records.match(records.contenders[0])
    return words, artifact["name"].value if artifact is not None else None


def test_matches_go_by_content() -> None:
    assert _match() == _match(name="renamed.onnx") == _match(sha256=None) == ("passed", "rest_small_fp16.onnx")
    assert _match(sha256="0" * 64)[0].startswith("not verified: the file of that name")
    assert _match(sha256="0" * 64, name="new.onnx") == ("not verified", None)
    assert _match(sha256=samples.sha("rest_small.safetensors")) == ("is the reference", None)


def test_what_a_server_says_of_its_file_proves_nothing() -> None:
    """It tells the digest of a file that was verified here; only a verification of the server speaks for it."""
    timed, checked = samples.benchmark(), samples.verification()
    timed["contenders"][1]["device"] = "server"
    alone = Records(checked, timed)
    assert alone.match(alone.contenders[1]) == (None, "not verified")
    timed["contenders"][1]["sha256"] = samples.sha("rest_small.safetensors")  # nor is it the reference
    alone = Records(checked, timed)
    assert alone.match(alone.contenders[1]) == (None, "not verified")
    timed["contenders"][1]["sha256"] = samples.sha("rest_small_fp16.onnx")
    own = checked["artifacts"][1]
    both = Records({**checked, "artifacts": [own, own | {"device": "server", "passed": False}]}, timed)
    assert both.match(both.contenders[1])[1] == "FAILED"


def test_of_one_file_on_two_devices_the_one_on_the_contenders_is_taken() -> None:
    timed, checked = samples.benchmark(), samples.verification()
    own = checked["artifacts"][1]
    twin = own | {"device": "cuda:0", "name": "on the GPU"}
    for artifacts in ([own, twin], [twin, own]):
        for device, name in (("cpu", "rest_small_fp16.onnx"), ("cuda:0", "on the GPU")):
            timed["contenders"][1]["device"] = device
            records = Records({**checked, "artifacts": artifacts}, timed)
            artifact, _ = records.match(records.contenders[1])
            assert artifact is not None
            assert artifact["name"].value == name


def _figure(size: tuple[int, int, int] = (1, 384, 384), **options: bool) -> tuple[str, float, str]:
    checked, timed = samples.verification(**options), samples.benchmark()
    timed["cases"][0] |= dict(zip(("batch", "height", "width"), size, strict=True))
    records = Records(checked, timed)
    case = next(case for case in records.cases if case["height"].value == size[1] and case["batch"].value == size[0])
    figure, where = records.figure(case, records.artifacts[1])
    assert figure is not None
    assert figure.number is not None
    return records.measure, figure.number, where


def test_the_strongest_measure_is_taken() -> None:
    artifact = samples.verification()["artifacts"][1]
    accuracy = artifact["images"][1]["top1_accuracy"]
    assert _figure() == ("top1_accuracy", accuracy, "images at 384x384")
    assert _figure(labelled=False)[:2] == ("top1_agreement", 1 - 2 / 360)
    case = artifact["synthetic"][4]
    assert (case["batch"], case["height"]) == (1, 384)
    wanted = ("max_error", case["max_error"] / case["logit_std"], "synthetic images of 384x384")
    assert _figure(images=False) == wanted


def test_without_the_size_the_worst_case_stands() -> None:
    _, value, where = _figure((1, 5, 5), images=False)
    assert where.endswith(", the worst case")
    rows = samples.verification(images=False)["artifacts"][1]["synthetic"]
    assert value == max(row["max_error"] / row["logit_std"] for row in rows)


def test_names_are_short_where_they_stay_different() -> None:
    def short(*names: tuple[str, str]) -> list[str]:
        contenders = [samples.contender("rest_small", ".onnx") | {"name": n, "network": own} for n, own in names]
        return short_names(
            [one.node for one in Records(None, samples.benchmark() | {"contenders": contenders}).contenders]
        )

    names = [("net_fp16.onnx", "net"), ("net.onnx", "net"), ("other.onnx", "net"), ("net", "net")]
    assert short(*names) == ["fp16.onnx", "onnx", "other.onnx", "net"]
    assert short(("net_a", "net"), ("net.a", "net")) == ["net_a", "net.a"]
    assert short(("a_x", "a"), ("b_x", "b")) == ["x", "x"]


@pytest.mark.parametrize(
    ("points", "on"),
    [
        ([], []),
        ([(1, 1), (2, 2), (3, 3)], [True, True, True]),
        ([(1, 3), (2, 2), (3, 1)], [True, False, False]),
        ([(1, 1), (1, 2)], [False, True]),
        ([(1, 1), (1, 1)], [True, True]),
        ([(1, 1), (5, 9), (4, 9), (6, 9.5), (3, 0.5)], [True, False, True, True, False]),
    ],
)
def test_the_frontier_of_planted_points(points: list[tuple[float, float]], on: list[bool]) -> None:
    assert on_frontier(points) == on


@given(st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float)), max_size=12))
def test_what_is_off_the_frontier_is_beaten_by_something_on_it(points: list[tuple[float, float]]) -> None:
    on = on_frontier(points)
    best = [point for point, own in zip(points, on, strict=True) if own]
    for point, own in zip(points, on, strict=True):
        assert any(x <= point[0] and y >= point[1] and (x, y) != point for x, y in best) is not own


def test_lines_and_rows_carry_the_numbers_they_stand_for(drawn: list[tuple[str, Any, dict[str, Any]]]) -> None:
    timed = samples.benchmark()
    render(None, timed)
    for _, what, _ in drawn:
        lines = [one for one in what if isinstance(one, Line)]
        rows = [row for one in what if not isinstance(one, Line) for row in one[1]]
        assert lines or rows
        assert all(isinstance(row, ChartRow) and row.node.key.startswith("benchmark.cases[") for row in rows)
        for line in lines:
            for stop in line.stops:
                batch = int(line.label.rpartition(" ")[2])
                assert stop.y == pytest.approx((stop.node.number or 0.0) / batch)


def _contrast(one: str, other: str) -> float:
    """Of two colours (WCAG 2.2, "contrast ratio")."""
    lights = []
    for colour in (one, other):
        shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_what_is_behind_them(theme: int) -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    style = Path(report.__file__).with_name("style.css").read_text()
    colours = dict(re.findall(r"--(\w+):(#\w{6});", style.split(":root")[theme + 1]))
    for text, behind in product(("ink", "soft", "accent", "good", "bad", "warn"), ("page", "card", "band")):
        assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for text, behind in (("good", "goodtint"), ("bad", "badtint"), ("warn", "warntint"), ("warn", "badtint")):
        assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    assert min(_contrast(colours[f"c{mark}"], colours["card"]) for mark in range(7)) >= 3
