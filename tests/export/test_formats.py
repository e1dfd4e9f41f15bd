"""A format is a module and a row: a toy is made through a row alone, by Python and by the command."""

from __future__ import annotations

import re
import shlex
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from rest_deploy import Predictor, export
from rest_deploy.artifact.files import making_folder
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.cli import export as cli
from rest_deploy.doctor.artifacts import artifact_keys
from rest_deploy.errors import ConfigError, MissingPackageError
from rest_deploy.export import formats
from rest_deploy.export.formats import FORMATS, FormatRequest, Made
from rest_deploy.export.onnx_format import OnnxConfig, OnnxExporter
from rest_deploy.pipeline import ExportRequest, run_exports
from rest_deploy.pipeline.request import as_arguments
from rest_deploy.specs import InputKind, Int8Target, Precision
from tests.cli.test_commands import Outcome
from tests.conftest import ROOT

MODULE = "rest_deploy.export.toy_format"


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module and the row of CONTRIBUTING.md, for the time of a test."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code, row = re.findall(r"```python\n(.*?)```", page.partition("\n## Add a format\n")[2], re.DOTALL)
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    exec(code, vars(module))
    before = dict(formats._ROWS)
    formats._ROWS.update(eval(f"{{{row}}}", vars(formats)))
    yield module
    formats._ROWS.clear()
    formats._ROWS.update(before)


def test_a_toy_is_made_and_put_in_place(tmp_path: Path, tiny_checkpoint: Path) -> None:
    output = tmp_path / "x.toy"
    assert export(None, output, checkpoint=tiny_checkpoint, format="toy", squeeze=9) == output
    assert [path.name for path in tmp_path.iterdir()] == ["x.toy"]
    with zipfile.ZipFile(output) as archive:
        archive.extract("model.onnx", tmp_path)
    with Predictor(tmp_path / "model.onnx") as predictor:  # what it is made from, with its record and its seal
        assert predictor.info.verification is not None
        assert predictor.info.verification["passed"]


def test_a_toy_beside_the_file_it_is_made_from(tmp_path: Path, tiny_checkpoint: Path) -> None:
    request = ExportRequest(
        None, tmp_path / "x", tiny_checkpoint, "toy,onnx", options={"simplify": False}, verify=False
    )
    made, onnx = run_exports(request)
    assert not made.seconds.keys() & onnx.seconds.keys()  # a step that two files share is told once
    assert [made.path.name, onnx.path.name] == ["x.toy", "x.onnx"]
    with zipfile.ZipFile(made.path) as archive:
        assert archive.read("model.onnx") == onnx.path.read_bytes()


def test_the_command_makes_it(tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--checkpoint", tiny_checkpoint, "--format", "toy", "--squeeze", "3", "-o", tmp_path / "x.toy"]
    planned = Outcome(cli, [*argv, "--dry-run"], capsys)
    assert (planned.code, list(tmp_path.iterdir())) == (0, [])
    assert "toy, fp32" in planned.out
    made = Outcome(cli, [*argv, "--no-verify"], capsys)
    assert made.code == 0, made.err
    assert (tmp_path / "x.toy").is_file()


def test_its_options_are_flags_and_values_and_the_line_that_makes_it_again(toy: Any) -> None:
    arguments = cli._parser().parse_args(["--model", "rest_lite", "--format", "toy", "--squeeze", "3"])
    request = cli.request_of(arguments)
    assert request.configs["toy"] == toy.ToyConfig(3)
    again = [*(as_arguments(request) or ()), "--format", "toy"]
    assert shlex.join(again) == "--model rest_lite --squeeze 3 --format toy"
    assert cli.request_of(cli._parser().parse_args(again)) == request
    with pytest.raises(SystemExit, match="2"):
        cli._parser().parse_args(["--model", "rest_lite", "--format", "toy", "--squeeze", "10"])


def test_a_row_says_what_int8_is_made_for() -> None:
    def target(format: str, **options: Any) -> Int8Target | None:
        return ExportRequest("rest_lite", format=format, precision=Precision.INT8, options=options).recipe.target

    def row(**changes: Any) -> None:
        made = {"precisions": (Precision.INT8,), **changes}
        formats._ROWS["toy"] = replace(formats._ROWS["toy"], **made)  # the fixture puts the rows back

    row(int8_targets=(Int8Target.CPU,))
    assert (target("toy"), target("onnx,toy")) == (Int8Target.CPU, Int8Target.CPU)
    with pytest.raises(ConfigError, match="int8_target trt: INT8 of this format is for cpu"):
        target("toy", int8_target="trt", calibration="x")
    row(int8_targets=(Int8Target.TRT, Int8Target.CPU))
    assert target("toy", calibration="x") is Int8Target.TRT
    row(int8_targets=(Int8Target.CPU,))
    with pytest.raises(ConfigError, match="no INT8 in common; export them one at a time"):
        target("trt-rtx,toy")
    row(int8_targets=())
    with pytest.raises(ConfigError, match="format toy is not made in int8"):
        target("toy")


@pytest.mark.parametrize(
    ("asked", "fact"),
    [
        ({"options": {"squeeze": 9}, "precision": "fp16"}, "--squeeze 8"),
        ({"options": {"squeeze": 11}}, "squeeze is 11"),
        ({"precision": "int8"}, "fp32, fp16"),
        ({"output": "x.onnx"}, r"\.toy"),
        ({"format": "onnx", "options": {"squeeze": 3}}, "--squeeze is an option of toy"),
    ],
)
def test_what_it_does_not_have_is_refused_before_the_model_is_loaded(
    asked: dict[str, Any], fact: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rest_deploy.models.factory.load_model", pytest.fail)
    with pytest.raises(ConfigError, match=fact):
        run_exports(ExportRequest(**{"model": "rest_lite", "format": "toy", **asked}))
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "zipfile" else True)
    with pytest.raises(MissingPackageError, match="zipfile is needed to export to toy"):
        ExportRequest("rest_lite", format="toy")


def test_doctor_lists_it() -> None:
    assert {"toy", "toy-fp16"} <= set(artifact_keys())


def test_nothing_is_left_where_making_fails(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, toy: Any
) -> None:
    def fail(self: object, source: Path, info: object, folder: Path) -> None:
        (folder / "x.toy").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(toy.ToyExporter, "make", fail)
    with pytest.raises(KeyboardInterrupt):
        export(None, tmp_path / "x.toy", checkpoint=tiny_checkpoint, format="toy", verify=False)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a format that is a folder and takes pictures unless something else is asked for."""

    class FolderExporter(OnnxExporter):
        def place(self, made: Made, output: Path) -> tuple[str, ...]:
            with making_folder(output) as folder:
                write_record(folder / "model.onnx", made.info, graph=made.path)
            return (f"{output.name} is a toy",)

    module = ModuleType("tests.folder_format")
    vars(module).update(check=FolderExporter, FolderConfig=OnnxConfig)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    formats._ROWS["folder"] = replace(
        FORMATS["onnx"],
        suffix=".folder",
        exporter=module.__name__,
        config=(module.__name__, "FolderConfig"),
        folder=True,
        input=InputKind.PIXELS,
    )


@pytest.mark.usefixtures("folders")
def test_a_format_that_is_a_folder(tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--checkpoint", tiny_checkpoint, "--format", "folder", "-o", tmp_path / "any.name"]
    made = Outcome(cli, argv, capsys)
    assert (made.code, made.err) == (0, "warning: any.name is a toy\n")
    with Predictor(tmp_path / "any.name" / "model.onnx") as predictor:
        assert predictor.info.input_kind is InputKind.PIXELS
        assert predictor.info.verification is not None
    operators = {node.op_type for node in onnx.load(str(tmp_path / "any.name" / "model.onnx")).graph.node}
    assert "If" in operators  # maps of large images in blocks
    size = (tmp_path / "any.name" / "model.onnx").stat().st_size
    assert f"any.name: tiny, {size / 2**20:.1f} MiB, verified" in made.out
    again = Outcome(cli, argv, capsys)
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "any.name: exists" in again.err


@pytest.mark.usefixtures("folders")
def test_a_folder_beside_a_file_takes_what_it_takes(tmp_path: Path, tiny_checkpoint: Path) -> None:
    request = ExportRequest(None, tmp_path / "x", tiny_checkpoint, "onnx,folder", verify=False)
    assert [made.info.input_kind for made in run_exports(request)] == [InputKind.FLOAT, InputKind.PIXELS]
    asked = replace(request, output=tmp_path / "y", input=InputKind.UINT8)
    assert [made.info.input_kind for made in run_exports(asked)] == [InputKind.UINT8] * 2


@pytest.mark.usefixtures("folders")
def test_a_folder_with_the_name_of_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x\.onnx: format folder is a folder; name one, or ask for --format onnx$"):
        ExportRequest("rest_lite", "x.onnx", format="folder")


def test_every_exporter_takes_the_same(tmp_path: Path) -> None:
    """One signature: what `check` gives is an exporter, whatever the format."""
    request = FormatRequest("onnx", Precision.FP32, FORMATS["onnx"].config_class())
    for name in ("onnx", "toy"):
        exporter = FORMATS[name].check(FormatRequest(name, request.precision, FORMATS[name].config_class()))
        assert isinstance(exporter, formats.Exporter)
        assert exporter.files(tmp_path / "x") == (tmp_path / "x",)
