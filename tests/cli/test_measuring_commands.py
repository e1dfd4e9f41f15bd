"""rest-verify and rest-bench: what they print and write, exit codes, and bad input in one line."""

from __future__ import annotations

import csv
import html
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rest_deploy.cli import bench, verify
from rest_deploy.cli.tables import Table, finite, to_json
from rest_deploy.errors import install
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.factory import create_model
from rest_deploy.runtimes.registry import read_info
from tests.cli.test_commands import Outcome
from tests.conftest import TINY, lively
from tests.reliability.odd_values import bare_graph, sealed_with

QUICK = ["--sizes", "16", "--min-rounds", "8", "--min-seconds", "0", "--threads", "1", "--no-cold"]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkpoint of the tiny network with other weights."""
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, lively(create_model(TINY), seed=1).state_dict(), Card("tiny", tuple("abcdefg")))
    return path


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A few images in folders that are classes' names."""
    for number in range(6):
        own = tmp_path / "data" / "abc"[number % 3]
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(own / f"{number}.png")
    return tmp_path / "data"


def test_verify_passes(
    tiny_onnx: Path, tiny_checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [tmp_path / f"v.{suffix}" for suffix in ("json", "csv", "md")]
    flags = [flag for path in outputs for flag in ("-o", path)]
    argv = [tiny_onnx, "--reference", tiny_checkpoint, "--sizes", "33x40", "--data", folder, "--per-block", *flags]
    done = Outcome(verify, argv, capsys)
    assert (done.code, done.err) == (0, "")
    assert "reference  tiny.safetensors: tiny, PyTorch float64" in done.out
    assert "6 of " in done.out
    assert "; warp 33x40 bicubic" in done.out  # of what its record has at its own size
    *_, verdict, _, written = done.out.splitlines()
    assert (verdict, written) == ("tiny.onnx: passed", f"wrote {', '.join(map(str, outputs))}")
    record = json.loads(outputs[0].read_text())
    assert record["passed"] is True
    assert record["environment"]["command"].startswith(f"rest-verify {tiny_onnx} --reference ")
    rows = list(csv.DictReader(outputs[1].open()))
    assert [row["what"] for row in rows[:3]] == ["synthetic", "images", "block stem"]
    assert float(rows[0]["max_error"]) == record["artifacts"][0]["synthetic"][0]["max_error"]
    assert "| batch x size |" in outputs[2].read_text()


def test_verify_counts_what_it_could_not_read(
    tiny_onnx: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their names stand above, and in what is written."""
    for name in ("x.png", "y.png"):
        (folder / "a" / name).write_bytes(b"no image")
    argv = [tiny_onnx, "--reference", tiny_onnx, "--data", folder, "--no-synthetic", "-o", tmp_path / "v.md"]
    done = Outcome(verify, argv, capsys)
    assert (done.code, done.err) == (1, "error: 2 images could not be read\n")
    for text in (done.out, (tmp_path / "v.md").read_text()):
        assert text.count("not read: ") == 2
        assert "y.png" in text


def test_verify_fails(tiny_onnx: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(verify, [tiny_onnx, "--reference", other, "--sizes", "33x40"], capsys)
    assert done.code == 1
    assert "tiny.onnx: FAILED" in done.out
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("error: tiny.onnx: ")
    assert "1x33x40: largest error" in done.out
    loose = Outcome(verify, [tiny_onnx, "--reference", other, "--sizes", "33x40", "--max-error", "100"], capsys)
    assert loose.code == 0


def test_verify_prints_json(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(verify, [tiny_onnx, "--reference", tiny_onnx, "--sizes", "16", "--json"], capsys)
    assert json.loads(done.out)["artifacts"][0]["synthetic"][0]["max_error"] == 0


def test_flips_are_listed(tiny_onnx: Path, other: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(verify, [tiny_onnx, "--reference", other, "--data", folder, "--no-synthetic"], capsys)
    assert "best class differs from the reference's, surest first:" in done.out
    assert " -> " in done.out


def test_bench(tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [tmp_path / f"b.{suffix}" for suffix in ("json", "csv", "md")]
    flags = [flag for path in outputs for flag in ("-o", path)]
    done = Outcome(bench, [tiny_onnx, tiny_onnx, *QUICK, "--batch", "1", "2", *flags], capsys)
    assert (done.code, done.err) == (0, "")
    assert "1x16x16 (batch x height x width), 8 rounds" in done.out
    record = json.loads(outputs[0].read_text())
    assert [case["batch"] for case in record["cases"]] == [1, 2]
    rows = list(csv.DictReader(outputs[1].open()))
    assert [(row["contender"], row["batch"]) for row in rows] == [
        ("tiny.onnx", "1"), ("tiny.onnx (2)", "1"), ("tiny.onnx", "2"), ("tiny.onnx (2)", "2"),
    ]  # fmt: skip
    assert float(rows[1]["ratio_median"]) == record["cases"][0]["results"][1]["ratio"]["median"]
    assert outputs[2].read_text().count("| contender |") == 2


def test_bench_prints_json(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(bench, [tiny_onnx, *QUICK, "--json"], capsys)
    assert json.loads(done.out)["contenders"][0]["name"] == "tiny.onnx"


def test_a_slower_run_is_a_failed_check(tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the earlier run a hundredth of each time is left."""
    old = tmp_path / "old.json"
    assert Outcome(bench, [tiny_onnx, *QUICK, "-o", old], capsys).code == 0
    record = json.loads(old.read_text())
    result = record["cases"][0]["results"][0]
    result["rounds_ms"] = [[ms / 100 for ms in calls] for calls in result["rounds_ms"]]
    old.write_text(json.dumps(record))
    done = Outcome(bench, [tiny_onnx, *QUICK, "--compare", old], capsys)
    assert done.code == 1
    assert f"against {old}" in done.out
    assert "regression" in done.out


def test_times_that_are_none_are_refused_before_anything_is_measured(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, honest = tmp_path / "old.json", tmp_path / "honest.json"
    assert Outcome(bench, [tiny_onnx, *QUICK, "-o", honest], capsys).code == 0
    monkeypatch.setattr("rest_deploy.benchmarking.run._measure", lambda *_: pytest.fail("it measured"))
    for entry, planted in (("rounds_ms", 5), ("rounds_ms", [["1"]]), ("rounds_ms", [[]]), ("probe_ms", "1")):
        record = json.loads(honest.read_text())
        case = record["cases"][0]
        (case["results"][0] if entry in case["results"][0] else case["conditions"])[entry] = planted
        old.write_text(json.dumps(record))
        assert entry in Outcome(bench, [tiny_onnx, *QUICK, "--compare", old], capsys).refusal()


def test_ctrl_c_prints_and_writes_what_there_is(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rest_deploy.benchmarking import run as benchmark_run

    honest = benchmark_run.time_case
    cases = []

    def second_is_interrupted(*arguments: Any, **options: Any) -> Any:
        cases.append(arguments)
        if len(cases) == 2:
            raise KeyboardInterrupt
        return honest(*arguments, **options)

    monkeypatch.setattr(benchmark_run, "time_case", second_is_interrupted)
    output = tmp_path / "b.json"
    argv = [tiny_onnx, "--sizes", "16", "24", "--min-rounds", "8", "--min-seconds", "0", "--no-cold", "-o", output]
    done = Outcome(bench, argv, capsys)
    assert done.code == 130
    assert "INTERRUPTED" in done.out
    assert "1x16x16" in done.out
    record = json.loads(output.read_text())
    assert record["interrupted"] is True
    assert len(record["cases"]) == 1


def _heads(markdown: str) -> list[str]:
    """Heads of the columns of tables that have any value."""
    found, lines = [], [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]
    for at, line in enumerate(lines):
        if line and set("".join(line)) <= set("-:"):
            rows = list(itertools.takewhile(bool, lines[at + 1 :]))
            found += [
                head for column, head in enumerate(lines[at - 1]) if head and {row[column] for row in rows} - {"-"}
            ]
    return found


def test_a_report_of_both(
    tiny_onnx: Path, tiny_checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the words that the commands print."""
    verified, report, tables = tmp_path / "v.json", tmp_path / "r.html", [tmp_path / "v.md", tmp_path / "b.md"]
    flags = ["--sizes", "16", "--data", folder, "--per-block", "-o", verified, "-o", tables[0]]
    Outcome(verify, [tiny_onnx, "--reference", tiny_checkpoint, *flags], capsys)
    argv = [tiny_onnx, *QUICK, "--verification", verified, "--report", report, "-o", tables[1]]
    done = Outcome(bench, argv, capsys)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == f"wrote {tables[1]}, {report}"
    page = html.unescape(report.read_text())
    assert "rest-verify " in page
    assert "rest-bench " in page
    heads = [head for path in tables for head in _heads(path.read_text())]
    assert len(heads) > 25
    assert [head for head in heads if f">{head}</th>" not in page and f">{head}</span></caption>" not in page] == []
    benched = tmp_path / "b.json"
    Outcome(bench, [tiny_onnx, *QUICK, "-o", benched], capsys)
    argv = [tiny_onnx, "--reference", tiny_checkpoint, "--sizes", "16", "--benchmark", benched, "--report", report]
    assert Outcome(verify, argv, capsys).code == 0
    assert "rest-bench " in report.read_text()


AGAINST, REPORT = "--reference {checkpoint}", "--report {folder}/r.html"
#: Name -> command, arguments, words that the one line must have.
BAD: dict[str, tuple[Any, str, str]] = {
    "missing artifact": (verify, "{folder}/no.onnx " + AGAINST, "no such file"),
    "missing reference": (verify, "{artifact} --reference {folder}/no.pth", "no such checkpoint file"),
    "missing folder": (verify, "{artifact} --data {folder}/no " + AGAINST, "no"),
    "empty folder": (verify, "{artifact} --data {folder}/empty " + AGAINST, "images"),
    "flags of images": (verify, "{artifact} --max-images 5 " + AGAINST, "give --data DIR"),
    "nothing to look at": (verify, "{artifact} --no-synthetic " + AGAINST, "give --data"),
    "unknown output": (verify, "{artifact} -o {folder}/x.xlsx " + AGAINST, "accepted: .json, .csv, .md"),
    "unknown report": (bench, "{artifact} --report {folder}/x.pdf", "accepted: .html"),
    "no output folder": (bench, "{artifact} -o {folder}/no/x.json", "does not exist; make it"),
    "no record": (verify, "{artifact} --benchmark {folder}/no.json " + AGAINST + " " + REPORT, "no.json"),
    "no json": (bench, "{artifact} --verification {folder}/broken.json " + REPORT, "broken.json"),
    "no report": (
        bench,
        "{artifact} --verification {folder}/broken.json",
        "none was asked for; give --report FILE.html",
    ),
    "limit of nothing": (verify, "{artifact} --min-top1-agreement 0.9 " + AGAINST, "give --data DIR"),
    "foreign record": (bench, "{artifact} --compare {folder}/record.json", "record.json"),
    "nothing to measure": (bench, "", "which checkpoints are too, or --model NAME with --baseline NAME"),
    "unknown baseline": (bench, "{artifact} --baseline jax", "accepted: torch, torch-compile, as-written"),
    "no gpu": (verify, "{artifact} --device cuda " + AGAINST, "use device cpu"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(
    name: str, tmp_path: Path, tiny_onnx: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "record.json").write_text('{"kind": "something", "schema": 1}')
    (tmp_path / "broken.json").write_text("{")
    command, words, told = BAD[name]
    places = {"folder": tmp_path, "artifact": tiny_onnx, "checkpoint": tiny_checkpoint}
    before = sorted(tmp_path.rglob("*"))
    assert told in Outcome(command, [word.format(**places) for word in words.split()], capsys).refusal()
    assert sorted(tmp_path.rglob("*")) == before


def test_rest_bench_asks_for_psutil_before_it_measures_and_rest_verify_does_not(
    tiny_onnx: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("psutil", "pynvml"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("rest_deploy.benchmarking.run._measure", lambda *_: pytest.fail("it measured"))
    done = Outcome(bench, [str(tiny_onnx), *QUICK], capsys)
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: psutil is needed to ")
    assert line.endswith(install("bench"))
    assert Outcome(verify, [str(tiny_onnx), "--reference", str(tiny_checkpoint)], capsys).code == 0


@pytest.mark.parametrize(
    ("command", "argv"),
    [(verify, []), (verify, ["x.onnx"]), (verify, ["x.onnx", "--reference", "x.pth", "--sizes", "big"]),
     (bench, ["x.onnx", "--sizes", "0x"])],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(command: Any, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(command, argv, capsys)
    assert done.code == 2
    assert "usage: rest-" in done.err


def test_tables() -> None:
    table = Table("of things", ("name", "ms", ""), [("a|b", "1.5", "slower"), ("long name", "10.25", "")], words=1)
    assert table.text().splitlines() == [
        "of things",
        "  name          ms",
        "  a|b          1.5  slower",
        "  long name  10.25",
    ]
    assert table.markdown().splitlines() == [
        "**of things**",
        "",
        "| name | ms |  |",
        "| --- | ---: | --- |",
        r"| a\|b | 1.5 | slower |",
        "| long name | 10.25 |  |",
    ]


def test_what_was_not_measured_is_said_where_errors_are(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For who reads stdout by a program: the figures of the others are there."""
    info = read_info(tiny_onnx)
    other = replace(info, input=replace(info.input, name="another")).to_json()  # than the graph's: not opened
    broken = sealed_with(bare_graph(tiny_onnx), tmp_path / "broken.onnx", other)
    done = Outcome(bench, [tiny_onnx, broken, *QUICK, "--json"], capsys)
    assert done.code == 1
    assert [case["contender"] for case in json.loads(done.out)["cases"][0]["results"]][:1] == ["tiny.onnx"]
    (line,) = done.err.splitlines()
    assert line.startswith("error: not measured: ")
    assert "broken.onnx" in line


def test_a_table_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is broken or cut off: what has no room follows below."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    table = Table("", ("case", "a", "b", "c"), [("1x1", "1.25e-07", "2.50e-07", "3.75e-07")])
    assert table.text().splitlines() == [
        "  case         a         b",
        "  1x1   1.25e-07  2.50e-07",
        "  case         c",
        "  1x1   3.75e-07",
    ]
    monkeypatch.setenv("COLUMNS", "5")  # of what is too narrow for two, each column by itself
    assert len(table.text().splitlines()) == 6


def test_what_is_hostile_is_shown_and_not_obeyed() -> None:
    table = Table("<script>", ("name",), [("\x1b[31m[x](y)*\n",)])
    assert "\x1b" not in table.text() + table.markdown()
    assert r"\<script\>" in table.markdown()
    assert r"\[x\](y)\*" in table.markdown()


def test_json_that_any_reader_takes() -> None:
    text = to_json(finite({"a": [float("nan"), 1.0], "b": {"c": float("inf")}}))
    assert json.loads(text) == {"a": [None, 1.0], "b": {"c": None}}
