"""Killed, refused or out of room: what is on disk is the old artifact, whole, or the new one, whole."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rest_deploy import Predictor
from rest_deploy.artifact.files import replacing
from rest_deploy.artifact.workspace import SUFFIX, remove_abandoned, workspace
from rest_deploy.cli import export
from rest_deploy.errors import ExportError
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.factory import create_model
from tests.conftest import ROOT, TINY, lively
from tests.reliability.conftest import Amount, Worker
from tests.reliability.every_line import CASES, write_engine
from tests.reliability.half_written import WRITERS
from tests.reliability.record import Record

PACKAGE = ROOT / "rest_deploy"

#: Signal -> exit code of a command that it ended.
ENDED = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 128 + signal.SIGTERM, "SIGINT": 128 + signal.SIGINT}


@pytest.mark.parametrize("case", ["file", pytest.param("engine", marks=pytest.mark.slow)])
def test_death_at_every_line_leaves_the_old_or_the_new_one(
    case: str, worker: Worker, amount: Amount, record: Record
) -> None:
    deaths = list(ENDED)[: amount(1, 3)]
    told = worker("every_line", case, *deaths)
    assert len(told) == 2 * len(deaths)
    for name, outcome in told.items():
        assert outcome["bad"] == [], name
        assert outcome["lines"] > 30, name  # all of the code, not its first lines
        assert outcome["found"]["new"] > 0, name
        assert outcome["found"]["old" if "replacing" in name else "nothing"] > 0, name
    for kind in ("replacing", "first"):  # a signal that was swallowed would end one of them early
        assert len({outcome["lines"] for name, outcome in told.items() if name.startswith(kind)}) == 1
    count = sum(outcome["lines"] for outcome in told.values())
    found = sum((Counter(outcome["found"]) for outcome in told.values()), Counter[str]())
    what = {"file": "a file", "engine": "an engine and its manifest"}[case]
    record.add(
        f"replace {what}; {', '.join(deaths)} at every line of the code that does it",
        count,
        f"{found['old']} the old one, {found['new']} the new one, {found['nothing']} nothing where nothing was; "
        "no litter after the next run",
    )


@pytest.mark.slow
def test_death_inside_of_a_write_and_those_who_hold_the_old_file(
    tmp_path: Path, worker: Worker, amount: Amount, record: Record
) -> None:
    """Who has it open goes on reading the old content, half-written or written; by its name it is one or the other."""
    exports = [name for name in WRITERS if name.startswith("an ONNX file")]
    light = [name for name in WRITERS if name not in exports]
    first = amount(2, len(light))
    faults = f"none,in place={first},copied={first}"
    told = worker("half_written", tmp_path / "light", 20, faults, *light, OMP_NUM_THREADS="1")
    exports = exports[: amount(1, len(exports))]
    told["none"] |= worker("half_written", tmp_path / "onnx", amount(1, 20), "none", *exports, OMP_NUM_THREADS="1")[
        "none"
    ]
    for name, found in told.pop("none").items():
        assert found["bad"] == [], name
        assert found["deaths"] > 0, name
        record.add(
            f"replace {name}; death inside of a write, by a limit on the size of files",
            found["deaths"],
            "who has the old one open or mapped reads the old one; by its name it is the old one or the new one, whole",
        )
    assert sorted(told) == ["copied", "in place"]
    for fault, writers in told.items():  # planted: or else this could not fail
        assert len(writers) == first
        for name, found in writers.items():
            assert any("changed under its holder" in line for line in found["bad"]), (fault, name)
            assert any("is broken" in line for line in found["bad"]), (fault, name)


#: Modules that write into files, and by which of ``half_written``'s writers that is tried.
WRITING = {
    "archives/results": "rows of archives: tests/archives/test_results.py dies at every line of them",
    "artifact/engine_files": "an engine and its manifest",
    "artifact/files": "all of them: it flushes what they wrote",
    "artifact/manifest": "an engine and its manifest",
    "artifact/onnx_file": "an ONNX file",
    "artifact/workspace": "rows of archives: likewise",
    "cli/tables": "records as JSON, CSV and Markdown",
    "export/engine/exporter": "an engine and its manifest",
    "export/formats": "a file of a format without a record",
    "export/engine/builder": "caches of TensorRT",
    "export/onnx_exporter": "an ONNX file",
    "export/web_format": "a folder that gets its name once it is whole: tests/artifact/test_files.py",
    "models/checkpoint": "a checkpoint",
    "pipeline/reduce_precision": "an ONNX file in INT8",
    "pipeline/run": "an ONNX file that takes pictures",
    "pipeline/sensitivities": "tables of sensitivity and their plots",
    "report/__init__": "a report",
    "runtimes/tensorrt_open": "caches of TensorRT",
    "serving/proof": "the log of a server, in a folder of its own: tests/serving/test_proof.py",
    "serving/repository": "a folder that gets its name once it is whole: tests/serving/test_repository.py",
}
#: A call that writes into a file by its path; ``path.open`` and ``open`` by their mode.
_WRITES = re.compile(r"""\.write_(?:text|bytes)\(|\bopen\([^()]*["'][rb]*[wax+]|\bonnx\.save\(|copyfile\(""")


def test_every_writer_is_tried() -> None:
    found = {path for path in PACKAGE.rglob("*.py") if _WRITES.search(path.read_text(encoding="utf-8"))}
    assert {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in found} == set(WRITING)
    assert {told for told in WRITING.values() if ":" not in told} <= set(WRITERS)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.safetensors and b.safetensors, tiny networks of different weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate("ab"):
        model = lively(create_model(TINY), seed)
        save_checkpoint(folder / f"{name}.safetensors", model.state_dict(), Card("tiny"))
    return folder


@pytest.mark.slow
def test_exports_killed_at_random_moments(
    two_checkpoints: Path, tmp_path: Path, worker: Worker, amount: Amount, record: Record
) -> None:
    count = amount(6, 51)
    for file in two_checkpoints.iterdir():
        shutil.copy(file, tmp_path)
    told = worker("killed_exports", tmp_path, count, *ENDED, OMP_NUM_THREADS="1")
    assert told["bad"] == []
    done = told["codes"].get("0", 0)  # before their signal; a signal may also become another error
    assert done < amount(count, count // 2)
    found = {"a": "the old one", "b": "the new one", "nothing": "nothing where nothing was"}
    outcome = ", ".join(f"{number} {found[name]}" for name, number in sorted(told["found"].items()))
    what = f"an export of {told['seconds']:.1f} s; SIGKILL, SIGTERM or SIGINT (a third each) at a random moment"
    record.add(what, count, f"{outcome}; no litter")


def test_the_lock_tells_who_is_alive(tmp_path: Path) -> None:
    with workspace(tmp_path, "a.onnx") as mine, workspace(tmp_path, "a.onnx") as other:
        abandoned = tmp_path / f".b.onnx.12345678{SUFFIX}"
        abandoned.mkdir()
        (abandoned / "half").write_bytes(b"half")
        remove_abandoned(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([mine, other])
    assert list(tmp_path.iterdir()) == []


def test_links_and_files_of_others_are_left_alone(tmp_path: Path) -> None:
    folder, precious = tmp_path / "folder", tmp_path / "precious"
    for made in (folder, precious):
        made.mkdir()
    (precious / "file").touch()
    (folder / f".x{SUFFIX}").symlink_to(precious)
    (folder / f".y{SUFFIX}").touch()
    (folder / f"z{SUFFIX}").mkdir()
    remove_abandoned(folder)
    assert len(list(folder.iterdir())) == 3
    assert (precious / "file").exists()


def test_a_full_disk_leaves_the_old_artifact(  # noqa: PLR0917
    small_disk: Callable[[int], Path],
    two_checkpoints: Path,
    tiny_onnx: Path,
    capsys: pytest.CaptureFixture[str],
    amount: Amount,
    record: Record,
) -> None:
    size = tiny_onnx.stat().st_size
    rooms = [0.02, 0.3, 0.95][: amount(2, 3, 1)]
    for room in rooms:
        folder = small_disk(int((1 + room) * size) + (64 << 10))  # the old one, and not quite the new one
        output = folder / "tiny.onnx"
        shutil.copy(tiny_onnx, output)
        used = shutil.disk_usage(folder).used
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(folder).free - int(room * size))))
        before = output.read_bytes()
        code = export.main(["--checkpoint", str(two_checkpoints / "b.safetensors"), "-o", str(output)])
        told = capsys.readouterr().err
        assert code == 1
        assert told.startswith("error: ")
        assert "No space left on device" in told
        assert len(told.splitlines()) == 1
        assert output.read_bytes() == before
        assert sorted(path.name for path in folder.iterdir()) == ["ballast", "tiny.onnx"]
        ballast.unlink()
        assert shutil.disk_usage(folder).used == used
    record.add("an export onto a full disk (tmpfs)", len(rooms), "one line, exit code 1, the old one whole, no litter")


def _fits(folder: Path, content: bytes) -> bool:
    """Write an engine; False where there is no room for it."""
    try:
        write_engine(folder, content)
    except ExportError as exc:
        if "No space left" not in str(exc):
            raise
        return False
    return True


def test_a_full_disk_leaves_the_old_engine(small_disk: Callable[[int], Path], amount: Amount, record: Record) -> None:
    count = amount(10, 60)
    case = CASES["engine"]
    found: Counter[str] = Counter()
    for number in range(count):
        folder = small_disk(((8 + number * (10 if count < 60 else 2)) << 10) + (4 << 10))
        old, new = b"old" * 4000, b"new" * 9000
        if not _fits(folder, old):
            assert list(folder.iterdir()) == []
            found["nothing"] += 1
            continue
        content = new if _fits(folder, new) else old
        assert case.read(folder) == content
        found["new" if content == new else "old"] += 1
        assert sorted(path.name for path in folder.iterdir()) == sorted(case.names)
    assert min(found[name] for name in ("nothing", "old", "new")) > 0
    outcome = f"{found['old']} the old one, {found['new']} the new one, {found['nothing']} nothing where nothing was"
    record.add("replace an engine on disks of growing size", count, f"{outcome}; no litter")


def test_a_read_only_file_system(
    small_disk: Callable[[int], Path],
    two_checkpoints: Path,
    tiny_onnx: Path,
    capsys: pytest.CaptureFixture[str],
    record: Record,
) -> None:
    folder = small_disk(4 << 20)
    output = folder / "tiny.onnx"
    shutil.copy(tiny_onnx, output)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    code = export.main(["--checkpoint", str(two_checkpoints / "b.safetensors"), "-o", str(output)])
    assert code == 1
    why = "the folder cannot be written to: Read-only file system; name another folder"
    assert capsys.readouterr().err == f"error: {output}: {why}\n"
    with Predictor(output) as predictor:
        assert predictor.info.model == "tiny"
    record.add("an export into a read-only file system", 1, "one line, exit code 1, the old one whole")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(ExportError, match="the folder cannot be written to: Permission denied"),
        replacing(tmp_path / "a.onnx"),
    ):
        pass


@pytest.mark.slow
def test_two_exports_race_for_one_name(
    two_checkpoints: Path, tmp_path: Path, worker: Worker, amount: Amount, record: Record
) -> None:
    for file in two_checkpoints.iterdir():
        shutil.copy(file, tmp_path)
    rounds = amount(1, 10)
    told = worker("racing", "exports", tmp_path, rounds, OMP_NUM_THREADS="1")
    assert told["bad"] == []
    assert told["reads"] > 0
    record.add(
        "two exports at once for one name, read all the while",
        rounds,
        f"{told['reads']:,} times read: always one of the two, whole; no litter",
    )


@pytest.mark.slow
def test_engines_race_for_one_name(tmp_path: Path, worker: Worker, amount: Amount, record: Record) -> None:
    writes = amount(100, 2000)
    told = worker("racing", "engines", tmp_path, writes)
    assert told["bad"] == []
    assert told["reads"] > 0
    assert set(told["found"]) == {"old", "new"}
    record.add(
        "four processes replace one engine and its manifest, two read it all the while",
        4 * writes,
        f"{told['reads']:,} times read: plan and manifest always of one build; no litter",
    )
