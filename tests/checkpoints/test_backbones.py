"""Backbones in the checkpoints of detectors, segmenters and classifiers: weights, norms, what is left out."""

from __future__ import annotations

import copy
import pickle
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rest_deploy import create_model, export
from rest_deploy.errors import CheckpointError, ConfigError
from rest_deploy.models import family as families
from rest_deploy.models.backbone import read_norms
from rest_deploy.models.checkpoint import load_checkpoint
from rest_deploy.models.factory import LoadedModel, load_model
from rest_deploy.models.rest import ResT
from rest_deploy.models.restv2 import ResTv2
from rest_deploy.models.restv2_family import ResTv2Config
from rest_deploy.specs import EMBEDDING, LOGITS, STAGE_MAPS, FeatureNorm
from tests.checkpoints.files import State, libraries, made, other, prefixed
from tests.checkpoints.test_read import IMAGE, nothing_imported
from tests.conftest import TINY, TINY_V2

NONE, LAST, OUTPUTS, CHAIN = FeatureNorm
WIDTHS = TINY.embed_dims
HEADLESS = replace(TINY, num_classes=0)

NECK = {
    "backbone.fpn_lateral2.weight": torch.ones(4, 8, 1, 1), "backbone.fpn_output2.norm.weight": torch.ones(4),
    "proposal_generator.rpn_head.conv.weight": torch.ones(4, 4), "roi_heads.box_head.fc1.weight": torch.ones(4, 4),
    "roi_heads.box_predictor.cls_score.bias": torch.ones(81), "pixel_mean": torch.ones(3, 1, 1),
}  # fmt: skip
DECODER = {
    "decode_head.conv_seg.weight": torch.ones(19, 4, 1, 1),
    "auxiliary_head.convs.0.bn.running_mean": torch.ones(4),
}


def norms_of(names: dict[int, str]) -> State:
    """Weights of norms, each its own."""
    found = {}
    for stage, name in names.items():
        found[f"{name}.weight"] = torch.linspace(0.5, 1.5 + stage, WIDTHS[stage - 1])
        found[f"{name}.bias"] = torch.linspace(-stage, 1, WIDTHS[stage - 1])
    return found


@dataclass(frozen=True)
class Row:
    """A checkpoint as somebody has it.

    Args:
        prefix: Before the names of the backbone.
        names: Stage -> name of its norm.
        mode: That the names tell; None where they leave it open.
        content: From the weights of the backbone, by their names in the file, to what is saved.
        head: Whether it is a whole classifier.
        beside: Tensors that are left out.
        v2: Whether it is a ResTv2.
    """

    prefix: str
    names: dict[int, str]
    mode: FeatureNorm | None
    content: Callable[[State], Any]
    head: bool = False
    beside: int = 0
    v2: bool = False


_V1 = {1: "norm1", 2: "norm2", 3: "norm3", 4: "norm"}

ROWS = {
    "Detectron2": Row(
        "backbone.bottom_up.", _V1, CHAIN,
        lambda w: {"model": {**w, **NECK}, "optimizer": {"state": {}}, "scheduler": {}, "iteration": 89_999},
        beside=6,
    ),
    "Detectron2, stages 2 to 4": Row(
        "backbone.bottom_up.", {2: "norm2", 3: "norm3", 4: "norm"}, CHAIN, lambda w: {"model": {**NECK, **w}}, beside=6
    ),
    "Detectron2, stages 2 and 3": Row(
        "backbone.bottom_up.", {2: "norm2", 3: "norm3"}, CHAIN, lambda w: {"model": w, "__author__": "me"}
    ),
    "a toolkit": Row("cp.ResT.", {4: "norm"}, None, lambda w: {**w, **DECODER}, beside=2),
    "mmseg": Row("backbone.", {4: "norm"}, None, lambda w: {"meta": {}, "state_dict": {**w, **DECODER}}, beside=2),
    "a backbone alone": Row("", {4: "norm"}, None, lambda w: w),
    "no norms": Row("backbone.", {}, NONE, lambda w: {"state_dict": w, "optimizer": {}}),
    "no norms, bare": Row("", {}, NONE, lambda w: w),
    "a segmenter in one class": Row("", _V1, CHAIN, lambda w: {"model": {**w, **DECODER}}, beside=2),
    "a classifier": Row("", {4: "norm"}, NONE, lambda w: w, head=True, beside=2),
    "a classifier in DDP": Row("module.", {4: "norm"}, NONE, lambda w: {"state_dict": w, "epoch": 3}, True, 2),
    "a detector that kept the head": Row(
        "backbone.", {1: "norm1", 4: "norm"}, CHAIN, lambda w: {"state_dict": {**w, **DECODER}}, True, 4
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tiny_model: ResT, tiny_v2_model: ResTv2) -> Callable[[Row], State]:
    """Weights of the backbone of a row, by their names in its file."""

    def of(row: Row) -> State:
        whole = (tiny_v2_model if row.v2 else tiny_model).state_dict()
        left_out = ("norm.",) if row.head else ("norm.", "head.")
        kept = {name: value for name, value in whole.items() if not name.startswith(left_out)}
        return prefixed({**kept, **norms_of(row.names)}, row.prefix)

    return of


def load(path: Path, norm: FeatureNorm | None = None, features: Any = STAGE_MAPS, **options: Any) -> LoadedModel:
    return load_model(None, path, features=features, feature_norm=norm, **options)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def refused(path: Path, *args: Any, error: type[Exception] = CheckpointError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        load(path, *args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def inner(loaded: LoadedModel) -> ResT | ResTv2:
    network = loaded.model.get_submodule("network")
    assert isinstance(network, (ResT, ResTv2))
    return network


@torch.inference_mode()
def check_maps(loaded: LoadedModel, like: ResT | ResTv2) -> None:
    maps = inner(loaded).forward_features(IMAGE)
    assert [torch.equal(a, b) for a, b in zip(maps, like.forward_features(IMAGE), strict=True)] == 4 * [True]


def check_norms(loaded: LoadedModel, names: dict[int, str], mode: FeatureNorm) -> None:
    assert loaded.norms.mode is mode
    wanted = norms_of(names if mode is not NONE else {})
    assert set(loaded.norms.norms) == (set(names) if mode is not NONE else set())
    for stage, parts in loaded.norms.norms.items():
        for part, value in zip(("weight", "bias"), parts, strict=True):
            assert value.dtype == torch.float32
            assert torch.equal(value, wanted[f"{names[stage]}.{part}"])


# As people have them

KINDS: dict[str, Callable[[Any, Path], Any]] = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "an average beside": lambda content, path: torch.save(
        {"model_ema": content, "net": {n: v + 1 for n, v in _weights_in(content).items()}}, path
    ),
    "DDP": lambda content, path: torch.save({"model": prefixed(_weights_in(content), "module.")}, path),
    "Lightning": lambda content, path: torch.save({"state_dict": prefixed(_weights_in(content), "model.")}, path),
    "safetensors": lambda content, path: save_file(_weights_in(content), path),
}


def _weights_in(content: Any) -> State:
    return content.get("model", content.get("state_dict", content))


#: Each row in one container, and a few in each.
PAIRS = [(name, "zip") for name in ROWS]
PAIRS += [(name, kind) for name in ("Detectron2", "a toolkit", "a classifier") for kind in KINDS if kind != "zip"]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_checkpoint_gives_its_backbone(
    name: str, kind: str, weights: Callable[[Row], State], tiny_model: ResT, tmp_path: Path
) -> None:
    row = ROWS[name]
    path = tmp_path / "a.pth"
    KINDS[kind](row.content(weights(row)), path)
    if row.mode is None:
        message = refused(path)
        assert "--feature-norm none" in message
        assert "--feature-norm last" in message
    for asked in (LAST, NONE) if row.mode is None else (row.mode, None):
        loaded = load(path, asked)
        assert loaded.model.config == HEADLESS
        check_maps(loaded, tiny_model)
        check_norms(loaded, row.names, asked or row.mode)  # type: ignore[arg-type]
        told = " | ".join(loaded.told)
        left = sum(int(count) for count in re.findall(r"left out: (?:the classifier head, )?(\d+)", told))
        assert left == row.beside, told
        assert f"feature norm: {loaded.norms.mode.value}" in told
        assert loaded.checkpoint is not None
        assert loaded.checkpoint.key_prefix.endswith(row.prefix.removeprefix("module."))


V2 = {stage: f"norm_{stage}" for stage in (1, 2, 3, 4)}
V2_DETECTRON = {stage: f"norm_{stage}.0" for stage in V2}

V2_ROWS = {
    "Detectron2": replace(ROWS["Detectron2"], names=V2_DETECTRON, mode=OUTPUTS, v2=True),
    "Detectron2, stages 2 and 3": replace(
        ROWS["Detectron2, stages 2 and 3"], names={2: "norm_2.0", 3: "norm_3.0"}, mode=OUTPUTS, v2=True
    ),
    "mmseg": replace(ROWS["mmseg"], names=V2, mode=OUTPUTS, v2=True),
    "mmseg, stage 4": replace(ROWS["mmseg"], names={4: "norm_4"}, mode=OUTPUTS, v2=True),
    "mmseg, the final norm": replace(ROWS["mmseg"], v2=True),
    "a toolkit": replace(ROWS["a toolkit"], v2=True),
    "no norms": replace(ROWS["no norms"], v2=True),
    "a classifier": replace(ROWS["a classifier"], v2=True),
}
HEADS = TINY_V2.num_heads


@pytest.mark.parametrize("name", V2_ROWS)
def test_the_same_of_restv2(name: str, weights: Callable[[Row], State], tiny_v2_model: ResTv2, tmp_path: Path) -> None:
    row = V2_ROWS[name]
    path = saved(tmp_path / "a.pth", row.content(weights(row)))
    if row.mode is None:
        assert "--feature-norm last" in refused(path, num_heads=HEADS)
    modes: dict[FeatureNorm | None, FeatureNorm] = {None: row.mode} if row.mode else {NONE: NONE, LAST: LAST}
    if row.mode is OUTPUTS:
        modes |= {OUTPUTS: OUTPUTS, CHAIN: CHAIN, **({LAST: LAST} if list(row.names) == [4] else {})}
    for asked, mode in modes.items():
        loaded = load(path, asked, num_heads=HEADS)
        assert loaded.model.config == replace(TINY_V2, num_classes=0)
        check_maps(loaded, tiny_v2_model)
        check_norms(loaded, row.names, mode)
    if row.mode is OUTPUTS:
        assert "--feature-norm outputs or chain" in refused(path, NONE, num_heads=HEADS)


def test_the_large_restv2_of_a_detector_is_asked_for_its_heads(tmp_path: Path) -> None:
    """The authors' detectors have other heads than their classifiers, with the same widths."""
    config = ResTv2Config((128, 256, 512, 1024), (1, 1, 1, 1), (1, 2, 4, 8))
    with torch.device("meta"):
        model = ResTv2(config)
    trunk = {name: torch.zeros(value.shape) for name, value in model.state_dict().items() if name[:4] != "head"}
    norms = {f"norm_2.{part}": torch.ones(256) for part in ("weight", "bias")}
    path = saved(tmp_path / "a.pth", {"state_dict": prefixed({**trunk, **norms}, "backbone.")})
    assert "--num-heads" in refused(path)
    assert load(path, num_heads=(1, 2, 4, 8)).model.config == replace(config, num_classes=0)


def test_norms_of_two_namings_are_refused(weights: Callable[[Row], State], tmp_path: Path) -> None:
    row = V2_ROWS["Detectron2"]
    content = weights(row) | prefixed(norms_of({1: "norm_1"}), row.prefix)
    message = refused(saved(tmp_path / "a.pth", content), num_heads=HEADS)
    assert "norm_1.0" in message
    assert "two namings" in message


def test_a_norm_of_the_other_familys_name_is_refused(weights: Callable[[Row], State], tmp_path: Path) -> None:
    row = replace(V2_ROWS["mmseg"], names=_V1)
    assert "unexpected: norm1.weight" in refused(saved(tmp_path / "a.pth", weights(row)), NONE, num_heads=HEADS)


def test_a_final_norm_beside_others_is_of_the_embedding(weights: Callable[[Row], State], tmp_path: Path) -> None:
    row = V2_ROWS["mmseg"]
    path = saved(tmp_path / "a.pth", weights(row) | prefixed(norms_of({4: "norm"}), row.prefix))
    loaded = load(path, features=("stage4", EMBEDDING), num_heads=HEADS)
    check_norms(loaded, row.names, OUTPUTS)
    assert torch.equal(inner(loaded).norm.weight, norms_of({4: "norm"})["norm.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_numbers_become_float32(
    dtype: torch.dtype, weights: Callable[[Row], State], tiny_model: ResT, tmp_path: Path
) -> None:
    row = ROWS["Detectron2"]
    of_kind = {n: v.to(dtype) if v.is_floating_point() else v for n, v in weights(row).items()}
    loaded = load(saved(tmp_path / "a.pth", row.content(of_kind)))
    check_maps(loaded, copy.deepcopy(tiny_model).to(dtype).float())
    for stage, (weight, bias) in loaded.norms.norms.items():
        wanted = norms_of(row.names)
        assert torch.equal(weight, wanted[f"{row.names[stage]}.weight"].to(dtype).float())
        assert torch.equal(bias, wanted[f"{row.names[stage]}.bias"].to(dtype).float())


def test_what_is_left_out_is_counted_named_and_assumed(weights: Callable[[Row], State], tmp_path: Path) -> None:
    row = ROWS["Detectron2"]
    path = saved(tmp_path / "a.pth", row.content(weights(row)))
    assert load(path).assumed["left out"].startswith("6 tensors")
    assert "left out" not in load(path, key_prefix="backbone.bottom_up").assumed
    row = ROWS["a segmenter in one class"]
    path = saved(tmp_path / "a.pth", row.content(weights(row)))
    assert "decode_head.conv_seg.weight" in load(path).assumed["left out"]


def test_settings_of_a_training_are_inert(weights: Callable[[Row], State], tiny_model: ResT, tmp_path: Path) -> None:
    row = ROWS["mmseg"]
    with libraries() as kinds:
        meta = {"cfg": kinds.ConfigDict(a=1), "hook": made(kinds.DataModule, root=Path("x")), "CLASSES": ("a", "b")}
        path = saved(tmp_path / "a.pth", {"state_dict": weights(row), "meta": meta})
    with nothing_imported():
        loaded = load(path, LAST)
    check_maps(loaded, tiny_model)
    assert loaded.card.labels is None


RAN: list[str] = []


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return RAN.append, ("ran",)


class _Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("echo ran",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("payload", [_Payload, _Shell])
def test_code_in_a_detectors_checkpoint_does_not_run(
    payload: type, zipped: bool, weights: Callable[[Row], State], tmp_path: Path
) -> None:
    row, path = ROWS["Detectron2"], tmp_path / "a.pth"
    content = {**row.content(weights(row)), "scheduler": payload()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if payload is _Shell:
        assert "system" in refused(path)
    else:
        load(path)
    torch.save({"model": {**weights(row), "norm_5.weight": payload()}}, path, _use_new_zipfile_serialization=zipped)
    if payload is _Shell:
        assert "system" in refused(path)
    else:
        load(path)
    assert RAN == []


# Norms

ACCEPTED = {
    "Detectron2": {CHAIN, OUTPUTS},
    "Detectron2, stages 2 and 3": {CHAIN, OUTPUTS},
    "a toolkit": {NONE, LAST},
    "no norms": {NONE},
    "a classifier": {NONE, LAST},
}


@pytest.mark.parametrize("asked", list(FeatureNorm))
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_norm_that_the_names_contradict_is_refused(
    name: str, asked: FeatureNorm, weights: Callable[[Row], State], tmp_path: Path
) -> None:
    row = ROWS[name]
    path = saved(tmp_path / "a.pth", row.content(weights(row)))
    if asked in ACCEPTED[name]:
        check_norms(load(path, asked), row.names, asked)
        return
    message = refused(path, asked)
    assert f"feature norm {asked.value}" in message
    assert all(mode.value in message.rpartition("--feature-norm")[2] for mode in ACCEPTED[name])


@pytest.mark.parametrize("lost", ["norm2.bias", "norm.weight"])
def test_half_a_norm_is_refused(lost: str, weights: Callable[[Row], State], tmp_path: Path) -> None:
    row = ROWS["Detectron2"]
    content = {name: value for name, value in weights(row).items() if name != row.prefix + lost}
    assert lost in refused(saved(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    ("name", "value", "fact"),
    [
        ("norm2.weight", torch.ones(8), r"norm2\.weight has the shape \(8,\).*stage 2 has 16"),
        ("norm2.running_mean", torch.ones(16), r"1 unexpected: norm2\.running_mean"),
        ("norm_2.weight", torch.ones(16), r"1 unexpected: norm_2\.weight"),
        ("stage1.0.gamma", torch.ones(8), r"1 unexpected: stage1\.0\.gamma"),
        ("stage2.0.attn.q.weight", torch.ones(3, 3), r"stage2\.0\.attn\.q\.weight has \(3, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, value: Tensor, fact: str, weights: Callable[[Row], State], tmp_path: Path
) -> None:
    row = ROWS["Detectron2"]
    content = {**weights(row), row.prefix + name: value}
    assert re.search(fact, refused(saved(tmp_path / "a.pth", content)))


@pytest.mark.parametrize("lost", ["stage3.1.mlp.fc1.weight", "stem.conv2.weight", "patch_embed_3.norm.running_var"])
def test_a_weight_that_is_missing_is_named(lost: str, weights: Callable[[Row], State], tmp_path: Path) -> None:
    row = ROWS["Detectron2"]
    content = {name: value for name, value in weights(row).items() if name != row.prefix + lost}
    assert lost in refused(saved(tmp_path / "a.pth", content))


def test_nan_in_a_norm_is_named(weights: Callable[[Row], State], tmp_path: Path) -> None:
    row = ROWS["Detectron2"]
    content = {**weights(row), row.prefix + "norm3.bias": torch.full((24,), torch.nan)}
    assert "norm3.bias" in refused(saved(tmp_path / "a.pth", content))


# What is taken


def test_the_embedding_needs_the_final_norm(weights: Callable[[Row], State], tmp_path: Path) -> None:
    for name, fact in (("no norms", r"no norm\.weight"), ("Detectron2, stages 2 and 3", r"no norm\.weight")):
        path = saved(tmp_path / "a.pth", ROWS[name].content(weights(ROWS[name])))
        assert re.search(fact, refused(path, features=(EMBEDDING,)))
    path = saved(tmp_path / "a.pth", weights(ROWS["a classifier"]))
    loaded = load(path, features=(EMBEDDING, "stage2"))
    assert torch.equal(inner(loaded).norm.weight, norms_of({4: "norm"})["norm.weight"])
    assert (loaded.model.config, loaded.norms.mode) == (HEADLESS, NONE)


def test_the_embedding_asks_for_no_norm_of_maps(weights: Callable[[Row], State], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", weights(ROWS["a backbone alone"]))
    with torch.inference_mode():
        alone, none, last = (
            load(path, norm, features=features).model.outputs(IMAGE)[EMBEDDING]
            for norm, features in (
                (None, (EMBEDDING, "stage3")),
                (NONE, (EMBEDDING, "stage4")),
                (LAST, (EMBEDDING, "stage4")),
            )
        )
    assert torch.equal(alone, none)
    assert torch.equal(alone, last)
    assert "--feature-norm" in refused(path, features=(EMBEDDING, "stage4"))
    assert "no classifier head" in refused(path, features=(EMBEDDING, LOGITS))


def test_logits_need_a_head_and_keep_it(weights: Callable[[Row], State], tiny_model: ResT, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", weights(ROWS["a classifier"]))
    loaded = load(path, features=(LOGITS, "stage2"))
    assert loaded.model.config == TINY
    assert torch.equal(inner(loaded).head.weight, tiny_model.head.weight)
    row = ROWS["a toolkit"]
    assert "head.weight" in refused(saved(tmp_path / "b.pth", weights(row)), LAST, features=("stage4", LOGITS))
    row = ROWS["a detector that kept the head"]
    assert "chain" in refused(saved(tmp_path / "c.pth", weights(row)), features=("stage4", LOGITS))


def test_nothing_said_takes_what_there_is(weights: Callable[[Row], State], tmp_path: Path) -> None:
    for name, config in (("a classifier", TINY), ("Detectron2", HEADLESS), ("no norms", HEADLESS)):
        path = saved(tmp_path / "a.pth", ROWS[name].content(weights(ROWS[name])))
        assert load(path, features=None).model.config == config
    assert load_model(TINY, features=None).model.config == TINY


@pytest.mark.parametrize("name", ["Detectron2", "a toolkit", "no norms"])
def test_a_backbone_is_no_classifier(name: str, weights: Callable[[Row], State], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", ROWS[name].content(weights(ROWS[name])))
    for model in (None, TINY):
        with pytest.raises(CheckpointError, match=r"no classifier head.*--features"):
            load_model(model, path)
    with pytest.raises(CheckpointError, match=r"no classifier head.*--features"):
        create_model(TINY, path)
    with pytest.raises(CheckpointError, match=r"no classifier head.*--features"):
        export(None, tmp_path / "out" / "a.onnx", checkpoint=path)
    assert not (tmp_path / "out").exists()


def test_a_named_model_is_held_to_the_weights(weights: Callable[[Row], State], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", weights(ROWS["Detectron2"]))
    assert load_model(TINY, path, features=STAGE_MAPS).model.config == HEADLESS
    with pytest.raises(CheckpointError, match="leave --model out"):
        load_model("rest_lite", path, features=STAGE_MAPS)


def test_random_weights_have_the_trunk_of_the_classifier() -> None:
    loaded = load_model(TINY, seed=3, features=STAGE_MAPS)
    assert (loaded.model.config, loaded.norms.mode) == (HEADLESS, NONE)
    check_maps(loaded, load_model(TINY, seed=3).model)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="feature norm last"):
        load_model(TINY, feature_norm=LAST)


# Modules


class _Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, nn.Conv2d(8, 4, 1)


def _tapped(model: ResT, eps: float = 1e-5) -> nn.Module:
    backbone = copy.deepcopy(model)
    backbone.head = nn.Identity()  # type: ignore[assignment]
    backbone.norm1 = nn.LayerNorm(8, eps=eps)
    return _Detector(backbone)


def test_a_whole_detector(tiny_model: ResT, tmp_path: Path) -> None:
    loaded = load(saved(tmp_path / "a.pth", _tapped(tiny_model)))
    check_maps(loaded, tiny_model)
    assert (loaded.norms.mode, set(loaded.norms.norms)) == (CHAIN, {1, 4})
    assert "norm1" not in loaded.assumed.get("architecture", "")
    assert "norm1.eps is 0.001" in refused(saved(tmp_path / "a.pth", _tapped(tiny_model, 1e-3)))
    other_norm = _tapped(tiny_model)
    other_norm.backbone.norm1 = nn.GroupNorm(1, 8)  # type: ignore[union-attr]
    assert "GroupNorm" in refused(saved(tmp_path / "a.pth", other_norm))


def test_a_module_that_is_alive(tiny_model: ResT) -> None:
    loaded = load_model(tiny_model, features=STAGE_MAPS)
    assert loaded.model.config == HEADLESS
    assert any("head.weight" in sentence for sentence in loaded.told)
    check_maps(loaded, tiny_model)
    wrong = copy.deepcopy(tiny_model)
    wrong.norm.register_forward_hook(lambda module, given, out: 2 * out)
    with pytest.raises(CheckpointError, match="output differs"):
        load_model(wrong, features=STAGE_MAPS)
    with pytest.raises(CheckpointError, match=r"no classifier head .*torch\.save"):
        load_model(_tapped(tiny_model), features=STAGE_MAPS)


# Other checkpoints of detectors


def test_two_backbones_are_both_named(weights: Callable[[Row], State], tiny_model: ResT, tmp_path: Path) -> None:
    student = weights(ROWS["Detectron2"])
    both = {**prefixed(student, "student."), **prefixed(other(student), "teacher."), **NECK}
    path = saved(tmp_path / "a.pth", {"model": both})
    message = refused(path)
    assert "'student.backbone.bottom_up.', 'teacher.backbone.bottom_up.'" in message
    assert "--key-prefix" in message
    check_maps(load(path, key_prefix="student.backbone.bottom_up"), tiny_model)
    assert "'backbone.'" in refused(path, key_prefix="backbone")


def test_a_backbone_beside_one_of_another_kind(
    weights: Callable[[Row], State], tiny_model: ResT, tmp_path: Path
) -> None:
    """A ResNet has a stem of ResT's name in Detectron2."""
    resnet = {"teacher.backbone.bottom_up.stem.conv1.weight": torch.ones(64, 3, 7, 7)}
    loaded = load(saved(tmp_path / "a.pth", {"model": {**weights(ROWS["Detectron2"]), **resnet}}))
    check_maps(loaded, tiny_model)
    assert loaded.checkpoint is not None
    assert loaded.checkpoint.key_prefix == "backbone.bottom_up."


OTHERS: dict[str, tuple[State, str]] = {
    "a Swin": (
        {"backbone.layers.0.blocks.0.attn.qkv.weight": torch.ones(9, 3), **NECK},
        "roi_heads.box_head.fc1.weight",
    ),
    "a ResNet": (
        {
            "backbone.bottom_up.stem.conv1.weight": torch.ones(64, 3, 7, 7),
            "backbone.bottom_up.res2.0.conv1.weight": torch.ones(4, 4, 1, 1),
            **NECK,
        },
        "res2.0.conv1.weight",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_detector_without_a_backbone_of_ours(name: str, tmp_path: Path) -> None:
    content, fact = OTHERS[name]
    path = saved(tmp_path / "a.pth", {"model": content, "iteration": 1})
    message = refused(path)
    assert fact in message
    assert "needed: a state dict with the authors' names" in message
    with pytest.raises(CheckpointError) as caught:
        load_model(None, path)
    assert "--features" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_a_pickle_of_a_model_zoo_is_converted_by_the_line_that_is_shown(
    weights: Callable[[Row], State], tiny_model: ResT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {name: value.numpy() for name, value in {**weights(ROWS["Detectron2"]), **NECK}.items()}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content))
    line = re.search(r"convert it: python (-c .*?); this runs what is in the file", refused(path))
    assert line
    monkeypatch.chdir(tmp_path)
    exec(shlex.split(line[1])[1], {"__name__": "__main__"})
    loaded = load(tmp_path / "weights.pth")
    check_maps(loaded, tiny_model)
    check_norms(loaded, _V1, CHAIN)
    torch.save(content, path)  # the same by torch.save
    line = re.search(r"convert it: python (-c .*?); this runs what is in the file", refused(path))
    assert line
    exec(shlex.split(line[1])[1], {"__name__": "__main__"})
    check_maps(load(tmp_path / "weights.pth"), tiny_model)


def test_a_family_without_maps_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families._ROWS, "toy", ("tests.toys.toy_family", "ToyFamily"))
    path = saved(tmp_path / "a.pth", create_model("toy_nano").state_dict())
    assert "a Toy has no feature maps" in refused(path)


def test_read_norms_of_loaded_weights(weights: Callable[[Row], State], tmp_path: Path) -> None:
    loaded = load_checkpoint(saved(tmp_path / "a.pth", weights(ROWS["Detectron2"])))
    assert read_norms(loaded, None).mode is CHAIN
    assert read_norms(loaded, OUTPUTS).mode is OUTPUTS
    assert sorted(read_norms(loaded, None).norms) == [1, 2, 3, 4]
