"""Which network the weights are of: nothing is inferred from what is missing, and what contradicts is refused."""

from __future__ import annotations

import copy
import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rest_deploy.errors import CheckpointError, ConfigError, RestDeployError
from rest_deploy.models.checkpoint import load_checkpoint, save_checkpoint
from rest_deploy.models.evidence import settings_of
from rest_deploy.models.factory import create_model, load_model
from rest_deploy.models.rest import ResT
from rest_deploy.models.rest_family import CONFIGS, ResTConfig
from rest_deploy.runtimes.pytorch import describe
from rest_deploy.specs import PreprocessingChange
from tests.checkpoints.files import authors_module, libraries
from tests.checkpoints.test_read import logits
from tests.conftest import TINY, lively

APART = replace(TINY, num_heads=(1, 2, 2, 4), apply_transform=False)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def apart() -> ResT:
    """A network whose heads do not interact, as the authors' class makes by default."""
    return lively(ResT(APART), seed=4).requires_grad_(False)


# Heads


def test_heads_that_do_not_interact_are_not_read_as_one(apart: ResT, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", apart.state_dict())
    with pytest.raises(CheckpointError, match=r"transform_conv.*--num-heads N N N N.*have 1 2 4 8;"):
        load_model(None, path)
    loaded = load_model(None, path, num_heads=(1, 2, 2, 4))
    assert loaded.model.config == APART
    assert torch.equal(logits(loaded.model), logits(apart))
    one = load_model(None, path, num_heads=(1, 1, 1, 1)).model
    assert not torch.allclose(logits(one), logits(apart), atol=1e-3)


def test_a_published_name_is_no_answer_and_no_advice_leads_to_a_wrong_network(tmp_path: Path) -> None:
    lite = replace(CONFIGS["rest_lite"], apply_transform=False)
    path = saved(tmp_path / "a.pth", ResT(lite).state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_model("rest_lite", path)
    assert "--num-heads" in str(caught.value)
    assert "leave --model out" not in str(caught.value)
    loaded = load_model("rest_lite", path, num_heads=(1, 2, 4, 8))
    assert (loaded.model.config, loaded.name) == (lite, "rest_custom")
    assert load_model(lite, path).model.config == lite
    with pytest.raises(CheckpointError, match="apply_transform=False"):
        load_model(CONFIGS["rest_lite"], path)


def test_a_stage_without_interaction_beside_others_has_one_head(tmp_path: Path) -> None:
    config = replace(TINY, num_heads=(1, 2, 1, 4))
    path = saved(tmp_path / "a.pth", ResT(config).state_dict())
    assert load_model(None, path).model.config == config


def test_heads_that_contradict_the_weights_are_refused(apart: ResT, tiny_model: ResT, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", tiny_model.state_dict())
    with pytest.raises(CheckpointError, match="1 2 3 4 heads, 1 2 3 8 were given"):
        load_model(None, path, num_heads=(1, 2, 3, 8))
    assert load_model(None, path, num_heads=TINY.num_heads).model.config == TINY
    path = saved(tmp_path / "b.pth", apart.state_dict())
    for heads in ((1, 2), (1, 2, 3, 0), (1, 2, 3, 5), "1234", (1, 2, 2, True)):
        with pytest.raises(RestDeployError):
            load_model(None, path, num_heads=heads)
    with pytest.raises(ConfigError, match="num_heads"):
        load_model("rest_lite", num_heads=(1, 2, 4, 8))


def test_heads_that_settings_name_are_told_and_not_taken(apart: ResT, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"model": apart.state_dict(), "args": Namespace(num_heads=[1, 2, 2, 4])})
    with pytest.raises(CheckpointError, match=r"args\.num_heads says 1 2 2 4"):
        load_model(None, path)
    with pytest.raises(CheckpointError, match=r"args\.num_heads is \[1, 2, 2, 4\]"):
        load_model(None, path, num_heads=(1, 1, 1, 1))


def test_a_whole_module_says_its_heads(apart: ResT, tmp_path: Path) -> None:
    with libraries() as kinds:
        path = saved(tmp_path / "a.pth", authors_module(apart, kinds))
    loaded = load_model(None, path)
    assert loaded.model.config == APART
    assert torch.equal(logits(loaded.model), logits(apart))
    with pytest.raises(ConfigError, match="1 1 1 1"):
        load_model(None, path, num_heads=(1, 1, 1, 1))


# Biases


def test_missing_biases_of_queries_keys_and_values_are_zeros(tiny_model: ResT, tmp_path: Path) -> None:
    weights = {n: v for n, v in tiny_model.state_dict().items() if not n.endswith(("attn.q.bias", "attn.kv.bias"))}
    loaded = load_model(None, saved(tmp_path / "a.pth", weights))
    without = copy.deepcopy(tiny_model)
    for name, value in without.state_dict().items():
        if name.endswith(("attn.q.bias", "attn.kv.bias")):
            value.zero_()
    assert torch.equal(logits(loaded.model), logits(without))
    assert any("qkv_bias=False" in sentence for sentence in loaded.told)


@pytest.mark.parametrize("lost", [r"stage2\.0\.attn\.q\.bias", r"attn\.q\.bias", r"stem\.pos\.pa_conv\.bias"])
def test_some_missing_biases_are_a_damaged_file(lost: str, tiny_model: ResT, tmp_path: Path) -> None:
    weights = {n: v for n, v in tiny_model.state_dict().items() if not re.search(lost, n)}
    with pytest.raises(CheckpointError, match="missing: "):
        load_model(None, saved(tmp_path / "a.pth", weights))


# What weights do not tell


@pytest.mark.parametrize("config", [replace(TINY, qk_scale=0.21), replace(TINY, norm_eps=1e-3)], ids=["scale", "eps"])
def test_a_module_says_scale_and_eps(config: ResTConfig, tmp_path: Path) -> None:
    model = lively(ResT(config), seed=3).requires_grad_(False)
    with libraries() as kinds:
        theirs = authors_module(model, kinds)
        path = saved(tmp_path / "a.pth", {"model": theirs})
        for loaded in (load_model(None, path), load_model(theirs)):
            assert loaded.model.config == config
            assert torch.equal(logits(loaded.model), logits(model))
        assert "architecture" not in load_model(theirs).assumed
        assert "eps" not in load_model(None, path).assumed["architecture"]
    with pytest.raises(CheckpointError, match=r"scale|eps"):
        load_model(TINY, path)


def test_a_card_says_scale_and_eps(tmp_path: Path) -> None:
    config = replace(APART, qk_scale=0.21, norm_eps=1e-3)
    model = lively(ResT(config), seed=3)
    save_checkpoint(tmp_path / "a.safetensors", model)
    loaded = load_model(None, tmp_path / "a.safetensors")
    assert loaded.model.config == config
    assert "architecture" not in loaded.assumed
    assert torch.equal(logits(loaded.model), logits(model))
    with pytest.raises(CheckpointError, match="qk_scale"):
        load_model(replace(config, qk_scale=None), tmp_path / "a.safetensors")


def test_what_the_shapes_leave_open_is_assumed_and_a_name_gives_it(tiny_model: ResT, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", tiny_model.state_dict())
    assert "eps 1e-05" in load_model(None, path).assumed["architecture"]
    assert load_model(TINY, path).assumed == {}


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


def _last_norm(module: Any) -> None:
    module.stage4[0].norm2.eps = 1e-6


CONTRADICTIONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "tanh GELU": (
        lambda m: setattr(m.stage2[0].mlp.act, "approximate", "tanh"),
        "stage2.0.mlp.act.approximate is tanh",
    ),
    "ReLU": (lambda m: setattr(m.stage2[0].mlp, "act", nn.ReLU()), "stage2.0.mlp.act is a torch.nn.modules.*ReLU"),
    "own activation": (lambda m: setattr(m.stage3[1].mlp, "act", _QuickGelu()), "_QuickGelu"),
    "stem": (lambda m: setattr(m.stem, "act", nn.GELU()), "stem.act is a .*GELU, here it is a ReLU"),
    "position": (lambda m: setattr(m.stem.pos, "sigmoid", nn.Tanh()), "stem.pos.sigmoid is a .*Tanh"),
    "one eps": (_last_norm, "stage4.0.norm2.eps is 1e-06"),
    "BatchNorm": (lambda m: setattr(m.stem.norm1, "eps", 1e-3), "stem.norm1.eps is 0.001"),
    "InstanceNorm": (lambda m: setattr(m.stage2[0].attn.transform_norm, "eps", 1e-3), "transform_norm.eps is 0.001"),
    "stride": (lambda m: setattr(m.stem.conv1, "stride", (1, 1)), r"stem.conv1.stride is \(1, 1\)"),
    "kind of norm": (lambda m: setattr(m.stage1[0], "norm1", nn.GroupNorm(1, 8)), "norm1 is a .*GroupNorm"),
    "one scale": (lambda m: setattr(m.stage3[0].attn, "scale", 1.0), "stage3.0.attn.scale is 1.0"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_module_that_computes_something_else_is_refused(name: str, tiny_model: ResT, tmp_path: Path) -> None:
    change, fact = CONTRADICTIONS[name]
    with libraries() as kinds:
        theirs = authors_module(tiny_model, kinds)
        change(theirs)
        path = saved(tmp_path / "a.pth", theirs)
    for model in (None, TINY):
        with pytest.raises(CheckpointError, match=fact):
            load_model(model, path)


@pytest.mark.parametrize("name", ["tanh GELU", "ReLU", "one eps", "BatchNorm", "stride", "kind of norm", "one scale"])
def test_so_is_one_that_is_alive(name: str, tiny_model: ResT) -> None:
    with libraries() as kinds:
        theirs = authors_module(tiny_model, kinds)
        CONTRADICTIONS[name][0](theirs)
        with pytest.raises(CheckpointError):
            load_model(theirs)


class GELU(nn.Module):
    """Of the same name as torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


def test_a_pickled_class_of_a_known_name_is_known_by_its_full_name(tiny_model: ResT, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", _with_activation(tiny_model, GELU()))
    with pytest.raises(CheckpointError, match=r"stage2\.0\.mlp\.act is a tests.*\.GELU"):
        load_model(None, path)


def test_the_forward_of_a_pickled_module_is_assumed(tiny_model: ResT, tmp_path: Path) -> None:
    assert load_model(None, saved(tmp_path / "ours.pth", tiny_model)).assumed == {}
    loaded = load_model(None, saved(tmp_path / "own.pth", _of_class(_Own, tiny_model)))
    assert "_Own is not imported" in loaded.assumed["architecture"]
    more = copy.deepcopy(tiny_model)
    more.stage1[0].gate = nn.Tanh()  # type: ignore[union-attr]
    more.stage1[0].drop_path = nn.Dropout(0.1)  # type: ignore[union-attr]
    assumed = load_model(None, saved(tmp_path / "more.pth", more)).assumed["architecture"]
    assert "stage1.0.gate (torch.nn.modules.activation.Tanh)" in assumed
    assert "drop_path" not in assumed


class _Own(ResT):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 - 1).sigmoid()


class _Copy(ResT):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 32 == 0 == x.shape[3] % 32
        return self.head(self.norm(self.forward_features(x)[-1].flatten(2).mT).mean(dim=1))


class _Tuple(ResT):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class _Loss(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.module(x), target)


class _Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def _of_class(kind: type[ResT], model: ResT) -> ResT:
    made = copy.deepcopy(model)
    made.__class__ = kind
    return made


def _hooked(model: ResT, part: str) -> ResT:
    made = copy.deepcopy(model)
    made.get_submodule(part).register_forward_hook(lambda module, given, out: out * 1.1)
    return made


def _patched(model: ResT) -> ResT:
    made = copy.deepcopy(model)
    made.norm.forward = lambda x: x  # type: ignore[method-assign]
    return made


OTHER_FORWARDS: dict[str, tuple[Callable[[ResT], nn.Module], str]] = {
    "own forward": (lambda m: _of_class(_Own, m), "output differs"),
    "hook": (lambda m: _hooked(m, ""), "output differs"),
    "hook inside": (lambda m: _hooked(m, "stage3.1.mlp"), "output differs"),
    "patched": (_patched, "output differs"),
    "sigmoid behind": (lambda m: nn.Sequential(m, nn.Sigmoid()), "output differs"),
    "factor before": (lambda m: nn.DataParallel(nn.Sequential(_Double(), m)), "output differs"),
    "own activation": (lambda m: _with_activation(m, _QuickGelu()), "output differs"),
    "an activation of torch's": (lambda m: _with_activation(m, nn.ReLU()), "output differs"),
    "two activations": (lambda m: _with_activation(m, nn.Sequential(nn.GELU(), nn.Tanh())), "output differs"),
    "tuple": (lambda m: _of_class(_Tuple, m), "gives tuple"),
    "other shape": (lambda m: nn.Sequential(m, nn.Flatten(0)), r"a tensor \(14,\)"),
    "two inputs": (_Loss, "cannot be run .* key_prefix"),
}


def _with_activation(model: ResT, act: nn.Module) -> ResT:
    made = copy.deepcopy(model)
    made.stage2[0].mlp.act = act  # type: ignore[union-attr]
    return made


@pytest.mark.parametrize("name", OTHER_FORWARDS)
def test_a_live_module_whose_forward_is_another_is_refused(name: str, tiny_model: ResT) -> None:
    make, fact = OTHER_FORWARDS[name]
    with pytest.raises(CheckpointError, match=fact) as caught:
        load_model(make(tiny_model))
    assert "\n" not in str(caught.value)


def test_a_live_module_that_computes_the_same_is_taken_and_left_as_it_was(tiny_model: ResT) -> None:
    before = torch.get_rng_state()
    copied = _of_class(_Copy, tiny_model).train()
    for module in (copied, nn.DataParallel(copied), torch.compile(copied), copy.deepcopy(copied).double()):
        assert torch.equal(logits(load_model(module).model), logits(tiny_model))
    assert copied.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_prefix_names_the_inner_module(tiny_model: ResT) -> None:
    loaded = load_model(nn.Sequential(tiny_model, nn.Sigmoid()), key_prefix="0")
    assert torch.equal(logits(loaded.model), logits(tiny_model))
    with pytest.raises(CheckpointError, match="output differs"):
        load_model(nn.Sequential(_of_class(_Own, tiny_model), nn.Sigmoid()), key_prefix="0")


def _norm() -> Any:
    return partial(nn.LayerNorm, eps=1e-6)


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"args": Namespace(qk_scale=0.5)}, r"args\.qk_scale is 0\.5"),
        ({"hyper_parameters": {"model": {"norm_eps": 1e-6}}}, r"hyper_parameters\.model\.norm_eps is 1e-06"),
        ({"hyper_parameters": {"norm_layer": _norm()}}, r"hyper_parameters\.norm_layer has eps 1e-06"),
        ({"config": {"norm_layer": nn.BatchNorm1d}}, r"config\.norm_layer is torch\.nn.*BatchNorm1d"),
        ({"args": Namespace(act_layer="silu")}, r"args\.act_layer is silu"),
        ({"hparams": {"activation": nn.ReLU}}, r"hparams\.activation is ReLU"),
        ({"args": Namespace(act_layer=nn.Tanh)}, r"args\.act_layer is .*Tanh"),
        ({"args": Namespace(act_layer=nn.Sigmoid())}, r"args\.act_layer is .*Sigmoid"),
        ({"config": {"hidden_act": "sigmoid"}}, r"config\.hidden_act is sigmoid"),
        ({"args": Namespace(act_layer=partial(nn.GELU, approximate="tanh"))}, r"act_layer is .*GELU with .*tanh"),
        ({"args": Namespace(activation=partial(partial(nn.ReLU), inplace=True))}, r"args\.activation is ReLU"),
        ({"args": Namespace(num_heads=np.array([1, 2, 4, 8]))}, r"args\.num_heads is \[1, 2, 4, 8\]"),
        ({"args": Namespace(heads=[1, 2, 4, 8])}, r"args\.heads is \[1, 2, 4, 8\]"),
    ],
)
def test_settings_that_contradict_are_refused(settings: Any, fact: str, tiny_model: ResT, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"model": tiny_model.state_dict(), **settings})
    for model in (None, TINY):
        with pytest.raises(CheckpointError, match=fact):
            load_model(model, path)


def test_settings_that_agree_or_are_of_other_things_are_none_of_ours(tiny_model: ResT, tmp_path: Path) -> None:
    args = Namespace(
        qk_scale=None, opt_eps=1e-8, act_layer="gelu", activation="softmax", norm_layer=nn.LayerNorm, norm_eps=1e-5,
        num_heads=np.array(TINY.num_heads), hidden_act=str(nn.GELU),
    )  # fmt: skip
    loaded = load_model(None, saved(tmp_path / "a.pth", {"model": tiny_model.state_dict(), "args": args}))
    assert loaded.model.config == TINY


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_values_that_hold_themselves_or_are_endless_are_shown_short(tiny_model: ResT, tmp_path: Path) -> None:
    own: list[Any] = []
    own.append(own)
    for number, value in enumerate((own, _nested(200), "x" * 10**6, [own] * 10**5, "a\nb")):
        args = {"act_layer": value, "classes": value, "num_heads": value, "input_size": value, "args": value}
        path = saved(tmp_path / f"{number}.pth", {"model": tiny_model.state_dict(), "args": args})
        with pytest.raises(CheckpointError, match=r"args\.act_layer is") as caught:
            load_model(None, path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000


def test_only_settings_that_are_asked_for_are_kept() -> None:
    same = {"lr": 1, "qk_scale": 0.5}
    assert settings_of({"args": {"a": same, "b": same, "lr": 3}}) == (("args.a.qk_scale", "qk_scale", 0.5),)
    many = {f"key{number}": {"qk_scale": number} for number in range(100_000)}
    assert len(settings_of({"args": many})) < 100_000


def test_a_transform_that_settings_name_is_told(tiny_model: ResT, tmp_path: Path) -> None:
    args = Namespace(input_size=384, crop_pct=1.0, mean=[0.5, 0.5, 0.5], interpolation="bilinear", lr=0.1)
    loaded = load_model(None, saved(tmp_path / "a.pth", {"model": tiny_model.state_dict(), "args": args}))
    info = describe(loaded)
    (sentence,) = [told for told in info.weights.notes if told.startswith("transform")]
    for fact in ("input_size 384", "crop_pct 1.0", "mean [0.5, 0.5, 0.5]", "--image-size, --crop-ratio, --mean"):
        assert fact in sentence
    assert "--std" not in sentence
    assert info.assumed["image size"] == "224x224, but args say input_size 384"
    assert "args say" not in info.assumed["std"]


@pytest.mark.parametrize(
    ("settings", "change", "told"),
    [
        ({"input_size": 160}, {"size": (160, 160)}, []),
        ({"input_size": 160}, {"size": (224, 224)}, ["args say input_size 160, and --image-size 224 was given"]),
        ({"input_size": [3, 160, 96]}, {"size": (160, 96)}, []),
        ({"img_size": 160}, {"resize": "native"}, ["args say img_size 160, and --transform native was given"]),
        ({"crop_pct": 0.9}, {"resize": "warp"}, ["args say crop_pct 0.9, and --transform warp was given"]),
        ({"crop_pct": 0.9, "interpolation": "bilinear"}, {"crop_ratio": 0.9, "interpolation": "bilinear"}, []),
        ({"mean": [0.5]}, {"mean": (0.5,) * 3}, []),
        ({"std": [51, 102, 153]}, {"std": (0.2, 0.4, 0.6)}, []),  # of images of 0 to 255
        ({"mean": (0.1, 0.2, 0.3)}, {"mean": (0.1, 0.2, 0.4)}, ["mean [0.1, 0.2, 0.3], and --mean 0.1 0.2 0.4 was"]),
        ({"mean": 0.5, "img_size": 96}, {"size": (96, 96)}, ["args say mean 0.5: not used; give --mean"]),
    ],
)
def test_a_setting_that_a_flag_says_too(
    settings: dict[str, Any], change: dict[str, Any], told: list[str], tiny_model: ResT, tmp_path: Path
) -> None:
    content = {"model": tiny_model.state_dict(), "args": Namespace(**settings)}
    info = describe(load_model(None, saved(tmp_path / "a.pth", content)), preprocessing=PreprocessingChange(**change))
    notes = [note for note in info.weights.notes if note.startswith("transform")]
    assert len(notes) == len(told)
    assert all(words in note for words, note in zip(told, notes, strict=True))


def test_a_setting_that_agrees_with_what_is_assumed(tiny_model: ResT, tmp_path: Path) -> None:
    args = Namespace(input_size=224, img_size=None, interpolation="")  # as timm leaves what was not given
    info = describe(load_model(None, saved(tmp_path / "a.pth", {"model": tiny_model.state_dict(), "args": args})))
    assert (info.assumed["image size"], info.assumed["interpolation"]) == (
        "224x224, and args say input_size 224",
        "bicubic",
    )


def test_the_dtype_of_weights_is_told(tiny_model: ResT, tmp_path: Path) -> None:
    half = copy.deepcopy(tiny_model).half().state_dict()
    assert "stored as float16" in load_model(None, saved(tmp_path / "a.pth", half)).told


def test_a_config_that_says_so_agrees_with_settings(tmp_path: Path) -> None:
    config = replace(TINY, qk_scale=0.5)
    model = lively(ResT(config), seed=3)
    path = saved(tmp_path / "a.pth", {"model": model.state_dict(), "args": Namespace(qk_scale=0.5)})
    assert torch.equal(logits(load_model(config, path).model), logits(model))


# Names of classes

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


@pytest.mark.parametrize(
    "beside",
    [
        {"classes": NAMES},
        {"class_names": tuple(NAMES)},
        {"class_to_idx": {name: index for index, name in enumerate(NAMES)}},
        {"idx_to_class": dict(enumerate(NAMES))},
        {"args": Namespace(classes=NAMES)},
        {"hyper_parameters": {"class_names": NAMES, "num_classes": 7, "classes": 7}},
        {"meta": {"dataset_meta": {"classes": tuple(NAMES)}}},
        {"meta": {"CLASSES": NAMES}},
        {"meta": {"labels": NAMES}},
        {"labels": dict(enumerate(NAMES))},
        {
            "config": {
                "id2label": {str(i): n for i, n in enumerate(NAMES)},
                "label2id": {n: i for i, n in enumerate(NAMES)},
            }
        },
    ],
    ids=str,
)
def test_class_names_in_a_checkpoint_are_used_and_told(beside: Any, tiny_model: ResT, tmp_path: Path) -> None:
    loaded = load_model(None, saved(tmp_path / "a.pth", {"model": tiny_model.state_dict(), **beside}))
    assert loaded.card.labels == tuple(NAMES)
    place = next(iter(beside))
    assert any(sentence.startswith(f"class names: 7 from {place}") for sentence in loaded.told), loaded.told


@pytest.mark.parametrize(
    ("beside", "fact"),
    [
        ({"labels": NAMES}, "labels is not used"),
        ({"classes": [*NAMES[:6], "ant"]}, "ant stands there more than once"),
        ({"classes": NAMES[:6]}, "it has 6, the head 7"),
        ({"labels": torch.zeros(7).tolist()}, "labels is not used"),
        ({"classes": NAMES, "class_names": NAMES[::-1]}, "they differ"),
        ({"class_to_idx": {"ant": 1}}, "numbered 1 to 1"),
        ({"classes": [*NAMES[:6], "\x1b[31m"]}, "printable"),
    ],
)
def test_class_names_that_do_not_fit_are_not_used_and_told(
    beside: Any, fact: str, tiny_model: ResT, tmp_path: Path
) -> None:
    loaded = load_model(None, saved(tmp_path / "a.pth", {"model": tiny_model.state_dict(), **beside}))
    assert loaded.card.labels is None
    assert any(fact in sentence for sentence in loaded.told), loaded.told


# Writing


def test_save_checkpoint_of_a_wrapped_model(tiny_model: ResT, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, nn.DataParallel(tiny_model), name="mine", labels=NAMES, activation="sigmoid")
    loaded = load_model(None, path)
    assert (loaded.name, loaded.card.labels, loaded.card.activation) == ("mine", tuple(NAMES), "sigmoid")
    assert loaded.card.config == TINY
    assert loaded.told == ()
    assert torch.equal(logits(loaded.model), logits(tiny_model))


@pytest.mark.parametrize(
    "said",
    [
        {"labels": NAMES[:3]},
        {"labels": "abcdefg"},
        {"labels": [*NAMES[:-1], 7]},
        {"labels": [*NAMES[:-1], "a\n"]},
        {"activation": "relu"},
        {"name": "../x"},
        {"name": 7},
        {"preprocessing": {"resize": "crop"}},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_not_written(said: Any, tiny_model: ResT, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        save_checkpoint(tmp_path / "a.safetensors", tiny_model, **said)
    assert not list(tmp_path.iterdir())


def test_a_training_loop_trains(tiny_model: ResT, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", tiny_model)
    model = create_model(TINY, tmp_path / "a.safetensors")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = load_checkpoint(tmp_path / "a.safetensors").state_dict["head.weight"]
    model(torch.ones(1, 3, 32, 32)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before)
    assert not any(parameter.requires_grad for parameter in load_model(TINY).model.parameters())


def test_what_is_written_of_a_module_is_what_it_computes(tmp_path: Path, tiny_model: ResT) -> None:
    """Its epsilon is in no tensor: a checkpoint that says it all must say it too; another function is refused."""
    config = replace(tiny_model.config, norm_eps=0.25)
    twin = nn.Sequential()
    twin.add_module("net", lively(create_model(config)).eval())  # a module of no class of ours, with a prefix
    path = tmp_path / "twin.safetensors"
    save_checkpoint(path, twin)
    assert load_model(None, path).model.config.norm_eps == 0.25
    with pytest.raises(ConfigError):
        save_checkpoint(path, nn.Sequential(twin.net, nn.Sigmoid()))
    with pytest.raises(ConfigError, match=r"\.safetensors"):
        save_checkpoint(tmp_path / "twin.pth", tiny_model)
