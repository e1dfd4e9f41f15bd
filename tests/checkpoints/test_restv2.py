"""Checkpoints of ResTv2: heads are in no shape, so they are known, asked for, or said; never guessed."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rest_deploy import create_model, save_checkpoint
from rest_deploy.cli import export as export_command
from rest_deploy.errors import CheckpointError, ConfigError
from rest_deploy.models.checkpoint import LoadedWeights
from rest_deploy.models.factory import load_model, read_config
from rest_deploy.models.family import FAMILIES
from rest_deploy.models.restv2 import ResTv2
from rest_deploy.models.restv2_family import CONFIGS, ResTv2Config
from tests.conftest import TINY, TINY_V2, lively


@pytest.fixture
def bare(tiny_v2_model: ResTv2, tmp_path: Path) -> Path:
    """Weights alone, as the authors save them."""
    torch.save({"model": tiny_v2_model.state_dict()}, tmp_path / "bare.pth")
    return tmp_path / "bare.pth"


def _shapes(config: ResTv2Config) -> dict[str, Tensor]:
    with torch.device("meta"):
        return ResTv2(config).state_dict()


def _read(weights: dict[str, Tensor], num_heads: tuple[int, ...] | None = None) -> tuple[Any, str]:
    loaded = LoadedWeights(source="a.pth", sha256="", family=FAMILIES["restv2"], state_dict=weights)
    return read_config(loaded, num_heads)


@pytest.mark.parametrize("name", CONFIGS)
def test_widths_of_published_networks_tell_the_heads(name: str) -> None:
    config, assumed = _read(_shapes(CONFIGS[name]))
    assert config == CONFIGS[name]
    assert f"heads {' '.join(map(str, config.num_heads))}" in assumed  # and the user is told that they are assumed
    other, assumed = _read(_shapes(replace(CONFIGS[name], depths=(1, 1, 1, 1), num_classes=5)))
    assert other == replace(CONFIGS[name], depths=(1, 1, 1, 1), num_classes=5)


@pytest.mark.parametrize(
    "widths", [(64, 128, 256, 512), (96, 192, 384, 512), (128, 256, 512, 768), (192, 384, 768, 1536), (8, 16, 24, 32)]
)
def test_other_widths_are_asked_for_their_heads(widths: tuple[int, ...]) -> None:
    weights = _shapes(ResTv2Config(embed_dims=widths, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)))
    with pytest.raises(CheckpointError, match=f"{' '.join(map(str, widths))}.*--num-heads"):
        _read(weights)
    config, assumed = _read(weights, (2, 4, 8, 8))
    assert config.num_heads == (2, 4, 8, 8)
    assert "heads 2" not in assumed


def test_a_detector_of_the_large_widths_is_asked_too() -> None:
    """The authors' detectors of these widths have the heads of the others."""
    weights = {**_shapes(CONFIGS["restv2_large"]), "norm_1.0.weight": torch.ones(128)}
    with pytest.raises(CheckpointError, match=r"128 256 512 1024 with a norm_1.*--num-heads"):
        _read(weights)
    tiny = {**_shapes(CONFIGS["restv2_tiny"]), "norm_1.0.weight": torch.ones(96)}
    assert _read(tiny)[0].num_heads == (1, 2, 4, 8)


def test_heads_that_are_given_are_taken_and_change_the_answer(bare: Path, tiny_v2_model: ResTv2) -> None:
    image = torch.randn(1, 3, 40, 40)
    right = load_model(None, bare, num_heads=TINY_V2.num_heads)
    assert right.model.config == TINY_V2
    assert right.name == "restv2_custom"
    assert torch.equal(right.model(image), tiny_v2_model(image))
    wrong = load_model(None, bare, num_heads=(2, 2, 2, 2)).model
    assert not torch.allclose(wrong(image), tiny_v2_model(image), atol=1e-3)


def test_heads_that_widths_contradict_are_refused(bare: Path) -> None:
    with pytest.raises(CheckpointError, match="stage 1 has 8 channels, which 3 heads do not divide"):
        load_model(None, bare, num_heads=(3, 3, 3, 3))


def test_the_command_asks_and_takes_them(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", str(bare), "-o", str(tmp_path / "x.onnx")]
    assert export_command.main(arguments) == 1
    told = capsys.readouterr().err
    assert "--num-heads" in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "x.onnx").exists()
    assert export_command.main([*arguments, "--num-heads", "1", "2", "3", "4", "--dry-run"]) == 0


def test_a_card_and_a_module_tell_the_heads(tiny_v2_model: ResTv2, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", tiny_v2_model)
    torch.save(tiny_v2_model, tmp_path / "a.pth")
    for source in (tmp_path / "a.safetensors", tmp_path / "a.pth"):
        assert load_model(None, source).model.config == TINY_V2
        with pytest.raises(ConfigError, match=r"num_heads 2 2 2 2: .*1 2 3 4"):
            load_model(None, source, num_heads=(2, 2, 2, 2))
    assert load_model(copy.deepcopy(tiny_v2_model)).model.config == TINY_V2


def test_settings_that_name_other_heads_are_refused(tmp_path: Path) -> None:
    state = create_model("restv2_tiny", num_classes=2).state_dict()
    torch.save({"model": state, "args": {"num_heads": [2, 4, 8, 16]}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"args\.num_heads is \[2, 4, 8, 16\]"):
        load_model(None, tmp_path / "a.pth")
    torch.save({"model": state, "args": {"layer_norm_eps": 1e-5}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="1e-05"):
        load_model(None, tmp_path / "a.pth")


def test_a_custom_network_hears_what_its_settings_say(tiny_v2_model: ResTv2, tmp_path: Path) -> None:
    """It is told, and not taken."""
    torch.save({"model": tiny_v2_model.state_dict(), "args": {"num_heads": [1, 2, 3, 4]}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"--num-heads .*args\.num_heads says 1 2 3 4"):
        load_model(None, tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("attn.up.1", lambda block: setattr(block.attn.up, "1", nn.Upsample(scale_factor=4))),
        ("attn.up_norm.eps", lambda block: setattr(block.attn.up_norm, "eps", 1e-5)),
        ("mlp.act", lambda block: setattr(block.mlp, "act", nn.ReLU())),
        ("attn.scale", lambda block: setattr(block.attn, "scale", 1.0)),
        ("attn.up.1.upscale_factor", lambda block: setattr(block.attn.up[1], "upscale_factor", 2)),
    ],
)
def test_a_module_that_computes_something_else_is_refused(
    name: str, change: Any, tiny_v2_model: ResTv2, tmp_path: Path
) -> None:
    changed = copy.deepcopy(tiny_v2_model)
    change(changed.stage1[0])
    torch.save(changed, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"stage1\.0\.{name}"):
        load_model(None, tmp_path / "a.pth")


# Under the name of another


def test_a_checkpoint_under_a_name_of_the_other_family(bare: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for model, checkpoint, facts in (
        ("rest_lite", bare, "of a ResTv2, and rest_lite is a ResT; leave --model out"),
        (TINY, bare, "of a ResTv2, and the config that was given is a ResT; leave --model out"),
        ("restv2_tiny", tiny_checkpoint, "of a ResT, and restv2_tiny is a ResTv2; leave --model out"),
    ):
        with pytest.raises(CheckpointError, match=facts) as caught:
            load_model(model, checkpoint)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_under_the_name_of_a_sister(tmp_path: Path) -> None:
    weights = {name: torch.zeros(value.shape) for name, value in _shapes(CONFIGS["restv2_tiny"]).items()}
    torch.save({"model": weights}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="by its shapes it is restv2_tiny"):
        load_model("restv2_small", tmp_path / "a.pth")


def test_heads_beside_a_name_must_be_its_own(tmp_path: Path) -> None:
    torch.save({"model": create_model("restv2_tiny").state_dict()}, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="num_heads 2 4 8 16: the model that was named has 1 2 4 8"):
        load_model("restv2_tiny", tmp_path / "a.pth", num_heads=(2, 4, 8, 16))


@pytest.mark.parametrize("shape", [(), (8 * 15, 1, 3, 3), (0, 1, 3, 3), (8 * 9, 1, 3, 3)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    weights = {**_shapes(TINY_V2), "stage1.0.attn.up.0.weight": torch.empty(shape, device="meta")}
    with pytest.raises(CheckpointError, match="not those of a ResTv2: "):
        _read(weights, TINY_V2.num_heads)


def test_both_reductions_must_agree(tmp_path: Path) -> None:
    """The kernel of the reduction says what the way up does, or the file is damaged."""
    made = lively(create_model(TINY_V2)).state_dict()
    made["stage1.0.attn.sr.weight"] = torch.zeros(8, 1, 3, 3)
    torch.save(made, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"stage1\.0\.attn\.sr\.weight has \(8, 1, 3, 3\)"):
        load_model(None, tmp_path / "a.pth", num_heads=TINY_V2.num_heads)
