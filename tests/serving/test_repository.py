"""What a repository holds, and what is refused, without a server."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rest_deploy.artifact.identity import sha256_of
from rest_deploy.cli import export as export_command
from rest_deploy.cli import serve as command
from rest_deploy.errors import ConfigError, ExportError
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.runtimes.registry import read_info
from rest_deploy.serving import container, proof, repository
from rest_deploy.serving.config import TritonConfig
from rest_deploy.serving.model import Model, model_of, server_arguments
from rest_deploy.serving.proof import running
from rest_deploy.serving.repository import serve_triton
from rest_deploy.specs import InputKind
from tests.cli.test_commands import Outcome
from tests.engines import Machine


def test_files_of_several_models(tmp_path: Path, tiny_by_input: dict[str, Path]) -> None:
    notes = serve_triton(list(tiny_by_input.values()), tmp_path / "r", TritonConfig(), verify=False)
    assert notes == ()
    beside = {"README.md", "client.py", "compose.yaml", "inferenceservice.yaml"}
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"float", "uint8", "pixels", *beside}
    for name, file in tiny_by_input.items():
        own = tmp_path / "r" / name
        assert {path.name for path in own.iterdir()} == {"config.pbtxt", "labels.txt", "proof.json", "1"}
        assert sha256_of(own / "1" / "model.onnx") == sha256_of(file)
        assert (own / "labels.txt").read_text() == "".join(f"{label}\n" for label in "abcdefg")
        assert json.loads((own / "proof.json").read_text()) == {"server": None, "why_not": "not asked for"}
    readme = (tmp_path / "r" / "README.md").read_text()
    assert (
        "| pixels | tiny, onnx fp32 | pixels: uint8 (batch, height, width, 3) | logits | no: not asked for |" in readme
    )
    assert "2.75" in readme
    assert "$" not in readme.replace("$PWD", "").replace("$TRITON_IMAGE", "")


def test_without_a_server_it_is_made_and_said(
    tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = Outcome(command, ["triton", tiny_onnx, "-o", tmp_path / "r"], capsys)
    assert done.code == 0
    assert done.err.startswith("warning: not served here: no tritonserver on PATH; --server FILE names one")
    assert done.err.count("\n") == 1
    assert "tiny: not proved by a server (no tritonserver on PATH" in done.out
    told = Outcome(command, ["triton", tiny_onnx, "-o", tmp_path / "s", "--json"], capsys)
    assert json.loads(told.out)["models"]["tiny"]["server"] is None


def test_an_export_is_a_repository_that_takes_pictures(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    argv = ["--checkpoint", tiny_checkpoint, "--format", "triton", "-o", tmp_path / "r", "--name", "other"]
    made = Outcome(export_command, argv, capsys)
    assert made.code == 0, made.err
    assert "not served here: no tritonserver" in made.err
    assert "verified" in made.out
    info = read_info(tmp_path / "r" / "other" / "1" / "model.onnx")
    assert (info.input_kind, info.verification is not None) == (InputKind.PIXELS, True)
    named = Outcome(export_command, [*argv[:4], "-o", tmp_path / "my model"], capsys)
    assert (named.code, named.out) == (1, "")  # before the work
    assert f"{tmp_path}/my model: name is 'my model'" in named.err
    assert named.err.endswith("; give one with --name, or rename the file\n")
    again = Outcome(export_command, argv, capsys)
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "exists, and a folder is never written over" in again.err


@pytest.fixture
def plan(tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine of TensorRT 10.9.0.34, by its stand-in."""
    machine = Machine.make(monkeypatch, "tensorrt-10.9.0.34")
    monkeypatch.setenv("PATH", str(tmp_path))
    return machine.build(tiny_onnx, tmp_path, EngineConfig(use_timing_cache=False))


def _texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_the_container_is_assumed_by_the_plans_tensorrt(
    tmp_path: Path, plan: Path, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it is said wherever it stands."""
    other = tmp_path / "other.onnx"
    other.write_bytes(tiny_onnx.read_bytes())
    done = Outcome(command, ["triton", other, plan, "-o", tmp_path / "r", "--no-verify"], capsys)
    image = "nvcr.io/nvidia/tritonserver:25.04-py3"
    (warned,) = done.err.splitlines()
    assert warned.startswith(f"warning: {image} is assumed: by NVIDIA's table of July 2026 it has TensorRT 10.9.0.34, ")
    assert "the plan was built by 10.9.0.34; it was not started here, and --container names another" in warned
    texts = _texts(tmp_path / "r")
    assert warned.removeprefix("warning: ") in " ".join(texts["README.md"].split())
    assert f"export TRITON_IMAGE={image}\n" in texts["README.md"]
    assert f"image: ${{TRITON_IMAGE:-{image}}} # assumed, see README.md\n" in texts["compose.yaml"]
    assert f'image: "{image}" # assumed, see README.md\n' in texts["inferenceservice.yaml"]
    assert "driver: nvidia" in texts["compose.yaml"]
    assert 'nvidia.com/gpu: "1"' in texts["inferenceservice.yaml"]
    proofs = [json.loads((tmp_path / "r" / name / "proof.json").read_text()) for name in ("tiny", "other")]
    assert proofs[0]["assumed"] == {"container": warned.removeprefix("warning: ")}
    assert "assumed" not in proofs[1]


def test_a_container_that_is_given_or_not_known(tmp_path: Path, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "TAGS", {})
    assert serve_triton([plan], tmp_path / "r", TritonConfig(), verify=False) == ()
    texts = _texts(tmp_path / "r")
    for name in ("README.md", "compose.yaml", "inferenceservice.yaml"):
        assert "10.9.0.34" in texts[name], name
    assert "image: ${TRITON_IMAGE:?" in texts["compose.yaml"]  # which image has it is not guessed
    monkeypatch.undo()
    image = "nvcr.io/nvidia/tritonserver:25.03-py3"
    config = TritonConfig(container=image, response_cache=True)
    assert serve_triton([plan], tmp_path / "s", config, verify=False) == ()
    assert "assumed" not in "".join(_texts(tmp_path / "s").values())
    compose = (tmp_path / "s" / "compose.yaml").read_text()
    assert f"image: ${{TRITON_IMAGE:-{image}}}" in compose
    assert "--cache-config=local,size=" in compose
    assert f'image: "{image}"' in (tmp_path / "s" / "inferenceservice.yaml").read_text()


@pytest.mark.parametrize(
    ("version", "build"),
    [
        *(("10.9.0.34", "10.9.0.34"), ("10.13.3.9", "10.13.3.9"), ("10.13.3.9.post1", "10.13.3.9")),
        *(("10.13.3", "10.13.3.9"), ("10.13.2.7", None), ("10.9.0.3", None), ("10.9", None)),
        *(("10.9.0.34a1", None), ("10.7.0.23", None)),
    ],
)
def test_an_image_is_that_of_all_four_numbers(version: str, build: str | None) -> None:
    assert container.known(version) == ((build, container.TAGS[build]) if build else None)


def test_the_newest_image_stands_first() -> None:
    versions = [tuple(map(int, version.split("."))) for version in container.TAGS]
    assert versions == sorted(versions, reverse=True)
    assert list(container.TAGS.values()) == sorted(container.TAGS.values(), reverse=True)


def test_three_numbers_of_two_builds_name_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "TAGS", {"10.9.0.34": "25.04", "10.9.0.43": "25.03"})
    assert (container.known("10.9.0"), container.known("10.9.0.34")) == (None, ("10.9.0.34", "25.04"))


def _built_by(plan: Path, *builds: tuple[str, bool]) -> list[Model]:
    """Models of plans by their TensorRT, and whether they run on later ones."""
    info, made = read_info(plan), []
    assert info.engine is not None
    for number, (version, compatible) in enumerate(builds):
        engine = replace(info.engine, version=version, version_compatible=compatible)
        made.append(model_of(plan, replace(info, engine=engine), TritonConfig(), f"m{number}"))
    return made


@pytest.mark.parametrize(
    "builds",
    [
        [("10.9.0.34", False), ("10.13.3.9", False)],
        [("10.9.0.34", False), ("10.13.3.9", True)],  # which runs on later ones, not on earlier ones
    ],
)
def test_plans_that_need_two_servers_are_refused_before_the_work(
    plan: Path, tmp_path: Path, builds: list[tuple[str, bool]]
) -> None:
    with pytest.raises(
        ConfigError, match=r"tiny\.engine needs TensorRT 10\.9\.0\.34, and .*tiny\.engine 10\.13\.3\.9; an"
    ):
        repository.make_repository(_built_by(plan, *builds), tmp_path / "r", verify=False)


@pytest.mark.parametrize(
    ("builds", "needs", "tag"),
    [
        ([("10.9.0.34", True), ("10.13.3.9", True)], "10.13.3.9 or later", "26.05"),
        ([("10.9.0.34", True), ("10.13.3.9", False)], "10.13.3.9", "25.10"),
        ([("10.9.0.34", False), ("10.9.0.34", True)], "10.9.0.34", "25.04"),
        ([("10.13.3.9", False), ("10.13.3.9.post1", True)], "10.13.3.9", "25.10"),
        ([("10.13.3", False), ("10.13.3.9", False)], "10.13.3", "25.10"),
        ([("10.7.0.23", True)], "10.7.0.23 or later", "26.05"),  # which no image has itself
    ],
)
def test_plans_and_their_image(plan: Path, builds: list[tuple[str, bool]], needs: str, tag: str) -> None:
    """Version-compatible ones hold code for the CPU, which Triton loads only where it is told to."""
    models = _built_by(plan, *builds)
    found = container.container_of(models)
    assert (found.needs, found.image) == (needs, f"nvcr.io/nvidia/tritonserver:{tag}-py3")
    assert server_arguments(models) == (
        ["--backend-config=tensorrt,version-compatible=true"] if any(later for _, later in builds) else []
    )


@pytest.mark.parametrize(
    ("name", "service"),
    [("no", "no"), ("123", "m-123"), ("Rest_Small.v2", "rest-small-v2"), ("_", "m"), (62 * "a" + "_b", 62 * "a")],
)
def test_the_service_has_a_name_that_kubernetes_takes(name: str, service: str) -> None:
    assert repository._service(name) == service


@pytest.mark.parametrize("kind", ["float", "uint8", "pixels"])
def test_the_client_is_a_program(tmp_path: Path, tiny_by_input: dict[str, Path], kind: str) -> None:
    serve_triton([tiny_by_input[kind]], tmp_path / "r", TritonConfig(), verify=False)
    text = (tmp_path / "r" / "client.py").read_text()
    imported = {
        alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported == {"json", "sys", "urllib.request", "numpy"}
    assert ("from PIL import" in text) is (kind == "pixels")


def test_refusals(tmp_path: Path, tiny_onnx: Path) -> None:
    other = tmp_path / "tiny.onnx"
    other.write_bytes(tiny_onnx.read_bytes())
    with pytest.raises(ConfigError, match=r"tiny\.onnx: this file was given twice"):
        serve_triton([tiny_onnx, f"{tiny_onnx.parent}/./{tiny_onnx.name}"], tmp_path / "r", TritonConfig())
    with pytest.raises(ConfigError, match=r"tiny\.onnx and .*tiny\.onnx would both be the model tiny; rename one"):
        serve_triton([tiny_onnx, other], tmp_path / "r", TritonConfig(), verify=False)
    with pytest.raises(ConfigError, match="one name, and 2 artifacts"):
        serve_triton([tiny_onnx, other], tmp_path / "r", TritonConfig(name="x"), verify=False)
    with pytest.raises(ConfigError, match="server /nowhere: no program that can be run"):
        serve_triton([tiny_onnx], tmp_path / "r", TritonConfig(server="/nowhere"))
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="there: exists, and a folder is never written over"):
        serve_triton([tiny_onnx], tmp_path / "there", TritonConfig(), verify=False)
    assert not (tmp_path / "r").exists()


def test_the_command_refuses_in_one_line(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = Outcome(command, ["triton", tiny_checkpoint, "-o", tmp_path / "r"], capsys)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert f"rest-export --checkpoint {tiny_checkpoint} --format triton -o repository" in done.err
    for argv in (["triton", "x.onnx"], ["kserve", "x.onnx", "-o", "r"], ["triton", "-o", "r"]):
        assert Outcome(command, argv, capsys).code == 2


def test_a_server_that_did_not_start_is_ended_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later its number may be that of another process."""
    ended: list[str] = []
    processes, ready = iter([SimpleNamespace(poll=lambda: 1, name=name) for name in ("first", "second")]), [False, True]
    monkeypatch.setattr(proof, "_started", lambda *_: next(processes))
    monkeypatch.setattr(proof, "_wait", lambda *_: ready.pop(0))
    monkeypatch.setattr(proof, "_last_error", lambda *_: "address already in use")
    monkeypatch.setattr(proof, "_stop", lambda process: ended.append(process.name))
    with running(Path("server"), tmp_path, []):
        assert ended == ["first"]
    assert ended == ["first", "second"]
