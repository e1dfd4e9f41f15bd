"""Damage graphs and seal them: python -m tests.reliability.forged_graphs ARTIFACT FOLDER N

Runs in a process of its own, with a limit on its memory. Prints one line of JSON.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from rest_deploy import Predictor
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import sealed, write_record
from rest_deploy.errors import RestDeployError
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import InputKind

Change = Callable[[onnx.ModelProto], None]
_MEMORY = 4 << 30  # of address space


def forged(source: Path, target: Path, change: Change) -> Path:
    """A file whose graph somebody changed, with the record and the seal that it would need."""
    model = onnx.load(source)
    del model.metadata_props[:]
    change(model)
    return with_graph(source, target, model.SerializeToString())


def with_record(source: Path, target: Path, info: ArtifactInfo) -> Path:
    """The same graph with another record."""
    target.write_bytes(source.read_bytes())
    write_record(target, info)
    return target


def with_graph(source: Path, target: Path, graph: bytes) -> Path:
    """A graph with the record of another, sealed."""
    target.write_bytes(sealed(graph, read_info(source).to_json()))
    return target


def main(source: Path, folder: Path, count: int) -> None:
    """Damage so many; each is refused, or runs with other weights."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    model = onnx.load(source)
    del model.metadata_props[:]
    whole = model.SerializeToString()
    found: Counter[str] = Counter()
    for seed in range(count):
        generator = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(generator.choice((1, 2, 5))):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path = with_graph(source, folder / "forged.onnx", bytes(damaged))
        try:
            with Predictor(path, threads=1) as predictor:
                floats = predictor.info.input_kind is InputKind.FLOAT
                predictor.logits(np.zeros(*(((1, 3, 20, 20), np.float32) if floats else ((1, 90, 20, 3), np.uint8))))
            found["opened"] += 1
        except RestDeployError:
            found["refused"] += 1
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
