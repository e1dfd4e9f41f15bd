"""The report: its numbers are the records', nothing in a record does harm, the file is whole or not there."""

from __future__ import annotations

import copy
import functools
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from rest_deploy.errors import ArtifactError, ConfigError, ExportError
from rest_deploy.report import report, write_report
from rest_deploy.report.fields import check_record
from rest_deploy.report.report import render
from tests.conftest import slow
from tests.report import samples
from tests.report.pages import Page, at, read, wrong_numbers

Record = dict[str, Any]
Pair = tuple[Record | None, Record | None]
HOSTILE = "<img src=x onerror=alert(1)>\"'{{7*7}}$x^2$\u202e\x1b[31m\ud800"
PAIRS: dict[str, Callable[[], Pair]] = {
    "all well": lambda: (samples.verification(), samples.benchmark()),
    "all that may go wrong": samples.troubled,
    "without labels": lambda: (samples.verification(labelled=False), samples.benchmark()),
    "noise only": lambda: (samples.verification(images=False), samples.benchmark()),
    "verified only": lambda: (samples.verification(), None),
    "measured only": lambda: (None, samples.benchmark()),
    "next to nothing": samples.small,
}
QUICK = ("all that may go wrong", "next to nothing")


@functools.cache
def _page(name: str) -> tuple[Pair, str]:
    pair = PAIRS[name]()
    return pair, render(*pair)


@pytest.fixture(params=[*QUICK, *slow(name for name in PAIRS if name not in QUICK)])
def rendered(request: pytest.FixtureRequest) -> tuple[Pair, str]:
    return _page(request.param)


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what matplotlib does, which takes seconds; what would be drawn is still put together."""
    for name in ("rows", "plane"):
        monkeypatch.setattr(report, name, lambda *_, **__: Markup("<svg></svg>"))


def _records(pair: Pair) -> Record:
    return {"verification": pair[0], "benchmark": pair[1]}


def _changed(value: Any, change: Callable[[Any], Any], key: str = "") -> Any:
    """A copy in which each value without parts is changed, but for what tells the kind of record."""
    if isinstance(value, dict):
        return {
            name: one if name in ("kind", "schema") and not key else _changed(one, change, f"{key}.{name}")
            for name, one in value.items()
        }
    return [_changed(one, change, f"{key}[]") for one in value] if isinstance(value, list) else change(value)


def test_every_number_is_the_records(rendered: tuple[Pair, str]) -> None:
    pair, html = rendered
    assert wrong_numbers(html, _records(pair)) == []
    assert len(read(html).numbers) > 20


def test_a_number_that_is_not_the_records_is_found() -> None:
    pair = samples.small()
    html = render(*pair)
    pair[1]["cases"][0]["results"][0]["p50_ms"] += 1e-9
    assert wrong_numbers(html, _records(pair)) == ["benchmark.cases[0].results[0].p50_ms"]


def test_every_figure_is_in_the_page() -> None:
    pair, html = _page("all that may go wrong")
    page = read(html)
    assert pair[1] is not None
    names = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "images_per_second", "gflops", "share_of_machine", "calls")
    wanted = {
        f"benchmark.cases[{row}].results[{column}].{name}"
        for row, case in enumerate(pair[1]["cases"])
        for column, result in enumerate(case["results"])
        for name in names
        if result[name] is not None
    }
    assert wanted <= set(page.numbers)
    drawn = [tip.partition(" = ")[0] for tip in page.tips]
    for key in ("p50_ms", "ratio.median"):
        assert len({one for one in drawn if one.endswith(key)}) > 50


def test_nothing_comes_from_elsewhere(rendered: tuple[Pair, str]) -> None:
    _, html = rendered
    page = read(html)
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    assert not re.search(r"https?://|@import|url\(|<script|javascript:", html)
    assert page.all("meta", content="default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert {own["src"].split(",")[0] for own in page.all("img")} <= {"data:image/jpeg;base64"}
    assert not [own for tag, own in page.elements if "id" in own and tag != "section"]


def test_headings_tables_and_charts_can_be_read_out(rendered: tuple[Pair, str]) -> None:
    page = read(rendered[1])
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(own.get("scope") in ("col", "row", "rowgroup") for own in page.all("th"))
    charts = page.all("svg")
    assert charts
    assert all(own["aria-label"] and own["role"] == "img" for own in charts)
    assert len(page.all("desc")) == len(charts)
    assert {own["href"].removeprefix("#") for own in page.all("a")} == {own["id"] for own in page.all("section")}


@pytest.mark.parametrize("make", [samples.one_of_each, samples.troubled])
def test_hostile_strings_are_text(make: Callable[[], Pair], request: pytest.FixtureRequest) -> None:
    if make is samples.troubled:
        request.getfixturevalue("no_charts")
    hostile = _changed(list(make()), lambda value: HOSTILE if isinstance(value, str) else value)
    for record, kind in zip(hostile, ("rest-verify", "rest-bench"), strict=True):
        record["kind"] = kind
    assert _page_with_text_alone(render(*hostile)).all("table")


def test_hostile_names_are_text() -> None:
    checked, timed = samples.one_of_each()
    for record in (checked, timed):
        record["environment"]["packages"] = record["environment"]["variables"] = {HOSTILE: HOSTILE}
    timed["contenders"][0]["cold"]["peak_mib"] = {HOSTILE: 3.5}
    timed["settings"][HOSTILE] = HOSTILE
    html = render(checked, timed)
    _page_with_text_alone(html)
    assert wrong_numbers(html, _records((checked, timed))) == []


def _page_with_text_alone(html: str) -> Page:
    """A page in which hostile strings are text."""
    assert "<img src=x" not in html
    assert "onerror" in html, "it was left out, not escaped"
    assert not [character for character in html if not character.isprintable() and character != "\n"]
    page = read(html)
    assert not [own for tag, own in page.elements if tag in ("script", "a") and "onerror" in str(own)]
    assert not [name for _, own in page.elements for name in own if name.startswith("on")]
    assert "{{7*7}}$x^2$\\u202e\\x1b[31m\\ud800" in page.text
    html.encode("utf-8")
    return page


@pytest.mark.parametrize("value", [5e-324, -1e100, *slow([0.0, -1.5, 1e100])])
def test_any_number_can_be_drawn(value: float) -> None:
    pair = [_changed(record, lambda old: value if isinstance(old, float) else old) for record in samples.one_of_each()]
    html = render(*pair)
    assert wrong_numbers(html, _records((pair[0], pair[1]))) == []
    assert not re.search(r"\b(?:nan|inf)\b", re.sub(r"<text.*?</text>", "", html))


#: What a record cannot do without.
NEEDED = {
    *("kind", "schema", "environment", "reference", "artifacts", "passed", "contenders", "cases", "results"),
    *("batch", "height", "width", "name", "network", "contender", "image", "to", "rows", "block", "case"),
    *("label", "artifact", "images", "right"),
}


_BATCHES = 16  # of values that are null at a time


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("which", [0, 1], ids=["verification", "benchmark"])
def test_each_value_may_be_null_or_is_asked_for(which: int) -> None:
    records = samples.one_of_each()
    allowed = []
    for path in _paths(records[which]):
        try:
            check_record(_without(records[which], path))
            allowed.append(path)
        except ArtifactError:
            assert path[-1] in NEEDED or isinstance(path[-1], int), path
    assert len(allowed) > 100
    for at_once in (allowed[number::_BATCHES] for number in range(_BATCHES)):
        changed = list(records)
        for path in at_once:
            changed[which] = _without(changed[which], path)
        read(render(*changed))


def _without(record: Record, path: tuple[Any, ...]) -> Record:
    """A copy with a null at a path, where that is still there."""
    changed = copy.deepcopy(record)
    holder: Any = changed
    for step in path[:-1]:
        holder = holder[step] if holder is not None else None
    if holder is not None:
        holder[path[-1]] = None
    return changed


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a record are; of arrays the last value only."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield (*path, name)
            yield from _paths(one, (*path, name))
    elif isinstance(value, list) and value:
        yield (*path, len(value) - 1)
        yield from _paths(value[-1], (*path, len(value) - 1))


def test_numbers_may_all_be_null() -> None:
    keep = {"batch", "height", "width", "schema", "by_class", "confused"}

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: one if name in keep else without(one) for name, one in value.items()}
        if isinstance(value, list):
            return [without(one) for one in value]
        return None if isinstance(value, int | float) and not isinstance(value, bool) else value

    page = read(render(*(without(record) for record in samples.one_of_each())))
    names = {key.rpartition(".")[2] for key in page.numbers}
    assert names == {"batch", "height", "width", "images", "right"}
    assert page.tips == []


def test_neither_record() -> None:
    with pytest.raises(ConfigError, match=r"rest-verify.* rest-bench"):
        render(None, None)


@pytest.mark.parametrize("swapped", [(samples.benchmark(), None), (None, samples.verification())])
def test_records_in_each_others_place(swapped: Pair) -> None:
    with pytest.raises(ArtifactError, match=r"'rest-\w+'; accepted: rest-\w+;"):
        render(*swapped)


def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(ArtifactError):
        write_report(path, verification={"kind": "rest-verify"})
    assert list(tmp_path.iterdir()) == []
    checked, timed = samples.small()
    write_report(path, verification=checked, benchmark=timed)
    assert path.read_text(encoding="utf-8") == render(checked, timed), "one record gives one page"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ExportError, match="does not exist"):
        write_report(tmp_path / "nowhere" / "report.html", benchmark=timed)


def test_paths_with_odd_names() -> None:
    assert at({"a": {"b": [{"1x2": 3}]}}, 'a.b[0]["1x2"]') == 3


@pytest.mark.parametrize(
    ("package", "command"), [("jinja2", "verify no.onnx --reference no.pth"), ("matplotlib", "bench no.onnx")]
)
def test_a_missing_package_is_told_before_any_work(package: str, command: str, tmp_path: Path) -> None:
    name, *words = command.split()
    code = f"import sys; sys.modules[{package!r}] = None; from rest_deploy.cli.{name} import main; sys.exit(main())"
    argv = [sys.executable, "-c", code, *words, "--report", str(tmp_path / "r.html")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {package} is needed .*\[report\]\S*\n", done.stderr)
