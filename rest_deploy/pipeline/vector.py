"""A test vector in the record: a picture, its input and its logits, for who reads the file in another language."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.preprocess.transform import transform
from rest_deploy.specs import LOGITS, Preprocessing, Resize
from rest_deploy.verification import Run

#: Height and width of the picture where the network sees it as it is, and of an input that is no picture.
_NATIVE = (37, 48)
#: Height and width of the picture over those that it is resized to: larger, so that a resize without antialiasing
#: shows, and not so much larger that its stripes melt together.
_LARGER = (1.6, 2.15)
#: Pixels of the picture; for larger inputs it is no longer larger than they are.
_MOST_PIXELS = 1 << 22
#: Pixels of the largest input that the network is run at: its memory grows with their square, and an export needs none
#: at the size itself.
_MOST_RUN = 1 << 20
_SAMPLES = 32  # values of the input


def make_test_vector(info: ArtifactInfo, run: Run) -> dict[str, Any]:
    """What the network gives for a picture, or for an input where it takes no pictures.

    Args:
        info: Its record.
        run: float32 (B, channels, H, W) -> outputs by name.

    Returns:
        ``picture``: a PNG in base64. ``input``: its ``shape`` (1, channels, height, width), some of its values as
        ``samples`` of [flat index, value], and the ``tolerance`` that these may differ by: a tenth of one of a pixel's
        256 levels. ``logits``: ``values``, all of them, and their ``tolerance``; None for inputs of over a million
        pixels. Without preprocessing ``input`` has all ``values``, float32, little-endian, in base64, and there is no
        picture.
    """
    steps = info.preprocessing
    if steps is None or not steps.takes_pictures:
        shape = (1, int(info.input.shape[1]), *_NATIVE)
        values = np.cos(np.arange(math.prod(shape), dtype=np.float64)).astype(np.float32).reshape(shape)
        content = values.astype("<f4").tobytes()
        told: dict[str, Any] = {"input": {"shape": list(shape), "values": _text(content)}}
    else:
        picture = Image.fromarray(_pixels(*_picture_size(steps)))
        values = transform(picture, steps)[None]
        places = np.linspace(0, values.size - 1, _SAMPLES).astype(int)
        samples = [[int(place), float(values.flat[place])] for place in places]
        told = {
            "picture": _png(picture),
            "input": {"shape": list(values.shape), "samples": samples, "tolerance": 0.1 / (255 * max(steps.std))},
        }
    if values.shape[2] * values.shape[3] > _MOST_RUN:
        return {**told, "logits": None}
    logits = [float(value) for value in np.asarray(run(values)[LOGITS], np.float32)[0]]
    tolerance = info.recipe.logits_tolerance * (0.1 + max(map(abs, logits)))
    return {**told, "logits": {"values": logits, "tolerance": tolerance}}


def _picture_size(steps: Preprocessing) -> tuple[int, int]:
    """(height, width) of the picture for a transform."""
    if steps.resize is Resize.NATIVE or steps.size is None:
        return _NATIVE
    height, width = steps.size.height, steps.size.width
    if steps.resize is Resize.CROP:
        height = width = int(max(height, width) / steps.crop_ratio)  # of the short side, before the cut
    height, width = int(height * _LARGER[0]), int(width * _LARGER[1])
    shrink = min(1.0, math.sqrt(_MOST_PIXELS / (height * width)))
    return max(2, int(height * shrink)), max(2, int(width * shrink))


def _pixels(height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3): stripes of three pixels in red, ramps in green and blue."""
    y, x = np.mgrid[:height, :width]
    channels = ((x // 3 + y // 5) % 2 * 255, x * 255 // (width - 1), y * 255 // (height - 1))
    return np.stack(channels, axis=2).astype(np.uint8)


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return _text(buffer.getvalue())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
