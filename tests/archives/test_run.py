"""rest-predict --output: rows, shards, what is gone on with and what is refused."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rest_deploy import Predictor
from rest_deploy.archives import results
from rest_deploy.archives.on_ray import worker_of
from rest_deploy.archives.results import Output
from rest_deploy.archives.run import ArchiveRequest, run
from rest_deploy.archives.sources import BLOCK, Item
from rest_deploy.cli import predict
from rest_deploy.errors import ExportError, ImageError, PredictorError
from rest_deploy.runtimes.registry import read_info
from tests.archives.conftest import Command, rows, save


def test_a_row_for_each_image(tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command) -> None:
    output = tmp_path / "r.jsonl"
    code, out, err = rest_predict(tiny_onnx, folder, "--output", output, "--top-k", 2)
    assert (code, out) == (0, f"{output}: 300 images\n")
    assert err == f"warning: {output}: 3 images could not be answered; the rows say why\n"
    made, images = rows(output), sorted(folder.rglob("*.png"))
    assert [row["image"] for row in made] == [str(path) for path in images]
    broken = [row for row in made if row["error"] is not None]
    assert [row["image"][-9:] for row in broken] == ["00050.png", "00150.png", "00250.png"]
    assert {row["error"] for row in broken} == {"not an image that can be read; save it as PNG or JPEG"}
    assert all(row["predictions"] == [] for row in broken)
    with Predictor(tiny_onnx) as predictor:
        for row in (made[0], made[-1]):
            alone = predictor.classify(row["image"], 2)
            assert [(p["label"], p["index"]) for p in row["predictions"]] == [(p.label, p.index) for p in alone]
            # alone or beside others: sums of float32 in another order
            assert all(
                math.isclose(own["score"], p.score, rel_tol=1e-5)
                for own, p in zip(row["predictions"], alone, strict=True)
            )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.jsonl", "r.jsonl.run.json"]


def test_shards_in_turn_are_one_run(tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command) -> None:
    for number in (3, 1, 4, 2):  # in any order; four shards of three blocks, so one is empty
        assert rest_predict(tiny_onnx, folder, "--output", tmp_path / "r.jsonl", "--shard", f"{number}/4")[0] == 0
    assert rest_predict(tiny_onnx, folder, "--output", tmp_path / "one.jsonl")[0] == 0
    parts = sorted(tmp_path.glob("r-*.jsonl"))
    assert [part.name for part in parts] == [f"r-0000{number}-of-00004.jsonl" for number in (1, 2, 3, 4)]
    assert b"".join(part.read_bytes() for part in parts) == (tmp_path / "one.jsonl").read_bytes()
    assert sorted(len(rows(part)) for part in parts) == [0, 300 - 2 * BLOCK, BLOCK, BLOCK]


def test_members_of_a_tar_file_get_the_rows_of_files(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command
) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(folder, "pictures", filter=lambda info: None if info.name.endswith("7.png") else info)
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted(folder.rglob("*[!7].png"))))
    for source in ("t.tar", "list.txt"):
        assert rest_predict(tiny_onnx, tmp_path / source, "--output", tmp_path / f"{source}.jsonl")[0] == 0
    members, files = rows(tmp_path / "t.tar.jsonl"), rows(tmp_path / "list.txt.jsonl")
    members.sort(key=lambda row: row["image"])  # a tar file has the order of the folder on the disk
    assert [row.pop("image") for row in members] == [
        f"{tmp_path}/t.tar/pictures/{Path(row.pop('image')).relative_to(folder)}" for row in files
    ]
    assert [row["error"] for row in members] == [row["error"] for row in files]
    assert [[p["index"] for p in row["predictions"]] for row in members] == [
        [p["index"] for p in row["predictions"]] for row in files
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("/a/b.png: no such image file", "no such image file"),
        ("image: damaged: x: y", "damaged: x: y"),
        ("image 7 of the list: no answer, as its input", "no answer, as its input"),
        ("something else: here", "something else: here"),
    ],
)
def test_an_error_does_not_say_which_image_as_its_row_does(error: str, told: str) -> None:
    item = Item("b.png", "/a/b.png")
    assert json.loads(results.row(item, ImageError(error))) == {"image": "b.png", "error": told, "predictions": []}


def test_the_error_of_a_member_does_not_say_its_name() -> None:
    item = Item("t.tar/a.png", "/x/t.tar", 512, 20)
    made = results.row(item, ImageError("t.tar/a.png: cannot be read: Permission denied"))
    assert json.loads(made)["error"] == "cannot be read: Permission denied"


def test_the_error_of_a_long_path_is_cut_where_the_path_ends() -> None:
    path = "/" + "d" * 300 + "/b.png"
    for error in (f"{path[:200]}: no such image file", f"{path}: no such image file"):
        assert json.loads(results.row(Item(path, path), ImageError(error)))["error"] == "no such image file"


def test_parquet_holds_the_same(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "_GROUP", 10_000)  # bytes, so that there are several groups
    for suffix in (".parquet", ".jsonl"):
        assert rest_predict(tiny_onnx, folder, "--output", tmp_path / f"r{suffix}")[0] == 0
    file = parquet.ParquetFile(tmp_path / "r.parquet")
    assert file.num_row_groups > 3
    table = file.read()
    assert table.to_pylist() == rows(tmp_path / "r.jsonl")
    prediction = table.schema.field("predictions").type.value_type
    assert str(prediction) == "struct<label: string, index: int64, score: double>"
    assert rest_predict(tiny_onnx, folder, "--output", f"file://{tmp_path}/u.parquet")[0] == 0
    assert (tmp_path / "u.parquet").read_bytes() == (tmp_path / "r.parquet").read_bytes()


def test_elsewhere_progress_is_kept_here(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system of pyarrow's, in the current folder too, where names could clash."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    monkeypatch.chdir(tmp_path)
    words = (tiny_onnx, folder, "--output", f"file://{tmp_path}/u.jsonl")
    assert rest_predict(*words)[0] == 0
    assert sorted(os.listdir()) == ["u.jsonl", "u.jsonl.run.json"]
    assert len(rows(Path("u.jsonl"))) == 300
    assert "give --resume to leave it" in rest_predict(*words)[2]
    assert "was whole already" in rest_predict(*words, "--resume")[1]
    _, _, err = rest_predict(tiny_onnx, folder, "--output", "nothing://there/r.parquet")
    assert err.startswith("error: nothing://there/r.parquet: cannot be reached or written: ")
    assert err.count("\n") == 1


def test_elsewhere_is_tried_before_the_work(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rest_deploy.archives.run.Listing", None)  # not even images are looked for
    for name in ("r.parquet", "r.jsonl"):
        code, out, err = rest_predict(tiny_onnx, folder, "--output", f"file://{tmp_path}/no/{name}")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"error: file://{tmp_path}/no/{name}: cannot be reached or written: ")
        assert list(tmp_path.iterdir()) == []


def test_a_trial_that_fails_half_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed")
    there = set[str]()

    class Full:
        """A file system that takes names and no bytes."""

        def open_output_stream(self, path: str) -> Any:
            there.add(path)
            return self

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> None:
            raise OSError("no space left")

        def delete_file(self, path: str) -> None:
            there.remove(path)

    monkeypatch.setattr(fs, "FileSystem", SimpleNamespace(from_uri=lambda uri: (Full(), uri)))
    with pytest.raises(ExportError, match="no space left"):
        Output("s3://bucket/r.jsonl").check()
    assert not there


def test_without_pyarrow(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = rest_predict(tiny_onnx, folder, "--output", tmp_path / "r.parquet")
    assert code == 1
    assert err.startswith("error: pyarrow is needed to write .parquet files")
    assert 'pip install "rest-deploy[archives]"' in err
    assert rest_predict(tiny_onnx, folder, "--output", tmp_path / "r.jsonl")[0] == 0


def test_without_ray(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rest_deploy.archives.on_ray.find_spec", lambda name: None if name == "ray" else object())
    code, _, err = rest_predict(tiny_onnx, folder, "--output", tmp_path / "r.jsonl", "--ray")
    assert (code, err) == (1, 'error: ray is needed to predict on Ray; install it: pip install "rest-deploy[ray]"\n')
    assert list(tmp_path.iterdir()) == []


def test_ray_chooses_the_gpu(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That can be told without Ray. Of one that is installed nothing is looked at before."""
    monkeypatch.setattr("rest_deploy.archives.on_ray.find_spec", lambda _: object())
    words = (tiny_onnx, folder, "--output", tmp_path / "r.jsonl", "--device", "cuda:1", "--ray")
    code, _, err = rest_predict(*words)
    assert (code, err) == (1, "error: --device cuda:1 with --ray: Ray chooses the GPU; give --device cuda\n")


def test_what_there_is_to_know_of_where_it_computes_is_said(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "note", "webgpu:software computes on the CPU")
    code, _, err = rest_predict(tiny_onnx, folder, "--output", tmp_path / "r.jsonl")
    assert (code, err.count("warning: webgpu:software computes on the CPU\n")) == (0, 1)


@pytest.mark.parametrize(
    ("device", "threads", "needs"),
    [
        (None, None, {"CPU": 1}),
        (None, 3, {"CPU": 3}),
        ("openvino:GPU", None, {"CPU": 1}),  # Ray knows no such GPUs
        ("webgpu:software", 2, {"CPU": 2}),
        ("cuda", None, {"CPU": 1, "GPU": 1}),
        ("tensorrt", 2, {"CPU": 2, "GPU": 1}),
    ],
)
def test_a_worker_of_ray_computes_with_the_cores_that_it_takes(
    tiny_onnx: Path, tmp_path: Path, device: str | None, threads: int | None, needs: dict[str, int]
) -> None:
    asked = ArchiveRequest(str(tiny_onnx), [], Output(str(tmp_path / "r.jsonl")), device=device, threads=threads)
    of_one, taken = worker_of(asked)
    assert (of_one.threads, taken) == (needs["CPU"], needs)


def test_a_worker_of_ray_leaves_a_server_its_threads(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are its own; ``Predictor`` refuses to be given any."""
    info = replace(read_info(tiny_onnx), format="triton")
    monkeypatch.setattr("rest_deploy.archives.on_ray.read_info", lambda _: info)
    of_one, taken = worker_of(ArchiveRequest("http://host:8000/x", [], Output(str(tmp_path / "r.jsonl"))))
    assert (of_one.artifact, of_one.threads, taken) == ("http://host:8000/x", None, {"CPU": 1})


@pytest.mark.parametrize(
    "torn",
    [b"", b'{"image": "half', b'{"image": "another", "error": null}\n', b"\0" * 100],
    ids=["between lines", "half a line", "a line of another image", "zeros of a lost flush"],
)
def test_resume_goes_on_behind_the_last_whole_block(  # noqa: PLR0917
    torn: bytes, tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "r.jsonl"
    assert rest_predict(tiny_onnx, folder, "--output", whole)[0] == 0
    content = whole.read_bytes()
    lines = content.splitlines(keepends=True)
    Path(f"{output}.run.json").write_bytes(Path(f"{whole}.run.json").read_bytes())
    Path(f"{output}.part").write_bytes(b"".join(lines[: BLOCK + 5]) + torn)
    asked: list[int] = []
    original = results.row

    def noting(item: object, answer: object) -> bytes:
        asked.append(1)
        return original(item, answer)  # type: ignore[arg-type]

    monkeypatch.setattr("rest_deploy.archives.run.row", noting)
    code, out, err = rest_predict(tiny_onnx, folder, "--output", output, "--resume")
    assert (code, out) == (0, f"{output}: 300 images\n")
    assert "3 images could not be answered" in err  # of all rows, also those that were there
    assert output.read_bytes() == content
    assert len(asked) == 300 - BLOCK


REFUSED = {
    "another artifact": (["--resume"], "is of a run with artifact "),
    "another top-k": (["--resume", "--top-k", "3"], "is of a run with top-k 5, this one has 3"),
    "another device": (["--resume", "--device", "openvino"], "is of a run with device cpu, this one has openvino:CPU"),
    "other images": (["--resume"], "is of a run with images "),
    "no --resume": ([], "is there already; give --resume"),
}


@pytest.mark.parametrize("state", ["begun", "done"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_gone_on_with(  # noqa: PLR0917
    case: str, state: str, tiny_onnx: Path, tiny_v2_onnx: Path, tmp_path: Path, rest_predict: Command
) -> None:
    images, output = save(tmp_path / "images", 3), tmp_path / "r.jsonl"
    assert rest_predict(tiny_onnx, images, "--output", output)[0] == 0
    kept = output
    if state == "begun":
        kept = output.rename(f"{output}.part")
    before = kept.read_bytes()
    if case == "other images":
        save(images / "more", 1)
    artifact = tiny_v2_onnx if case == "another artifact" else tiny_onnx
    flags, told = REFUSED[case]
    code, _, err = rest_predict(artifact, images, "--output", output, *flags)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: {kept}: ")
    assert told in err
    assert " to begin anew" in err
    assert kept.read_bytes() == before


@pytest.mark.parametrize("flags", [["--device", "cpu"], ["--top-k", "5"], ["--device", "cpu", "--top-k", "5"]])
def test_what_is_so_by_default_is_no_other_run(
    flags: list[str], tiny_onnx: Path, tmp_path: Path, rest_predict: Command
) -> None:
    images, output = save(tmp_path / "images", 3), tmp_path / "r.jsonl"
    assert rest_predict(tiny_onnx, images, "--output", output)[0] == 0
    assert "was whole already" in rest_predict(tiny_onnx, images, "--output", output, "--resume", *flags)[1]
    other = tmp_path / "s.jsonl"
    assert rest_predict(tiny_onnx, images, "--output", other, "--top-k", 7)[0] == 0
    assert "was whole" in rest_predict(tiny_onnx, images, "--output", other, "--resume", "--top-k", 1000)[1]


def test_results_among_the_images_are_not_told_of(tiny_onnx: Path, tmp_path: Path, rest_predict: Command) -> None:
    """Other files are, as results of another name."""
    images = save(tmp_path / "images", 3)
    for name in ("r.jsonl.part", "r-00002-of-00002.jsonl", "r-00002-of-00002.jsonl.run.json"):
        (images / name).write_bytes(b"")
    words = [tiny_onnx, images, "--output", images / "r.jsonl"]
    assert rest_predict(*words) == (0, f"{images}/r.jsonl: 3 images\n", "")
    for other in ("r-2.jsonl", "00/r.jsonl"):
        (images / other).write_bytes(b"")
    _, out, err = rest_predict(*words, "--resume")
    assert "was whole" in out
    assert (
        err == f"warning: 2 files left out, not images that can be read here: {images}/r-2.jsonl, {images}/00/r.jsonl\n"
    )


def test_resume_of_what_is_done_does_nothing(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command
) -> None:
    output = tmp_path / "r.jsonl"
    assert rest_predict(tiny_onnx, folder, "--output", output)[0] == 0
    Path(f"{output}.part").write_bytes(output.read_bytes())  # as of a process that was killed before it removed it
    before = output.stat()
    code, out, err = rest_predict(tiny_onnx, folder, "--output", output, "--resume")
    assert (code, out, err) == (0, f"{output}: was whole already, nothing was done\n", "")
    assert output.stat().st_mtime_ns == before.st_mtime_ns
    assert not Path(f"{output}.part").exists()


def test_what_rows_are_of_is_not_to_be_guessed(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command
) -> None:
    output = tmp_path / "r.jsonl"
    output.write_bytes(b"")
    code, _, err = rest_predict(tiny_onnx, folder, "--output", output, "--resume")
    assert (code, err.count("\n")) == (1, 1)
    assert f"delete {output} to begin anew" in err


def test_one_process_at_a_time(tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command) -> None:
    output = tmp_path / "r.jsonl"
    other = (
        "import sys; from pathlib import Path; from rest_deploy.artifact.workspace import alone\n"
        "with alone(Path(sys.argv[1])) as file:\n    print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", other, f"{output}.part"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        code, _, err = rest_predict(tiny_onnx, folder, "--output", output)
        process.communicate("")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{output}.part: another process is at work on it" in err
    assert rest_predict(tiny_onnx, folder, "--output", output)[0] == 0


def test_errors_of_all_images_end_it_and_leave_what_is_done(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rest_deploy.errors import PredictorError

    output, original, calls = tmp_path / "r.jsonl", Predictor.stream, []

    def failing(self: Predictor, *given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise PredictorError("no memory is left")
        return original(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "stream", failing)
    code, _, err = rest_predict(tiny_onnx, folder, "--output", output)
    assert (code, err) == (1, "error: no memory is left\n")
    assert not output.exists()
    assert len(rows(Path(f"{output}.part"))) == BLOCK
    assert rest_predict(tiny_onnx, folder, "--output", output, "--resume")[0] == 0
    assert len(rows(output)) == 300


@pytest.mark.parametrize("kind", ["folder", "tar", "shorter tar"])
def test_a_source_that_goes_away_is_no_fault_of_its_images(
    kind: str, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a mount is lost: no row is an error for good, and --resume goes on once it is back."""
    source, away = save(tmp_path / "images", 3), tmp_path / "away"
    if kind != "folder":
        images, source = source, tmp_path / "t.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(images, "images")

    def lost(request: ArchiveRequest) -> Predictor:
        source.rename(away)
        if kind == "shorter tar":
            source.write_bytes(away.read_bytes()[:600])
        return Predictor(request.artifact)

    request = ArchiveRequest(str(tiny_onnx), [str(source)], Output(str(tmp_path / "r.jsonl")))
    with monkeypatch.context() as patch:
        patch.setattr(ArchiveRequest, "predictor", lost)
        with pytest.raises(PredictorError, match="it was there when images were listed, and is gone; bring it back"):
            run(request)
    assert not (tmp_path / "r.jsonl").exists()
    away.replace(source)
    done = run(replace(request, resume=True))
    assert (done.images, done.failed) == (3, 0)


def test_a_full_disk_says_how_to_go_on(
    tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rest_deploy.archives.results.os.fsync", full)
    code, _, err = rest_predict(tiny_onnx, folder, "--output", tmp_path / "r.jsonl")
    assert (code, err.count("\n")) == (1, 1)
    assert "No space left on device" in err


BAD = {
    "a shard past the end": (
        ["--output", "r.jsonl", "--shard", "17/16"],
        "--shard 17/16: shards count from 1; give 1/16",
    ),
    "no results": (["--shard", "1/2"], "--shard is of results in a file; give --output FILE too"),
    "resume without results": (["--resume"], "--resume is of results in a file; give --output FILE too"),
    "Ray without results": (["--ray"], "--ray is of results in a file; give --output FILE too"),
    "Ray and a shard": (["--output", "r.jsonl", "--ray", "--shard", "1/2"], "Ray shares the images out itself"),
    "another suffix": (["--output", "r.csv"], "accepted: a name that ends in .jsonl or .parquet"),
    "images elsewhere": (
        ["s3://bucket/images", "--output", "r.jsonl"],
        "s3://bucket/images: a URI, and images are read",
    ),
    "images elsewhere by Ray": (
        ["s3://bucket/shard.tar", "--output", "r.jsonl", "--ray"],
        "s3://bucket/shard.tar: a URI, and images are read by their paths, on Ray's machines too; mount that file",
    ),
    "no folder": (["--output", "no/r.jsonl"], "the folder no does not exist; make it first"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_one_line(  # noqa: PLR0917
    case: str, tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rest_deploy.archives.on_ray.find_spec", lambda _: object())  # nothing is asked of Ray before
    flags, told = BAD[case]
    code, out, err = rest_predict(tiny_onnx, folder, *flags)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert told in err
    assert list(tmp_path.iterdir()) == []


def test_told_as_json(tiny_onnx: Path, folder: Path, tmp_path: Path, rest_predict: Command) -> None:
    output = tmp_path / "r.jsonl"
    _, out, _ = rest_predict(tiny_onnx, folder, "--output", output, "--json")
    assert json.loads(out) == {"path": str(output), "images": 300, "failed": 3}


# Killed.

#: Runs rest-predict until some blocks are written, then either dies in the middle of a line of its own will, or says so
#: and waits for whoever kills it.
_DYING = """
import os, signal, sys
from rest_deploy.archives.results import Rows
from rest_deploy.cli import predict

how, blocks, left = sys.argv[1], int(sys.argv[2]), Rows.append

def append(self, lines):
    global blocks
    blocks -= 1
    if blocks >= 0:
        return left(self, lines)
    if how == "torn":
        self._file.write(lines[: len(lines) // 2])
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    print("waiting", flush=True)
    sys.stdin.read()

Rows.append = append
sys.exit(predict.main(sys.argv[3:]))
"""


def killed(how: str, blocks: int, *words: object) -> None:
    """Run rest-predict in a process of its own, and end it by SIGKILL after so many blocks."""
    argv = [sys.executable, "-c", _DYING, how, str(blocks), *map(str, words)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if how == "from outside":
            assert process.stdout.readline() == "waiting\n"
            process.kill()
        assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_five_thousand_images_in_four_shards_of_which_two_are_killed(
    suffix: str, tiny_onnx: Path, tmp_path: Path
) -> None:
    """Real processes; each image has one row, broken ones too, and the rows are those of one run, byte by byte."""
    if suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    images, output = save(tmp_path / "images", 5000), tmp_path / f"r{suffix}"
    words = [tiny_onnx, images, "--output", output, "--threads", "1"]
    killed("torn", 3, *words, "--shard", "2/4")
    killed("from outside", 5, *words, "--shard", "3/4")
    assert [path.name for path in sorted(tmp_path.glob("r-*")) if path.suffix == suffix] == []
    begun = [tmp_path / f"r-0000{number}-of-00004{suffix}.part" for number in (2, 3)]
    assert [path.read_bytes().count(b"\n") // BLOCK for path in begun] == [3, 5]
    command = [sys.executable, "-m", "rest_deploy.cli.predict", *map(str, words)]
    for number in (1, 2, 3, 4):  # what was killed goes on, the others begin
        subprocess.run([*command, "--shard", f"{number}/4", "--resume"], check=True)
    whole = tmp_path / f"one{suffix}"
    assert predict.main([str(tiny_onnx), str(images), "--output", str(whole)]) == 0
    parts = sorted(tmp_path.glob(f"r-*-of-00004{suffix}"))
    assert len(parts) == 4
    if suffix == ".jsonl":
        assert b"".join(part.read_bytes() for part in parts) == whole.read_bytes()
        made = rows(whole)
    else:
        made = parquet.read_table(whole).to_pylist()
        assert [row for part in parts for row in parquet.read_table(part).to_pylist()] == made
    assert [row["image"] for row in made] == [str(path) for path in sorted(images.rglob("*.png"))]
    assert sum(row["error"] is not None for row in made) == 50
    assert not list(tmp_path.glob("*.part"))
