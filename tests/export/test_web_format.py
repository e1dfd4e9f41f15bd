"""A page is a folder: what is in it, what is taken of the npm package, what is refused. No browser is needed."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rest_deploy import Predictor, export
from rest_deploy.cli import export as cli
from rest_deploy.errors import ConfigError
from rest_deploy.export import onnxruntime_web
from rest_deploy.export.formats import FORMATS
from rest_deploy.export.onnxruntime_web import BUILDS, find_package
from rest_deploy.export.web_format import _page
from rest_deploy.pipeline import ExportRequest, ExportResult, run_export
from rest_deploy.specs import InputKind, Preprocessing
from tests.cli.test_commands import Outcome
from tests.conftest import DIGITS, TINY
from tests.export.npm import pack, real_package, write_package

TWO_CHANNELS = replace(TINY, in_channels=2)
PAGE = Path(onnxruntime_web.__file__).parent / "web"


@pytest.fixture(scope="module")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, npm: Path) -> ExportResult:
    output = tmp_path_factory.mktemp("page") / "page"
    return run_export(
        ExportRequest(None, output, tiny_checkpoint, "web", options={"onnxruntime_web": str(npm)}, labels=_LABELS)
    )


_LABELS = ("<img src=x onerror=alert(1)>", "</script>", "é", '"', "e", "f", "g")


def test_all_files_of_a_folder(page: ExportResult) -> None:
    folder = page.path
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    own = {path.name for path in PAGE.iterdir()}
    assert {"index.html", "app.js", "worker.js", "pixels.js", "style.css", "README.txt"} <= own
    runtime = {
        "ort.wasm.min.js", "ort-wasm-simd-threaded.js", "ort-wasm-simd-threaded.wasm.gz",
        "ort.min.js", "ort-wasm-simd-threaded.jsep.js", "ort-wasm-simd-threaded.jsep.wasm.gz",
    }  # fmt: skip
    assert files == own | {"model.onnx", "page.json"} | {f"onnxruntime/{name}" for name in runtime}
    for build in BUILDS.values():
        for source in build.files:
            name = Path(source).name
            packed = name.endswith(".wasm")
            content = (folder / "onnxruntime" / (f"{name}.gz" if packed else f"{Path(name).stem}.js")).read_bytes()
            assert (gzip.decompress(content) if packed else content) == f"these are the bytes of {source}".encode()
    assert "Microsoft" in (folder / "onnxruntime-web-LICENSE.txt").read_text()


def test_what_the_page_is_told(page: ExportResult) -> None:
    told = json.loads((page.path / "page.json").read_text(encoding="utf-8"))
    model = (page.path / "model.onnx").read_bytes()
    assert told["model"] == {
        "file": "model.onnx", "bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()
    }  # fmt: skip
    with Predictor(page.path / "model.onnx") as predictor:
        assert told["record"] == json.loads(predictor.info.to_json())
        assert predictor.info.input_kind is InputKind.PIXELS
    assert told["record"]["test_vector"]["logits"]["values"]
    assert told["record"]["labels"] == list(_LABELS)
    assert told["runtime"] == "onnxruntime-web 1.30.0"
    assert told["warning"] == ""
    assert list(told["backends"]) == ["wasm", "webgpu"]
    for files in told["backends"].values():
        assert (page.path / files["wasm"]).stat().st_size == files["bytes"]
        assert (page.path / files["module"]).is_file()
        assert (page.path / files["loader"]).is_file()
    assert told["max_pixels"] == 1 << 25


def test_sizes_that_it_takes(page: ExportResult, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"")
    changed: dict[str, Any] = {}
    for name, steps in {"crop": Preprocessing("crop", 224), "warp": Preprocessing("warp", 512)}.items():
        info = page.info.from_dict({**page.info.to_dict(), "preprocessing": steps.to_dict()})
        told = _page(info, model, {})
        changed[name] = told["max_pixels"], told["max_height"]
    assert changed == {"crop": (1 << 26, None), "warp": (1 << 26, 89_478_485 // 512)}


def test_random_weights_are_told(tmp_path: Path, npm: Path) -> None:
    output = export(TINY, tmp_path / "x", format="web", onnxruntime_web=npm, verify=False, labels="none")
    told = json.loads((output / "page.json").read_text())
    assert told["warning"] == "The weights are random, seed 0: predictions mean nothing."
    assert told["told"]["verified"] == "not compared with PyTorch"
    assert told["record"]["labels"] is None


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_lower_precisions_have_webassembly_alone(
    precision: str, tmp_path: Path, tiny_checkpoint: Path, npm: Path
) -> None:
    options: dict[str, Any] = {"onnxruntime_web": npm, "compare_speed": False, "verify": False}
    output = export(None, tmp_path / "x", checkpoint=tiny_checkpoint, format="web", precision=precision, **options)
    assert list(json.loads((output / "page.json").read_text())["backends"]) == ["wasm"]
    assert sorted(path.name for path in (output / "onnxruntime").iterdir()) == [
        "ort-wasm-simd-threaded.js", "ort-wasm-simd-threaded.wasm.gz", "ort.wasm.min.js"
    ]  # fmt: skip


def test_int8_is_for_cpus() -> None:
    assert FORMATS["web"].int8_targets is not None
    assert [target.value for target in FORMATS["web"].int8_targets] == ["cpu"]


@pytest.mark.slow
def test_under_25_megabytes_with_the_digits(tmp_path: Path) -> None:
    options = {"onnxruntime_web": real_package(), "verify": False}
    output = export(None, tmp_path / "page", checkpoint=DIGITS, format="web", **options)
    assert sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) < 25_000_000


# -- the files of the page


def test_no_address_but_its_own() -> None:
    for path in PAGE.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            found = re.findall(r"https?://(?!localhost)[^\s<]+", path.read_text())
            assert found == [], path.name
    html = (PAGE / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="([^"]+)"', html)) == {"icon.svg", "style.css", "app.js"}


def test_the_policy_lets_in_its_own_folder_alone() -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', (PAGE / "index.html").read_text())
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    assert rules["connect-src"] == ["'self'"]
    assert rules["script-src"] == ["'self'", "'wasm-unsafe-eval'"]
    assert {source for sources in rules.values() for source in sources} <= {
        "'none'", "'self'", "'wasm-unsafe-eval'", "blob:"
    }  # fmt: skip


def test_texts_are_never_html() -> None:
    for path in PAGE.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", path.read_text())


# -- the npm package


def test_a_folder_and_an_archive_are_the_same(tmp_path: Path) -> None:
    folder = write_package(tmp_path)
    assert find_package(folder).files == find_package(str(pack(folder))).files
    assert set(find_package(folder).files) == {file for build in BUILDS.values() for file in build.files}


def test_where_npm_installs_it_is_looked_at_and_said(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    place = write_package(tmp_path / "node_modules")
    argv = ["--checkpoint", tiny_checkpoint, "--format", "web", "--no-verify", "-o", "page"]
    made = Outcome(cli, argv, capsys)
    assert (made.code, made.err) == (0, f"warning: onnxruntime-web 1.30.0 was taken from {place}\n")
    planned = Outcome(cli, [*argv[:-1], "other", "--dry-run"], capsys)
    assert "onnxruntime-web 1.30.0 of node_modules/onnxruntime-web" in planned.out
    again = Outcome(cli, argv, capsys)
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "page: exists, and a folder is never written over" in again.err


def test_a_later_version_is_taken_and_told(tmp_path: Path) -> None:
    for version in ("1.31.0", "1.31.0-dev.20261201-abcdef", "2.0.0"):
        folder = write_package(tmp_path / version, version=version)
        assert f"{version} was not tested, 1.30 was" in find_package(folder).untested
    assert find_package(write_package(tmp_path / "x", version="1.30.4")).untested == ""


def _missing(folder: Path) -> Path:
    return folder / "none.tgz"


def _no_package(folder: Path) -> Path:
    return folder


def _no_archive(folder: Path) -> Path:
    (folder / "x.tgz").write_bytes(b"no archive")
    return folder / "x.tgz"


def _cut_archive(folder: Path) -> Path:
    path = pack(write_package(folder))
    path.write_bytes(path.read_bytes()[:-40])
    return path


def _damaged_archive(folder: Path) -> Path:
    path = pack(write_package(folder))
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)
    return path


def _not_json(folder: Path) -> Path:
    made = write_package(folder)
    (made / "package.json").write_text("{")
    return made


def _not_an_object(folder: Path) -> Path:
    made = write_package(folder)
    (made / "package.json").write_text("[1]")
    return made


def _empty_file(folder: Path) -> Path:
    made = write_package(folder)
    (made / "dist" / "ort.wasm.min.mjs").write_bytes(b"")
    return made


def _a_link_in_it(folder: Path) -> Path:
    made = write_package(folder, without="dist/ort.wasm.min.mjs")
    (made / "dist" / "ort.wasm.min.mjs").symlink_to("/etc/passwd")
    return pack(made)


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        (_missing, r"none\.tgz: no such folder or \.tgz"),
        (_no_package, r"no package\.json in it"),
        (_no_archive, r"x\.tgz: cannot be read as a folder or \.tgz"),
        (_cut_archive, r"cannot be read"),
        (_damaged_archive, r"cannot be read"),
        (_not_json, r"package\.json is not JSON"),
        (_not_an_object, r"the npm package \?; needed: onnxruntime-web"),
        (_empty_file, r"1\.30\.0 without dist/ort\.wasm\.min\.mjs;"),
        (_a_link_in_it, r"1\.30\.0 without dist/ort\.wasm\.min\.mjs;"),
        (lambda folder: write_package(folder, name="onnxruntime-node"), "the npm package onnxruntime-node; needed"),
        (lambda folder: write_package(folder, version="1.29.3"), r"onnxruntime-web 1\.29\.3; needed: 1\.30"),
        (lambda folder: write_package(folder, version="latest"), r"onnxruntime-web latest; needed: 1\.30"),
        (lambda folder: write_package(folder, without="dist/ort-wasm-simd-threaded.wasm"), r"threaded\.wasm;"),
        (lambda folder: None, r"there is no node_modules/onnxruntime-web here"),
    ],
)
def test_what_is_no_package_is_refused_before_the_model_is_loaded(
    given: Callable[[Path], Path | None], fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rest_deploy.models.factory.load_model", pytest.fail)
    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(ConfigError, match=fact) as told:
        export("rest_lite", "page", format="web", onnxruntime_web=given(tmp_path))
    assert "npm pack onnxruntime-web@1.30.0" in str(told.value)
    assert "\n" not in str(told.value)
    assert list(empty.iterdir()) == []


def test_a_file_of_any_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_package(tmp_path)
    monkeypatch.setattr(onnxruntime_web, "_MOST_BYTES", 50)
    with pytest.raises(ConfigError, match="has over 50 bytes"):
        find_package(folder)


# -- networks


@pytest.mark.parametrize(
    ("asked", "fact"),
    [
        (
            {"features": ("stage4",), "preprocessing": Preprocessing()},
            "the network gives stage4 alone; export a classifier",
        ),
        ({"features": ("embedding",), "preprocessing": Preprocessing()}, "gives embedding alone"),
        ({"input": "float"}, "--input float: a page gives its network pictures; for --format web leave it out"),
        ({"input": "uint8"}, "--input uint8: a page gives its network pictures"),
        ({"preprocessing": Preprocessing("warp", (4096, 4096))}, "network at 4096x4096 takes more than the 3 GiB"),
        ({"model": TWO_CHANNELS}, "--format web: the network takes no pictures, .*; give another --format"),
        ({"output": "x.onnx"}, r"x\.onnx: format web is a folder"),
    ],
)
def test_networks_that_have_no_page(asked: dict[str, Any], fact: str, npm: Path, tmp_path: Path) -> None:
    request: dict[str, Any] = {"model": TINY, "output": tmp_path / "page", "labels": "none", "format": "web"}
    request |= asked
    with pytest.raises(ConfigError, match=fact) as told:
        run_export(ExportRequest(**request, options={"onnxruntime_web": str(npm)}))
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_logits_beside_maps_have_a_page(npm: Path, tmp_path: Path) -> None:
    options = {"onnxruntime_web": npm, "features": ("stage4", "logits"), "verify": False, "labels": "none"}
    output = export(TINY, tmp_path / "page", format="web", **options)
    told = json.loads((output / "page.json").read_text())
    assert [own["name"] for own in told["record"]["outputs"]] == ["stage4", "logits"]
