"""A model on a Triton server, asked over the network as if it were a file.

Its record is among the parameters of its configuration, as ``serving/repository.py`` writes them, and what the server
says of its tensors must be what the record says.
"""

from __future__ import annotations

import re
import time
from contextlib import closing
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.address import Address
from rest_deploy.artifact.info import METADATA_KEY, ArtifactInfo
from rest_deploy.artifact.profile import InputSize, fitting
from rest_deploy.errors import ArtifactError, DeviceError, PredictorError
from rest_deploy.runtimes.base import Runtime
from rest_deploy.runtimes.kserve import DATATYPES, Busy, Refused, Served, open_client
from rest_deploy.specs import ImageSize, TensorSpec

#: Seconds after which a server is asked whether its model is still the same: to load another takes it longer.
_CHECK_S = 1.0
#: Key of a configuration's parameters that holds the SHA-256 of the model's file.
SHA256_KEY = "sha256"
#: Of the records of what a server may have.
_FORMATS = ("onnx", "trt")


class TritonRuntime(Runtime):
    """A model of ours on a server. Batches of more images than it takes in a request are asked for in parts."""

    spinning_advice = "the server's threads are its own; leave allow_spinning out"

    def _load(self) -> None:
        self._client = open_client(self.path)
        try:
            self.served = self._client.describe()
            self.info = record_of(self.path, self.served)
        except BaseException:
            self._client.close()
            raise
        digest = self.served.parameters.get(SHA256_KEY, "")
        self.facts = {
            "server": self.served.server,
            "sha256": digest if re.fullmatch("[0-9a-f]{64}", digest) else None,
        }
        self._looked = time.monotonic()
        if self.served.cached:
            self.note = f"{self.path}: the server answers inputs that it has seen from its cache"

    @classmethod
    def read_info(cls, path: Any) -> ArtifactInfo:
        """The record that a server tells of its model."""
        with closing(open_client(path)) as client:
            return record_of(path, client.describe())

    def max_batch(self, height: int, width: int) -> int | None:
        """As many as the server's configuration says."""
        return self.served.max_batch

    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        self._check_same()
        most, names = self.served.max_batch, [output.name for output in self.info.outputs]
        parts = [self._asked(batch[start : start + most], names) for start in range(0, len(batch), most)]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _check_same(self) -> None:
        """Refuse another model of the same name, whose answers would get this one's labels."""
        if (now := time.monotonic()) - self._looked < _CHECK_S:
            return
        try:
            same = self._client.is_same(self.served)
        except Busy as exc:
            raise PredictorError(f"{self.path}: {exc}") from exc
        except (Refused, DeviceError) as exc:
            raise PredictorError(f"{self.path}: the server does not have the model now: {exc}") from exc
        if not same:
            raise PredictorError(f"{self.path}: the server has another model of this name now; open it again")
        self._looked = now

    def _asked(self, batch: NDArray[Any], names: list[str]) -> dict[str, NDArray[Any]]:
        count, height, width = self.info.input_sizes(batch.shape)
        if self.info.engine is not None:
            fitting(self.info.engine.profiles, InputSize(count, ImageSize(height, width)), str(self.path))
        sizes = self.info.network_sizes(count, height, width)
        most = sum(prod(own.sizes(*sizes)) * np.dtype(own.dtype).itemsize for own in self.info.outputs)
        try:
            return self._client.infer({self.info.input.name: batch}, names, most)
        except Busy as exc:
            raise PredictorError(f"{self.path}: {exc}") from exc
        except Refused as exc:
            raise PredictorError(f"{self.path}: the server refused an input of shape {batch.shape}: {exc}") from exc
        except DeviceError as exc:
            raise PredictorError(str(exc)) from exc

    def _close(self) -> None:
        self._client.close()


def record_of(address: Address, served: Served) -> ArtifactInfo:
    """The record of a model, once its tensors have been found to be what it says; of format ``triton``.

    Raises:
        ArtifactError: There is none, it is none, or it is that of another model.
    """
    text = served.parameters.get(METADATA_KEY)
    if not text:
        raise ArtifactError(
            f"{address}: the model's configuration has no record of rest_deploy; serve a repository made by rest-serve "
            "triton, or by rest-export --format triton"
        )
    info = ArtifactInfo.from_json(text, str(address))
    if info.format not in _FORMATS:
        raise ArtifactError(f"{address}: its record says format {info.format}; accepted: {', '.join(_FORMATS)}")
    for found, said in ((served.inputs, (info.input,)), (served.outputs, info.outputs)):
        wanted = {spec.name: (DATATYPES[spec.dtype], free_shape(spec)) for spec in said}
        if dict(found) != wanted:
            raise ArtifactError(
                f"{address}: the server says {_words(dict(found))}, and the model's record {_words(wanted)}; make the "
                "repository again"
            )
    if served.max_batch < 1:
        raise ArtifactError(
            f"{address}: max_batch_size {served.max_batch}; needed: 1 or more; make the repository again"
        )
    return replace(info, format="triton")


def free_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Shape of a tensor, -1 for each size that is free."""
    return tuple(size if isinstance(size, int) else -1 for size in spec.shape)


def _words(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} ({', '.join(map(str, shape))})" for name, (dtype, shape) in tensors.items())
