"""The small parts: numbers in words, paths, names, matches, measures, pictures, colours."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from rest_deploy.reporting import stylesheet
from rest_deploy.reporting.contender import short_names
from rest_deploy.reporting.matching import match
from rest_deploy.reporting.measure import choose, relative_error
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import count, deviation, exact, mebibytes, number, percent, plain
from rest_deploy.reporting.thumbnail import thumbnail
from tests.reporting import samples


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        *((plain, 27.1234, "27.1"), (plain, 271.234, "271"), (plain, 2712.3, "2,712"), (plain, 9.999, "10.0")),
        *((plain, 0.06, "0.0600"), (plain, 1.2e-5, "1.2e-5"), (plain, 3e9, "3.0e9"), (deviation, 1e4, "1.0e4")),
        *((deviation, 1.23e-3, "1.2e-3"), (deviation, 0.117, "0.12"), (deviation, 1.0, "1.0"), (plain, 0.0, "0")),
        *((percent, 0.99166, "99.17%"), (percent, 1.0, "100.00%"), (count, 12345.0, "12,345"), (exact, 0.99, "0.99")),
        *((mebibytes, 54_123_456.0, "51.6"), (exact, 15.0, "15"), (plain, -0.5, "-0.500")),
    ],
)  # fmt: skip
def test_numbers_in_words(form: Any, value: float, text: str) -> None:
    assert form(value) == text


def test_a_number_keeps_all_its_digits_for_machines() -> None:
    value = 0.1 + 0.2
    assert number(Node(value, "k")) == f'<data value="{value!r}" data-key="k">0.300</data>'
    assert number(Node(2**53 + 1, "k"), count).startswith('<data value="9007199254740993"')
    assert number(Node(None, "k")) == '<span class="none">—</span>'
    assert number(Node(True, "k")) == '<span class="none">—</span>'


def test_paths() -> None:
    root = Node({"a": [{"b": 1}], "1x2": None}, "r")
    assert [node["b"].key for node in root["a"]] == ["r.a[0].b"]
    assert root["1x2"].key == 'r["1x2"]'
    assert root["none"]["beneath"].value is None
    assert list(root["none"]) == []


def test_names_are_short_where_they_stay_different() -> None:
    names = [("net_fp16.onnx", "net"), ("net.onnx", "net"), ("other.onnx", "net"), ("net", "net")]
    assert short_names(names) == ["fp16.onnx", "onnx", "other.onnx", "net"]
    assert short_names([("net_a", "net"), ("net.a", "net")]) == ["net_a", "net.a"]
    assert short_names([("a_x", "a"), ("b_x", "b")]) == ["x", "x"]


def _match(**changes: Any) -> tuple[str, Any]:
    own = samples.contender("rest_small", "_fp16.onnx") | changes
    found = match(Node(own, "contender"), Node(samples.verification(), "verification"))
    return found.words, found.artifact["name"].value


def test_matches_go_by_content() -> None:
    assert _match() == ("passed", "rest_small_fp16.onnx")
    assert _match(name="renamed.onnx") == ("passed", "rest_small_fp16.onnx")
    assert _match(sha256=None) == ("passed", "rest_small_fp16.onnx")
    assert _match(sha256="0" * 64)[0].startswith("not verified: other SHA-256")
    assert _match(sha256="0" * 64, name="new.onnx") == ("not verified", None)
    assert _match(sha256=samples.sha("rest_small.safetensors")) == ("is the reference", None)


def test_of_one_file_on_two_devices_the_one_on_the_contenders_is_taken() -> None:
    checked = samples.verification()
    twin = checked["artifacts"][1] | {"device": "cuda:0", "name": "on the GPU"}
    own = samples.contender("rest_small", "_fp16.onnx")
    for artifacts in ([checked["artifacts"][1], twin], [twin, checked["artifacts"][1]]):
        node = Node({**checked, "artifacts": artifacts}, "verification")
        assert match(Node(own, "c"), node).artifact["name"].value == "rest_small_fp16.onnx"
        assert match(Node(own | {"device": "cuda:0"}, "c"), node).artifact["name"].value == "on the GPU"


CASE = Node({"batch": 1, "height": 384, "width": 384}, "benchmark.cases[0]")


def _reading(**options: bool) -> tuple[str, float, str]:
    checked = Node(samples.verification(**options), "verification")
    measure = choose(checked, checked["data"]["reference"])
    found = match(Node(samples.contender("rest_small", "_fp16.onnx"), "c"), checked)
    reading = measure.read(found, CASE)
    assert reading is not None
    return measure.head, reading.value, reading.where


def test_the_strongest_measure_is_taken() -> None:
    checked = samples.verification()
    assert _reading() == ("top-1 accuracy", checked["artifacts"][1]["images"][1]["top1_accuracy"], "images of 384x384")
    assert _reading(labelled=False)[:2] == ("top-1 agreement", 1 - 2 / 360)
    case = checked["artifacts"][1]["synthetic"][4]
    assert (case["batch"], case["height"]) == (1, 384)
    head, value, where = _reading(images=False)
    assert (head, where) == ("largest error, std of the logits", "noise of 384×384")
    assert value == case["max_error"] / case["logit_std"]


def test_without_the_size_the_worst_case_stands() -> None:
    checked = Node(samples.verification(images=False), "verification")
    measure = choose(checked, checked["data"]["reference"])
    found = match(Node(samples.contender("rest_small", ".onnx"), "c"), checked)
    reading = measure.read(found, Node({"batch": 1, "height": 5, "width": 5}, "k"))
    assert reading is not None
    assert reading.where.endswith(", the worst case")
    assert reading.value == max(relative_error(row) or 0 for row in found.artifact["synthetic"])
    assert measure.gain(reading) == -reading.value


@pytest.mark.parametrize(("kind", "side", "small"), [("PNG", 8, True), ("JPEG", 96, True), ("JPEG", 200, False)])
def test_pictures(kind: str, side: int, small: bool) -> None:
    drawn = thumbnail(samples.picture(1, side, kind), "a<b")
    assert drawn.startswith('<img src="data:image/')
    assert ("picture small" in drawn) is small
    assert 'alt="a&lt;b"' in drawn


@pytest.mark.parametrize(
    "source",
    [
        "",
        "http://example.org/x.png",
        "javascript:alert(1)",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:text/html;base64,PGI+",
        "data:image/png;base64,",
        "data:image/png;base64,AAAA",
        "data:image/png;base64,A",
        "data:image/jpeg;base64,/9j/",
        'data:image/png;base64,AAAA"onerror="alert(1)',
        samples.picture(1) + "\n",
        " " + samples.picture(1),
        "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8\xff\xe0\xff\xff").decode(),
    ],
)
def test_what_is_no_picture(source: str) -> None:
    assert thumbnail(source, "x") == '<span class="picture none">no picture</span>'


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2, "relative luminance")."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [stylesheet._LIGHT, stylesheet._DARK], ids=["light", "dark"])
def test_colours_can_be_told_from_what_is_behind_them(theme: str) -> None:
    colours = dict(re.findall(r"--(\w+):(#\w{6});", theme))
    for text in ("ink", "soft", "accent", "good", "bad", "warn"):
        for behind in ("page", "card", "band"):
            assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for text, behind in (("good", "goodtint"), ("bad", "badtint"), ("warn", "warntint"), ("warn", "badtint")):
        assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    assert min(_contrast(colours[f"c{mark}"], colours["card"]) for mark in range(7)) >= 3


def test_contrast_of_black_on_white() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
