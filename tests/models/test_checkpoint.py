"""Checkpoints: every way that scripts write them, nothing that runs code, and errors that say what is wrong."""

import hashlib
import os
import pickle
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rest_deploy.errors import CheckpointError
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import load_checkpoint, save_checkpoint
from rest_deploy.specs import Preprocessing, Resize

SMALL = {"stem.conv1.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(2)}
CARD = Card("mine", ("cat", "犬"), Preprocessing(Resize.NATIVE, None, mean=(0.5,), std=(0.5,)))


def assert_same(got, wanted):
    assert list(got) == list(wanted)
    for key, value in wanted.items():
        assert torch.equal(got[key], value), key


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


# Reading


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".PTH"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_wrapper_with_and_without_prefix(tmp_path, suffix, wrapper, prefix):
    weights = {prefix + key: value for key, value in SMALL.items()}
    content = weights if wrapper is None else {wrapper: weights, "epoch": 300, "optimizer": {"state": {}}}
    path = saved(tmp_path / f"weights{suffix}", content)
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.state_dict, SMALL)
    assert checkpoint.card == Card()
    assert checkpoint.path == path
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_legacy_format_of_pytorch(tmp_path):
    path = saved(tmp_path / "old.pth", {"model": SMALL}, _use_new_zipfile_serialization=False)
    assert_same(load_checkpoint(str(path)).state_dict, SMALL)


def test_a_prefix_of_other_keys_is_part_of_their_names(tmp_path):
    weights = {"module.a": torch.ones(1), **SMALL}
    assert list(load_checkpoint(saved(tmp_path / "a.pth", weights)).state_dict) == ["module.a", *SMALL]


def test_what_is_no_tensor_is_left_out(tmp_path):
    path = saved(tmp_path / "a.pth", {**SMALL, "epoch": 3, "name": "rest"})
    assert_same(load_checkpoint(path).state_dict, SMALL)


def test_safetensors_without_a_card(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(SMALL, path)
    checkpoint = load_checkpoint(path)
    assert {key: value.tolist() for key, value in checkpoint.state_dict.items()} == {
        key: value.tolist() for key, value in SMALL.items()
    }
    assert checkpoint.card == Card()
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("card", [Card(), CARD, replace(CARD, labels=None), replace(CARD, preprocessing=None)])
def test_save_checkpoint_writes_weights_and_card(tmp_path, card):
    path = tmp_path / "a.safetensors"
    transposed = {"stem.conv1.weight": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, requires_grad=True)}
    save_checkpoint(path, transposed, card)
    checkpoint = load_checkpoint(path)
    assert checkpoint.card == card
    assert torch.equal(checkpoint.state_dict["stem.conv1.weight"], transposed["stem.conv1.weight"])
    assert torch.equal(checkpoint.state_dict["b"], torch.ones(2))


@pytest.mark.parametrize("content", [dict(SMALL), {"model": SMALL}], ids=["bare", "wrapped"])
def test_a_card_in_a_pth_file(tmp_path, content):
    path = saved(tmp_path / "a.pth", {**content, "rest_deploy": CARD.to_json()})
    checkpoint = load_checkpoint(path)
    assert checkpoint.card == CARD
    assert_same(checkpoint.state_dict, SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stay_as_stored(tmp_path, dtype):
    path = saved(tmp_path / "a.pth", {"stem.conv1.weight": torch.ones(2, dtype=dtype)})
    assert load_checkpoint(path).state_dict["stem.conv1.weight"].dtype == dtype


# Cards


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"mine"',
        "{}",
        '{"name": "mine", "labels": null}',
        '{"name": null, "labels": 3, "preprocessing": null}',
        '{"name": null, "labels": null, "preprocessing": {"resize": "crop"}}',
        '{"name": null, "labels": null, "preprocessing": []}',
        pytest.param("[" * 100_000, id="deeper than Python's recursion limit"),
    ],
)
def test_what_is_no_card_is_refused(tmp_path, text):
    with pytest.raises(CheckpointError, match="'rest_deploy' entry"):
        Card.from_json(text)
    save_file(SMALL, tmp_path / "a.safetensors", metadata={"rest_deploy": text})
    torch.save({**SMALL, "rest_deploy": text}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        with pytest.raises(CheckpointError, match="is not a model card"):
            load_checkpoint(tmp_path / name)


# Refusing


class Runs:
    """Makes a file when it is unpickled, by a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Malicious:
    """Makes a file when it is unpickled, by a method that no list of bad names has."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["epoch", "model", "weights"])
@pytest.mark.parametrize("kind", [Runs, Malicious])
def test_a_pickle_that_wants_to_run_code_does_not_run(tmp_path, kind, place, zipped):
    marker = tmp_path / "ran"
    attack = kind(marker)
    content = {"epoch": {**SMALL, "epoch": attack}, "model": {"model": attack}, "weights": attack}[place]
    path = saved(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    if kind is Malicious and place == "epoch":  # beside the weights, an object that does nothing
        assert_same(load_checkpoint(path).state_dict, SMALL)
    else:
        named = r"refused: it names posix\.system" if kind is Runs else "holds "
        with pytest.raises(CheckpointError, match=rf"a\.pth: {named}"):
            load_checkpoint(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # it would have


def test_a_bare_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps({"model": Malicious(marker)}, protocol=2))
    with pytest.raises(CheckpointError, match=r"a\.pt: "):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_whole_model_of_another_kind_is_refused(tmp_path):
    path = saved(tmp_path / "a.pth", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"a\.pth: holds a torch\.nn\.modules\.linear\.Linear; needed: a state"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, suffix):
    with pytest.raises(CheckpointError, match=rf"none\{suffix}: no such checkpoint file"):
        load_checkpoint(tmp_path / f"none{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(CheckpointError, match=rf"folder\{suffix}: a folder, not a file; give the file in it"):
        load_checkpoint(tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"\x80", b"\x80\x02", b"version https", b"PK\x03\x04", b"\x80\x02K\x01.", b"\x80\x02}q\0."],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"a\{suffix}: (damaged or truncated|truncated|plain text|a plain pickle)"
    ):
        load_checkpoint(path)


def test_a_safetensors_file_without_weights_is_refused(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="holds a dict; needed: a state dict"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_a_safetensors_file_whose_length_begins_as_a_pickle_does(tmp_path):
    """The length of the header is anything: here its lowest byte is that of a pickle."""
    for padding in range(256):
        save_file(SMALL, tmp_path / "a.safetensors", metadata={"x": "y" * padding * 8})
        if (tmp_path / "a.safetensors").read_bytes()[0] == 0x80:
            break
    else:
        raise AssertionError("no header has such a length")
    found = load_checkpoint(tmp_path / "a.safetensors").state_dict
    assert_same({key: found[key] for key in SMALL}, SMALL)


def test_a_zip_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"a\.pth: a ZIP archive of readme\.txt, with no data\.pkl"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "kind"), [([1, 2], "list"), (3, "int"), ("text", "str"), (torch.ones(2), "tensor"), (None, "NoneType")]
)
def test_a_file_of_another_kind_of_thing_is_refused(tmp_path, content, kind):
    with pytest.raises(CheckpointError, match=rf"a\.pth: holds a {kind}.*; needed: a state dict"):
        load_checkpoint(saved(tmp_path / "a.pth", content))


def test_a_file_without_weights_is_refused_with_some_of_its_keys(tmp_path):
    path = saved(tmp_path / "a.pth", {f"key {n}": n for n in range(100)})
    with pytest.raises(CheckpointError, match=r"holds no weights of a ResT or ResTv2, only 'key 0', .*'key 9', \.\.\."):
        load_checkpoint(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nan_and_infinite_weights_are_named(tmp_path, bad, dtype):
    weights = {**SMALL, "bad.weight": torch.tensor([1, bad, 3], dtype=dtype)}
    torch.save(weights, tmp_path / "a.pth")
    save_file(weights, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(CheckpointError, match=rf"{name}: NaN or infinite weights in 1 tensor: bad\.weight;"):
            load_checkpoint(tmp_path / name)


def test_finite_weights_whose_sum_is_infinite_are_read(tmp_path):
    weights = {**SMALL, "head.weight": torch.full((2, 2), 3e38)}
    assert_same(load_checkpoint(saved(tmp_path / "a.pth", weights)).state_dict, weights)


def test_at_most_ten_tensors_of_nan_are_named(tmp_path):
    path = saved(tmp_path / "a.pth", {**{f"key {n}": torch.tensor([float("nan")]) for n in range(12)}, **SMALL})
    with pytest.raises(CheckpointError, match=r"in 12 tensors: key 0, .*key 9, \.\.\.;"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch: these kinds of tensor are in beta
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
    ],
    ids=["without memory", "sparse", "compressed", "float8"],
)
def test_tensors_that_no_rest_is_made_of_are_refused(tmp_path, make):
    path = saved(tmp_path / "a.pth", {"stem.conv1.weight": make()})
    with pytest.raises(CheckpointError, match=r"a\.pth: .*stem\.conv1\.weight"):
        load_checkpoint(path)


def checkpoint_or_error(path):
    """What is loaded, or None where it is refused; any other exception fails the test."""
    try:
        return load_checkpoint(path)
    except CheckpointError as exc:
        message = str(exc)
    assert str(path) in message or "is not a model card" in message
    return None


KINDS = ["zip", "legacy", "safetensors"]


def write_sample(tmp_path, kind):
    if kind == "safetensors":
        path = tmp_path / "a.safetensors"
        save_checkpoint(path, SMALL, CARD)
        return path
    return saved(tmp_path / "a.pth", {"model": SMALL}, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused(tmp_path, kind):
    path = write_sample(tmp_path, kind)
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        assert checkpoint_or_error(path) is None, length


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch warns of some damage before it raises
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_give_other_numbers(tmp_path, kind):
    path = write_sample(tmp_path, kind)
    whole = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(generator.choice([1, 2, 5])):
            damaged[generator.randrange(min(len(whole), 400))] = generator.randrange(256)
        path.write_bytes(damaged)
        refused += checkpoint_or_error(path) is None
    assert refused > 100


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch warns of some pickle protocols before it raises
def test_random_bytes_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    generator = random.Random(0)
    for start in (b"", b"\x80\x02", b"PK\x03\x04"):
        for _ in range(200):
            path.write_bytes(start + generator.randbytes(generator.randrange(1, 60)))
            assert checkpoint_or_error(path) is None
