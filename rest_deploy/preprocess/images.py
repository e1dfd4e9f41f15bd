"""Reading images: each becomes 8-bit RGB, upright. Which files are images, and small copies for a report."""

from __future__ import annotations

import base64
import errno
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps

from rest_deploy.errors import ImageError, PredictorError, RestDeployError, no_file, one_line
from rest_deploy.machine import USUAL, check_memory
from rest_deploy.preprocess.image_files import (
    IMAGE_FORMATS,
    MAX_BYTES,
    Metered,
    check_exif,
    check_icon,
    check_opened,
    check_pixels,
    decoding_bytes,
    is_decoded,
    open_image,
    too_large,
)
from rest_deploy.specs import Alpha

#: Source of an image: a path, a Pillow image, a uint8 array, an encoded file as bytes, or a binary file object.
ImageSource: TypeAlias = (
    str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | bytes | bytearray | memoryview | IO[bytes]
)

_CHUNK = 1 << 20

#: Error numbers if the process or the machine has run out of a resource, or a file system is gone.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN})

_WHITE = (255, 255, 255)
_ACCEPTED = (
    "a path, a Pillow image, a uint8 array of shape (height, width), (height, width, 1), (height, width, 3) in RGB or "
    "(height, width, 4) in RGBA, the bytes of an image file, or a file object opened in binary mode"
)


#: Called with (height, width) of an image, upright, before it is decoded; raises to refuse it.
Fits: TypeAlias = Callable[[int, int], None]


def load_image(source: ImageSource, alpha: Alpha = Alpha.WHITE, fits: Fits | None = None) -> Image.Image:
    """Read an image as 8-bit RGB.

    EXIF rotation is applied, 16-bit grey is scaled to 8 bits, and the first frame of an animation is used.

    Args:
        source: A path; a Pillow image; a uint8 array of shape (H, W) or (H, W, 1) in grey, (H, W, 3) in RGB or
            (H, W, 4) in RGBA; an encoded file as bytes; or a binary file object, which is read from its position to its
            end, and not closed.
        alpha: Whether transparent pixels are placed on white, or keep their stored colour as in torchvision's
            ImageFolder.
        fits: Checks the size before anything is decoded.

    Raises:
        ImageError: It is missing, damaged, empty, too large, or its format or kind of pixels is not accepted.
        PredictorError: This process cannot read images now: no memory or no file handles are left.
    """
    if isinstance(source, np.ndarray):
        name = "image array"
        with _decoding(name):
            return _to_rgb(_from_array(source), name, alpha, fits)
    if isinstance(source, Image.Image):
        with _decoding("image", source):
            if not is_decoded(source):
                check_opened(source, _behind(source), "image")
            return _to_rgb(source, "image", alpha, fits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "image", alpha, fits)
    if hasattr(source, "read"):
        name = _name_of(source)
        return _decode(_read(source, name), name, alpha, fits)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"the image is a {type(source).__name__}; accepted: {_ACCEPTED}")
    if not os.fspath(source):
        raise ImageError("the image's path is empty")
    path = Path(source)
    if not os.path.isfile(path):  # False, not an error, for an impossible file name
        raise ImageError(f"{str(path)[:200]}: {no_file(path, 'image file')}")
    return _decode(_content(path), str(path), alpha, fits)


def is_image(path: Path, opened: Callable[[], IO[bytes]] | None = None) -> bool:
    """Whether a file of a folder is an image: by its suffix if that is enough, else by its content.

    A picture suffix is enough, and so is a signature of at least four bytes, or another suffix with matching first
    bytes. So a damaged picture still counts as a picture. If only the first bytes match, Pillow must be able to read
    the header. No picture is decoded.

    Args:
        path: The file, or the name of one that lies elsewhere, as in an archive.
        opened: Opens that one.

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
        with opened() if opened is not None else open(path, "rb") as file:
            start = file.read(16)  # the length of Pillow's signatures
        formats = [name for name, accept in signatures.items() if accept(start)]
        if not _SIGNED.isdisjoint(formats) or own in formats:
            return True
        if own in IMAGE_FORMATS and own not in signatures:
            formats.append(own)
        if formats:
            with opened() if opened is not None else open(path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                if "ICO" in formats:  # Pillow decodes it on opening
                    check_icon(file, str(path))
                Image.open(Metered(file, size, str(path)), formats=formats)  # type: ignore[arg-type]
        return bool(formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True  # reading it gives an error with its name
    except Exception as exc:  # not an image, or too damaged to know
        _refuse_exhausted(str(path), exc)
        return False


#: Formats whose suffixes only pictures have.
_PICTURES = IMAGE_FORMATS - {"DDS", "ICO", "PCX", "QOI", "SGI"}
#: Formats whose first bytes only they have.
_SIGNED = frozenset("AVIF GIF HEIF JPEG JPEG2000 PNG QOI TIFF WEBP".split())  # noqa: SIM905
#: Formats that Pillow opens but that are not pictures: programs, drawings, films, and data for other programs.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"})
#: Pillow reads camera raw files as TIFF, and gets only their small preview.
_RAW = frozenset(".3fr .arw .cr2 .dcr .dng .erf .fff .iiq .kdc .mef .mos .nef .nrw .orf .pef .rw2 .sr2 .srw".split())  # noqa: SIM905


@cache
def _known() -> tuple[dict[str, str], dict[str, Callable[[bytes], bool | str]]]:
    """Suffix -> format of Pillow, and format -> the function that checks its signature."""
    suffixes = Image.registered_extensions()  # loads Pillow's plugins
    signatures = {name: accept for name, (_, accept) in Image.OPEN.items() if accept and name in IMAGE_FORMATS}
    return suffixes, signatures


def _name_of(file: Any) -> str:
    """The name of a file object, for a message."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and name else f"{type(file).__name__} object"


def _read(file: Any, name: str) -> bytes:
    """The bytes from the position of a file object to its end. Pillow itself would start at the beginning."""
    if isinstance(file, io.TextIOBase):
        raise ImageError(f"{name}: it was opened in text mode; open it with mode 'rb'")
    content = bytearray()
    while True:
        try:
            part = file.read(_CHUNK)
        except Exception as exc:  # file objects of other libraries have their own errors
            _refuse_exhausted(name, exc)
            raise ImageError(f"{name}: {_cannot_be_read(exc)}") from exc
        if not isinstance(part, (bytes, bytearray, memoryview)):
            if hasattr(part, "close"):  # a coroutine that is not awaited would warn
                part.close()
            raise ImageError(f"{name}: its read() returns {type(part).__name__}; needed: bytes; accepted: {_ACCEPTED}")
        if not part:
            break
        content += part
        if len(content) > MAX_BYTES:
            raise ImageError(f"{name}: over {MAX_BYTES:,} bytes, more than an accepted image can have")
    if not content:
        raise ImageError(f"{name}: no bytes after its position; if it was read before, call seek(0)")
    return bytes(content)


def _content(path: Path) -> bytes:
    """The bytes of a file, read once, so that the checked bytes are the decoded ones."""
    with _decoding(str(path)), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        check_memory(2 * min(size, MAX_BYTES), f"{path}: reading its {size:,} bytes", ImageError, "make it smaller")
        content = file.read(min(size, MAX_BYTES) + 1)  # allocates this much at once
    if len(content) > MAX_BYTES:
        raise ImageError(f"{path}: over {MAX_BYTES:,} bytes, more than an accepted image can have")
    return content


def _behind(image: Image.Image) -> bytes:
    """The file of an image that was opened but not decoded; its position stays, because Pillow continues there."""
    file = getattr(image, "fp", None)
    if file is None:  # closed, or read to its end by the decoder
        return b""
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    check_memory(2 * min(size, MAX_BYTES), f"image: reading its {size:,} bytes", ImageError, "make it smaller")
    try:
        file.seek(0)
        return _read(file, "image")
    finally:
        file.seek(position)


def _decode(content: bytes, name: str, alpha: Alpha, fits: Fits | None) -> Image.Image:
    with _decoding(name):
        image = open_image(content, name)
        with image, _decoding(name, image):
            return _to_rgb(image, name, alpha, fits, len(content))


@contextmanager
def _decoding(name: str, image: Image.Image | None = None) -> Iterator[None]:
    """Map Pillow's errors, on opening a file or on decoding an image of known size."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:  # the warning, if it is an error
        pixels = re.search(r"\d+", str(exc))  # the first figure of Pillow's message
        raise ImageError(too_large(name, f"{int(pixels[0]):,} pixels" if pixels else str(exc))) from exc
    except RestDeployError:
        raise
    except MemoryError as exc:
        raise _out_of_memory(name, image) from exc
    except Exception as exc:  # OSError, SyntaxError, struct.error, ...
        _refuse_exhausted(name, exc)
        if isinstance(exc, OSError) and exc.errno is not None:  # the file system's; Pillow's have none
            raise ImageError(f"{name}: {_cannot_be_read(exc)}") from exc
        raise ImageError(f"{name}: damaged or unsupported image ({one_line(exc)})") from exc


def _cannot_be_read(exc: Exception) -> str:
    """Why a file could not be read, in words; its name stands before them."""
    if not isinstance(exc, OSError) or exc.errno is None:
        return f"cannot be read: {one_line(exc)}"
    step = "; allow this user to read it" if exc.errno in (errno.EACCES, errno.EPERM) else ""
    return f"cannot be read: {exc.strerror}{step}"


def _out_of_memory(name: str, image: Image.Image | None) -> RestDeployError:
    """Whose fault it is that memory ran out: the file's, if the memory for such an image can be allocated.

    A damaged or hostile file makes Pillow request any amount. That must not look like a machine without memory: a
    server would take itself out of service, and the other images of a list would get no answer.
    """
    size, needed = (0, 0), _CHUNK
    if image is not None:
        size, needed = image.size, needed + decoding_bytes(image)
    try:
        np.empty(needed, np.uint8)
    except MemoryError:
        return PredictorError(
            f"{name}: not enough memory to read an image: {needed >> 20:,} MiB cannot be allocated; give the process "
            "more memory, or run less in it at a time"
        )
    return ImageError(f"{name}: reading it needs far more memory than {size[0]}x{size[1]} pixels: damaged")


def _refuse_exhausted(name: str, exc: BaseException) -> None:
    """Raise if the process or the machine is at fault: the next image would fail too."""
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in _EXHAUSTED):
        raise PredictorError(
            f"{name}: this process cannot read files now: {one_line(exc)}; run less in it at a time, or raise "
            "its limits"
        ) from exc


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.size == 0 or array.ndim not in (2, 3) or array.shape[2:] not in _CHANNELS:
        raise ImageError(
            f"the image array has dtype {array.dtype} and shape {array.shape}; needed: uint8 of (height, width) or "
            "(height, width, 1) in grey, (height, width, 3) in RGB, or (height, width, 4) in RGBA"
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


#: Accepted shapes of an array after height and width.
_CHANNELS = ((), (1,), (3,), (4,))


def _to_rgb(image: Image.Image, name: str, alpha: Alpha, fits: Fits | None, held: int = 0) -> Image.Image:
    """Convert an image, decoded or not, to RGB; ``held`` is the number of bytes of its file."""
    check_pixels(name, *image.size)
    seen = _upright_size(image, name)
    if fits is not None:
        fits(*seen)
    needed = decoding_bytes(image) + held
    with _large if needed > USUAL else nullcontext():
        what = f"{name}: reading an image of {image.width}x{image.height} pixels"
        check_memory(needed, what, ImageError, "scale it down first")
        return _decoded(image, name, alpha, fits, seen)


#: Held while a large image is decoded, so that two threads do not count on the same free memory.
_large = threading.Lock()


def _after_fork() -> None:
    global _large  # noqa: PLW0603
    _large = threading.Lock()  # the child does not have the thread that held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _decoded(image: Image.Image, name: str, alpha: Alpha, fits: Fits | None, seen: tuple[int, int]) -> Image.Image:
    image.load()
    check_exif(image, name)  # a PNG may have it at its end
    image = ImageOps.exif_transpose(image)  # always a copy
    if fits is not None and (image.height, image.width) != seen:
        fits(image.height, image.width)
    if alpha is Alpha.DROP:
        image.info.pop("transparency", None)  # the transparent colour becomes a normal one
    if image.mode.startswith("I"):
        return _from_sixteen_bit(image, name)
    if image.mode == "F":
        raise ImageError(f"{name}: float pixels have no fixed range; save the image with 8 or 16 bits per channel")
    if image.mode in ("La", "RGBa"):  # premultiplied; Pillow converts these only to LA and RGBA
        image = image.convert(image.mode.upper())
    if alpha is Alpha.WHITE and image.has_transparency_data:
        layer = image.convert("RGBA")
        backdrop = Image.new("RGBA", layer.size, (*_WHITE, 255))
        return Image.alpha_composite(backdrop, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would be one copy more


def _from_sixteen_bit(image: Image.Image, name: str) -> Image.Image:
    """Pillow clips 16-bit grey when it converts; here 65535 becomes 255. Mode I stores such values in 32 bits."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(f"{name}: 32-bit pixels outside of 16 bits; save the image with 8 or 16 bits per channel")
    grey = _EIGHT_BITS[values]
    if isinstance(image.info.get("transparency"), int):  # the one transparent value of a PNG, placed on white
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


#: 16 bits to 8, rounded.
_EIGHT_BITS = ((np.arange(0x10000, dtype=np.int64) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)


def _upright_size(image: Image.Image, name: str) -> tuple[int, int]:
    """(height, width) after rotation; without rotation for a PNG whose EXIF data come last."""
    turned = False
    if image.format != "PNG" or "exif" in image.info:  # else Pillow would have to decode it
        check_exif(image, name)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


_THUMBNAIL_SIDE, _THUMBNAIL_QUALITY = 128, 85


def thumbnail(image: Image.Image) -> str:
    """An RGB image as a JPEG of at most 128 pixels a side, in a ``data:`` URI."""
    small = image.copy()
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
