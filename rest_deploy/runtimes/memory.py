"""The memory of a call, predicted from the record of a file: nothing is opened or allocated for it.

``Predictor`` refuses by these predictions, ``rest-verify`` and ``rest-bench`` too, and ``rest-info --memory`` prints
them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from rest_deploy.artifact.engine import LIBRARIES, EngineRecord
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import InputSize, Profile, fitting
from rest_deploy.errors import RestDeployError
from rest_deploy.machine import USUAL, available_bytes, check_memory, fits, room_bytes
from rest_deploy.models.family import config_of, engine_bytes, network_bytes, pixels_within
from rest_deploy.runtimes.registry import RUNTIMES
from rest_deploy.specs import ImageSize, InputKind

#: Batch, height and width -> bytes.
CallBytes = Callable[[int, int, int], int]

_FLOAT = 4  # bytes
#: Bytes that a pixel of a picture takes at most in a file that takes pictures (``export/pixels.py``). Of one that is
#: resized: its levels, these by columns, by groups of columns that share up to four in ten, those as float32, and sums.
#: At 12 megapixels 34 bytes were measured (224x224 to 1024x1024, Lanczos, warp), and 20 where most is cut off. Of
#: another: its levels, these by channels, and those as float32.
_RESIZED_BYTES, _TAKEN_BYTES = 36, 3 * (1 + 1 + 4)


def call_bytes(info: ArtifactInfo, count: int, height: int, width: int, format: str = "") -> int:
    """Bytes that a call takes on the CPU beside what the open network takes, its outputs included.

    Args:
        info: Record of the file; not of an engine.
        count: Images of the call.
        height, width: Of the images as they go into the file, in pixels.
        format: As of :func:`~rest_deploy.models.family.network_bytes`; empty for that of the runtime.
    """
    size = info.network_sizes(count, height, width)
    pixels = 0 if info.input_kind is InputKind.FLOAT else picture_bytes(count, height, width, resized=info.resizes)
    maps = sum(math.prod(own.sizes(*size)) for own in info.outputs if own.stride is not None)
    runtime = format or RUNTIMES[info.format].memory
    network = network_bytes(config_of(info), *size, precision=info.precision, format=runtime, block=info.map_block)
    return pixels + _FLOAT * maps + network


def picture_bytes(count: int, height: int, width: int, *, resized: bool) -> int:
    """Bytes that pictures take in a call of a file that takes them, beside the network.

    Args:
        count: Pictures of the call.
        height, width: Of each.
        resized: Whether the file resizes them.
    """
    return (_RESIZED_BYTES if resized else _TAKEN_BYTES) * count * height * width


def most_pixels(needed: CallBytes, count: int = 1) -> int | None:
    """Pixels of each image of the largest squares of which so many may be in one call at this moment.

    Args:
        needed: Bytes of a call.
        count: Images of the call.

    Returns:
        0 where not even images of one pixel fit; None if the free memory is not known.
    """
    room = room_bytes()
    return pixels_within(room, lambda _, height, width: needed(count, height, width)) if room is not None else None


def check_call(
    needed: CallBytes,
    size: tuple[int, int, int],
    name: str,
    refusal: type[RestDeployError],
    *,
    usual: ImageSize | None = None,
    step: str = "scale it down first",
) -> None:
    """Refuse a call that would take more memory than is free.

    Args:
        needed: Bytes of a call.
        size: Batch, height and width of the call's input; of any size, as an array has.
        name: What a message calls the images; empty for nothing.
        refusal: The error if this call takes too much.
        usual: Size of a usual image, if there is one.
        step: What to do then.

    Raises:
        PredictorError: Too little memory is free for any image.
        RestDeployError: ``refusal``: this call would take more than is free.
    """
    count, takes = size[0], needed(*size)
    if takes <= USUAL:
        return
    one = needed(1, usual.height, usual.width) if usual is not None else 0
    what = f"{f'{name}: ' if name else ''}an input of {'x'.join(map(str, size[1:] if count == 1 else size))}"
    check_memory(takes, what, refusal, lambda: _advice(needed, count, step), usual=max(one, USUAL))


def _advice(needed: CallBytes, count: int, step: str) -> str:
    most = most_pixels(needed, count)
    fitting = f"at most about {most:,} pixels{f' each for {count} at a time' if count > 1 else ''}; " if most else ""
    return f"{fitting}{'run fewer at a time, or ' if count > 1 else ''}{step}"


@dataclass(frozen=True)
class Prediction:
    """The memory of a call.

    Args:
        size: Of its input.
        needed: Bytes that it takes, beside what the open network takes.
        what: That memory, and how it is known, in words.
        estimated: Whether ``needed`` is an estimate, and no figure of the record.
        free: Bytes of memory that are free; None where they are not known, as on a GPU.
        fits: Whether memory allows a ``Predictor`` the call at this moment; None where that is known only when it runs.
        most: Pixels of each image of the largest squares that fit in such a batch; None where that is not known.
        profile: Of an engine, that holds the size.
        resized: Whether the file resizes pictures itself.
    """

    size: InputSize
    needed: int
    what: str
    estimated: bool
    free: int | None = None
    fits: bool | None = None
    most: int | None = None
    profile: Profile | None = None
    resized: bool = False


def predict(info: ArtifactInfo, size: InputSize, name: str) -> Prediction:
    """Predict the memory of a call.

    Args:
        info: Record of the file.
        size: Of the input.
        name: What a message calls the file.

    Raises:
        InputError: An engine, and the size is outside of its profiles.
    """
    if info.engine is not None:
        return _of_engine(info, info.engine, size, info.engine.profiles[fitting(info.engine.profiles, size, name)])
    needed, free = call_bytes(info, *size.sizes), available_bytes()
    most = most_pixels(functools.partial(call_bytes, info), size.batch)
    what = f"a call in {RUNTIMES[info.format].title} on the CPU"
    if info.recipe.emulator:
        what += ", though the file is made for GPUs"
    return Prediction(size, needed, what, True, free, fits(needed, free), most, resized=info.resizes)


def _of_engine(info: ArtifactInfo, engine: EngineRecord, size: InputSize, profile: Profile) -> Prediction:
    """Activations: of the largest size those that the build told, of others an estimate, which is at most as much."""
    estimate = functools.partial(engine_bytes, info)
    needed, what = estimate(size), f"activations in {LIBRARIES[engine.library].title} on the GPU"
    told = engine.activation_bytes
    if told is not None and size == max((own.max for own in engine.profiles), key=estimate):
        return Prediction(size, told, what, False, profile=profile)
    return Prediction(size, min(needed, told) if told is not None else needed, what, True, profile=profile)
