"""Which weights are taken of a file with several, that it is told, and that nothing broken hides something good."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rest_deploy.errors import CheckpointError
from rest_deploy.models.checkpoint import load_checkpoint
from rest_deploy.models.factory import load_model
from rest_deploy.models.rest import ResT
from tests.checkpoints.files import State, other, prefixed
from tests.conftest import TINY, lively


@pytest.fixture(scope="module")
def plain() -> State:
    return lively(ResT(TINY), seed=1).state_dict()


@pytest.fixture(scope="module")
def average() -> State:
    return lively(ResT(TINY), seed=2).state_dict()


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def holds(found: State, wanted: State) -> bool:
    return all(torch.equal(found[name], wanted[name]) for name in wanted if not name.endswith("tracked"))


# A moving average beside the weights

AVERAGES: dict[str, Callable[[State, State], Any]] = {
    "model_ema": lambda p, a: {"model": p, "model_ema": a},
    "state_dict_ema": lambda p, a: {"state_dict_ema": a, "state_dict": p},
    "ema": lambda p, a: {"ema": a, "net": p},
    "ema.module": lambda p, a: {"model": p, "ema": {"n_averaged": torch.tensor(3), "module": a}},
    "swa_model": lambda p, a: {"model": p, "swa_model": {**prefixed(a, "module."), "n_averaged": torch.tensor(3)}},
    "callbacks.EMACallback.state_dict": lambda p, a: {
        "state_dict": prefixed(p, "model."),
        "callbacks": {"EMACallback": {"state_dict": prefixed(a, "model.")}},
    },
}


@pytest.mark.parametrize("key", AVERAGES)
def test_a_sound_average_is_taken_and_told(key: str, plain: State, average: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", AVERAGES[key](plain, average))
    loaded = load_model(None, path)
    assert holds(loaded.model.state_dict(), average)
    assert loaded.checkpoint is not None
    assert loaded.checkpoint.weights_key == key
    assert any(key in sentence and "too" in sentence for sentence in loaded.told)
    assert key in loaded.assumed["weights"]


@pytest.mark.parametrize("key", AVERAGES)
def test_the_other_can_be_asked_for(key: str, plain: State, average: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", AVERAGES[key](plain, average))
    chosen = load_checkpoint(path).assumed["weights"].split("beside ")[1]
    for wanted, state in ((chosen, plain), (key, average)):
        loaded = load_model(None, path, weights_key=wanted)
        assert holds(loaded.model.state_dict(), state)
        assert "weights" not in loaded.assumed
    with pytest.raises(CheckpointError, match=f"'nothing'; they are under .*'{key}'"):
        load_model(None, path, weights_key="nothing")


def test_two_libraries_put_the_average_where_others_put_the_weights(
    plain: State, average: State, tmp_path: Path
) -> None:
    for content in (
        {"state_dict": average, "ema_state_dict": prefixed(plain, "module."), "message_hub": {}, "meta": {}},
        {"state_dict": average, "current_model_state": plain, "averaging_state": {"n_averaged": torch.tensor(2)}},
    ):
        loaded = load_model(None, saved(tmp_path / "a.ckpt", content))
        assert holds(loaded.model.state_dict(), average)
        assert "state_dict, beside" in loaded.assumed["weights"]


def _nan(state: State) -> State:
    state = copy.deepcopy(state)
    state["stage3.1.mlp.fc1.weight"][0, 0] = float("nan")
    return state


def _initial_statistics(state: State) -> State:
    fresh = ResT(TINY).state_dict()
    return {name: fresh[name] if "running" in name else value for name, value in state.items()}


BROKEN: dict[str, tuple[Callable[[State], Any], str]] = {
    "empty": (lambda a: {}, "no weights"),
    "NaN": (_nan, r"stage3\.1\.mlp\.fc1\.weight"),
    "infinite": (lambda a: {**a, "head.bias": torch.full((7,), float("inf"))}, r"head\.bias"),
    "never updated": (lambda a: {**prefixed(a, "module."), "n_averaged": torch.tensor(0)}, "n_averaged"),
    "never updated, beside": (lambda a: {"module": a, "num_updates": 0}, "num_updates"),
    "a part": (lambda a: {n: v for n, v in a.items() if not n.startswith("stage3")}, r"stage3\.0"),
    "without its stem": (lambda a: {n: v for n, v in a.items() if n.startswith("stage3")}, "no weights"),
    "another network": (lambda a: {"layer.weight": torch.ones(3)}, "no weights"),
    "no values": (lambda a: {**a, "head.weight": torch.zeros(0, 32)}, r"head\.weight"),
    "statistics of an untrained network": (_initial_statistics, "BatchNorm"),
    "an array": (lambda a: {**a, "head.bias": a["head.bias"].numpy()}, "ndarray"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_average_does_not_hide_the_weights(fault: str, plain: State, average: State, tmp_path: Path) -> None:
    make, fact = BROKEN[fault]
    loaded = load_model(None, saved(tmp_path / "a.pth", {"model_ema": make(average), "model": plain}))
    assert holds(loaded.model.state_dict(), plain)
    told = [sentence for sentence in loaded.told if "passed over" in sentence]
    assert len(told) == 1
    assert "model_ema" in told[0]
    assert re.search(fact, told[0])


def test_no_average_is_no_news(plain: State, tmp_path: Path) -> None:
    loaded = load_model(None, saved(tmp_path / "a.pth", {"model": plain, "model_ema": None, "ema_decay": 0.999}))
    assert holds(loaded.model.state_dict(), plain)
    assert loaded.told == ("weights: entry model",)
    assert "weights" not in loaded.assumed


# Several that nothing ranks


def test_two_networks_are_not_ranked(plain: State, average: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"student": plain, "teacher": average})
    with pytest.raises(CheckpointError, match=r"'student', 'teacher'.*--weights-key"):
        load_model(None, path)
    assert holds(load_model(None, path, weights_key="teacher").model.state_dict(), average)


def test_two_averages_are_not_ranked(plain: State, average: State, tmp_path: Path) -> None:
    content = {"model": plain, "ema": average, "swa": other(average)}
    with pytest.raises(CheckpointError, match=r"'model', 'ema', 'swa'.*--weights-key"):
        load_model(None, saved(tmp_path / "a.pth", content))


def test_the_same_weights_twice_need_no_choice(plain: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"model": plain, "best": dict(plain)})
    assert holds(load_model(None, path).model.state_dict(), plain)


def test_what_a_training_began_with_is_not_its_result(plain: State, average: State, tmp_path: Path) -> None:
    """Lightning keeps the arguments of its module, and one of them may be the network."""
    content = {"state_dict": prefixed(plain, "net."), "hyper_parameters": {"net": lively(ResT(TINY), seed=9)}}
    loaded = load_model(None, saved(tmp_path / "a.ckpt", content))
    assert holds(loaded.model.state_dict(), plain)
    assert "hyper_parameters.net" in loaded.assumed["weights"]


def test_two_networks_in_one_state_dict(plain: State, average: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {**prefixed(plain, "net."), **prefixed(average, "ema_net.module.")})
    with pytest.raises(CheckpointError, match=r"'ema_net\.module\.', 'net\.'; name one: --key-prefix"):
        load_model(None, path)
    for prefix, wanted in (("net.", plain), ("net", plain), ("ema_net.module", average)):
        assert holds(load_model(None, path, key_prefix=prefix).model.state_dict(), wanted)
    with pytest.raises(CheckpointError, match=r"'other\.'; they begin with 'ema_net"):
        load_model(None, path, key_prefix="other")


def test_a_parameter_too_many_is_refused(plain: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", prefixed({**plain, "stage1.0.gamma": torch.ones(8)}, "module."))
    with pytest.raises(CheckpointError, match=r"1 unexpected: stage1\.0\.gamma"):
        load_model(None, path)


def test_a_module_and_its_average(plain: State, average: State, tmp_path: Path) -> None:
    """As YOLO's scripts save: whole modules under ``model`` and ``ema``."""
    models = {}
    for key, state in (("model", plain), ("ema", average)):
        models[key] = ResT(TINY)
        models[key].load_state_dict(state)
    models["ema"] = nn.DataParallel(models["ema"])
    loaded = load_model(None, saved(tmp_path / "a.pt", models))
    assert holds(loaded.model.state_dict(), average)
    assert loaded.checkpoint is not None
    assert loaded.checkpoint.weights_key == "ema"


# Tensors beside the network

BESIDE: dict[str, tuple[str, dict[str, torch.Tensor]]] = {
    "a classifier": ("net.", {"classifier.weight": torch.ones(3, 7), "classifier.bias": torch.ones(3)}),
    "a normalization": ("model.", {"normalize.mean": torch.ones(3), "normalize.std": torch.ones(3)}),
    "a temperature": ("model.", {"temperature": torch.ones(1)}),
    "a head of its own, averaged": ("backbone.", {"ema_head.gamma": torch.ones(3)}),
}


@pytest.mark.parametrize("case", BESIDE)
def test_tensors_beside_the_network_are_assumed_to_be_of_no_use(case: str, plain: State, tmp_path: Path) -> None:
    prefix, beside = BESIDE[case]
    path = saved(tmp_path / "a.ckpt", {"state_dict": {**prefixed(plain, prefix), **beside}})
    assumed = load_checkpoint(path).assumed["left out"]
    assert assumed.startswith(f"{len(beside)} tensor")
    assert all(name in assumed for name in beside)
    asked = load_checkpoint(path, key_prefix=prefix)
    assert not asked.assumed
    assert any("left out" in sentence for sentence in asked.told)


def test_what_only_a_training_uses_is_told_and_not_assumed(plain: State, tmp_path: Path) -> None:
    beside = {
        **{"val_f1.tp": torch.ones(7), "train_acc.total": torch.ones(1), "criterion.weight": torch.ones(7)},
        **{"n_averaged": torch.tensor(4), "total_ops": torch.ones(1), "model_ema.decay": torch.tensor(0.9)},
        **{f"model_ema.{name.replace('.', '')}": value for name, value in plain.items()},
    }
    loaded = load_checkpoint(saved(tmp_path / "a.ckpt", {**prefixed(plain, "model."), **beside}))
    assert not loaded.assumed
    assert any(f"left out: {len(beside)}" in sentence for sentence in loaded.told)


# One thing under two keys


@pytest.mark.parametrize("module", [False, True])
def test_one_object_under_two_keys(module: bool, plain: State, tmp_path: Path) -> None:
    weights: Any = plain
    if module:
        weights = ResT(TINY)
        weights.load_state_dict(plain)
    path = saved(tmp_path / "a.pth", {"model": weights, "model_ema": weights})
    loaded = load_checkpoint(path)
    assert (loaded.weights_key, dict(loaded.assumed)) == ("model", {})
    assert loaded.told == ("weights: entry model; model_ema holds the same weights",)
    asked = load_checkpoint(path, weights_key="model_ema")
    assert asked.weights_key == "model_ema"
    assert holds(asked.state_dict, plain)


# Averages that are no average of the weights

COUNTED: dict[str, Callable[[State, State], Any]] = {
    "thop counted the weights": lambda p, a: {"model": {**p, "stage1.0.total_ops": torch.ones(1)}, "ema": a},
    "thop counted the average": lambda p, a: {"model": p, "ema": {**a, "total_params": torch.ones(1)}},
    "a count of steps is 0": lambda p, a: {"model": p, "ema": {"module": a, "steps": 0, "updates": 0}},
    "no counts of batches": lambda p, a: {
        "model": p,
        "ema": {name: value for name, value in a.items() if not name.endswith("tracked")},
    },
}


@pytest.mark.parametrize("case", COUNTED)
def test_a_counter_does_not_hide_an_average(case: str, plain: State, average: State, tmp_path: Path) -> None:
    loaded = load_checkpoint(saved(tmp_path / "a.pth", COUNTED[case](plain, average)))
    assert loaded.weights_key.startswith("ema")
    assert holds(loaded.state_dict, average)


UNLIKE: dict[str, tuple[Callable[[State], State], str]] = {
    "other classes": (lambda a: {**a, "head.weight": torch.ones(9, 64), "head.bias": torch.ones(9)}, r"head\.weight"),
    "one weight more": (lambda a: {**a, "stage1.0.gamma": torch.ones(8)}, r"stage1\.0\.gamma"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_an_average_of_another_network_is_passed_over(case: str, plain: State, average: State, tmp_path: Path) -> None:
    make, fact = UNLIKE[case]
    loaded = load_checkpoint(saved(tmp_path / "a.pth", {"model": plain, "ema": make(average)}))
    assert holds(loaded.state_dict, plain)
    assert any(re.search(f"ema .*passed over: .*{fact}", sentence) for sentence in loaded.told)


def test_a_prefix_chooses_among_the_entries_that_have_it(plain: State, average: State, tmp_path: Path) -> None:
    content = {"state_dict": prefixed(plain, "model."), "ema": prefixed(average, "module."), "best": other(plain)}
    path = saved(tmp_path / "a.pth", content)
    for prefix, key, wanted in (
        ("model.", "state_dict", plain),
        ("module", "ema", average),
        ("", "best", other(plain)),
    ):
        loaded = load_checkpoint(path, key_prefix=prefix)
        assert (loaded.weights_key, dict(loaded.assumed)) == (key, {})
        assert holds(loaded.state_dict, wanted)
    with pytest.raises(CheckpointError, match=r"'net\.'; they begin with '', 'model\.', 'module\.'"):
        load_checkpoint(path, key_prefix="net")
