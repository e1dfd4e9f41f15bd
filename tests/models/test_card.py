"""What a checkpoint says of itself."""

import json

import pytest

from rest_deploy.errors import CheckpointError, ConfigError
from rest_deploy.models.card import Card
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.specs import Preprocessing, Resize

CARD = Card("mine", ("cat", "犬"), Preprocessing(Resize.NATIVE, None, mean=(0.5,), std=(0.5,)))


def test_a_card_is_json():
    assert json.loads(CARD.to_json())["labels"] == ["cat", "犬"]


@pytest.mark.parametrize("name", ["../pwned", "/etc/x", "a/b", "", ".hidden", "nul\0", "x" * 101])
def test_a_card_cannot_name_a_file_elsewhere(name):
    """Files are named after the model where no output is given."""
    with pytest.raises(CheckpointError, match="the model's name is"):
        Card.from_json(json.dumps({"name": name, "labels": None, "preprocessing": None}))


def test_a_config_of_no_network_is_refused():
    with pytest.raises(ConfigError, match="an object of type int is not a config of a network; accepted: "):
        Card(config=5)


@pytest.mark.parametrize("labels", ["abcdefg", {"0": "cat"}, 7, [["cat"]], ["cat", 1]])
def test_labels_are_a_list_of_text(labels):
    with pytest.raises(CheckpointError, match="the labels are"):
        Card.from_json(json.dumps({"name": None, "labels": labels, "preprocessing": None}))


@pytest.mark.parametrize(
    "change",
    [
        {"depths": [10**9, 2, 2, 2]},
        {"embed_dims": [10**12, 10**12, 10**12, 10**12]},
        {"mlp_ratios": [1e300, 4, 4, 4]},
        {"sr_ratios": [10**10, 4, 2, 1]},
        {"num_classes": 10**4000},
        {"norm_eps": 10**400},
        {"num_heads": [[[]] * 10**5, 1, 1, 1]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_network_of_absurd_values_is_refused_in_one_line(change):
    config = {**ResTConfig().to_dict(), **change}
    with pytest.raises(CheckpointError, match=next(iter(change))) as caught:
        Card.from_json(json.dumps({"name": None, "labels": None, "preprocessing": None, "config": config}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
