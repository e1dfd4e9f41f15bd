"""Reading images: whatever Pillow opens comes out as 8-bit RGB, upright. And which files are images at all."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rest_deploy.errors import ImageError, PredictorError, RestDeployError, no_file, one_line
from rest_deploy.specs import Alpha

#: What an image is read from: a path, a Pillow image, a uint8 array, an encoded file as bytes, or a binary file object.
ImageSource: TypeAlias = (
    str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | bytes | bytearray | memoryview | IO[bytes]
)

#: A larger image is taken for a decompression bomb; the figure is Pillow's default, 1 GiB at 12 bytes a pixel.
MAX_PIXELS = 89_478_485

#: What a pixel takes while an image is turned into RGB: as decoded, with its alpha laid out, and as RGB, 4 bytes each.
_BYTES_A_PIXEL = 12
#: A file object is read no further: no image of at most MAX_PIXELS is longer, and a stream may have no end.
_MAX_BYTES = _BYTES_A_PIXEL * MAX_PIXELS
_CHUNK = 1 << 20

#: What the system says when the process or the machine has run out of something, or a file system is gone.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN})

_WHITE = (255, 255, 255)
_ACCEPTED = (
    "a path, a Pillow image, a uint8 array of shape (height, width), (height, width, 1), (height, width, 3) in RGB or "
    "(height, width, 4) in RGBA, the bytes of an image file, or a file object opened in binary mode"
)


def load_image(source: ImageSource, alpha: Alpha = Alpha.WHITE) -> Image.Image:
    """Read an image as 8-bit RGB.

    EXIF rotation is applied, 16-bit grey is scaled to 8, and of an animation the first frame is taken.

    Args:
        source: A path; a Pillow image; a uint8 array of shape (H, W) or (H, W, 1) in grey, (H, W, 3) in RGB or
            (H, W, 4) in RGBA; an encoded file as bytes; or a binary file object, which is read from where it stands to
            its end, and not closed.
        alpha: Whether the image is laid over white where it is transparent, or its colours are taken as they are
            stored, which is what torchvision's ImageFolder does.

    Raises:
        ImageError: It is missing, damaged, empty, too large, or of a kind that has no one meaning as RGB.
        PredictorError: This process cannot read images now: no memory or no file handles are left.
    """
    if isinstance(source, np.ndarray):
        name = "image array"
        with _decoding(name):
            return _to_rgb(_from_array(source), name, alpha)
    if isinstance(source, Image.Image):
        with _decoding("image", source):
            return _to_rgb(source, "image", alpha)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "image", alpha)
    if hasattr(source, "read"):
        name = _name_of(source)
        return _decode(_read(source, name), name, alpha)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"image is a {type(source).__name__}; accepted: {_ACCEPTED}")
    if not os.fspath(source):
        raise ImageError("the image's path is empty")
    path = Path(source)
    if not os.path.isfile(path):  # False, not an error, for a name that no file can have
        raise ImageError(f"{str(path)[:200]}: {no_file(path, 'image file')}")
    return _decode(path, str(path), alpha)


def is_image(path: Path) -> bool:
    """Whether a file of a folder is taken for an image: by its suffix where that says so, else by what it holds.

    The suffixes of pictures count by themselves, and so do signatures of four bytes and more, so that a damaged picture
    is told as one. Where the first bytes might be an image's, Pillow must be able to read its header.

    Raises:
        PredictorError: No memory or no file handles are left.
    """
    by_suffix, signatures = _known()
    suffix = path.suffix.lower()
    own = by_suffix.get(suffix)
    if own in _PICTURES:
        return True
    if suffix in _RAW or own in _NO_PICTURES:
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(16)  # as many as Pillow's signatures have
        formats = [name for name, accept in signatures.items() if accept(start)]
        if not _SIGNED.isdisjoint(formats):
            return True
        if own is not None and own not in signatures:
            formats.append(own)
        if formats:
            Image.open(path, formats=formats).close()
        return bool(formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True  # to be refused by its name when it is read
    except Exception as exc:  # no image, or one so damaged that nobody can tell
        _refuse_exhausted(str(path), exc)
        return False


#: Formats whose suffixes are those of pictures and of nothing else. HEIF is there where a plugin has registered it.
_PICTURES = frozenset("AVIF BMP DIB GIF HEIF JPEG JPEG2000 MPO PNG PPM TGA TIFF WEBP".split())  # noqa: SIM905
#: Formats that nothing else begins like.
_SIGNED = frozenset("AVIF GIF HEIF JPEG JPEG2000 PNG PSD QOI TIFF WEBP".split())  # noqa: SIM905
#: What Pillow opens and is no picture: programs, drawings, films, and data that it hands to other programs.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"})
#: Camera raw files are TIFF to Pillow, which reads the stamp-sized preview in them.
_RAW = frozenset(".3fr .arw .cr2 .dcr .dng .erf .fff .iiq .kdc .mef .mos .nef .nrw .orf .pef .rw2 .sr2 .srw".split())  # noqa: SIM905


@cache
def _known() -> tuple[dict[str, str], dict[str, Callable[[bytes], bool | str]]]:
    """Suffix -> format of Pillow, and of formats that have a signature what looks for it."""
    suffixes = Image.registered_extensions()  # loads Pillow's plugins
    signatures = {name: accept for name, (_, accept) in Image.OPEN.items() if accept and name not in _NO_PICTURES}
    return suffixes, signatures


def _name_of(file: Any) -> str:
    """What a message calls a file object."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and name else f"{type(file).__name__} object"


def _read(file: Any, name: str) -> bytes:
    """From where a file object stands to its end. Pillow itself would start at the beginning."""
    if isinstance(file, io.TextIOBase):
        raise ImageError(f"{name}: opened in text mode; open it with mode 'rb'")
    content = bytearray()
    while True:
        try:
            part = file.read(_CHUNK)
        except Exception as exc:  # of any class: file objects of others have errors of their own
            _refuse_exhausted(name, exc)
            raise ImageError(f"{name}: cannot be read: {one_line(exc)}") from exc
        if not isinstance(part, (bytes, bytearray, memoryview)):
            if hasattr(part, "close"):  # a coroutine that nobody awaits would warn
                part.close()
            raise ImageError(f"{name}: its read() gives {type(part).__name__}, needed: bytes; accepted: {_ACCEPTED}")
        if not part:
            break
        content += part
        if len(content) > _MAX_BYTES:
            raise ImageError(f"{name}: over {_MAX_BYTES:,} bytes, more than any image that is read has")
    if not content:
        raise ImageError(f"{name}: no bytes from where it stands to its end; was it read before? seek(0) rewinds it")
    return bytes(content)


def _decode(file: Path | bytes, name: str, alpha: Alpha) -> Image.Image:
    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    with _decoding(name), Image.open(opened) as image, _decoding(name, image):
        return _to_rgb(image, name, alpha)


@contextmanager
def _decoding(name: str, image: Image.Image | None = None) -> Iterator[None]:
    """Map what Pillow raises while it opens a file, or decodes an image whose size is known by then."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:  # the warning, where it is an error
        pixels = re.search(r"\d+", str(exc))  # the first figure of Pillow's message
        raise ImageError(_too_large(name, f"{int(pixels[0]):,} pixels" if pixels else str(exc))) from exc
    except UnidentifiedImageError as exc:
        raise ImageError(f"{name}: not an image that Pillow can read") from exc
    except RestDeployError:
        raise
    except MemoryError as exc:
        raise _out_of_memory(name, image.size if image is not None else (0, 0)) from exc
    except Exception as exc:  # OSError, SyntaxError, struct.error, ... : as varied as the damage
        _refuse_exhausted(name, exc)
        raise ImageError(f"{name}: damaged or unsupported image ({one_line(exc)})") from exc


def _out_of_memory(name: str, size: tuple[int, int]) -> RestDeployError:
    """Whose fault it is that memory ran out: the machine's, unless what such an image needs can be had.

    A damaged or hostile file makes Pillow ask for any amount, and must not pass for a machine that is at its end: a
    server would take itself out of service, and the other images of a list would go without an answer.
    """
    needed = _BYTES_A_PIXEL * size[0] * size[1] + _CHUNK
    try:
        np.empty(needed, np.uint8)
    except MemoryError:
        return PredictorError(
            f"{name}: not enough memory to read an image: {needed >> 20:,} MiB cannot be had; give the process "
            "more, or let it do less at a time"
        )
    return ImageError(f"{name}: not enough memory to read it, though {size[0]}x{size[1]} pixels need little: damaged")


def _refuse_exhausted(name: str, exc: BaseException) -> None:
    """Raise where an error is the process's or the machine's: the next image would meet it as well."""
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in _EXHAUSTED):
        raise PredictorError(
            f"{name}: this process cannot read files now: {one_line(exc)}; let it do less at a time, or raise "
            "its limits"
        ) from exc


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.size == 0 or array.ndim not in (2, 3) or array.shape[2:] not in _CHANNELS:
        raise ImageError(
            f"image array of dtype {array.dtype} and shape {array.shape}; needed: uint8 of (height, width) or "
            "(height, width, 1) in grey, (height, width, 3) in RGB, or (height, width, 4) in RGBA"
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


#: What may follow height and width in the shape of an array.
_CHANNELS = ((), (1,), (3,), (4,))


def _to_rgb(image: Image.Image, name: str, alpha: Alpha) -> Image.Image:
    width, height = image.size
    if image.format == "EPS":  # a program, which Pillow would hand to Ghostscript
        raise ImageError(f"{name}: PostScript is not read; save the image as PNG or JPEG")
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(name, f"{width}x{height} pixels"))
    if width == 0 or height == 0:
        raise ImageError(f"{name}: empty image of {width}x{height} pixels")
    image = ImageOps.exif_transpose(image)  # a copy in any case
    if alpha is Alpha.DROP:
        image.info.pop("transparency", None)  # the colour that it names is a colour like others
    if image.mode.startswith("I"):
        return _from_sixteen_bit(image, name)
    if image.mode == "F":
        raise ImageError(f"{name}: float pixels have no fixed range; save the image with 8 or 16 bits a channel")
    if image.mode in ("La", "RGBa"):  # premultiplied; Pillow converts these to nothing but LA and RGBA
        image = image.convert(image.mode.upper())
    if alpha is Alpha.WHITE and image.has_transparency_data:
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
