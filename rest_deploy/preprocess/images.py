"""Reading images: whatever Pillow opens comes out as 8-bit RGB, upright."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rest_deploy.errors import ImageError, no_file, no_folder

#: A larger image is taken for a decompression bomb; the figure is Pillow's default, 1 GiB at 12 bytes a pixel.
MAX_PIXELS = 89_478_485

#: What a folder is searched for.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_WHITE = (255, 255, 255)


def load_image(source: str | Path | Image.Image | np.ndarray[Any, Any]) -> Image.Image:
    """Read an image as 8-bit RGB.

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8, and of an animation the
    first frame is taken.

    Args:
        source: A path, a Pillow image, or an (H, W, 3) uint8 array in RGB order.

    Raises:
        ImageError: It is missing, damaged, empty, too large, or of a kind that has no one meaning as RGB.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with _decoding("image"):
            return _to_rgb(source, "image")
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"image is a {type(source).__name__}; accepted: a path, a Pillow image, or a uint8 array")
    if not os.fspath(source):
        raise ImageError("the image's path is empty")
    path = Path(source)
    if not os.path.isfile(path):  # False, not an error, for a name that no file can have
        raise ImageError(f"{str(path)[:200]}: {no_file(path, 'image file')}")
    with _decoding(str(path)), Image.open(path) as image:
        return _to_rgb(image, str(path))


def list_images(folder: str | Path) -> list[Path]:
    """Image files of a folder, not of its subfolders, hidden ones (``.name``) left out, in order of name.

    Raises:
        ImageError: It is none, or holds no images.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise ImageError(f"{folder}: {no_folder(folder)}")
    try:
        paths = sorted(p for p in folder.iterdir() if is_image_name(p.name) and p.is_file())
    except OSError as exc:
        raise ImageError(f"{folder}: cannot be read: {exc.strerror}") from exc
    if not paths:
        raise ImageError(
            f"{folder}: no images in this folder, subfolders and hidden files left out; looked for "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    return paths


def is_image_name(name: str) -> bool:
    """Whether a file of a folder is taken for an image: by its suffix; hidden ones, as macOS's ``._x.jpg``, are not."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Map what Pillow raises."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:  # the warning, where it is an error
        pixels = re.search(r"\d+", str(exc))  # the first figure of Pillow's message
        raise ImageError(_too_large(name, f"{int(pixels[0]):,} pixels" if pixels else str(exc))) from exc
    except UnidentifiedImageError as exc:
        raise ImageError(f"{name}: not an image that Pillow can read") from exc
    except ImageError:
        raise
    except MemoryError as exc:
        raise ImageError(f"{name}: not enough memory to read it; scale it down first") from exc
    except Exception as exc:  # OSError, SyntaxError, struct.error, ... : as varied as the damage
        raise ImageError(f"{name}: damaged or unsupported image ({exc})") from exc


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ImageError(
            f"image array of dtype {array.dtype} and shape {array.shape}; needed: RGB, uint8 (height, width, 3)"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if image.format == "EPS":  # a program, which Pillow would hand to Ghostscript
        raise ImageError(f"{name}: PostScript is not read; save the image as PNG or JPEG")
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(name, f"{width}x{height} pixels"))
    if width == 0 or height == 0:
        raise ImageError(f"{name}: empty image of {width}x{height} pixels")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _from_sixteen_bit(image, name)
    if image.mode == "F":
        raise ImageError(f"{name}: float pixels have no fixed range; save the image with 8 or 16 bits a channel")
    if image.mode == "La":  # premultiplied grey; Pillow converts it to nothing but LA
        image = image.convert("LA")
    if image.has_transparency_data or image.mode == "RGBa":
        layer = image.convert("RGBA")
        backdrop = Image.new("RGBA", layer.size, (*_WHITE, 255))
        return Image.alpha_composite(backdrop, layer).convert("RGB")
    return image.convert("RGB")


def _from_sixteen_bit(image: Image.Image, name: str) -> Image.Image:
    """Pillow clips 16-bit grey when it converts; here 65535 becomes 255. Mode I holds such values in 32 bits."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(f"{name}: 32-bit pixels beyond 16 bits; save the image with 8 or 16 bits a channel")
    grey = ((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):  # a PNG's one transparent value, laid over white
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _too_large(name: str, size: str) -> str:
    return f"{name}: {size}, more than the {MAX_PIXELS:,} that are read; scale it down first"
