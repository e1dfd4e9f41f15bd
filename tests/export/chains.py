"""Deploy forms of any pieces."""

from __future__ import annotations

from torch import nn

from rest_deploy.models.network import DeployForm, Structure
from tests.conftest import TINY


class Chain(DeployForm):
    """Pieces in order; of which config is not looked at."""

    def __init__(self, **pieces: nn.Module) -> None:
        super().__init__(TINY)
        for name, piece in pieces.items():
            self.add_module(name, piece)

    def structure(self) -> Structure:
        return Structure({})
