"""A family is two files and a row: a toy goes all the way through a row alone, and what is wrong with one is found."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rest_deploy import Predictor, benchmark, create_model, export, list_models, save_checkpoint, verify
from rest_deploy.artifact.onnx_file import OnnxFile, write_record
from rest_deploy.benchmarking.measure import Effort
from rest_deploy.cli import info as info_command
from rest_deploy.errors import ArtifactError, CheckpointError, ConfigError, ExportError, VerificationError
from rest_deploy.models import family as families
from rest_deploy.models.card import Card
from rest_deploy.models.factory import load_model
from rest_deploy.models.family import FAMILIES, Family, family_of
from rest_deploy.models.network import DeployForm, Network, Structure
from rest_deploy.models.rest import ResT
from rest_deploy.specs import ImageSize, Precision, Preprocessing, PreprocessingChange, Resize
from rest_deploy.verification import Images
from tests.conftest import IMAGES, ROOT, TINY, lively
from tests.toys import toy_family, toy_network
from tests.toys.toy_family import ToyConfig, ToyFamily
from tests.toys.toy_network import DeployToy, Toy

BLOCKS = ["entry", "layers.0", "layers.1", "classifier"]
SIZES = [(1, 1), (33, 47), (64, 48)]


@pytest.fixture(scope="module", autouse=True)
def row() -> Iterator[None]:
    """The one line of ``models/family.py`` that CONTRIBUTING.md says a family takes, for the time of these tests."""
    (line,) = re.findall(r"```python\n(.*?)```", _page(), re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        for name, place in ast.literal_eval(f"{{{line}}}").items():
            patch.setitem(families._ROWS, name, place)
        yield


def _page() -> str:
    """What CONTRIBUTING.md says of adding a family."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.partition("\n## Add a family\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def toy() -> Toy:
    made = create_model("toy_nano", num_classes=7)
    assert isinstance(made, Toy)
    return lively(made).requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toy.pth"
    torch.save({"model": {f"module.{name}": value for name, value in toy.state_dict().items()}, "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    return export(None, checkpoint.with_suffix(".onnx"), checkpoint=checkpoint)


def _batch(height: int, width: int) -> Any:
    return np.random.default_rng(height).standard_normal((2, 3, height, width)).astype(np.float32)


# It is two files and a row


def test_a_family_is_two_files_and_a_row() -> None:
    own = sorted(path.name for path in Path(toy_family.__file__).parent.glob("*toy_*.py"))
    assert own == ["toy_family.py", "toy_network.py"]
    imported = set()
    for module in (toy_family, toy_network):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tests"):
                imported.add(node.module)
    assert imported == {"tests.toys.toy_family", "tests.toys.toy_network"}
    named = [path for path in (ROOT / "rest_deploy").rglob("*.py") if "toys" in path.read_text()]
    assert named == []


def test_the_page_names_what_a_family_must_say_and_nothing_else() -> None:
    told = set(re.findall(r"`(\w+)`", "".join(line for line in _page().splitlines(True) if line.startswith("| `"))))
    must = {name for name in Family.__annotations__ if not hasattr(Family, name)} | Family.__abstractmethods__
    assert must <= told
    assert [name for name in told if name not in Family.__annotations__ and not hasattr(Family, name)] == []
    own = set(vars(ToyFamily)) & (set(vars(Family)) | set(Family.__annotations__)) - {"__doc__", "__module__"}
    assert {name for name in own if name[0] != "_"} <= told
    for kind in (Network, DeployForm):
        assert all(f"`{name}`" in _page() for name in kind.__abstractmethods__)


def test_nothing_but_models_names_a_family() -> None:
    """What would have to be changed for the next one."""
    for path in (ROOT / "rest_deploy").rglob("*.py"):
        names = {alias.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
                 and str(node.module).startswith("rest_deploy.models") for alias in node.names}  # fmt: skip
        if path.parent.name != "models" and path.name != "__init__.py":
            assert not {name for name in names if "ResT" in name or "rest_" in name}, path


def test_the_rows_are_read_only() -> None:
    assert [(name, family.name) for name, family in FAMILIES.items()] == [
        (name, name) for name in ("rest", "restv2", "toy")
    ]
    with pytest.raises(TypeError):
        FAMILIES["more"] = ToyFamily()  # type: ignore[index]
    assert list_models()[-2:] == ["toy_nano", "toy_giant"]


# Checkpoints


def test_a_checkpoint_tells_its_family_and_its_config(checkpoint: Path, toy: Toy) -> None:
    loaded = load_model(None, checkpoint)
    assert (loaded.name, loaded.model.config) == ("toy_nano", toy.config)
    assert "slope 0.25" in loaded.assumed["architecture"]
    with torch.inference_mode():
        for size in SIZES:
            image = torch.from_numpy(_batch(*size))
            assert torch.equal(loaded.model(image), toy(image))


def test_a_card_tells_what_weights_do_not(toy: Toy, tmp_path: Path) -> None:
    config = replace(toy.config, slope=0.5)
    other = Toy(config)
    other.load_state_dict(toy.state_dict())
    save_checkpoint(tmp_path / "a.safetensors", other.eval(), labels=list("abcdefg"))
    loaded = load_model(None, tmp_path / "a.safetensors")
    assert loaded.model.config == config
    assert "architecture" not in loaded.assumed
    with pytest.raises(CheckpointError, match="slope"):
        load_model(toy.config, tmp_path / "a.safetensors")


def test_a_module_in_its_memory_and_in_a_file(toy: Toy, tmp_path: Path) -> None:
    assert load_model(toy).model.config == toy.config
    torch.save(toy, tmp_path / "a.pth")
    assert load_model(None, tmp_path / "a.pth").model.config == toy.config
    toy = load_model(toy).model  # type: ignore[assignment]
    toy.layers[1].depthwise.padding = (0, 0)  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match=r"layers\.1\.depthwise\.padding"):
        load_model(toy)


def test_what_is_of_another_family_is_refused(checkpoint: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for model, path in (("rest_lite", checkpoint), (TINY, checkpoint), ("toy_nano", tiny_checkpoint)):
        with pytest.raises(CheckpointError, match=r"(ResT.*Toy|Toy.*ResT)"):
            load_model(model, path)  # type: ignore[arg-type]
    weights = load_model(None, checkpoint).model.state_dict()
    save_checkpoint(tmp_path / "a.safetensors", weights, Card(config=TINY))
    with pytest.raises(CheckpointError, match="to be a ResT"):
        load_model(None, tmp_path / "a.safetensors")
    both = {**weights, **ResT(TINY).state_dict()}
    torch.save(both, tmp_path / "both.pth")
    with pytest.raises(CheckpointError, match="of a ResT and of a Toy"):
        load_model(None, tmp_path / "both.pth")
    two = {**{f"a.{name}": value for name, value in weights.items()}, **ResT(TINY).state_dict()}
    torch.save(two, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match="--key-prefix"):
        load_model(None, tmp_path / "two.pth")
    assert isinstance(load_model(None, tmp_path / "two.pth", key_prefix="a").model, Toy)


@pytest.mark.parametrize(("lost", "fact"), [("classifier.weight", "classifier.weight"), ("entry.norm.bias", "missing")])
def test_weights_that_lack_something_are_refused(lost: str, fact: str, toy: Toy, tmp_path: Path) -> None:
    torch.save({name: value for name, value in toy.state_dict().items() if name != lost}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=fact):
        load_model(None, tmp_path / "a.pth")


def test_heads_are_of_families_that_have_them(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="num_heads 1 2 4 8"):
        load_model("toy_nano", checkpoint, num_heads=(1, 2, 4, 8))


# From one end to the other


@pytest.mark.anew
def test_it_is_exported_verified_and_predicts(artifact: Path, checkpoint: Path, toy: Toy) -> None:
    with Predictor(artifact) as ours, Predictor(checkpoint) as theirs, torch.inference_mode():
        assert (ours.info.family, ours.info.model, ours.info.config) == ("toy", "toy_nano", toy.config.to_dict())
        assert ours.info.verification is not None
        assert ours.info.verification["passed"]
        assert ours.info.preprocessing == theirs.info.preprocessing == ToyFamily.preprocessing
        assert ours.info.assumed["mean"] == "0.5 0.5 0.5"
        for size in SIZES:
            exact = toy.double()(torch.from_numpy(_batch(*size)).double()).numpy()
            toy.float()
            for predictor in (ours, theirs):
                assert np.abs(predictor.logits(_batch(*size)) - exact).max() < 1e-5 * np.abs(exact).max()
        best = ours.classify(IMAGES / "chelsea.png")
        assert [one.index for one in best] == [one.index for one in theirs.classify(IMAGES / "chelsea.png")]


@pytest.mark.parametrize(
    ("family", "change", "card", "steps"),
    [
        ("toy", {"size": ImageSize(40, 40)}, None, (Resize.WARP, ImageSize(40, 40))),
        ("toy", {"resize": Resize.CROP}, None, (Resize.CROP, ImageSize(40, 48))),
        ("toy", {"resize": Resize.CROP}, Preprocessing(Resize.NATIVE, None), (Resize.CROP, ImageSize(40, 48))),
        ("toy", {"resize": Resize.NATIVE}, None, (Resize.NATIVE, None)),
        ("rest", {"size": ImageSize(40, 40)}, None, (Resize.CROP, ImageSize(40, 40))),
        ("rest", {"size": ImageSize(400, 400)}, None, (Resize.WARP, ImageSize(400, 400))),
        ("restv2", {"size": ImageSize(400, 400)}, None, (Resize.WARP, ImageSize(400, 400))),
    ],
)
def test_how_images_are_resized_to_a_new_size_is_its_own(
    family: str, change: dict[str, Any], card: Preprocessing | None, steps: tuple[Resize, ImageSize | None]
) -> None:
    usual = FAMILIES[family].preprocessing_at
    made = PreprocessingChange(**change).apply(card or usual(None), usual)
    assert (made.resize, made.size) == steps


def test_its_images_are_warped_where_others_are_cropped(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    change = PreprocessingChange(size=ImageSize(32, 32))
    made = export(None, tmp_path / "x.onnx", checkpoint=checkpoint, preprocessing=change, verify=False)
    with Predictor(made) as predictor:
        assert predictor.info.preprocessing == ToyFamily.preprocessing.at(ImageSize(32, 32))
        assert predictor.info.assumed["transform"] == "warp"
    found = verify(artifact, checkpoint, data=Images(IMAGES, change=change, most=1), synthetic=False)
    assert found.data is not None
    assert found.data.transform.startswith("warp 32x32")


def test_blocks_have_its_own_names(artifact: Path, checkpoint: Path) -> None:
    found = verify(artifact, checkpoint, sizes=[(33, 47)], per_block=True)
    assert found.passed
    (result,) = found.artifacts
    assert result.blocks is not None
    assert list(result.blocks.blocks) == BLOCKS
    assert result.blocks.first_over_limit is None


def test_in_half_precision(artifact: Path, checkpoint: Path, tmp_path: Path) -> None:
    half = export(None, tmp_path / "half.onnx", checkpoint=checkpoint, precision="fp16", compare_speed=False)
    with Predictor(half) as predictor:
        assert predictor.info.precision is Precision.FP16
        assert predictor.info.verification is not None
        assert predictor.info.verification["passed"]
        apart = predictor.logits(_batch(33, 47)) - Predictor(artifact).logits(_batch(33, 47))
        assert 0 < np.abs(apart).max() < 0.1
    found = verify(half, checkpoint, sizes=[(33, 47)], per_block=True)
    assert found.passed
    assert list(found.artifacts[0].blocks.blocks) == BLOCKS  # type: ignore[union-attr]


def test_int8(checkpoint: Path, tmp_path: Path) -> None:
    made = export(
        None, tmp_path / "int8.onnx", checkpoint=checkpoint, precision="int8", compare_speed=False, max_error=1.0
    )
    with Predictor(made) as predictor:
        assert predictor.info.precision is Precision.INT8


def test_the_command_tells_of_it(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert info_command.main([str(artifact), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["family"], told["model"]) == ("toy", "toy_nano")


def test_its_operations_are_counted(artifact: Path, checkpoint: Path, toy: Toy) -> None:
    effort = Effort(min_rounds=2, min_seconds=0.001)
    found = benchmark(
        [artifact], sizes=[(24, 32)], baselines=["torch"], checkpoint=checkpoint, effort=effort, cold=False
    )
    with FlopCounterMode(display=False) as counter:
        toy(torch.zeros(1, 3, 24, 32))
    assert [result.flop for result in found.cases[0].results] == 2 * [counter.get_total_flops()]
    assert counter.get_total_flops() == ToyFamily().flops(toy.config, 1, ImageSize(24, 32))


def test_memory_is_the_familys(artifact: Path) -> None:
    with Predictor(artifact) as predictor:
        assert predictor._runtime.call_bytes(2, 100, 200) == 4 * 2 * 20_000 * (3 + 8)


def test_a_request_is_written_down_again() -> None:
    from rest_deploy.pipeline.request import ExportRequest, as_arguments

    assert as_arguments(ExportRequest(ToyConfig(), checkpoint="x.pth")) == ("--checkpoint", "x.pth")
    with pytest.raises(ConfigError, match="toy_giant"):
        ExportRequest("toy_huge")


# Planted faults


def _refusal(checkpoint: Path, tmp_path: Path, error: type[Exception]) -> str:
    """What an export says that fails, and leaves nothing."""
    with pytest.raises(error) as caught:
        export(None, tmp_path / "x.onnx", checkpoint=checkpoint)
    assert list(tmp_path.iterdir()) == []
    return str(caught.value)


def test_a_deploy_form_that_computes_something_else(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(entry: toy_network.Entry) -> nn.Conv2d:
        conv = nn.utils.fusion.fuse_conv_bn_eval(entry.conv, entry.norm)
        conv.bias.data.zero_()  # type: ignore[union-attr]
        return conv

    monkeypatch.setattr(toy_network, "fused", wrong)
    assert "x.onnx" in _refusal(checkpoint, tmp_path, VerificationError)
    made = export(None, tmp_path / "x.onnx", checkpoint=checkpoint, verify=False)
    found = verify(made, checkpoint, sizes=[(33, 47)], per_block=True)
    assert not found.passed
    assert found.artifacts[0].blocks.first_over_limit == "entry"  # type: ignore[union-attr]


def test_a_size_that_is_baked_in(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def baked(self: object, x: Tensor) -> Tensor:
        return x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3]) ** 0.5

    monkeypatch.setattr(toy_network.OverPixels, "forward", baked)
    assert "traced graph" in _refusal(checkpoint, tmp_path, ExportError)


def test_an_operator_that_it_does_not_declare(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyFamily, "operators", ToyFamily.operators - {"LeakyRelu"})
    assert "LeakyRelu" in _refusal(checkpoint, tmp_path, ExportError)


def test_another_structure(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeployToy, "structure", lambda self: Structure({"Conv": 6}))
    assert "5 Conv nodes, the deploy form 6" in _refusal(checkpoint, tmp_path, ExportError)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"family": "rest", "config": TINY.to_dict()}, "LeakyRelu"),
        ({"family": "nobody"}, "nobody"),
        ({"config": {"width": -1}}, "width"),
    ],
)
def test_a_record_of_another_family(changes: dict[str, Any], fact: str, artifact: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "x.onnx", replace(OnnxFile(artifact).info, **changes), graph=artifact)
    with pytest.raises(ArtifactError, match=fact):
        Predictor(tmp_path / "x.onnx")


def test_a_graph_of_another_family_under_its_record(artifact: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "x.onnx", OnnxFile(artifact).info, graph=tiny_onnx)
    with pytest.raises(ArtifactError, match="the operator 'Relu'"):
        Predictor(tmp_path / "x.onnx")


def test_what_is_no_config_has_no_family() -> None:
    with pytest.raises(ConfigError, match="accepted: ResTConfig, ResTv2Config, ToyConfig"):
        family_of(3)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_no_operator_makes_much_of_little(name: str) -> None:
    """A record chooses its family, so none may allow what takes a size from the file, or holds a graph.

    A Pad is by a few numbers that the file holds (``test_untrusted_onnx.py``).
    """
    never = {"ConstantOfShape", "Expand", "If", "Loop", "Range", "Resize", "Scan", "Tile", "Upsample"}
    assert not FAMILIES[name].operators & never
