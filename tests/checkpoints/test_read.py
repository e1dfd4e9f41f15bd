"""Files as people have them give the logits of the bare weights, and nothing of them is imported."""

from __future__ import annotations

import builtins
import copy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rest_deploy.models.checkpoint import load_checkpoint, read_module
from rest_deploy.models.factory import load_model
from rest_deploy.models.rest import ResT
from tests.checkpoints.files import CONTENTS, LIBRARIES, authors_module, libraries, prefixed, write
from tests.conftest import TINY

IMAGE = torch.linspace(-2, 2, 3 * 33 * 40).reshape(1, 3, 33, 40)


@torch.inference_mode()
def logits(model: nn.Module) -> torch.Tensor:
    return model.eval()(IMAGE)


@contextmanager
def nothing_imported() -> Iterator[None]:
    """An import of one of the libraries fails the test, whoever asks for it."""
    real = builtins.__import__
    roots = {name.split(".")[0] for name in LIBRARIES}

    def refused(name: str, *args: object, **options: object) -> object:
        assert name.split(".", maxsplit=1)[0] not in roots, f"{name} was imported"
        return real(name, *args, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "__import__", refused)
        yield
    assert not roots & set(sys.modules)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "zipped"),
    [
        *((name, True) for name in CONTENTS),
        *(pytest.param(name, False, marks=() if name == "timm" else pytest.mark.slow) for name in CONTENTS),
    ],
)
def test_every_file_gives_the_logits_of_the_bare_weights(
    name: str, zipped: bool, tmp_path: Path, tiny_model: ResT
) -> None:
    path = write(tmp_path / "file.ckpt", CONTENTS[name], tiny_model, _use_new_zipfile_serialization=zipped)
    with nothing_imported():
        loaded = load_model(None, path)
    assert loaded.model.config == TINY
    expected = tiny_model
    if name == "half":
        expected = copy.deepcopy(tiny_model).half().float()
    assert torch.equal(logits(loaded.model), logits(expected))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar", ".ckpt", ".model", "", ".safetensors", ".onnx"])
def test_the_suffix_does_not_matter(suffix: str, tmp_path: Path, tiny_model: ResT) -> None:
    path = tmp_path / f"weights{suffix}"
    for save in (torch.save, save_file):
        save(tiny_model.state_dict(), path)
        assert torch.equal(logits(load_model(None, path).model), logits(tiny_model))


@pytest.mark.parametrize("way", ["script", "trace"])
def test_a_torchscript_archive(way: str, tmp_path: Path, tiny_model: ResT) -> None:
    path = tmp_path / "scripted.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = copy.deepcopy(tiny_model)
        if way == "trace":
            made = torch.jit.trace(module, torch.zeros(1, 3, 64, 64), check_trace=False)
        else:
            made = torch.jit.script(_Holder(module))
        torch.jit.save(made, str(path))
    loaded = load_model(None, path)
    assert torch.equal(logits(loaded.model), logits(tiny_model))
    assert "architecture" in loaded.assumed


class _Holder(nn.Module):
    """Scripted whole would need its code; its parts are there all the same."""

    def __init__(self, model: ResT) -> None:
        super().__init__()
        self.model = _without_code(model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _without_code(module: nn.Module) -> nn.Module:
    """The same parameters and names, in modules that TorchScript need not compile."""
    if not list(module.children()):
        return module
    empty = _Empty()
    for name, parameter in module.named_parameters(recurse=False):
        empty.register_parameter(name, parameter)
    for name, buffer in module.named_buffers(recurse=False):
        empty.register_buffer(name, buffer)
    for name, child in module.named_children():
        empty.add_module(name, _without_code(child))
    return empty


class _Empty(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_file_without_checksums(tmp_path: Path, tiny_model: ResT) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tiny_model.state_dict(), tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(logits(load_model(None, tmp_path / "a.pth").model), logits(tiny_model))


def test_later_pickle_protocols(tmp_path: Path, tiny_model: ResT) -> None:
    for protocol in (3, 4, 5):
        path = write(tmp_path / "a.pth", CONTENTS["timm"], tiny_model, pickle_protocol=protocol)
        assert torch.equal(logits(load_model(None, path).model), logits(tiny_model))


def test_only_what_is_wanted_is_read(tmp_path: Path, tiny_model: ResT, monkeypatch: pytest.MonkeyPatch) -> None:
    from rest_deploy.models.torch_file import WeightFile

    read = []
    real = WeightFile._bytes_of
    monkeypatch.setattr(WeightFile, "_bytes_of", lambda self, key: read.append(key) or real(self, key))
    write(tmp_path / "a.pth", CONTENTS["authors, v1 training"], tiny_model)
    load_checkpoint(tmp_path / "a.pth")
    assert len(set(read)) == len(tiny_model.state_dict())


# Modules that are alive


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, torch.compile, lambda m: nn.ModuleDict({"net": m})])
def test_a_module_brings_its_weights_and_is_left_as_it_was(wrap: object, tiny_model: ResT) -> None:
    with libraries() as kinds:
        theirs = wrap(authors_module(tiny_model, kinds).train())  # type: ignore[operator]
        before = {name: value.clone() for name, value in theirs.state_dict().items()}
        loaded = load_model(theirs)
        assert loaded.source == "module"
        assert loaded.checkpoint is None
        assert loaded.seed is None
        assert loaded.sha256 == read_module(theirs).sha256
        assert loaded.model.config == TINY
        assert "architecture" not in loaded.assumed
        assert torch.equal(logits(loaded.model), logits(tiny_model))
        with torch.no_grad():
            loaded.model.head.weight.zero_()
        assert theirs.training
        assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())


def test_the_hash_of_a_module_is_of_its_weights(tiny_model: ResT) -> None:
    other = copy.deepcopy(tiny_model)
    assert load_model(other).sha256 == load_model(tiny_model).sha256
    with torch.no_grad():
        other.head.bias[0] += 1e-6
    assert load_model(other).sha256 != load_model(tiny_model).sha256


# What is told


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("torch.compile in DDP", ["_orig_mod.", "module.", "weights: entry model"]),
        ("Lightning, backbone. and a metric", ["backbone.", "acc.tp", "left out: 1 value not"]),
        ("thop's counters", ["left out: 2", "total_ops"]),
        ("values beside weights", ["left out: 3", "epoch"]),
    ],
)
def test_what_was_taken_off_and_left_out_is_told(
    content: str, facts: list[str], tmp_path: Path, tiny_model: ResT
) -> None:
    told = " | ".join(load_model(None, write(tmp_path / "a.pth", CONTENTS[content], tiny_model)).told)
    assert all(fact in told for fact in facts), told


def test_nothing_is_told_of_bare_weights(tmp_path: Path, tiny_model: ResT) -> None:
    torch.save(tiny_model.state_dict(), tmp_path / "a.pth")
    loaded = load_model(None, tmp_path / "a.pth")
    assert loaded.told == ()
    assert list(loaded.assumed) == ["architecture"]
    torch.save(prefixed(tiny_model.state_dict(), "m."), tmp_path / "a.pth")
    assert load_model(None, tmp_path / "a.pth").told
