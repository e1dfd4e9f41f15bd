"""Records from disk: what is read, one line for what is not; numbers and texts as people see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.errors import ArtifactError
from rest_deploy.report import fields, read_record
from rest_deploy.report.fields import SHAPES, Node, count, deviation, exact, mebibytes, percent, plain, visible
from tests.report import samples


def _written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "record.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def _refusal(path: Path) -> str:
    """What is said of a file that is no record: one short line that begins with its path."""
    with pytest.raises(ArtifactError) as caught:
        read_record(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert told.isprintable()
    assert len(told) < 300 + len(str(path))
    return told


@pytest.mark.parametrize("record", [samples.verification(), samples.benchmark(), *samples.troubled()])
def test_what_was_written_is_read(tmp_path: Path, record: dict[str, Any]) -> None:
    assert read_record(_written(tmp_path, record)) == record


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        *((b"", "not JSON"), (b"{", "line 1 column 2"), (b"\xff\xfe", "byte 0 is not UTF-8"), (b"[" * 100_000, "deep")),
        *((b'{"seed": NaN}', "NaN"), (b'{"seed": -Infinity}', "-Infinity"), (b'{"a": 1, "a": 2}', "'a' stands twice")),
        *(
            (b'{"seed": ' + b"9" * 5000 + b"}", "not JSON"),
            (b"[1, 2]", "record is null"),
            (b"{}", "rest-verify, rest-bench"),
        ),
        *((b'{"kind": "rest-doctor", "schema": 1}', "'rest-doctor'"), (b'{"kind": ["rest-bench"]}', "record is list")),
        *((b'{"kind": "rest-bench", "schema": 2}', "schema 2"), (b'{"kind": "rest-bench", "schema": true}', "True")),
        (b'{"kind": "rest-bench"}', "schema null"),
        (b'{"kind": "rest-verify", "schema": 1}', "schema 1; accepted: 2; measure again"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_record(tmp_path: Path, content: bytes, fact: str) -> None:
    assert fact in _refusal(_written(tmp_path, content))


CHANGES: list[tuple[Callable[[dict[str, Any]], Any], str, str]] = [
    (lambda r: r.pop("environment"), "rest-bench.environment is null", "an object"),
    (lambda r: r.update(contenders={}), "rest-bench.contenders is dict", "an array"),
    (lambda r: r["cases"][1].update(batch="one"), "cases[1].batch is 'one'", "a whole number from 0 up"),
    (lambda r: r["cases"][1].update(batch=True), "cases[1].batch is True", "a whole number"),
    (lambda r: r["cases"][1].update(width=-1), "cases[1].width is -1", "a whole number"),
    (lambda r: r["cases"][0]["results"][0].update(p50_ms="27"), "results[0].p50_ms is '27'", "a finite number"),
    (lambda r: r["cases"][0]["results"][0].update(p50_ms=10**400), "p50_ms is a number", "a finite"),
    (lambda r: r["cases"][0]["results"][0].update(ratio=[]), "ratio is list", "an object"),
    (lambda r: r["cases"][0]["results"][0].update(contender="?"), "results[0].contender is '?'", "contender"),
    (lambda r: r["cases"][0].update(rounds="\n\x1b" * 500), "cases[0].rounds is '", "a finite number"),
    (lambda r: r["contenders"][0].update(name=None), "contenders[0].name is null", "text"),
    (lambda r: r["contenders"][0]["cold"]["peak_mib"].update(x="y"), "peak_mib.x is 'y'", "a finite number"),
    (lambda r: r["settings"].update(threads=[2]), "settings.threads is list", "a value without parts"),
]


@pytest.mark.parametrize(("change", "fact", "accepted"), CHANGES, ids=[fact for _, fact, _ in CHANGES])
def test_values_of_another_type(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], fact: str, accepted: str
) -> None:
    record = samples.benchmark()
    change(record)
    told = _refusal(_written(tmp_path, record))
    assert fact in told
    assert accepted in told


def test_a_number_past_all_others_is_no_number(tmp_path: Path) -> None:
    content = json.dumps(samples.benchmark()).replace('"calls": 240', '"calls": 1e999')
    assert "results[0].calls is inf" in _refusal(_written(tmp_path, content.encode()))


def test_missing_folder_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in _refusal(tmp_path / "nothing.json")
    assert "a folder, not a file" in _refusal(tmp_path)
    path = _written(tmp_path, samples.benchmark())
    monkeypatch.setattr(fields, "_LARGEST_FILE", path.stat().st_size)
    assert read_record(path) == samples.benchmark()
    monkeypatch.setattr(fields, "_LARGEST_FILE", path.stat().st_size - 1)
    assert "MiB" in _refusal(path)


def test_names_that_are_missing_count_as_null_and_others_are_let_be(tmp_path: Path) -> None:
    record = samples.benchmark()
    del record["comparison"], record["cases"][0]["results"][0]["gpu"]
    record["later"] = {"x": [1]}
    assert read_record(_written(tmp_path, record)) == record


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        *((plain, 27.1234, "27.1"), (plain, 271.234, "271"), (plain, 2712.3, "2,712"), (plain, 9.999, "10.0")),
        *((plain, 0.06, "0.0600"), (plain, 1.2e-5, "1.2e-5"), (plain, 3e9, "3.0e9"), (deviation, 1e4, "1.0e4")),
        *((deviation, 1.23e-3, "1.2e-3"), (deviation, 0.117, "0.12"), (deviation, 1.0, "1.0"), (plain, 0.0, "0")),
        *((percent, 0.99166, "99.17%"), (percent, 1.0, "100.00%"), (count, 12345.0, "12,345"), (exact, 0.99, "0.99")),
        *((mebibytes, 54_123_456.0, "51.6"), (exact, 15.0, "15"), (plain, -0.5, "-0.500")),
    ],
)
def test_numbers_in_words(form: Any, value: float, text: str) -> None:
    assert form(value) == text


def test_a_number_keeps_its_path_and_all_its_digits() -> None:
    record = {
        "machine": {"gflops": 0.1 + 0.2, "threads": 2**53 + 1},
        "contenders": [{"cold": {"peak_mib": {"1x2": 3}}}],
    }
    root = Node(record, "benchmark", SHAPES["rest-bench"])
    assert root["machine"]["gflops"].tip == f"benchmark.machine.gflops = {0.1 + 0.2!r}"
    assert root["machine"]["gflops"].shown == "0.300"
    assert root["machine"]["threads"].exact == "9007199254740993"
    (contender,) = root["contenders"]
    assert contender["cold"]["peak_mib"]["1x2"].key == 'benchmark.contenders[0].cold.peak_mib["1x2"]'
    assert root["comparison"]["rows"].value is None
    assert list(root["comparison"]["rows"]) == []
    assert Node(True, "k", SHAPES["rest-verify"]["passed"]).number is None
    with pytest.raises(LookupError):
        _ = root["contender"]


def test_nothing_hides_in_a_text() -> None:
    assert visible("a\tb\r\nc") == "a b c"
    assert visible("\x00\x1b[31m\x7f") == "\\x00\\x1b[31m\\x7f"
    assert visible("abc\u202egnp.exe\u2066\u200b\ud800\u2028") == "abc\\u202egnp.exe\\u2066\\u200b\\ud800\\u2028"
    assert visible("Größe 模型 שלום") == "Größe 模型 שלום"
    assert visible("x" * 5000) == "x" * 2000 + "… (3,000 characters more)"
