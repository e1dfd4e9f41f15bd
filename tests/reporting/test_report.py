"""The report: its numbers are the records', nothing in a record does harm, the file is whole or not there."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rest_deploy.reporting
from rest_deploy.errors import ArtifactError, ConfigError, ExportError
from rest_deploy.reporting import render, write_report
from tests.reporting import samples
from tests.reporting.pages import at, read, wrong_numbers

Record = dict[str, Any]
Pair = tuple[Record | None, Record | None]
HOSTILE = "<img src=x onerror=alert(1)>\"'\u202e\x1b[31m\ud800"
PAIRS: dict[str, Callable[[], Pair]] = {
    "all well": lambda: (samples.verification(), samples.benchmark()),
    "all that may go wrong": samples.troubled,
    "without labels": lambda: (samples.verification(labelled=False), samples.benchmark()),
    "noise only": lambda: (samples.verification(images=False), samples.benchmark()),
    "verified only": lambda: (samples.verification(), None),
    "measured only": lambda: (None, samples.benchmark()),
    "next to nothing": samples.small,
    "one of each": samples.one_of_each,
}


@pytest.fixture(params=PAIRS.values(), ids=PAIRS.keys())
def pair(request: pytest.FixtureRequest) -> Pair:
    made: Pair = request.param()
    return made


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


def test_public_names() -> None:
    assert rest_deploy.reporting.__all__ == ["read_record", "render", "write_report"]


def test_every_number_is_the_records(pair: Pair) -> None:
    html = render(*pair)
    assert wrong_numbers(html, _records(pair)) == []
    assert len(read(html).all("data")) > 20


def test_a_number_that_is_not_the_records_is_found() -> None:
    checked, timed = samples.verification(), samples.benchmark()
    html = render(checked, timed)
    timed["cases"][0]["results"][2]["p50_ms"] += 1e-9
    assert set(wrong_numbers(html, {"verification": checked, "benchmark": timed})) == {
        "benchmark.cases[0].results[2].p50_ms"
    }


def test_every_latency_is_in_the_page() -> None:
    names = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "images_per_second", "gflops", "share_of_machine", "calls")
    pair = samples.troubled()
    keys = {own["data-key"] for own in read(render(*pair)).all("data")}
    for row, case in enumerate(pair[1]["cases"]):
        for column, result in enumerate(case["results"]):
            wanted = {f"benchmark.cases[{row}].results[{column}].{name}" for name in names if result[name] is not None}
            assert wanted <= keys


def test_paths_with_odd_names() -> None:
    assert at({"a": {"b": [{"1x2": 3}]}}, 'a.b[0]["1x2"]') == 3


def test_elements_are_balanced_and_nothing_comes_from_elsewhere(pair: Pair) -> None:
    html = render(*pair)
    page = read(html)
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    assert not re.search(r"https?://|@import|url\(|<script|javascript:", html)
    assert page.all("meta", content="default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert {own["src"].split(",")[0] for own in page.all("img")} <= {"data:image/jpeg;base64", "data:image/png;base64"}


def test_headings_tables_and_figures_can_be_read_out(pair: Pair) -> None:
    page = read(render(*pair))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(own.get("scope") in ("col", "row", "rowgroup") for own in page.all("th"))
    plots = page.all("svg", role="img")
    assert all(own["aria-label"] for own in plots)
    assert len(page.all("desc")) == len(plots)
    assert all(own.get("role") == "img" or own.get("aria-hidden") == "true" for own in page.all("svg"))
    anchors = {own["href"].removeprefix("#") for own in page.all("a")}
    assert anchors == {own["id"] for own in page.all("section")}
    assert len(anchors) == len(page.all("section"))


@pytest.mark.parametrize("name", PAIRS)
def test_hostile_strings_are_text(name: str) -> None:
    hostile = _changed(list(PAIRS[name]()), lambda value: HOSTILE if isinstance(value, str) else value, "")
    for record, kind in zip(hostile, ("rest-verify", "rest-bench"), strict=True):
        if record is not None:
            record["kind"] = kind
    _check_harmless(render(*hostile))


def test_hostile_names_are_text() -> None:
    checked, timed = samples.verification(), samples.benchmark()
    for record in (checked, timed):
        record["environment"]["packages"] = record["environment"]["variables"] = {HOSTILE: HOSTILE}
    timed["contenders"][0]["cold"]["peak_mib"] = {HOSTILE: 3.5}
    timed["settings"][HOSTILE] = HOSTILE
    html = render(checked, timed)
    _check_harmless(html)
    assert wrong_numbers(html, {"verification": checked, "benchmark": timed}) == []


def _check_harmless(html: str) -> None:
    assert "<img src=x" not in html
    assert "onerror" in html, "it was left out, not escaped"
    assert not [character for character in html if not character.isprintable() and character != "\n"]
    page = read(html)
    assert not [own for tag, own in page.elements if tag in ("script", "img", "a") and "onerror" in str(own)]
    assert not [name for _, own in page.elements for name in own if name.startswith("on")]
    assert "\\u202e\\x1b[31m\\ud800" in page.text
    html.encode("utf-8")


@pytest.mark.parametrize("value", [0, 0.0, -1.5, 5e-324, 1e-100, 1e100, -1e100, 1e7])
def test_any_number_can_be_drawn(value: float) -> None:
    def change(old: Any) -> Any:
        return value if isinstance(old, float) else old

    pair = [_changed(record, change) for record in samples.troubled()]
    html = render(*pair)
    assert wrong_numbers(html, {"verification": pair[0], "benchmark": pair[1]}) == []
    assert not re.search(r'="-?(?:nan|inf)', html)


#: What a record cannot do without.
NEEDED = {
    *("kind", "schema", "environment", "reference", "artifacts", "passed", "contenders", "cases", "results"),
    *("batch", "height", "width", "name", "network", "contender", "image", "to", "rows", "block", "case"),
}


@pytest.mark.parametrize("which", [0, 1], ids=["verification", "benchmark"])
def test_each_value_may_be_null_or_is_asked_for(which: int) -> None:
    records = samples.one_of_each()
    refused = set()
    for path in _paths(records[which]):
        changed = copy.deepcopy(records)
        holder = changed[which]
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = None
        try:
            read(render(*changed))
        except ArtifactError:
            refused.add(path[-1])
    assert {name for name in refused if isinstance(name, str)} <= NEEDED


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
    keep = ("batch", "height", "width")

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: one if name in (*keep, "schema") else without(one) for name, one in value.items()}
        if isinstance(value, list):
            return [without(one) for one in value]
        return None if isinstance(value, int | float) and not isinstance(value, bool) else value

    page = read(render(*(without(record) for record in samples.troubled())))
    assert {own["data-key"].rpartition(".")[2] for own in page.all("data")} == set(keep)


def test_neither_record() -> None:
    with pytest.raises(ConfigError, match="needs a record; got neither"):
        render(None, None)


@pytest.mark.parametrize(
    ("swapped", "message"),
    [
        (lambda: (samples.benchmark(), None), "kind 'rest-bench', accepted: rest-verify"),
        (lambda: (None, samples.verification()), "kind 'rest-verify', accepted: rest-bench"),
    ],
)
def test_records_in_each_others_place(swapped: Callable[[], Pair], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        render(*swapped())


def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(ArtifactError):
        write_report(path, verification={"kind": "rest-verify"}, benchmark=None)
    assert list(tmp_path.iterdir()) == []
    write_report(path, verification=None, benchmark=samples.benchmark())
    assert path.read_text(encoding="utf-8") == render(None, samples.benchmark())
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ExportError, match="does not exist"):
        write_report(tmp_path / "nowhere" / "report.html", verification=None, benchmark=samples.benchmark())


def test_one_record_gives_one_page() -> None:
    assert render(*samples.troubled()) == render(*samples.troubled())
