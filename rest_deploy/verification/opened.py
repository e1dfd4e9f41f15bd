"""What is measured and what it is measured against, opened: artifacts, and a checkpoint or another artifact."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rest_deploy.artifact.address import Place, facts_of, is_address, located
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import read_checked
from rest_deploy.errors import ConfigError, MissingPackageError, RestDeployError
from rest_deploy.models.family import config_of, operators_of
from rest_deploy.recipes import Recipe
from rest_deploy.runtimes.memory import call_bytes, check_call
from rest_deploy.runtimes.registry import is_checkpoint, open_runtime, read_info
from rest_deploy.specs import NUM_HEADS, Device, InputKind, Precision
from rest_deploy.values import hold
from rest_deploy.verification.blocks import onnx_blocks
from rest_deploy.verification.reference import Case, Run, cases_of

if TYPE_CHECKING:
    import onnx

    from rest_deploy.models.factory import LoadedModel
    from rest_deploy.models.network import Network
    from rest_deploy.models.reference import BlockRun


@contextmanager
def open_candidate(path: str | Place, device: str | None = None) -> Iterator[tuple[Run, ArtifactInfo]]:
    """Open an artifact for measuring: what the machine that it is made for would compute, and its record.

    Where ONNX Runtime on the CPU does not compute an ONNX file as intended, the file is computed as its recipe says.
    """
    place = located(path)
    with open_subject(place.name, place, device, None) as subject:
        yield subject.run, subject.info


def candidate_of(model: onnx.ModelProto, recipe: Recipe, threads: int | None = None) -> Run:
    """A graph in a precision as a function: computed as its recipe says, with every Q/DQ pair as written.

    Raises:
        ExportError: ONNX Runtime does not load it, or later does not run it.
    """
    from rest_deploy.export.cpu_session import CpuSession

    session = CpuSession(recipe.emulate(model), threads=threads)
    return session.run


@dataclass(frozen=True)
class Subject:
    """An open artifact.

    Args:
        name: Its name, unique among those that are measured.
        path, info: Of the artifact.
        run: Gives its outputs.
        device: Where it runs.
        computed: What runs it, in words.
        blocks: Gives its blocks; raises ConfigError if they cannot be seen.
        threads: CPU threads of a call; None for one per usable core.
        memory: The format by which memory is predicted, if it is not its own.
        facts: What a server says of it, as of :class:`~rest_deploy.runtimes.base.Runtime`.
    """

    name: str
    path: Place
    info: ArtifactInfo
    run: Run
    device: str
    computed: str
    blocks: Callable[[], BlockRun]
    threads: int | None = None
    memory: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def own_cases(self) -> tuple[Case, ...]:
        """Batches and sizes at which it is checked if none are requested."""
        return cases_of(self.info)

    @property
    def way(self) -> tuple[Any, ...]:
        """Equal for artifacts that make the same input of an image; empty if the image is the network's input."""
        info = self.info
        return () if info.input_kind is InputKind.FLOAT else (info.input_kind, info.preprocessing, info.engine is None)

    def check_memory(
        self, size: Case, images: str, refusal: type[RestDeployError], step: str = "scale it down first"
    ) -> None:
        """Refuse a call for which too little memory is free on the CPU; what a GPU has is not known before.

        Args:
            size: Of its input.
            images: What the message calls the images.
            refusal: The error.
            step: What the message advises.

        Raises:
            PredictorError: Too little is free for any image.
            RestDeployError: ``refusal``: it would take more than is free; the message names the network.
        """
        if Device.parse(self.device).in_memory:
            computed = f" ({self.computed})" if self.memory else ""
            check_call(self._call_bytes, size.sizes, f"{images}, for {self.name}{computed}", refusal, step=step)

    def _call_bytes(self, count: int, height: int, width: int) -> int:
        return call_bytes(self.info, count, height, width, self.memory)

    def to_dict(self) -> dict[str, Any]:
        """What a record says of it."""
        return {
            "name": self.name,
            "path": str(self.path),
            **facts_of(self.path),
            **self.facts,
            "format": self.info.format,
            "precision": self.info.precision.value,
            "model": self.info.model,
            "device": self.device,
            "computed": self.computed,
            "takes": self.info.takes if self.way else "",
            "assumed": dict(self.info.assumed),
        }


@contextmanager
def open_subject(name: str, path: Place, device: str | None, threads: int | None) -> Iterator[Subject]:
    """Open an artifact under a name of its own."""
    info, in_graph = read_info(path), partial(onnx_blocks, Path(str(path)), threads)
    if info.input_kind is not InputKind.FLOAT:
        why = "it takes pictures, and blocks are compared on the network's input"
        in_graph = partial(_no_blocks, f"{path}: {why}; give the same file exported with --input float")
    if isinstance(path, Path) and info.format == "onnx" and info.recipe.emulator and device in (None, "cpu"):
        import onnx

        file = read_checked(path, operators_of)
        info, model = file.info, onnx.load_model_from_string(bytes(file.content))
        info.check_tensors(_shapes(model.graph.input), _shapes(model.graph.output), path)
        run = candidate_of(model, info.recipe, threads)
        yield Subject(name, path, info, run, "cpu", info.recipe.emulated, in_graph, threads)
        return
    with open_runtime(path, device, threads) as runtime:
        blocks = in_graph if info.format == "onnx" else runtime.blocks
        if info.format == "onnx" and runtime.target.kind != "cpu":
            why = f"blocks are computed by ONNX Runtime on the CPU, not on {runtime.device}; leave --device out"
            blocks = partial(_no_blocks, f"{path}: {why}")
        own = runtime.info, runtime.run, runtime.device
        computed = "by its server" if is_address(path) else "as it runs"
        yield Subject(name, path, *own, computed, blocks, threads, runtime.memory, runtime.facts)


def _no_blocks(why: str) -> BlockRun:
    raise ConfigError(why)


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, list[Any]]:
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: [dim.dim_param or dim.dim_value for dim in own] for name, own in dims.items()}


class OpenReference:
    """What artifacts are measured against: a checkpoint in float64, and as a model in PyTorch, or an artifact."""

    def __init__(self, subject: Subject, model: Network | None) -> None:
        self.subject, self._model = subject, model
        self.baseline = cache(self._baseline)

    def _baseline(self, precision: Precision) -> Run | None:
        """What gives the baseline error of a precision; None if an artifact is the reference."""
        if self._model is None:
            return None
        from rest_deploy.models.reference import reference_runs

        return reference_runs(self._model, precision, self.subject.threads)[1]

    def blocks(self, precision: Precision) -> tuple[BlockRun, BlockRun | None]:
        """Its blocks, exact, and those of the baseline of a precision."""
        if self._model is None:
            return self.subject.blocks(), None
        import torch

        from rest_deploy.models.reference import as_written_blocks, deploy_blocks, torch_threads

        own = as_written_blocks if precision is Precision.FP32 else deploy_blocks
        exact, baseline = self.subject.blocks(), own(self._model, torch.float32)
        threads = torch_threads(self.subject.threads)
        return threads(exact), threads(baseline)


@dataclass(frozen=True)
class WeightsChoice:
    """Which weights of a checkpoint, if it holds several, and what the weights do not say.

    Args:
        weights_key: Entry to take; None for the only one, or the moving average.
        key_prefix: Prefix of the names of the network's weights; None for the only one.
        num_heads: Heads of each stage; None if the weights say them.
    """

    weights_key: str | None = None
    key_prefix: str | None = None
    num_heads: NUM_HEADS | None = None

    def __post_init__(self) -> None:
        hold(self)


@contextmanager
def open_reference(
    path: Place,
    device: str | None,
    *,
    threads: int | None = None,
    choice: WeightsChoice | None = None,
    records: Sequence[ArtifactInfo] = (),
) -> Iterator[OpenReference]:
    """Open a checkpoint, to be run in float64 on the CPU, or an artifact, to be run as it is.

    Args:
        path: Of the checkpoint or artifact.
        device: Where an artifact runs.
        threads: CPU threads of a call; None for one per usable core.
        choice: Of the weights in a checkpoint; None for the weights that the records name.
        records: Of the artifacts that will be measured.

    Raises:
        MissingPackageError: A checkpoint needs torch.
        RestDeployError: It cannot be opened.
    """
    if not isinstance(path, Path) or not is_checkpoint(path):
        if choice is not None:
            raise ConfigError(f"{path}: an artifact has no weights to choose from, as a checkpoint has; leave that out")
        with open_subject(path.name, path, device, threads) as subject:
            yield OpenReference(subject, None)
        return
    try:
        import torch

        from rest_deploy.models.reference import as_written_blocks, reference_runs
        from rest_deploy.runtimes.pytorch import describe
    except ModuleNotFoundError as exc:
        raise MissingPackageError(exc.name or "torch", "run the reference", "export") from exc
    loaded = _loaded(path, choice, records)
    exact, _ = reference_runs(loaded.model, threads=threads)
    blocks = partial(as_written_blocks, loaded.model, torch.float64)
    about = Subject(path.name, path, describe(loaded), exact, "cpu", "PyTorch float64", blocks, threads, "float64")
    yield OpenReference(about, loaded.model)


def _loaded(path: Path, choice: WeightsChoice | None, records: Sequence[ArtifactInfo]) -> LoadedModel:
    """The network of a checkpoint: the one that the records name, unless another one was chosen.

    Raises:
        ConfigError: The records name different weights, and none were chosen.
    """
    from rest_deploy.models.factory import load_model

    taken: dict[str, Any] = {"features": None}
    if records:  # all give the same, or are refused
        taken = {"features": records[0].taps.names, "feature_norm": records[0].feature_norm}
    digest = sha256_of(path) if os.path.isfile(path) else None
    own = [record for record in records if record.weights.file is not None and record.weights.sha256 == digest]
    if not own or (choice is not None and choice.num_heads is not None):
        return load_model(None, path, **vars(choice or WeightsChoice()), **taken)
    made_of = {(record.weights.key, record.weights.prefix): record for record in own}
    key, prefix = (choice.weights_key, choice.key_prefix) if choice is not None else (None, None)
    if len(made_of) > 1 and key is None and prefix is None:
        entries = ", ".join(repr(prefix + key) for key, prefix in made_of)
        raise ConfigError(
            f"{path}: the artifacts were made from different weights in it ({entries}); verify them one at a time, or "
            "choose with --weights-key"
        )
    (first_key, first_prefix), record = next(iter(made_of.items()))
    weights_key, key_prefix = key or first_key or None, prefix or first_prefix or None
    return load_model(config_of(record), path, weights_key=weights_key, key_prefix=key_prefix, **taken)
