"""Records, labels and names from somebody else: nothing of them reaches a terminal, a page or a path as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rest_deploy import Predictor
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.labels import read_labels
from rest_deploy.artifact.manifest import manifest_path, read_manifest, write_manifest
from rest_deploy.cli import bench, doctor, info, predict, verify
from rest_deploy.cli.terminal import clean
from rest_deploy.errors import ArtifactError, ConfigError
from rest_deploy.runtimes.registry import read_info
from tests.artifact.test_engine import make_record
from tests.artifact.test_info import make_info
from tests.cli.test_commands import Outcome
from tests.reliability.forged_graphs import with_record
from tests.reliability.record import Record

#: Clears the screen, sets its title, rings, turns the text round, ends a table cell and a page's element.
HOSTILE = "\x1b[2J\x1b]0;gone\x07\u202e\x9b31m|`<script>alert(1)</script><img src=x onerror=alert(2)>\r\n&\u2028"
_LETTERS = "0123456789"


def _hostile_info(plain: ArtifactInfo) -> ArtifactInfo:
    """A record with hostile text wherever there is text that nothing depends on."""
    verification: dict[str, Any] = dict(plain.verification or {})
    return replace(
        plain,
        model=HOSTILE,
        labels=tuple(f"{HOSTILE}{letter}" for letter in _LETTERS[: plain.num_classes]),
        weights=replace(plain.weights, file=HOSTILE, notes=(HOSTILE,)),
        versions={HOSTILE: HOSTILE, **plain.versions},
        extra={**plain.extra, HOSTILE: HOSTILE},
        verification=verification,
    )


@pytest.fixture
def hostile(tiny_onnx: Path, tmp_path: Path) -> Path:
    """A sealed file of the tiny network whose record was written by somebody else."""
    return with_record(tiny_onnx, tmp_path / "hostile.onnx", _hostile_info(read_info(tiny_onnx)))


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Images whose names and folders are hostile too."""
    folder = tmp_path / "data"
    for number in range(3):
        place = folder / f"c\x1b[31m{number}<b>"
        place.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(place / f"\x9b<i>{number}.png")
    (place / "\x1b[2Jbad<script>.png").write_bytes(b"none")
    return folder


WHAT = "records with control characters and markup in their texts, through"
HARMLESS = "nothing of it as it is in terminal, JSON, CSV, Markdown or report"


def _assert_harmless(told: Outcome, codes: tuple[int, ...] = (0,)) -> None:
    assert told.code in codes, told.err
    for text in (told.out, told.err):
        bad = {c for c in text if not c.isprintable()} - {"\n"}
        assert not bad, sorted(bad)
    assert "Traceback" not in told.err


def test_info_and_predict(hostile: Path, pictures: Path, capsys: pytest.CaptureFixture[str], record: Record) -> None:
    told = Outcome(info, [hostile], capsys)
    _assert_harmless(told)
    assert r"\x1b[2J" in told.out
    _assert_harmless(Outcome(info, [hostile, "--json"], capsys))
    for flags in ([], ["--json"]):
        told = Outcome(predict, [hostile, *sorted(pictures.iterdir()), *flags], capsys)
        _assert_harmless(told, (0, 1))
        assert "bad<script>.png: not an image" in told.out + told.err
    record.count(WHAT, HARMLESS, "rest-info")
    record.count(WHAT, HARMLESS, "rest-predict")


def test_verify_and_its_files(  # noqa: PLR0917
    hostile: Path,
    tiny_checkpoint: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record: Record,
) -> None:
    files = [tmp_path / f"v.{suffix}" for suffix in ("json", "md", "csv")]
    flags = [flag for path in files for flag in ("-o", path)]
    argv = [hostile, "--reference", tiny_checkpoint, "--sizes", "16", "--data", pictures, *flags]
    told = Outcome(verify, argv, capsys)
    _assert_harmless(told, (0, 1))
    for path in files:
        assert path.exists(), told.err
        text = path.read_text()
        assert not {c for c in text if not c.isprintable()} - {"\n"}, path.name
    assert "<script>" not in files[1].read_text()
    record.count(WHAT, HARMLESS, "rest-verify")


def test_bench_and_its_report(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], record: Record
) -> None:
    page, text = tmp_path / "r.html", tmp_path / "b.md"
    flags = ["--sizes", "16", "--min-rounds", "8", "--min-seconds", "0", "--threads", "1", "--no-cold"]
    told = Outcome(bench, [hostile, *flags, "--report", page, "-o", text], capsys)
    _assert_harmless(told)
    content = page.read_text()
    assert "<script" not in content
    assert "<img src=x" not in content
    assert not {c for c in content if not c.isprintable()} - {"\n"}
    assert "<script>" not in text.read_text()
    record.count(WHAT, HARMLESS, "rest-bench")


def test_doctor(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _assert_harmless(Outcome(doctor, [], capsys), (0, 1))


def test_the_answer_holds_the_label_as_it_is(hostile: Path) -> None:
    """What escapes text is the terminal's and the page's business: programs get what the file says."""
    with Predictor(hostile) as predictor:
        answer = predictor.classify(Image.new("RGB", (20, 20)), top_k=1)
    assert answer[0].label.startswith(HOSTILE)


PATHS = ["../../etc/passwd", "/etc/passwd", "..\\..\\x", "file:///etc/passwd", "\0", "~/x", "$(touch x)", "; rm -rf x"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_in_a_manifest_is_told_and_never_opened(
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record: Record,
) -> None:
    engine = tmp_path / "rest.engine"
    engine.write_bytes(b"plan")
    made = make_record(
        plan_sha256=sha256_of(engine), plan_bytes=4, command=("--checkpoint", path, "--model", path), gpu=path
    )
    plain = make_info(format="trt-rtx", extra={path: path}, model=path, engine=made)
    write_manifest(manifest_path(engine), replace(plain, weights=replace(plain.weights, file=path)))
    opened: list[str] = []
    real_open = Path.open

    def watch(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(str(self))
        return real_open(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", watch)
    read_manifest(engine)
    told = Outcome(info, [engine], capsys)
    _assert_harmless(told)
    assert set(opened) == {str(engine), str(manifest_path(engine))}
    if path.startswith(("$", ";")):
        assert f"'{path}'" in told.out  # the line that rebuilds it, as a shell may be given it
    record.count("manifests with tricks in their paths", "told, escaped; no other file is opened", clean(path))


def test_a_manifest_cannot_name_the_plan(tmp_path: Path) -> None:
    """The plan is the file beside it, whatever the manifest holds."""
    engine = tmp_path / "rest.engine"
    engine.write_bytes(b"plan")
    (tmp_path / "other.engine").write_bytes(b"other")
    record = make_record(plan_sha256=sha256_of(tmp_path / "other.engine"), plan_bytes=5)
    write_manifest(manifest_path(engine), make_info(format="trt-rtx", extra={}, engine=record))
    with pytest.raises(ArtifactError, match="it is damaged, or of another build than its manifest"):
        read_manifest(engine)


@pytest.mark.parametrize(
    "content", [b"", b"{" * 100_000, b"null", b"[]", b'{"schema": 1}', b"\xff\xfe", b'{"a": 1e999}']
)
def test_manifests_in_ruins(content: bytes, tmp_path: Path) -> None:
    engine = tmp_path / "rest.engine"
    engine.write_bytes(b"plan")
    manifest_path(engine).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"rest\.engine\.json: .*rebuild both"):
        read_manifest(engine)


def test_labels_of_a_gigabyte_are_not_read(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "labels.txt"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ConfigError, match="too many bytes for labels; at most 4,194,304"):
        read_labels(path, 1)
    record.count("labels that are none", "refused, at most 4 MiB of them read", "a gigabyte")


def test_a_source_without_an_end_is_no_labels(record: Record) -> None:
    with pytest.raises(ConfigError, match="too many bytes for labels"):
        read_labels("/dev/zero", 1)
    record.count("labels that are none", "refused, at most 4 MiB of them read", "/dev/zero")


@pytest.mark.parametrize("label", ["\x1b[2J", "a\u202eb", "\x9b1m", "a\0b"])
def test_labels_with_control_characters_are_refused_where_they_are_given(label: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([label]))
    with pytest.raises(ConfigError, match=r"the label of class 0 is .*; it must be printable, not empty"):
        read_labels(path, 1)
