"""Options of a repository for Triton, of ``rest-serve triton`` and of ``rest-export --format triton`` alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rest_deploy.artifact.profile import InputSize
from rest_deploy.export.options import option
from rest_deploy.specs import BATCH, THREADS
from rest_deploy.values import Text, Whole, hold

#: What a model may be called: it is a folder, a part of an address, and a name in YAML.
MODEL_NAME = Text(
    100, r"[A-Za-z0-9][A-Za-z0-9_.-]*", "letters, digits, dots, hyphens and underscores, such as rest_small"
)
_TEXT = {"type": str}
_IMAGE = Text(
    300,
    r"[A-Za-z0-9](?:[A-Za-z0-9_./:@-]*[A-Za-z0-9_])?",
    "the name of a container image, such as nvcr.io/nvidia/tritonserver:TAG",
)


@dataclass(frozen=True)
class TritonConfig:
    """How a server runs the models of a repository.

    Raises:
        ConfigError: A value out of range.
    """

    name: Annotated[str, MODEL_NAME] | None = option(
        None, "of the model on the server (default: the file's)", metavar="NAME", arguments=_TEXT
    )
    max_batch_size: Annotated[int, BATCH] | None = option(
        None, "images that the server runs together, at most (default 16; of a plan its profiles')", metavar="N"
    )
    queue_delay_us: Annotated[int, Whole(0, 10_000_000)] = option(
        1000, "microseconds that a request waits for others of its size (default 1000)", metavar="US"
    )
    warm_up: tuple[InputSize, ...] = option(
        (),
        "input that the server runs before it is ready, NxHxW for N images; may be repeated (default: the image size, "
        "of pictures 480x640 and 1080x1920; of a plan the optimum of each profile)",
        metavar="HxW",
        arguments={"action": "append"},
        read=lambda texts: tuple(InputSize.parse(text) for text in texts),
    )
    instances: Annotated[int, Whole(1, 1024)] = option(
        1, "copies of the model that run at a time (default 1)", metavar="N"
    )
    server_threads: Annotated[int, THREADS] | None = option(
        None, "CPU threads of an instance (default: one for each core of the server)", metavar="N"
    )
    on_gpu: bool = option(False, "run ONNX files on the server's GPUs, as plans always are")
    response_cache: bool = option(False, "answer an input that was seen before from the server's cache")
    container: Annotated[str, _IMAGE] | None = option(
        None,
        "container image of the server, for the compose file and the InferenceService (default: of plans the newest "
        "known with their TensorRT)",
        metavar="IMAGE",
        arguments=_TEXT,
    )
    server: str | None = option(
        None, "tritonserver that proves the repository (default: the one on PATH)", metavar="FILE"
    )

    def __post_init__(self) -> None:
        hold(self)
