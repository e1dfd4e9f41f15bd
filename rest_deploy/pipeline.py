"""From a checkpoint to a proved artifact; the one place that knows the order of the steps."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rest_deploy.artifact.files import check_writable, replacing
from rest_deploy.artifact.info import METADATA_KEY, ArtifactInfo
from rest_deploy.artifact.labels import read_labels
from rest_deploy.artifact.onnx_metadata import stamp
from rest_deploy.errors import ConfigError, MissingPackageError
from rest_deploy.export.formats import get_format
from rest_deploy.models.config import ResTConfig, get_config
from rest_deploy.specs import DEFAULT_OPSET, OPSETS, Precision, Preprocessing, PreprocessingChange
from rest_deploy.verification import Comparison, measure, require

if TYPE_CHECKING:
    from rest_deploy.models.factory import LoadedModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportRequest:
    """What to make, checked when made, before anything heavy is imported.

    Args:
        model: Name, config, or None to read the architecture off the checkpoint.
        output: File to write; None names it after the model, in the current folder.
        checkpoint: Weights; None takes random ones of ``seed``.
        format: A row of ``export/formats.py``.
        precision: Number format.
        labels: File of class names; None takes the checkpoint's own, or ImageNet's for 1000 classes.
        preprocessing: From an image to the input, or changes of the checkpoint's own; None takes its own, or the
            authors'.
        opset: ONNX operator set.
        simplify: Run onnxsim.
        verify: Check the artifact against the PyTorch model, and keep it only where it agrees.
        seed: Of random weights.

    Raises:
        ConfigError: Something that cannot be meant.
        MissingPackageError: A package that the format needs is not installed.
    """

    model: str | ResTConfig | None
    output: str | Path | None = None
    checkpoint: str | Path | None = None
    format: str = "onnx"
    precision: Precision = Precision.FP32
    labels: str | Path | None = None
    preprocessing: Preprocessing | PreprocessingChange | None = None
    opset: int = DEFAULT_OPSET
    simplify: bool = True
    verify: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        row = get_format(self.format)
        object.__setattr__(self, "precision", Precision.parse(self.precision))
        if self.precision not in row.precisions:
            made = ", ".join(precision.value for precision in row.precisions)
            raise ConfigError(f"format {self.format} is not made in {self.precision.value}; it is made in {made}")
        if self.model is None and self.checkpoint is None:
            raise ConfigError(
                "neither a model nor a checkpoint was given; give --model NAME, --checkpoint FILE or both"
            )
        if isinstance(self.model, str):
            get_config(self.model)
        if self.output is not None and Path(self.output).suffix.lower() != row.suffix:
            raise ConfigError(f"output {self.output}: files of format {self.format} end in {row.suffix}")
        if self.opset not in OPSETS:
            raise ConfigError(f"opset {self.opset}; accepted: {OPSETS[0]} to {OPSETS[-1]}")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed {self.seed}; it must be from 0 to 2**63 - 1")
        for package, extra in row.packages.items():
            if importlib.util.find_spec(package) is None:
                raise MissingPackageError(package, f"export to {self.format}", extra)


@dataclass(frozen=True)
class ExportResult:
    """What was made.

    Args:
        path: The artifact.
        info: What it says of itself.
        comparison: Figures of the check, or None where it was skipped.
        seconds: Time of each step.
        notes: What the user should know.
    """

    path: Path
    info: ArtifactInfo
    comparison: Comparison | None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def export(
    model: str | ResTConfig | None,
    output: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    format: str = "onnx",
    precision: str | Precision = "fp32",
    **options: Any,
) -> Path:
    """Make a verified artifact.

    Args:
        model: A name of :func:`list_models`, a config, or None to read the architecture off the checkpoint.
        output: File to write; None names it after the model, in the current folder.
        checkpoint: ``.pth``, ``.pt`` or ``.safetensors``; without one the weights are random, and the artifact says so.
        format: ``"onnx"``.
        precision: ``"fp32"``.
        **options: The other fields of :class:`ExportRequest`.

    Returns:
        Path of the artifact, which exists only if it agrees with the PyTorch model (unless ``verify=False``).

    Raises:
        ConfigError: Something that cannot be meant.
        CheckpointError: The checkpoint cannot be read or does not fit.
        ExportError: The artifact could not be made; :class:`VerificationError` where it disagreed.
    """
    request = ExportRequest(model, output, checkpoint, format, Precision.parse(precision), **options)
    return run_export(request).path


def run_export(request: ExportRequest) -> ExportResult:
    """Make what was asked, as :func:`export`, and tell what was made."""
    clock = _Clock()
    with clock("load"):
        loaded, info, output = prepare(request)
    notes = []
    if info.weights.random:
        notes.append(
            f"RANDOM WEIGHTS: no checkpoint was given, so {output} holds random weights (seed {info.weights.seed}) and "
            "its predictions mean nothing; give --checkpoint FILE"
        )
        _log.warning(notes[-1])
    with replacing(output) as target:
        result = _build(request, loaded, info, target, clock)
    return replace(result, path=output, seconds=clock.seconds, notes=(*notes, *result.notes))


def prepare(request: ExportRequest) -> tuple[LoadedModel, ArtifactInfo, Path]:
    """Everything that can fail before the work: load the model, describe the artifact, see that it can be written.

    Returns:
        The model, the record of the artifact to be, and its path.
    """
    from rest_deploy.models.factory import load_model

    loaded = load_model(request.model, request.checkpoint, seed=request.seed)
    info = _describe(request, loaded)
    name = loaded.name + get_format(request.format).suffix
    return loaded, info, check_writable(request.output if request.output is not None else name)


def _build(
    request: ExportRequest, loaded: LoadedModel, info: ArtifactInfo, target: Path, clock: _Clock
) -> ExportResult:
    """Write and prove the artifact at a temporary path."""
    from rest_deploy.export.onnx_exporter import OnnxConfig
    from rest_deploy.models.deploy import to_deploy

    exporter = importlib.import_module(get_format(request.format).module)
    with clock("export"):
        deploy = to_deploy(loaded.model)
        config = OnnxConfig(opset=request.opset, simplify=request.simplify)
        written = exporter.export(deploy, info.input, info.output, target, config)
    info = replace(info, extra=asdict(written))
    graph_bytes = target.stat().st_size
    stamp(target, graph_bytes, METADATA_KEY, info.to_json())
    comparison = None
    if request.verify:
        with clock("verify"):
            comparison = _verify(loaded, target, request.precision)
            require(comparison, f"{target.name} (not kept)")
        info = replace(info, verification=comparison.to_dict())
        stamp(target, graph_bytes, METADATA_KEY, info.to_json())
    notes = () if written.not_simplified_why is None else (f"not simplified: {written.not_simplified_why}",)
    return ExportResult(target, info, comparison, notes=notes)


def _verify(loaded: LoadedModel, artifact: Path, precision: Precision) -> Comparison:
    from rest_deploy.models.reference import reference_runs
    from rest_deploy.runtimes.registry import open_runtime

    exact, plain = reference_runs(loaded.model)
    with open_runtime(artifact) as runtime:
        channels = loaded.model.config.in_channels
        return measure(runtime.run, exact, plain, channels=channels, precision=precision)


def _describe(request: ExportRequest, loaded: LoadedModel) -> ArtifactInfo:
    from rest_deploy.runtimes.pytorch import describe

    given = None
    if request.labels is not None:
        given = read_labels(request.labels, loaded.model.config.num_classes)
    info = describe(loaded, given)
    preprocessing = info.preprocessing
    if isinstance(request.preprocessing, PreprocessingChange):
        preprocessing = request.preprocessing.apply(preprocessing)
    elif request.preprocessing is not None:
        preprocessing = request.preprocessing
    channels = loaded.model.config.in_channels
    if len(preprocessing.mean) != channels:
        raise ConfigError(
            f"the model takes {channels} channels, the preprocessing gives {len(preprocessing.mean)}; "
            "give --mean and --std with one value for each channel (1 or 3)"
        )
    packages = ("rest_deploy", *get_format(request.format).packages)
    return replace(
        info,
        format=request.format,
        precision=request.precision,
        preprocessing=preprocessing,
        versions={package: _version(package) for package in packages},
    )


def _version(package: str) -> str:
    """Version of an installed package, by its import name."""
    names = importlib.metadata.packages_distributions().get(package, [package])
    try:
        return importlib.metadata.version(names[0])
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class _Clock:
    """Seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        _log.info("%s ...", step)
        yield
        self.seconds[step] = time.perf_counter() - start
