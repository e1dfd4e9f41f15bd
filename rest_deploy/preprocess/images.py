"""Reading images: whatever Pillow opens comes out as 8-bit RGB, upright. And which files are images at all."""

from __future__ import annotations

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
    FORMATS,
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

#: What an image is read from: a path, a Pillow image, a uint8 array, an encoded file as bytes, or a binary file object.
ImageSource: TypeAlias = (
    str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | bytes | bytearray | memoryview | IO[bytes]
)

_CHUNK = 1 << 20

#: What the system says when the process or the machine has run out of something, or a file system is gone.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN})

_WHITE = (255, 255, 255)
_ACCEPTED = (
    "a path, a Pillow image, a uint8 array of shape (height, width), (height, width, 1), (height, width, 3) in RGB or "
    "(height, width, 4) in RGBA, the bytes of an image file, or a file object opened in binary mode"
)


#: Called with (height, width) of an image, upright, before it is decoded; raises where it is not wanted.
Fits: TypeAlias = Callable[[int, int], None]


def load_image(source: ImageSource, alpha: Alpha = Alpha.WHITE, fits: Fits | None = None) -> Image.Image:
    """Read an image as 8-bit RGB.

    EXIF rotation is applied, 16-bit grey is scaled to 8, and of an animation the first frame is taken.

    Args:
        source: A path; a Pillow image; a uint8 array of shape (H, W) or (H, W, 1) in grey, (H, W, 3) in RGB or
            (H, W, 4) in RGBA; an encoded file as bytes; or a binary file object, which is read from where it stands to
            its end, and not closed.
        alpha: Whether the image is laid over white where it is transparent, or its colours are taken as they are
            stored, which is what torchvision's ImageFolder does.
        fits: Looks at its size before anything is decoded.

    Raises:
        ImageError: It is missing, damaged, empty, too large, of a format that is not read, or of a kind that has no one
            meaning as RGB.
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
        raise ImageError(f"image is a {type(source).__name__}; accepted: {_ACCEPTED}")
    if not os.fspath(source):
        raise ImageError("the image's path is empty")
    path = Path(source)
    if not os.path.isfile(path):  # False, not an error, for a name that no file can have
        raise ImageError(f"{str(path)[:200]}: {no_file(path, 'image file')}")
    return _decode(_content(path), str(path), alpha, fits)


def is_image(path: Path) -> bool:
    """Whether a file of a folder is taken for an image: by its suffix where that says so, else by what it holds.

    The suffixes of pictures count by themselves, and so do signatures of four bytes and more, and other suffixes where
    the first bytes agree, so that a damaged picture is told as one. Where the first bytes alone might be an image's,
    Pillow must be able to read its header. No picture is decoded.

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
        if not _SIGNED.isdisjoint(formats) or own in formats:
            return True
        if own in FORMATS and own not in signatures:
            formats.append(own)
        if formats:
            with open(path, "rb") as file:
                if "ICO" in formats:  # Pillow decodes it as it opens it
                    check_icon(file, str(path))
                Image.open(Metered(file, path.stat().st_size, str(path)), formats=formats)  # type: ignore[arg-type]
        return bool(formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True  # to be refused by its name when it is read
    except Exception as exc:  # no image, or one so damaged that nobody can tell
        _refuse_exhausted(str(path), exc)
        return False


#: Formats whose suffixes are those of pictures and of nothing else.
_PICTURES = FORMATS - {"DDS", "ICO", "PCX", "QOI", "SGI"}
#: Formats that nothing else begins like.
_SIGNED = frozenset("AVIF GIF HEIF JPEG JPEG2000 PNG QOI TIFF WEBP".split())  # noqa: SIM905
#: What Pillow opens and is no picture: programs, drawings, films, and data that it hands to other programs.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"})
#: Camera raw files are TIFF to Pillow, which reads the stamp-sized preview in them.
_RAW = frozenset(".3fr .arw .cr2 .dcr .dng .erf .fff .iiq .kdc .mef .mos .nef .nrw .orf .pef .rw2 .sr2 .srw".split())  # noqa: SIM905


@cache
def _known() -> tuple[dict[str, str], dict[str, Callable[[bytes], bool | str]]]:
    """Suffix -> format of Pillow, and of formats that have a signature what looks for it."""
    suffixes = Image.registered_extensions()  # loads Pillow's plugins
    signatures = {name: accept for name, (_, accept) in Image.OPEN.items() if accept and name in FORMATS}
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
        if len(content) > MAX_BYTES:
            raise ImageError(f"{name}: over {MAX_BYTES:,} bytes, more than any image that is read has")
    if not content:
        raise ImageError(f"{name}: no bytes from where it stands to its end; was it read before? seek(0) rewinds it")
    return bytes(content)


def _content(path: Path) -> bytes:
    """All of a file: what is checked of it is what is decoded, whatever becomes of the file meanwhile."""
    with _decoding(str(path)), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        check_memory(2 * min(size, MAX_BYTES), f"{path}: reading its {size:,} bytes", ImageError, "make it smaller")
        content = file.read(min(size, MAX_BYTES) + 1)  # room for so much is taken at once
    if len(content) > MAX_BYTES:
        raise ImageError(f"{path}: over {MAX_BYTES:,} bytes, more than any image that is read has")
    return content


def _behind(image: Image.Image) -> bytes:
    """The file of an image that was opened and not decoded, which Pillow goes on reading from where it stood."""
    file = getattr(image, "fp", None)
    if file is None:  # it is closed, or its decoder has read all of it
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
    """Map what Pillow raises while it opens a file, or decodes an image whose size is known by then."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:  # the warning, where it is an error
        pixels = re.search(r"\d+", str(exc))  # the first figure of Pillow's message
        raise ImageError(too_large(name, f"{int(pixels[0]):,} pixels" if pixels else str(exc))) from exc
    except RestDeployError:
        raise
    except MemoryError as exc:
        raise _out_of_memory(name, image) from exc
    except Exception as exc:  # OSError, SyntaxError, struct.error, ... : as varied as the damage
        _refuse_exhausted(name, exc)
        raise ImageError(f"{name}: damaged or unsupported image ({one_line(exc)})") from exc


def _out_of_memory(name: str, image: Image.Image | None) -> RestDeployError:
    """Whose fault it is that memory ran out: the machine's, unless what such an image needs can be had.

    A damaged or hostile file makes Pillow ask for any amount, and must not pass for a machine that is at its end: a
    server would take itself out of service, and the other images of a list would go without an answer.
    """
    size, needed = (0, 0), _CHUNK
    if image is not None:
        size, needed = image.size, needed + decoding_bytes(image)
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


def _to_rgb(image: Image.Image, name: str, alpha: Alpha, fits: Fits | None, held: int = 0) -> Image.Image:
    """Turn an image, decoded or not, into RGB; ``held`` are the bytes of its file."""
    check_pixels(name, *image.size)
    seen = _upright_size(image, name)
    if fits is not None:
        fits(*seen)
    needed = decoding_bytes(image) + held
    with _large if needed > USUAL else nullcontext():
        what = f"{name}: reading an image of {image.width}x{image.height} pixels"
        check_memory(needed, what, ImageError, "scale it down first")
        return _decoded(image, name, alpha, fits, seen)


#: Held while a large image is decoded, so that threads are not promised the same free memory.
_large = threading.Lock()


def _after_fork() -> None:
    global _large  # noqa: PLW0603
    _large = threading.Lock()  # a thread that held it is not in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _decoded(image: Image.Image, name: str, alpha: Alpha, fits: Fits | None, seen: tuple[int, int]) -> Image.Image:
    image.load()
    check_exif(image, name)  # of a PNG it may come last
    image = ImageOps.exif_transpose(image)  # a copy in any case
    if fits is not None and (image.height, image.width) != seen:
        fits(image.height, image.width)
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
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(f"{name}: 32-bit pixels beyond 16 bits; save the image with 8 or 16 bits a channel")
    grey = _EIGHT_BITS[values]
    if isinstance(image.info.get("transparency"), int):  # a PNG's one transparent value, laid over white
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


#: 16 bits to 8, rounded.
_EIGHT_BITS = ((np.arange(0x10000, dtype=np.int64) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)


def _upright_size(image: Image.Image, name: str) -> tuple[int, int]:
    """(height, width) as it will be turned; of a PNG whose EXIF data come last, as it is."""
    turned = False
    if image.format != "PNG" or "exif" in image.info:  # else Pillow would decode it to look
        check_exif(image, name)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)
