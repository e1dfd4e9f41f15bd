"""One artifact as a model of a Triton server: what can be served, and its ``config.pbtxt``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rest_deploy import __version__
from rest_deploy.artifact.address import Address, Place, located
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.artifact.info import METADATA_KEY, ArtifactInfo
from rest_deploy.artifact.profile import InputSize, fitting
from rest_deploy.errors import ConfigError
from rest_deploy.runtimes.registry import read_info
from rest_deploy.runtimes.triton import SHA256_KEY
from rest_deploy.serving.config import MODEL_NAME, TritonConfig
from rest_deploy.specs import LOGITS, ImageSize, TensorSpec
from rest_deploy.values import check

#: Of a server that runs a model on CPUs or ONNX Runtime's CUDA, where nobody says.
DEFAULT_MAX_BATCH = 16
LABELS = "labels.txt"
_CACHE_BYTES = 256 << 20
_USUAL = ImageSize(224, 224)
#: Of pictures of any size that a file resizes itself.
_PICTURES = (InputSize(1, ImageSize(480, 640)), InputSize(1, ImageSize(1080, 1920)))
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True)
class Model:
    """An artifact that is to be served.

    Args:
        name: On the server.
        file: The artifact.
        info: Its record.
        sha256: Of its bytes.
        config: How it is served.
    """

    name: str
    file: Path
    info: ArtifactInfo
    sha256: str
    config: TritonConfig

    @property
    def is_plan(self) -> bool:
        """Whether TensorRT runs it."""
        return self.info.engine is not None

    @property
    def on_gpu(self) -> bool:
        """Whether the server runs it on a GPU."""
        return self.is_plan or self.config.on_gpu

    @property
    def file_name(self) -> str:
        """Of the artifact in the repository, as Triton's backends look for it."""
        return "model.plan" if self.is_plan else "model.onnx"

    @property
    def max_batch(self) -> int:
        """Images that the server runs together at most: of a plan as many as each of its profiles takes."""
        most, asked = DEFAULT_MAX_BATCH, self.config.max_batch_size
        if self.info.engine is not None:
            most = min(profile.max.batch for profile in self.info.engine.profiles)
            if asked is not None and asked > most:
                raise ConfigError(
                    f"{self.file}: max_batch_size {asked}, and its profiles take {most}; give at most that, or build "
                    "it with a larger --max-batch"
                )
        return asked or most

    @property
    def warm_up(self) -> tuple[InputSize, ...]:
        """Inputs that the server runs before it is ready."""
        engine, asked = self.info.engine, self.config.warm_up
        for size in asked:
            if size.batch > self.max_batch:
                raise ConfigError(f"warm-up {size}: at most {self.max_batch} images are run together; give fewer")
            if engine is not None:
                fitting(engine.profiles, size, self.file.name)
        if asked:
            return asked
        if engine is not None:
            return tuple(dict.fromkeys(profile.opt for profile in engine.profiles))
        if self.info.resizes:
            return _PICTURES
        return (InputSize(1, self.info.image_size or _USUAL),)


def read_model(path: str | Place, config: TritonConfig) -> Model:
    """An artifact that exists, to be served.

    Raises:
        ConfigError: No server runs it.
        ArtifactError: It is missing, damaged or not ours.
    """
    place = located(path)
    if isinstance(place, Address):
        raise ConfigError(f"{place}: it is on a server already; give its file")
    info = read_info(place)
    check_servable(info, place, config)
    return model_of(place, info, config)


def model_of(file: Path, info: ArtifactInfo, config: TritonConfig, name: str | None = None) -> Model:
    """An artifact whose record is known, to be served.

    Raises:
        ConfigError: A name, a batch, a warm-up or a label that cannot be.
    """
    model = Model(name or name_of(file, config), file, info, sha256_of(file), config)
    for label in info.labels or ():
        if label.splitlines() not in ([label], []):
            raise ConfigError(
                f"{file}: the label {label!r} has a line break, and a server's labels are lines; rename it"
            )
    model.max_batch, model.warm_up  # noqa: B018  # checks them
    return model


def name_of(file: Path, config: TritonConfig) -> str:
    """What a model is called on the server.

    Raises:
        ConfigError: No server takes it.
    """
    try:
        return str(check(MODEL_NAME, config.name or file.stem, "name"))
    except ConfigError as exc:
        raise ConfigError(f"{file}: {exc}; give one with --name, or rename the file") from exc


def check_servable(info: ArtifactInfo, path: str | Path, config: TritonConfig) -> None:
    """Refuse an artifact that no Triton server runs.

    Raises:
        ConfigError: Says what to serve in its place.
    """
    if info.format == "pytorch":
        line = f"rest-export --checkpoint {shlex.quote(str(path))} --format triton -o repository"
        raise ConfigError(f"{path}: a checkpoint, which no server runs; export it: {line}")
    if info.engine is not None and info.engine.library != "trt":
        raise ConfigError(
            f"{path}: a plan of TensorRT-RTX, for which Triton has no backend: its own loads plans of TensorRT alone; "
            "build it with --format trt on a GPU of the server's kind, or serve the .onnx file"
        )
    if info.engine is None and info.recipe.qdq:
        raise ConfigError(
            f"{path}: its Q/DQ pairs are for TensorRT; build an engine with --format trt --int8 and serve that, or "
            "export with --int8-target cpu"
        )
    if config.on_gpu and info.recipe.integers:
        raise ConfigError(
            f"{path}: INT8 made for CPUs, whose operators ONNX Runtime does not have on GPUs; leave --on-gpu out, or "
            "export with --fp16"
        )


def server_arguments(models: Sequence[Model]) -> list[str]:
    """Arguments that a server of these models needs."""
    arguments = []
    if any(model.config.response_cache for model in models):
        arguments.append(f"--cache-config=local,size={_CACHE_BYTES}")
    if any(model.info.engine is not None and model.info.engine.version_compatible for model in models):
        arguments.append("--backend-config=tensorrt,version-compatible=true")  # such a plan holds code for the CPU
    return arguments


# ---- config.pbtxt, in protobuf's text format


class _Word(str):
    """An enum's value, which stands without quotes."""


_Message = Sequence[tuple[str, Any]]


def config_pbtxt(model: Model) -> str:
    """The configuration of a model, as Triton reads it."""
    info, config = model.info, model.config
    outputs = [[*_tensor(own, 1)] for own in info.outputs]
    if info.labels is not None:
        number = [own.name for own in info.outputs].index(LOGITS)
        outputs[number].append(("label_filename", LABELS))
    message: list[tuple[str, Any]] = [
        ("name", model.name),
        ("platform", "tensorrt_plan" if model.is_plan else "onnxruntime_onnx"),
        ("max_batch_size", model.max_batch),
        ("input", _tensor(info.input, 1)),
        *(("output", own) for own in outputs),
        ("dynamic_batching", [("max_queue_delay_microseconds", config.queue_delay_us)]),
        ("instance_group", _instances(model)),
        *(("model_warmup", _warm_up(info, size)) for size in model.warm_up),
        *([("response_cache", [("enable", True)])] if config.response_cache else []),
        *_optimization(model),
        *(("parameters", _parameter(*own)) for own in _parameters(model).items()),
    ]
    return "".join(_lines(message, ""))


def _tensor(spec: TensorSpec, first: int) -> list[tuple[str, Any]]:
    """A tensor without its batch."""
    dims = [size if isinstance(size, int) else -1 for size in spec.shape[first:]]
    return [("name", spec.name), ("data_type", _Word(_TYPES[spec.dtype])), ("dims", dims)]


def _instances(model: Model) -> _Message:
    group: list[tuple[str, Any]] = [
        ("kind", _Word("KIND_GPU" if model.on_gpu else "KIND_CPU")),
        ("count", model.config.instances),
    ]
    profiles = model.info.engine.profiles if model.info.engine is not None else ()
    return [*group, *(("profile", str(number)) for number in range(len(profiles)))]


def _warm_up(info: ArtifactInfo, size: InputSize) -> _Message:
    _, *dims = info.input_shape(*size.sizes)
    value = [("data_type", _Word(_TYPES[info.input.dtype])), ("dims", dims), ("zero_data", True)]
    inputs = [("key", info.input.name), ("value", value)]
    return [("name", str(size)), ("batch_size", size.batch), ("inputs", inputs)]


def _optimization(model: Model) -> _Message:
    """ONNX Runtime's CUDA provider computes FP32 in TF32, of 10 bits, unless it is told not to."""
    if model.is_plan or not model.on_gpu:
        return []
    cuda = [("name", "cuda"), ("parameters", [("key", "use_tf32"), ("value", "0")])]
    return [("optimization", [("execution_accelerators", [("gpu_execution_accelerator", cuda)])])]


def _parameters(model: Model) -> dict[str, str]:
    """What Triton's backend for ONNX is told, and what a client is told of the model."""
    told = {METADATA_KEY: model.info.to_json(), SHA256_KEY: model.sha256}
    made = {"rest_deploy_version": __version__}
    if model.is_plan:
        return {**told, **made}
    # Else memory laid out for each size that was seen stays, beside that of the others, and so does a large call's.
    backend = {"enable_mem_pattern": "0", "intra_op_thread_count": str(model.config.server_threads or 0)}
    if not model.on_gpu:
        backend["memory.enable_memory_arena_shrinkage"] = "cpu:0"
    return {**backend, **told, **made}


def _parameter(key: str, value: str) -> _Message:
    return [("key", key), ("value", [("string_value", value)])]


def _lines(message: _Message, indent: str) -> Sequence[str]:
    lines: list[str] = []
    for name, value in message:
        if isinstance(value, list) and value and isinstance(value[0], tuple):
            lines += [f"{indent}{name} {{\n", *_lines(value, indent + "  "), f"{indent}}}\n"]
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}\n")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, _Word):
        return quoted(value)
    return str(value)


def quoted(text: str) -> str:
    """A string as protobuf's text format has it: bytes of UTF-8, those that are not printable ASCII in octal."""
    escaped = re.sub(rb'["\\\x00-\x1f\x7f-\xff]', lambda found: b"\\%03o" % found[0][0], text.encode())
    return f'"{escaped.decode("ascii")}"'
