"""From a request to what is to be made: everything that can fail before the work."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.files import check_writable
from rest_deploy.artifact.info import ASSUMABLE, ArtifactInfo
from rest_deploy.artifact.labels import imagenet_labels, read_labels
from rest_deploy.artifact.precision import PrecisionRecord
from rest_deploy.errors import ConfigError, ImageError, counted
from rest_deploy.export.formats import SOURCE, Exporter, FormatRequest, get_format
from rest_deploy.models.family import NetworkConfig, network_bytes, variant_of
from rest_deploy.pipeline.request import ExportRequest, as_arguments
from rest_deploy.pipeline.sensitivities import plot_of
from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.sample import ArrayInput, Sample, SampleSource, choose_images
from rest_deploy.preprocess.transform import fed_size, transform
from rest_deploy.runtimes.memory import check_call
from rest_deploy.specs import (
    LARGEST_INPUT,
    LOGITS,
    Alpha,
    ImageSize,
    InputKind,
    Precision,
    Preprocessing,
    StepProgress,
)

if TYPE_CHECKING:
    from rest_deploy.models.factory import LoadedModel


@dataclass(frozen=True)
class Job:
    """A file to be made: its format, what makes it, where it goes (None where it is only made from), what it takes."""

    format: str
    exporter: Exporter
    output: Path | None
    input: InputKind = InputKind.FLOAT


@dataclass(frozen=True)
class Prepared:
    """What a request comes to.

    Args:
        request: It.
        report: Called as long steps go on.
        loaded: The model.
        info: Record of the ONNX file that everything is made from, as far as it is known before.
        source: That file.
        jobs: The files that are asked for, in the order of the formats.
        sample: Images to calibrate with and to judge by; None where no folder was given.
    """

    request: ExportRequest
    report: StepProgress
    loaded: LoadedModel
    info: ArtifactInfo
    source: Job
    jobs: tuple[Job, ...]
    sample: Sample | None

    @property
    def file(self) -> str:
        """Name of the ONNX files on the way."""
        return f"{(self.jobs[0].output or Path(self.loaded.name)).stem}.onnx"


def prepare(request: ExportRequest, report: StepProgress | None = None) -> Prepared:
    """Load the model, describe its file, and see that everything asked for can be made and written."""
    from rest_deploy.models.factory import load_model

    report = report or (lambda *_: None)
    exporters = {name: _exporter(request, name, report) for name in dict.fromkeys((SOURCE, *request.formats))}
    config = request.precision_config
    if config.sensitivity is not None:
        for file in (config.sensitivity, plot_of(config.sensitivity)):
            check_writable(file)
    sample = _sample(request)
    loaded = load_model(
        request.model,
        request.checkpoint,
        seed=request.seed,
        weights_key=request.weights_key,
        key_prefix=request.key_prefix,
        num_heads=request.num_heads,
        features=request.features or (LOGITS,),
        feature_norm=request.feature_norm,
    )
    info = _describe(request, loaded)
    _check_limits(request, info)
    name = _file_name(loaded)
    jobs = tuple(
        Job(own, exporters[own], request.output_of(own, name), request.input_of(own)) for own in request.formats
    )
    for job in jobs:
        _check_output(job, request.checkpoint)
        _check_pictures(job, info)
        job.exporter.check(info.taking(job.input))
    if sample is not None:  # what is no input of the network is told before the work
        sizes = config.calibration_sizes if sample.calibration else ()
        sources = (*sample.calibration, *sample.judged)
        ImageInputs(sources, info.preprocessing, sizes, loaded.model.config.in_channels)
    source = next((job for job in jobs if job.format == SOURCE), Job(SOURCE, exporters[SOURCE], None))
    return Prepared(request, report, loaded, info, source, jobs, sample)


def _sample(request: ExportRequest) -> Sample | None:
    """Images of the folder that was given; None where none was."""
    config, recipe = request.precision_config, request.recipe
    if config.calibration is None:
        return None
    count, seed = config.calibration_images, config.calibration_seed
    calibrating, largest = recipe.calibrated, recipe.largest_input
    return choose_images(config.calibration, count, seed, calibrating=calibrating, largest=largest)


def _file_name(loaded: LoadedModel) -> str:
    """Of a file that nobody named, without its suffix; networks that are not published have one name for all."""
    unnamed = loaded.card.name is None and variant_of(loaded.model.config) is None
    return loaded.checkpoint.path.stem if unnamed and loaded.checkpoint is not None else loaded.name


def _exporter(request: ExportRequest, name: str, report: StepProgress) -> Exporter:
    command = as_arguments(request)
    asked = FormatRequest(name, request.precision, request.configs[name], request.verify, command, report)
    return get_format(name).check(asked)


def _describe(request: ExportRequest, loaded: LoadedModel) -> ArtifactInfo:
    """The record of the ONNX file in the precision asked for, as far as it is known before.

    Raises:
        ConfigError: The preprocessing gives other channels than the model takes, or something would have to be assumed
            and that is refused.
    """
    from rest_deploy.runtimes import pytorch

    info = pytorch.describe(
        loaded,
        labels=_labels(request, loaded.model.config.num_classes),
        preprocessing=request.preprocessing,
        activation=request.activation,
    )
    if request.strict and info.assumed:
        missing = ", ".join(
            f"{'what to leave out' if what == 'left out' else what} ({ASSUMABLE[what]})" for what in info.assumed
        )
        raise ConfigError(
            f"strict: neither the checkpoint nor the request says: {missing}; give them, or leave strict out and read "
            "what is assumed"
        )
    packages = ("rest_deploy", *get_format(SOURCE).packages)
    if InputKind.PIXELS in map(request.input_of, request.formats):  # whose resize is in the graph
        packages = (*packages, "PIL")
    brought_by = importlib.metadata.packages_distributions()  # reads every package's files, a fifth of a small export
    half_io, target = request.precision_config.half_io, request.recipe.target
    dtype = "float16" if half_io else "float32"
    lower = request.precision is not Precision.FP32
    return replace(
        info,
        input=replace(info.input, dtype=dtype),
        outputs=tuple(replace(output, dtype=dtype) for output in info.outputs),
        format=SOURCE,
        precision=request.precision,
        precision_plan=PrecisionRecord({}, half_io, target) if lower else None,  # of what is kept, once that is known
        versions={package: _version(brought_by.get(package, [package])[0]) for package in packages},
    )


def _check_limits(request: ExportRequest, info: ArtifactInfo) -> None:
    """Refuse limits that say nothing of a backbone.

    Raises:
        ConfigError: One was given.
    """
    config, maps = request.precision_config, request.recipe.on_synthetic.max_block_rms
    if info.num_classes:
        return
    if config.min_top1_agreement is not None:
        raise ConfigError("--min-top1-agreement is of logits, and a backbone has none; leave it out")
    if config.max_error is not None and maps is not None:
        raise ConfigError(
            f"--max-error is of logits; maps in {request.precision.value} are judged by their root mean squared error, "
            f"{maps:g} standard deviations at most; leave it out"
        )


def _check_output(job: Job, checkpoint: str | Path | None) -> None:
    """Refuse files that cannot be written, or that would replace the checkpoint."""
    assert job.output is not None  # it was asked for
    for file in job.exporter.files(job.output):
        if checkpoint is not None and file.resolve() == Path(checkpoint).resolve():
            raise ConfigError(f"output {file}: it is the checkpoint; name another file, -o FILE")
        check_writable(file, folder=get_format(job.format).folder)


def _check_pictures(job: Job, info: ArtifactInfo) -> None:
    """Refuse a file that takes pictures where the network takes none, or what runs it cannot resize as Pillow does.

    Raises:
        ConfigError: It would be one.
    """
    steps = info.preprocessing
    if job.input is InputKind.FLOAT:
        return
    if steps is None or not steps.takes_pictures:
        why = "its caller makes the input" if steps is None else f"it takes {counted(info.channels, 'channel')}"
        asked, instead = f"--input {job.input.value}", "leave --input out"
        if get_format(job.format).input is not InputKind.FLOAT:
            asked, instead = f"--format {job.format}", "give another --format"
        raise ConfigError(f"{asked}: the network takes no pictures, as {why}; {instead}")
    from rest_deploy.export.pixels import check_exact

    if not job.exporter.float64:
        check_exact(steps, job.input)


def _labels(request: ExportRequest, num_classes: int) -> tuple[str, ...] | None:
    """Names of classes that the request gives; () for none at all, None where it says nothing."""
    if request.labels is None or str(request.labels) == "none":
        return None if request.labels is None else ()
    if num_classes == 0:
        raise ConfigError(
            "labels were given, and the artifact gives no logits, so it has no classes; leave --labels out"
        )
    if not isinstance(request.labels, (str, Path)):
        return tuple(map(str, request.labels))
    if str(request.labels) == "imagenet":
        if num_classes != len(imagenet_labels()):
            raise ConfigError(
                f"labels imagenet: they are {len(imagenet_labels())}, and the model has {num_classes} classes"
            )
        return imagenet_labels()
    return read_labels(request.labels, num_classes)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class ImageInputs:
    """float32 (1, channels, H, W) of each image or array; read again in every pass, so that none stay in memory.

    Args:
        paths: Images, or arrays that are inputs already.
        preprocessing: What the artifact itself would do with images; None where it leaves that to its caller.
        sizes: In place of the preprocessing's own; images that would be fed at their own size are warped to them.
        channels: Of the network; None checks no arrays for it.
        largest: Absolute value that no input may be over, as the file would not answer it.
        config: Of the network, to refuse an image that it has no memory for; None checks none.

    Raises:
        ConfigError: The network takes no pictures and these are some, an array does not fit, or arrays are to be
            resized; later, an input is too large.
    """

    paths: Sequence[SampleSource]
    preprocessing: Preprocessing | None
    sizes: Sequence[ImageSize] = ()
    channels: int | None = None
    largest: float = LARGEST_INPUT
    config: NetworkConfig | None = None

    def __post_init__(self) -> None:
        arrays = {source.path: source for source in self.paths if isinstance(source, ArrayInput)}
        for source in arrays.values():  # those of a file have one shape
            source.check_channels(self.channels)
        if arrays and self.sizes:
            raise ConfigError(
                f"calibration_sizes {', '.join(map(str, self.sizes))}: .npy files are inputs as they are, and are not "
                "resized; leave it out, or save them at these sizes"
            )
        if self.paths and not arrays:
            self._check_pictures(self.preprocessing)

    def _check_pictures(self, preprocessing: Preprocessing | None) -> None:
        if preprocessing is not None and preprocessing.takes_pictures:
            return
        why = "the artifact leaves preprocessing to its caller"
        if preprocessing is not None:
            why = f"the network takes {len(preprocessing.mean)} channels, and pictures have 1 or 3"
        raise ConfigError(
            f"{self.paths[0]}: a picture, and {why}; give a folder of .npy files: float32 of shape (channels, height, "
            "width) or (N, channels, height, width), already normalised"
        )

    def __len__(self) -> int:
        return len(self.paths) * max(1, len(self.sizes))

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for source in self.paths:
            if isinstance(source, ArrayInput):
                yield source.load(self.channels, self.largest)[None]
                continue
            alpha = self.preprocessing.alpha if self.preprocessing is not None else Alpha.WHITE
            image = load_image(source, alpha, functools.partial(self._check_memory, str(source)))
            for steps in self._steps():
                yield self._checked(source, transform(image, steps)[None])

    def _checked(self, source: SampleSource, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """An input made from a picture."""
        if not (most := float(np.abs(values).max())) <= self.largest:
            raise ConfigError(
                f"{source}: mean and std make an input with values up to {most:.3g} of it, and the file would take at "
                f"most {self.largest:.6g}; correct --mean and --std, or export fp32"
            )
        return values

    def _check_memory(self, name: str, height: int, width: int) -> None:
        for steps in self._steps():
            if steps is None or self.config is None:
                continue
            size = fed_size(steps, height, width, name)
            shape = (1, size.height, size.width)
            check_call(functools.partial(network_bytes, self.config), shape, name, ImageError)

    def _steps(self) -> Sequence[Preprocessing | None]:
        if self.preprocessing is None or not self.sizes:
            return [self.preprocessing]
        return [self.preprocessing.at(size) for size in self.sizes]
