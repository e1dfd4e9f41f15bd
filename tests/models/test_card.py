"""What a checkpoint says of itself."""

import json

import pytest

from rest_deploy.errors import CheckpointError
from rest_deploy.models.card import Card
from rest_deploy.specs import Preprocessing, Resize

CARD = Card("mine", ("cat", "犬"), Preprocessing(Resize.NATIVE, None, mean=(0.5,), std=(0.5,)))


def test_a_card_is_json():
    assert json.loads(CARD.to_json())["labels"] == ["cat", "犬"]


@pytest.mark.parametrize("name", ["../pwned", "/etc/x", "a/b", "", ".hidden", "nul\0", "x" * 101])
def test_a_card_cannot_name_a_file_elsewhere(name):
    """Files are named after the model where no output is given."""
    with pytest.raises(CheckpointError, match="calls its model"):
        Card.from_json(json.dumps({"name": name, "labels": None, "preprocessing": None}))
