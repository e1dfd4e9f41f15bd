"""From a request to the artifacts to be made: everything that can fail before the work."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rest_deploy.artifact.files import check_writable
from rest_deploy.artifact.info import ASSUMABLE, ArtifactInfo
from rest_deploy.artifact.labels import imagenet_labels, read_labels
from rest_deploy.artifact.manifest import manifest_path
from rest_deploy.artifact.profile import InputSize, Profile
from rest_deploy.errors import ConfigError
from rest_deploy.export.engine.site import BuildSite, choose_site
from rest_deploy.export.formats import get_format
from rest_deploy.pipeline.pictures import ImageInputs
from rest_deploy.pipeline.request import ExportRequest
from rest_deploy.preprocess.sample import Sample, choose_images
from rest_deploy.specs import Int8Target, Precision, Preprocessing, largest_input

if TYPE_CHECKING:
    from rest_deploy.models.factory import LoadedModel


@dataclass(frozen=True)
class Job:
    """An artifact to be made.

    Args:
        format: A row of ``export/formats.py``.
        info: Its record, as far as it is known before.
        output: Its file.
        site: Where its engine is built; None for other formats.
        sample: Images to calibrate with and to judge by; None where no folder was given.
    """

    format: str
    info: ArtifactInfo
    output: Path
    site: BuildSite | None = None
    sample: Sample | None = None


def prepare(request: ExportRequest) -> tuple[LoadedModel, tuple[Job, ...]]:
    """Everything that can fail before the work: load the model, describe the artifacts, see that they can be written.

    Returns:
        The model, and the artifacts to be made.
    """
    from rest_deploy.models.factory import load_model

    sites = {
        name: choose_site(name, request.configs[name], request.precision)
        for name in request.formats
        if get_format(name).source is not None
    }
    config = request.narrowing
    if config.sensitivity is not None:
        check_writable(config.sensitivity)
    sample = None
    if config.calibration is not None:
        integers = request.precision is Precision.INT8
        calibrating = integers and config.target_for(request.makes_engine) is Int8Target.TRT
        count, seed = config.calibration_images, config.calibration_seed
        largest = largest_input(request.precision, config.target_for(request.makes_engine) if integers else None)
        sample = choose_images(config.calibration, count, seed, calibrating=calibrating, largest=largest)
    loaded = load_model(
        request.model,
        request.checkpoint,
        seed=request.seed,
        weights_key=request.weights_key,
        key_prefix=request.key_prefix,
        num_heads=request.num_heads,
    )
    jobs = []
    for name in request.formats:
        output = check_writable(request.output_of(name, loaded.name))
        info = describe(request, loaded, name)
        if name in sites:
            check_writable(manifest_path(output))
            _check_profiles(request.configs[name].resolve_profiles(info.image_size), info.preprocessing)
        if sample is not None:  # what is no input of the network is told before the work
            sizes = config.calibration_sizes if sample.calibration else ()
            sources = (*sample.calibration, *sample.judged)
            ImageInputs(sources, info.preprocessing, sizes, loaded.model.config.in_channels)
        jobs.append(Job(name, info, output, sites.get(name), sample))
    return loaded, tuple(jobs)


def _check_profiles(profiles: Sequence[Profile], preprocessing: Preprocessing | None) -> None:
    """An engine must take the images that its own preprocessing gives."""
    if preprocessing is None or (size := preprocessing.size) is None:
        return
    if any(profile.holds(InputSize(profile.min.batch, size)) for profile in profiles):
        return
    raise ConfigError(
        f"images come as {size} ({preprocessing.resize.value}), and no profile holds that: "
        f"{', '.join(str(profile) for profile in profiles)}; give another --image-size, or other sizes of the engine"
    )


def source_job(request: ExportRequest, loaded: LoadedModel, folder: Path, sample: Sample | None) -> Job:
    """The ONNX file that engines are built from where none was asked for, in a folder of its own."""
    return Job("onnx", describe(request, loaded, "onnx"), folder / f"{loaded.name}.onnx", sample=sample)


def describe(request: ExportRequest, loaded: LoadedModel, format: str) -> ArtifactInfo:
    """The record of an artifact to be, as far as it is known before.

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
        unsaid = "; ".join(f"{what}: {value} ({ASSUMABLE[what]})" for what, value in info.assumed.items())
        raise ConfigError(f"strict: neither the checkpoint nor the request says what would be assumed: {unsaid}")
    packages = ("rest_deploy", *get_format(format).packages)
    dtype = "float16" if request.narrowing.half_io else "float32"
    return replace(
        info,
        input=replace(info.input, dtype=dtype),
        output=replace(info.output, dtype=dtype),
        format=format,
        precision=request.precision,
        versions={package: _version(package) for package in packages},
    )


def _labels(request: ExportRequest, num_classes: int) -> tuple[str, ...] | None:
    """Names of classes that the request gives; () for none at all, None where it says nothing."""
    if request.labels is not None and not isinstance(request.labels, (str, Path)):
        return tuple(map(str, request.labels))
    if request.labels is None or str(request.labels) == "none":
        return None if request.labels is None else ()
    if str(request.labels) == "imagenet":
        if num_classes != len(imagenet_labels()):
            raise ConfigError(
                f"labels imagenet: they are {len(imagenet_labels())}, and the model has {num_classes} classes"
            )
        return imagenet_labels()
    return read_labels(request.labels, num_classes)


def in_fp32(info: ArtifactInfo) -> ArtifactInfo:
    """The record of what a narrowed artifact is made from."""
    image, logits = replace(info.input, dtype="float32"), replace(info.output, dtype="float32")
    return replace(info, precision=Precision.FP32, input=image, output=logits)


def _version(package: str) -> str:
    """Version of an installed package, by its import name."""
    names = importlib.metadata.packages_distributions().get(package, [package])
    try:
        return importlib.metadata.version(names[0])
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
