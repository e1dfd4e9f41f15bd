"""What is computed once is computed anew for another network, and for another question."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from rest_deploy.models.deploy import Centre, to_deploy
from rest_deploy.models.rest import ResT
from tests.once import Once, key_of


def test_a_network_is_known_by_all_that_it_is(tiny_model: ResT, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy = to_deploy(tiny_model)
    keys = [key_of(deploy, 18), key_of(deploy, 19)]
    assert key_of(copy.deepcopy(deploy), 18) == keys[0]
    with torch.no_grad():
        deploy.stage3_1.mlp.fc2.bias[3] += 1e-6
    keys.append(key_of(deploy, 18))
    deploy.stage1_0.attn.num_heads += 1
    keys.append(key_of(deploy, 18))
    monkeypatch.setattr(Centre, "forward", lambda self, x: x - x.mean(dim=(1, 3), keepdim=True))
    keys.append(key_of(deploy, 18))
    assert len(set(keys)) == len(keys)


def test_a_trace_is_known_by_all_but_the_weights(tiny_model: ResT) -> None:
    deploy = to_deploy(tiny_model)
    key = key_of(deploy, weights=False)
    with torch.no_grad():
        deploy.stage3_1.mlp.fc2.bias[3] += 1e-6
    assert key_of(deploy, weights=False) == key != key_of(deploy)
    deploy.register_buffer("kept_in_the_code_alone", torch.zeros(2), persistent=False)
    keys = [key, key_of(deploy, weights=False)]
    deploy.kept_in_the_code_alone[0] = 1
    keys.append(key_of(deploy, weights=False))
    deploy.stage1_0.attn.num_heads += 1
    keys.append(key_of(deploy, weights=False))
    assert len(set(keys)) == len(keys)


def test_what_was_made_is_kept_for_all_processes_unless_it_is_not_active(tmp_path: Path) -> None:
    once = Once(tmp_path / "once")
    assert [once.get("a", lambda: b"first"), Once(once.folder).get("a", pytest.fail)] == [b"first"] * 2
    once.active = False
    assert once.get("a", lambda: b"anew") == b"anew"
