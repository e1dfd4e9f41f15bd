"""Servers for tests, on loopback alone, each stopped by its process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rest_deploy.artifact.address import Address
from rest_deploy.runtimes.kserve import Statistics, open_client
from rest_deploy.serving.config import TritonConfig
from rest_deploy.serving.model import Model, read_model
from rest_deploy.serving.proof import Server, counted_since, running
from rest_deploy.serving.repository import write_models


@dataclass(frozen=True)
class Served:
    """A real server of a repository that was not proved before, and the repository."""

    server: Server
    folder: Path
    models: Sequence[Model]

    def address(self, protocol: str, name: str) -> Address:
        """Of one of its models."""
        return self.server.address(protocol, name)

    @contextmanager
    def counting(self, name: str, requests: int) -> Iterator[list[Statistics]]:
        """Gives a list that has, after the block, what the server counted of so many requests in it."""
        counted: list[Statistics] = []
        with closing(open_client(self.address("http", name))) as client:
            before = client.statistics()
            yield counted
            counted.append(counted_since(client, before, requests))


@contextmanager
def serving(program: Path, folder: Path, artifacts: Sequence[Path], **options: Any) -> Iterator[Served]:
    """Serve artifacts, each by the name of its file."""
    models = [read_model(path, TritonConfig(**options)) for path in artifacts]
    write_models(models, folder)
    with running(program, folder, models) as server:
        yield Served(server, folder, models)
