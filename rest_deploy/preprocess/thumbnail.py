"""A small copy of an image as text, for a report in one file."""

from __future__ import annotations

import base64
import io

from PIL import Image

_SIDE, _QUALITY = 128, 85


def thumbnail(image: Image.Image) -> str:
    """An RGB image as a JPEG of at most 128 pixels a side, in a ``data:`` URI."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
