"""What is measured: artifacts, and baselines by name, as plain values that another process can open."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.artifact.address import Place, facts_of, located
from rest_deploy.artifact.files import distinct_names
from rest_deploy.artifact.info import PIXEL_CHANNELS, ArtifactInfo
from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking.sessions import (
    ArtifactSession,
    CompiledSession,
    EagerSession,
    OpenVinoSession,
    PicturesSession,
    PlainOnnxSession,
    Session,
)
from rest_deploy.errors import ConfigError, InputError, MissingPackageError
from rest_deploy.models.family import config_of, family_of, get_config, network_bytes
from rest_deploy.preprocess.transform import input_of
from rest_deploy.runtimes.memory import check_call, picture_bytes
from rest_deploy.runtimes.registry import RUNTIMES, read_info, row_for
from rest_deploy.specs import Device, InputKind, Precision, Preprocessing, Taps


@dataclass(frozen=True)
class BaselineRow:
    """A baseline.

    Args:
        session: Opens it, from a file, a device and a number of threads.
        file: The file that it opens: the weights, or the plain export.
        title: A description.
        package, extra: The package that it needs, and the extra of rest-deploy that installs it.
        memory: The format by whose memory a call is predicted. The plain export and torch.compile take more than that
            of our own ONNX file without blocks.
        devices: Kinds of devices that it runs on.
    """

    session: Callable[[Path, str | None, int], Session]
    file: str
    title: str
    package: str
    extra: str
    memory: str
    devices: tuple[str, ...] = ("cpu", "cuda")


WEIGHTS, PLAIN_ONNX = "weights.safetensors", "as_written.onnx"

#: Baselines of a network, which need no file of it.
BASELINES: Mapping[str, BaselineRow] = MappingProxyType(
    {
        "torch": BaselineRow(EagerSession, WEIGHTS, "PyTorch, as its authors wrote it", "torch", "export", "pytorch"),
        "torch-compile": BaselineRow(
            CompiledSession, WEIGHTS, "the same through torch.compile", "torch", "export", "onnx"
        ),
        "as-written": BaselineRow(
            PlainOnnxSession, PLAIN_ONNX, "exported plainly, in ONNX Runtime", "onnxruntime", "cpu", "onnx"
        ),
        "openvino": BaselineRow(
            *(OpenVinoSession, PLAIN_ONNX, "exported plainly, in OpenVINO", "openvino", "openvino", "openvino"),
            devices=("cpu", "openvino"),
        ),
    }
)


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Args:
        name: Its name, unique in a run.
        network: Name of the network; contenders of one network are compared.
        family: What kind of network it is.
        config: The network's hyper-parameters.
        file: The artifact, or the file that a baseline opens.
        baseline: A key of :data:`BASELINES`; None for an artifact.
        device: Its device; None for the default of its runtime.
        threads: CPU threads of a call.
        format, precision: Of its file.
        channels: Of the network's input.
        features: Its outputs, if they are not the logits alone.
        block: As a record's ``map_block``.
        input_kind: What its file takes.
        steps: From a picture to the network's input, as in a record; None if the caller makes the input.
        pictures: Whether the run is on pictures.
    """

    name: str
    network: str
    family: str
    config: Mapping[str, Any]
    file: str
    baseline: str | None
    device: str | None
    threads: int
    format: str
    precision: str
    channels: int
    features: Sequence[str] = ()
    block: int | None = None
    input_kind: str = InputKind.FLOAT.value
    steps: Mapping[str, Any] | None = None
    pictures: bool = False

    @property
    def where(self) -> str:
        """The device it runs on: ``"cpu"``, ``"cuda:0"``, ..."""
        if self.device is None:
            return RUNTIMES[self.format].default_device
        return str(Device.parse(row_for(self.file, self.device).named(self.device)))

    def open(self) -> Session:
        """Open it; in a run on pictures, the steps before its file are part of a call.

        Raises:
            RestDeployError: It cannot be opened.
        """
        session = self._opened()
        if not self.pictures or self.input_kind == InputKind.PIXELS.value:
            return session
        return PicturesSession(session, partial(_inputs_of, self._transform, self.input_kind))

    @property
    def _transform(self) -> Preprocessing:
        assert self.steps is not None  # on_pictures has looked
        return Preprocessing.from_dict(self.steps)

    def batch(self, case: InputSize, rng: np.random.Generator) -> NDArray[Any]:
        """Random images of a case: float32 (B, channels, H, W), or pictures, uint8 (B, H, W, 3)."""
        if not self.pictures:
            return rng.standard_normal(case.shape(self.channels)).astype(np.float32)
        return rng.integers(0, 256, (*case.sizes, PIXEL_CHANNELS), np.uint8)

    def seen(self, case: InputSize) -> InputSize:
        """The batch and size that go into the network itself."""
        size = self._transform.size if self.pictures else None
        return InputSize(case.batch, size or case.size)

    def _opened(self) -> Session:
        if self.baseline is None:
            return ArtifactSession(located(self.file), self.device, self.threads)
        row = BASELINES[self.baseline]
        try:
            return row.session(Path(self.file), self.device, self.threads)
        except ModuleNotFoundError as exc:
            if exc.name is not None and exc.name.split(".")[0] == "rest_deploy":
                raise
            missing = exc.name or row.package
            raise MissingPackageError(missing, f"measure the baseline {self.baseline}", row.extra) from exc

    def check_memory(self, case: InputSize) -> None:
        """Refuse a case for which too little memory is free on the CPU; what a GPU has is not known before.

        Raises:
            InputError: It would take more than is free.
            PredictorError: Too little is free for any image.
        """
        if Device.parse(self.where).in_memory:
            check_call(self._call_bytes, case.sizes, "", InputError, step="give smaller sizes")

    def _call_bytes(self, batch: int, height: int, width: int) -> int:
        case, kind = InputSize.from_plain((batch, height, width)), InputKind(self.input_kind)
        pictures = 0
        if self.pictures and kind is not InputKind.FLOAT:
            pictures = picture_bytes(*case.sizes, resized=kind is InputKind.PIXELS and self._transform.size is not None)
        row = row_for(self.file, self.device) if self.baseline is None else BASELINES[self.baseline]
        precision, sizes = Precision(self.precision), self.seen(case).sizes
        return pictures + network_bytes(
            config_of(self), *sizes, precision=precision, format=row.memory, block=self.block
        )

    def to_json(self) -> str:
        """For another process; the inverse of :meth:`from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Contender:
        """Read what :meth:`to_json` gave."""
        values = json.loads(text)
        return cls(**{**values, "features": tuple(values["features"])})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        place = located(self.file) if self.baseline is None else None
        return {
            "name": self.name,
            "kind": "artifact" if self.baseline is None else "baseline",
            "network": self.network,
            "path": str(place) if place is not None else None,
            **(facts_of(place) if place is not None else {"sha256": None, "bytes": None}),
            "format": self.format,
            "precision": self.precision,
            "device": self.where,
            "threads": self.threads,
        }


def _inputs_of(steps: Preprocessing, kind: str, pictures: NDArray[np.uint8]) -> NDArray[Any]:
    """What a file takes for each picture."""
    return np.stack([input_of(Image.fromarray(own), steps, InputKind(kind)) for own in pictures])


def on_pictures(contenders: Sequence[Contender]) -> list[Contender]:
    """The same contenders; if any of them takes pictures, the run is on pictures for all.

    Raises:
        ConfigError: One takes no pictures, or two of one network make different inputs of them.
    """
    if all(own.input_kind == InputKind.FLOAT.value for own in contenders):
        return list(contenders)
    for own in contenders:
        if own.steps is None or not Preprocessing.from_dict(own.steps).takes_pictures:
            raise ConfigError(
                f"{own.name} does not say how pictures become its input, and others take pictures; leave it out"
            )
    first: dict[str, Contender] = {}
    for own in contenders:
        known = first.setdefault(own.network, own)
        if own.steps != known.steps:
            told = (f"{one.name}: {Preprocessing.from_dict(one.steps or {})}" for one in (known, own))
            raise ConfigError(
                f"pictures become the input in different ways ({'; '.join(told)}), so that times say nothing of each "
                "other; export both with one transform, or leave one out"
            )
    return [replace(own, pictures=True) for own in contenders]


def check_baselines(names: Sequence[str]) -> tuple[str, ...]:
    """Baselines by name, each once.

    Raises:
        ConfigError: A name is unknown.
    """
    for name in names:
        if name not in BASELINES:
            swallowed = "; put artifacts before the flags" if os.path.exists(name) else ""
            raise ConfigError(f"unknown baseline {name!r}; accepted: {', '.join(BASELINES)}{swallowed}")
    return tuple(dict.fromkeys(names))


def artifact_contenders(paths: Sequence[str | Place], device: str | None, threads: int) -> list[Contender]:
    """Artifacts as contenders; those of one network share its name.

    Raises:
        ArtifactError: One cannot be read.
    """
    infos = [read_info(path) for path in paths]
    networks = _network_names(infos)
    names = distinct_names([located(path) for path in paths])
    return [
        Contender(
            name=name,
            network=network,
            family=info.family,
            config=dict(info.config),
            file=str(path),
            baseline=None,
            device=device,
            threads=threads,
            format=info.format,
            precision=info.precision.value,
            channels=info.channels,
            features=info.taps.names if info.taps != Taps() else (),
            block=info.map_block,
            input_kind=info.input_kind.value,
            steps=info.preprocessing.to_dict() if info.preprocessing is not None else None,
        )
        for name, network, path, info in zip(names, networks, paths, infos, strict=True)
    ]


def model_contender(model: str, device: str | None, threads: int) -> Contender:
    """A published network without an artifact, for its baselines.

    Raises:
        ConfigError: The name is unknown.
    """
    config = get_config(model)
    return Contender(
        name=model,
        network=model,
        family=family_of(config).name,
        config=config.to_dict(),
        file="",
        baseline=None,
        device=device,
        threads=threads,
        format="",
        precision="fp32",
        channels=config.in_channels,
        steps=family_of(config).preprocessing_at(None).to_dict(),
    )


def baseline_contender(name: str, of: Contender, folder: Path, *, alone: bool) -> Contender:
    """A baseline of another contender's network, with its files in a folder.

    Args:
        name: A key of :data:`BASELINES`.
        of: A contender of the network.
        folder: Folder of the network's files.
        alone: Whether its name identifies it without that of its network.

    Raises:
        ConfigError: It is a backbone, or the baseline does not run on its device.
    """
    if of.features:
        raise ConfigError(
            f"baseline {name}: baselines are of classifiers, and {of.name} gives {', '.join(of.features)}; leave "
            "--baseline out"
        )
    row = BASELINES[name]
    target = Device.parse(of.device or "cpu")
    if target.kind not in row.devices or target.name not in ("", "CPU"):
        raise ConfigError(
            f"baseline {name} runs on {' and '.join(row.devices)} only, and device {of.device} was asked for; leave "
            "one of them out"
        )
    return replace(
        of,
        name=name if alone else f"{of.network} {name}",
        file=str(folder / row.file),
        baseline=name,
        format="pytorch" if row.file == WEIGHTS else "onnx",
        precision="fp32",
        block=None,
        input_kind=InputKind.FLOAT.value,
    )


def _network_names(infos: Sequence[ArtifactInfo]) -> list[str]:
    """Name of each artifact's network: that of the first model of its architecture, numbered if two share a name."""
    known: dict[str, str] = {}
    for info in infos:
        key = _key(info)
        if key not in known:
            alike = sum(name.partition(" (")[0] == info.model for name in known.values())
            known[key] = f"{info.model} ({alike + 1})" if alike else info.model
    return [known[_key(info)] for info in infos]


def _key(info: ArtifactInfo) -> str:
    taps = info.taps
    return json.dumps([info.family, dict(info.config), taps.names, taps.norm], sort_keys=True)
