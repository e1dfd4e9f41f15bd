"""Format ``web``: a folder with a page that classifies pictures in a browser, from any static server, offline.

The network computes in onnxruntime-web, which comes from its npm package at export. Its files keep their bytes, and get
names of their own: modules end in ``.js``, as many servers do not know ``.mjs``; WebAssembly is packed by gzip, a
quarter of its bytes, as a static server packs nothing, and both builds are then smaller than one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rest_deploy.artifact.files import making_folder
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import ConfigError
from rest_deploy.export.formats import Exporter, FormatRequest, Made, Trial
from rest_deploy.export.onnx_format import OnnxExporter
from rest_deploy.export.onnxruntime_web import BUILDS, INSTALLED, NAME, NpmPackage, find_package
from rest_deploy.export.options import option
from rest_deploy.models.family import config_of, network_bytes, pixels_within
from rest_deploy.preprocess.image_files import MAX_IMAGE_PIXELS
from rest_deploy.specs import LOGITS, MAX_INPUT_PIXELS, USUAL_MAX_PIXELS, InputKind, Precision, Resize
from rest_deploy.values import hold

#: Of WebAssembly's 4 GiB, for a call; the rest is for weights and for what onnxruntime-web takes.
_CALL_BYTES = 3 << 30
#: Bytes that a pixel of a picture takes beside the network, resized in the file or not (``runtimes/memory.py``).
_RESIZED_BYTES, _TAKEN_BYTES = 36, 18
#: The network in the folder, and what the page reads of it first.
MODEL, PAGE = "model.onnx", "page.json"
_RUNTIME = "onnxruntime"


@dataclass(frozen=True)
class WebConfig:
    """Options of a page.

    Args:
        onnxruntime_web: The npm package: its folder or its ``.tgz``; None looks where npm installs it.
    """

    onnxruntime_web: str | None = option(
        None,
        f"the npm package: its folder, or the .tgz of npm pack {NAME} (default: {INSTALLED}, if it is here)",
        metavar="PATH",
    )

    def __post_init__(self) -> None:
        if isinstance(self.onnxruntime_web, Path):
            object.__setattr__(self, "onnxruntime_web", str(self.onnxruntime_web))
        hold(self)


def check(request: FormatRequest) -> Exporter:
    """Refuse what has no npm package to take from."""
    return WebExporter(request, find_package(request.config.onnxruntime_web))


@dataclass(frozen=True)
class WebExporter(OnnxExporter):
    """A folder with the ONNX file, onnxruntime-web and the page."""

    package: NpmPackage

    def check(self, info: ArtifactInfo) -> None:
        if not info.num_classes:
            names = ", ".join(own.name for own in info.outputs)
            raise ConfigError(
                f"--format web: a page shows scores of classes, and the network gives {names} alone; export a "
                f"classifier (with --features: {LOGITS} among them), or another format"
            )
        if info.input_kind is not InputKind.PIXELS:
            raise ConfigError(
                f"--input {info.input_kind.value}: a page gives its network pictures; for --format web leave it out"
            )
        if not _most_pixels(info):
            raise ConfigError(
                f"--format web: the network at {info.image_size} takes more than the {_CALL_BYTES >> 30} GiB that "
                "WebAssembly has for it; give a smaller --image-size"
            )

    def plan(self, info: ArtifactInfo) -> dict[str, str]:
        return {"runtime": f"{NAME} {self.package.version} of {self.package.path}"}

    def trial(self, info: ArtifactInfo) -> Trial:
        size = InputSize(1, info.image_size) if info.image_size is not None else Trial.size
        return Trial("cpu", size=size)

    def place(self, made: Made, output: Path) -> tuple[str, ...]:
        with making_folder(output) as folder:
            write_record(folder / MODEL, made.info, graph=made.path)
            for file in resources.files("rest_deploy.export").joinpath("web").iterdir():
                if file.is_file():
                    (folder / file.name).write_bytes(file.read_bytes())
            backends = {name: self._copy(name, folder) for name in _ways(made.info)}
            page = _page(made.info, folder / MODEL, backends) | {"runtime": f"{NAME} {self.package.version}"}
            (folder / PAGE).write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")
        found = ""
        if self.request.config.onnxruntime_web is None:
            found = f"{NAME} {self.package.version} was taken from {self.package.path.resolve()}"
        return tuple(note for note in (found, self.package.untested) if note)

    def _copy(self, name: str, folder: Path) -> dict[str, Any]:
        """Put the files of a build into the folder: their names there, and the bytes of its WebAssembly."""
        build, place = BUILDS[name], folder / _RUNTIME
        place.mkdir(exist_ok=True)
        told: dict[str, Any] = {}
        for role, source in (("module", build.module), ("loader", build.loader)):
            told[role] = f"{_RUNTIME}/{Path(source).stem}.js"
            (folder / told[role]).write_bytes(self.package.files[source])
        told["wasm"] = f"{_RUNTIME}/{Path(build.wasm).name}.gz"
        packed = gzip.compress(self.package.files[build.wasm], mtime=0)
        (folder / told["wasm"]).write_bytes(packed)
        return {**told, "bytes": len(packed)}


def _ways(info: ArtifactInfo) -> tuple[str, ...]:
    """What may compute a network; WebGPU in lower precisions was not shown to be right."""
    return tuple(BUILDS) if info.precision is Precision.FP32 else ("wasm",)


def _page(info: ArtifactInfo, model: Path, backends: dict[str, Any]) -> dict[str, Any]:
    """What the page is told."""
    content, steps = model.read_bytes(), info.preprocessing
    assert steps is not None  # it takes pictures
    digest = hashlib.sha256(content).hexdigest()
    warps = steps.size is not None and steps.resize is Resize.WARP
    random = f"The weights are {info.weights}." if info.weights.random else ""
    return {
        "record": info.to_dict(),
        "told": _told(info, digest),
        "warning": random,
        "model": {"file": model.name, "bytes": len(content), "sha256": digest},
        "backends": backends,
        "max_pixels": _most_pixels(info),
        "max_height": MAX_IMAGE_PIXELS // steps.size.width if warps and steps.size is not None else None,
    }


def _most_pixels(info: ArtifactInfo) -> int:
    """Pixels of the largest picture that the page takes; 0 where there is no memory for any."""

    def network(batch: int, height: int, width: int) -> int:
        made = network_bytes(config_of(info), batch, height, width, precision=info.precision, block=info.map_block)
        return made + (0 if info.resizes else _TAKEN_BYTES * height * width)

    if info.image_size is None:
        return min(USUAL_MAX_PIXELS, pixels_within(_CALL_BYTES, network))
    left = _CALL_BYTES - network(1, info.image_size.height, info.image_size.width)
    return max(0, min(MAX_INPUT_PIXELS, left // _RESIZED_BYTES))


def _told(info: ArtifactInfo, digest: str) -> dict[str, str]:
    """The record in words."""
    assert info.preprocessing is not None
    proof = "not compared with PyTorch"
    if info.verification is not None:
        worst = max(info.verification["cases"], key=lambda case: float(case["max_error"]))
        proof = f"against {info.verification['reference']}, largest error {worst['max_error']:.2g}"
    return {
        "model": f"{info.model}, {info.precision.value}",
        "weights": str(info.weights),
        "SHA-256": digest,
        "takes": info.takes,
        "images": str(info.preprocessing),
        "activation": info.activation.value,
        "classes": str(info.num_classes),
        "assumed": "; ".join(f"{what}: {value}" for what, value in info.assumed.items()) or "nothing",
        "verified": proof,
        "made by": ", ".join(f"{package} {version}" for package, version in info.versions.items()),
    }
