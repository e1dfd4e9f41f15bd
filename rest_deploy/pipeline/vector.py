"""A test vector in the record: a picture, its input and its logits, for who reads the file in another language."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.preprocess.transform import transform
from rest_deploy.specs import Resize
from rest_deploy.verification import Run

#: Height and width of the picture: larger than 224, so that a resize without antialiasing shows; small where the
#: network sees it as it is.
_RESIZED, _NATIVE = (360, 480), (37, 48)
_SAMPLES = 32  # values of the input


def make_test_vector(info: ArtifactInfo, run: Run) -> dict[str, Any]:
    """What the network gives for a picture, or for an input where it takes no pictures.

    Args:
        info: Its record.
        run: float32 (B, channels, H, W) -> (B, classes).

    Returns:
        ``picture``: a PNG in base64. ``input``: its ``shape`` (1, channels, height, width) and some of its values as
        ``[flat index, value]``. ``logits``: all of them. Without preprocessing ``input`` has all values, float32,
        little-endian, in base64, and there is no picture.
    """
    steps = info.preprocessing
    if steps is None or not steps.takes_pictures:
        shape = (1, int(info.input.shape[1]), *_NATIVE)
        values = np.cos(np.arange(np.prod(shape), dtype=np.float64)).astype("<f4").reshape(shape)
        told: dict[str, Any] = {"input": {"shape": list(shape), "values": _text(values.tobytes())}}
    else:
        picture = Image.fromarray(_pixels(*(_NATIVE if steps.resize is Resize.NATIVE else _RESIZED)))
        values = transform(picture, steps)[None]
        places = np.linspace(0, values.size - 1, _SAMPLES).astype(int)
        samples = [[int(place), float(values.flat[place])] for place in places]
        told = {"picture": _png(picture), "input": {"shape": list(values.shape), "samples": samples}}
    logits = np.asarray(run(values.astype(np.float32)), np.float32)[0]
    return {**told, "logits": [float(value) for value in logits]}


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
