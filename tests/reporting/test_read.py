"""Records from disk: what is read, and one line for what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.errors import ArtifactError
from rest_deploy.reporting import read, read_record
from tests.reporting import samples


@pytest.mark.parametrize("record", [samples.verification(), samples.benchmark(), *samples.troubled()])
def test_what_was_written_is_read(tmp_path: Path, record: dict[str, Any]) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    assert read_record(path) == record


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON: Expecting value"),
        (b"{", "is no JSON: .* line 1 column 2"),
        (b"\xff\xfe", "is no JSON: byte 0 is no UTF-8"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"kind": "rest-bench", "seed": NaN}', "NaN is no number of JSON"),
        (b'{"kind": "rest-bench", "seed": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "is no JSON: Exceeds the limit"),
        (b"[1, 2]", "kind null, accepted: rest-verify, rest-bench"),
        (b"{}", "kind null, accepted: rest-verify, rest-bench"),
        (b'{"kind": "rest-doctor", "schema": 1}', "kind 'rest-doctor', accepted: rest-verify, rest-bench"),
        (b'{"kind": "rest-bench", "schema": 2}', "schema 2, accepted: 1; make it again with this version"),
        (b'{"kind": "rest-bench", "schema": true}', "schema True, accepted: 1"),
        (b'{"kind": "rest-bench"}', "schema null, accepted: 1"),
        (b'{"kind": ["rest-bench"]}', "kind list, accepted"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_record(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    _check_refused(path, message)


CHANGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r.pop("environment"), "rest-bench.environment is null, accepted: an object"),
    (lambda r: r.update(contenders={}), "rest-bench.contenders is dict, accepted: an array"),
    (lambda r: r["cases"][1].update(batch="one"), r"cases\[1\].batch is 'one', accepted: a whole number from 0 up"),
    (lambda r: r["cases"][1].update(batch=True), r"cases\[1\].batch is True, accepted: a whole number"),
    (lambda r: r["cases"][1].update(width=-1), r"cases\[1\].width is -1, accepted: a whole number"),
    (lambda r: r["cases"][0]["results"][0].update(p50_ms="27"), r"results\[0\].p50_ms is '27', accepted: a finite"),
    (lambda r: r["cases"][0]["results"][0].update(p50_ms=10**400), r"p50_ms is 1000.*, accepted: a finite number"),
    (lambda r: r["cases"][0]["results"][0].update(ratio=[]), r"ratio is list, accepted: an object"),
    (lambda r: r["cases"][0]["results"][0].update(contender="?"), r"results\[0\].contender is '\?', no contender"),
    (lambda r: r["contenders"][0].update(name=None), r"contenders\[0\].name is null, accepted: text"),
    (lambda r: r["contenders"][0]["cold"]["peak_mib"].update(x="y"), r"peak_mib.x is 'y', accepted: a finite"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message for _, message in CHANGES])
def test_values_of_another_type(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    record = samples.benchmark()
    change(record)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    _check_refused(path, message)


def test_a_number_past_all_others_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(samples.benchmark()).replace('"calls": 240', '"calls": 1e999'))
    _check_refused(path, r"results\[0\].calls is inf, accepted: a finite number or null")


def test_a_value_in_an_error_is_short_and_on_one_line(tmp_path: Path) -> None:
    record = samples.benchmark()
    record["cases"][0]["rounds"] = "\n\x1b" * 500
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    with pytest.raises(ArtifactError) as caught:
        read_record(path)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_missing_folder_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _check_refused(tmp_path / "nothing.json", "no such file; make it with rest-verify or rest-bench")
    _check_refused(tmp_path, "is no file")
    path = tmp_path / "record.json"
    path.write_text(json.dumps(samples.benchmark()))
    monkeypatch.setattr(read, "_LARGEST", path.stat().st_size)
    read_record(path)
    monkeypatch.setattr(read, "_LARGEST", path.stat().st_size - 1)
    _check_refused(path, "is over 0 MiB, which no record is")


def test_names_that_are_missing_count_as_null_and_others_are_let_be(tmp_path: Path) -> None:
    record = samples.benchmark()
    del record["comparison"], record["cases"][0]["results"][0]["gpu"]
    record["later"] = {"x": [1]}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    assert read_record(path) == record


def _check_refused(path: Path, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        read_record(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
