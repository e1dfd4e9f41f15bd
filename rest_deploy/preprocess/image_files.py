"""An image file before it is decoded: opened, and judged by the cost of decoding it, as its header shows.

A file of a hundred bytes can announce 67 million rows, name one part of itself a million times, or refine a picture a
thousand times, and Pillow's decoders follow it. So the cost is computed first, from the file's structure, and limited:
by pixels, by bytes, and by the number of steps; never by a clock.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, Literal, NamedTuple

from PIL import Image, UnidentifiedImageError

from rest_deploy.errors import ImageError

#: A larger image counts as a decompression bomb; the figure is Pillow's default, 1 GiB at 12 bytes per pixel.
MAX_IMAGE_PIXELS = 89_478_485
#: A file or stream is read up to here: no image of at most MAX_IMAGE_PIXELS is longer, and a stream may have no end.
MAX_BYTES = 12 * MAX_IMAGE_PIXELS

#: Formats of Pillow that are read. The cost of decoding them can be computed from their structure, and was compared
#: with the real cost (tests/reliability/picture_bombs.py). Other formats contain pictures of other sizes than they
#: announce, run programs, or decode on opening. HEIF is available if a plugin has registered it.
IMAGE_FORMATS = frozenset("AVIF BMP DDS DIB GIF HEIF ICO JPEG JPEG2000 MPO PCX PNG PPM QOI SGI TGA TIFF WEBP".split())  # noqa: SIM905

#: Largest file whose decoder takes 0.1 us and more per byte; a minute for 89 million pixels of noise.
_MAX_CODED_BYTES = {"AVIF": 64 << 20, "HEIF": 64 << 20, "JPEG2000": 32 << 20}
#: Pixels of formats that Pillow decodes in Python, 1 us each: QOI, raw DDS, run-length BMP, 16-bit PPM and SGI.
_MAX_PYTHON_PIXELS = 1 << 21
#: Pixels of a TIFF of JPEG strips; libtiff allows a hundred scans in each.
_MAX_TIFF_JPEG_PIXELS = MAX_IMAGE_PIXELS // 4
#: Passes over MAX_IMAGE_PIXELS that a JPEG may need, 0.1 s each; a progressive one of a camera has about ten.
_MAX_SCANS = 20
_MAX_MARKERS = 100_000
#: Strips or tiles of a TIFF; Pillow makes objects of a kilobyte for each.
_MAX_STRIPS = 1 << 17
#: Pixels of a TIFF's tile, which is decoded whole even if the image is small.
_MAX_TILE = 1 << 22
#: Bytes that are copied for the entries of an EXIF directory; entries that name the same bytes get their own copies.
_MAX_EXIF = 16 << 20


def open_image(content: bytes, name: str) -> Image.Image:
    """Open an image file whose decoding has a bounded cost.

    Args:
        content: The whole file.
        name: Of the image, for a message.

    Raises:
        ImageError: Its format is not read, or decoding costs more than a picture of its size should.
        UnidentifiedImageError, DecompressionBombError, OSError, ...: From Pillow, if it is damaged.
    """
    for start, check in _CHECKS:
        if content.startswith(start):
            check(content, name)
    file = Metered(io.BytesIO(content), len(content), name)
    try:
        image = _opened(file)
    except UnidentifiedImageError as exc:
        raise ImageError(f"{name}: {_not_read(content)}") from exc
    file.header = False
    if _is_slow(image):
        file.reads_allowed += 4 * _MAX_PYTHON_PIXELS  # one byte each
    width, height = image.size
    check_pixels(name, width, height)
    _check_decoder(image, name)
    _check_coded(image, content, name)
    return image


def check_pixels(name: str, width: int, height: int) -> None:
    """Refuse an empty image and a decompression bomb.

    Raises:
        ImageError: It is one of them.
    """
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(too_large(name, f"{width}x{height} pixels"))
    if width == 0 or height == 0:
        raise ImageError(f"{name}: empty image of {width}x{height} pixels")


def too_large(name: str, size: str) -> str:
    """The message for an image with too many pixels."""
    return f"{name}: {size}; accepted: at most {MAX_IMAGE_PIXELS:,}; scale it down first"


def is_decoded(image: Image.Image) -> bool:
    """Whether an image has its pixels: a created one has, an opened one has once its frame was loaded."""
    return image.format is None or (getattr(image, "_im", None) is not None and not getattr(image, "tile", ()))


def check_opened(image: Image.Image, content: bytes, name: str) -> None:
    """Refuse an image that a caller opened with Pillow and did not decode, if decoding it has no bounded cost.

    The caller has already paid for the header, and metadata behind the pixels are not counted.

    Args:
        image: The opened image; it may be at another frame than the first.
        content: Its whole file; empty if Pillow has closed it, which it does not for the formats checked here.
        name: Of the image, for a message.

    Raises:
        ImageError: Its format is not read, or decoding costs more than a picture of its size should.
    """
    if image.format not in IMAGE_FORMATS:
        raise ImageError(
            f"{name}: {image.format} is not decoded here; save it as PNG or JPEG, or, if you trust it, call its "
            "load() first"
        )
    _check_decoder(image, name)
    if image.format == "TIFF":
        _check_tiff(content, name, image.tell())
    elif image.format == "JPEG2000":
        _check_jpeg2000(content, name)
    _check_coded(image, content, name)


def decoding_bytes(image: Image.Image) -> int:
    """Largest memory to convert an image to RGB: copies decoded, upright, in RGB, and on white.

    Pillow uses at most four bytes per pixel, and a pointer per row.
    """
    width, height = image.size
    copies = 3
    if image.has_transparency_data or image.mode.startswith(("I", "F")):
        copies += 3
    if image.format in ("WEBP", "AVIF", "HEIF", "JPEG2000"):  # the decoder's planes, and its result as bytes
        copies += 2
    return copies * height * (8 + 4 * width)


def check_exif(image: Image.Image, name: str) -> None:
    """Refuse EXIF data that unfold when Pillow reads them to find the rotation.

    Raises:
        ImageError: They unfold.
    """
    exif = image.info.get("exif") or b""
    raw = image.info.get("Raw profile type exif", "")
    if isinstance(exif, bytes):
        while exif.startswith(b"Exif\0\0"):  # Pillow removes several too
            exif = exif[6:]
        named = sum(entry.nbytes for entry in _directory(exif))
        if named > _MAX_EXIF:
            raise ImageError(f"{name}: damaged: its EXIF data of {len(exif):,} bytes name {named:,} bytes")
    if len(raw) > _MAX_EXIF >> 6:
        raise ImageError(f"{name}: damaged: EXIF data of {len(raw):,} characters of text")


def _opened(file: Any) -> Image.Image:
    """A file of an accepted format; the most common come first, because Pillow takes 60 ms to load the others."""
    with suppress(UnidentifiedImageError):
        return Image.open(file, formats=("JPEG", "PNG"))
    Image.init()
    return Image.open(file, formats=sorted(IMAGE_FORMATS & set(Image.OPEN)))


def _not_read(content: bytes) -> str:
    """Why a file is not opened, in words."""
    if not content:
        return "an empty file, 0 bytes; copy or save it again"
    start = content[:16]
    for kind, (_, accept) in Image.OPEN.items():
        if kind not in IMAGE_FORMATS and accept and accept(start):
            return f"{kind} is not read; save the image as PNG or JPEG"
    return "not an image that can be read; save it as PNG or JPEG"


def _check_decoder(image: Image.Image, name: str) -> None:
    """Decoders in Python are slow, and the one of plain PPM is slower: it removes comments one by one."""
    pixels = image.width * image.height
    if "ppm_plain" in _codecs(image):
        raise ImageError(f"{name}: {image.format} in plain text is not read; save it in binary, or as PNG")
    if _is_slow(image) and pixels > _MAX_PYTHON_PIXELS:
        raise ImageError(
            f"{name}: {pixels:,} pixels of a slow kind of {image.format}; accepted: at most {_MAX_PYTHON_PIXELS:,}; "
            "save it as PNG"
        )
    compression = image.info.get("compression")
    if image.format == "TIFF" and compression in ("jpeg", "tiff_jpeg") and pixels > _MAX_TIFF_JPEG_PIXELS:
        raise ImageError(
            f"{name}: {pixels:,} pixels of JPEG in a TIFF; accepted: at most {_MAX_TIFF_JPEG_PIXELS:,}; save it as JPEG"
        )


def _check_coded(image: Image.Image, content: bytes, name: str) -> None:
    if image.format in ("JPEG", "MPO"):
        tiles = getattr(image, "tile", ())
        start = tiles[0].offset if tiles else 0  # not 0 for the second frame of an MPO
        _check_scans(content, start, image.width * image.height, name)
    most = _MAX_CODED_BYTES.get(image.format or "", MAX_BYTES)
    if len(content) > most:
        raise ImageError(
            f"{name}: {len(content):,} bytes of {image.format}; accepted: at most {most:,}; save it smaller"
        )


def _codecs(image: Image.Image) -> set[str]:
    return {tile[0] for tile in getattr(image, "tile", ())}


def _is_slow(image: Image.Image) -> bool:
    """Whether its decoder is written in Python."""
    return not _codecs(image).isdisjoint(Image.DECODERS)


class Metered:
    """A file that limits what Pillow's parsers, which are loops in Python, may read.

    Some parsers append each part to those before it, or unfold it. So while the header is read, each read counts all
    bytes read so far. For a JPEG it is known what does so: EXIF data are appended, and tables and frames make objects;
    other metadata, such as depth maps, may be larger than the pixels. A header that is read twice is damaged. While
    pixels are read, the number of reads counts. It is small: Pillow reads 64 KiB at a time, or one chunk of a PNG.
    """

    _MAX_TABLES = 4 << 20  # bytes of a JPEG's segments that are not metadata
    _METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})
    _MAX_WORK = 1 << 34  # bytes appended: three seconds
    _MAX_READS = 100_000
    _LEAST = 1 << 10  # bytes of a read, if there are more
    _SLACK = 1 << 20

    def __init__(self, file: Any, size: int, name: str) -> None:
        self.header, self.reads_allowed = True, self._MAX_READS + size // self._LEAST
        self._file, self._size, self._name = file, size, name
        self._reads = self._seen = self._appended = self._work = 0
        self._tables, self._marker = 0, 0
        self._jpeg = False

    def read(self, count: int = -1, /) -> bytes:
        data: bytes = self._file.read(count)
        self._reads += 1
        if self.header:
            self._count(data)
        if self._reads > self.reads_allowed:
            raise ImageError(f"{self._name}: damaged: over {self._reads:,} parts in {self._size:,} bytes")
        return data

    def _count(self, data: bytes) -> None:
        if self._reads == 1:
            self._jpeg = data.startswith(b"\xff\xd8\xff")
        elif not self._jpeg or data.startswith(b"Exif\0\0"):
            self._appended += len(data)
            self._work += self._appended
        if len(data) == 1:  # in a JPEG, the marker comes before the length and the content of a segment
            self._marker = data[0]
        elif self._jpeg and self._marker not in self._METADATA:
            self._tables += len(data)
        self._seen += len(data)
        most = ((self._tables, self._MAX_TABLES), (self._work, self._MAX_WORK))
        if self._seen > 2 * self._size + self._SLACK or any(count > limit for count, limit in most):
            raise ImageError(f"{self._name}: damaged: a header of over {self._reads:,} parts")

    def seek(self, offset: int, whence: int = 0, /) -> int:
        position: int = self._file.seek(offset, whence)
        return position

    def tell(self) -> int:
        position: int = self._file.tell()
        return position

    def close(self) -> None:
        self._file.close()


# JPEG: the number of passes over the picture

#: A marker, except those inside of coded pixels: a stuffed zero, restarts. Two bytes, so that the search is linear.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_TEM, _SOI, _EOI, _SOS = 0x01, 0xD8, 0xD9, 0xDA
#: Start of a frame, which has its size: C0 to CF, except tables, an extension and conditions of arithmetic coding.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _check_scans(content: bytes, at: int, pixels: int, name: str) -> None:
    """Check a JPEG that begins at ``at``; its own size counts, because a caller's ``draft()`` reduces the pixels."""
    scans = markers = 0
    while (found := _MARKER.search(content, at)) and found[0][1] != _EOI:
        at, markers = found.end(), markers + 1
        if markers > _MAX_MARKERS:
            raise ImageError(f"{name}: damaged: a JPEG of over {_MAX_MARKERS:,} segments")
        if found[0][1] in (_TEM, _SOI):
            continue
        scans += found[0][1] == _SOS
        if found[0][1] in _SOF:
            sides = (content[at + 3 : at + 5], content[at + 5 : at + 7])
            pixels = max(pixels, int.from_bytes(sides[0], "big") * int.from_bytes(sides[1], "big"))
        at += int.from_bytes(content[at : at + 2], "big")
    if scans * pixels > _MAX_SCANS * MAX_IMAGE_PIXELS:
        raise ImageError(
            f"{name}: a JPEG of {scans:,} scans of {pixels:,} pixels, more than cameras make; save it as PNG"
        )


# TIFF, and EXIF data, which are a TIFF without pixels


class _Entry(NamedTuple):
    """An entry of a directory: its tag, the count of numbers, their bytes in the file, the first number.

    If numbers are cut off, Pillow reads what is there, warns, and drops the entry: ordinary pictures have such entries.
    """

    tag: int
    numbers: int
    nbytes: int
    value: int


_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SIDES, _TILE_SIDES, _PARTS = (256, 257), (322, 323), (273, 279, 324, 325)


def _directory(content: bytes, page: int = 0) -> Iterator[_Entry]:
    """A page's directory; nothing if there is none, or if its start is cut off, which Pillow reports."""
    order = "<" if content[:2] == b"II" else ">"
    byteorder: Literal["little", "big"] = "little" if order == "<" else "big"
    big = content[2:4] == (b"+\0" if order == "<" else b"\0+")
    first, count, entry, inline = (8, "Q", "HHQ8s", 8) if big else (4, "H", "HHL4s", 4)
    pointer = order + ("Q" if big else "L")
    try:
        (at,) = struct.unpack_from(pointer, content, first)
        (entries,) = struct.unpack_from(order + count, content, at)
        for _ in range(page):
            (at,) = struct.unpack_from(pointer, content, at + struct.calcsize("=" + count) + entries * (4 + 2 * inline))
            (entries,) = struct.unpack_from(order + count, content, at)
        at += struct.calcsize("=" + count)
        for number in range(entries):
            tag, kind, numbers, value = struct.unpack_from(order + entry, content, at + number * (4 + 2 * inline))
            size = _SIZES.get(kind, 1)
            nbytes = numbers * size
            if nbytes > inline:  # they are elsewhere
                offset = int.from_bytes(value, byteorder)
                nbytes = min(nbytes, max(0, len(content) - offset))
                value = content[offset : offset + size]
            yield _Entry(tag, numbers, nbytes, int.from_bytes(value[:size], byteorder))
    except struct.error:
        return


def _check_tiff(content: bytes, name: str, page: int = 0) -> None:
    if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0"):  # Pillow opens others, libtiff does not
        return
    sides, own = dict.fromkeys(_TILE_SIDES, 1), dict.fromkeys(_SIDES, MAX_IMAGE_PIXELS)  # the worst of several
    named = 0
    for entry in _directory(content, page):
        named += entry.nbytes
        if entry.tag in sides:
            sides[entry.tag] = max(sides[entry.tag], entry.value)
        elif entry.tag in _PARTS and entry.numbers > _MAX_STRIPS:
            raise ImageError(
                f"{name}: a TIFF in {entry.numbers:,} parts; accepted: at most {_MAX_STRIPS:,}; save it as PNG"
            )
        elif entry.tag in own:
            own[entry.tag] = min(own[entry.tag], entry.value)
    if sides[322] * sides[323] > max(_MAX_TILE, 4 * own[256] * own[257]):
        raise ImageError(
            f"{name}: a TIFF with tiles of {sides[322]}x{sides[323]} pixels, larger than the image; save it as PNG"
        )
    if named > 2 * len(content):
        raise ImageError(f"{name}: damaged: its directory names {named:,} bytes of {len(content):,}")


# JPEG 2000: with blocks of 4x4 pixels (64 are usual), a file of five kilobytes takes gigabytes

_MAX_TILES, _MAX_LAYERS, _MAX_LEVELS, _MAX_COMPONENTS = 4096, 100, 32, 4
_LEAST_BLOCK, _LEAST_PRECINCT = 4, 5  # powers of two: 16, and 32 pixels a side


def _check_jpeg2000(content: bytes, name: str) -> None:
    """Refuse tiny blocks, tiles and precincts, and thousands of layers (ISO 15444-1, annex A).

    Raises:
        ImageError: It has them, or a decoder could not read its structure.
    """
    try:
        _check_codestream(content, _codestream(content), name)
    except (struct.error, IndexError) as exc:
        raise ImageError(f"{name}: damaged or truncated: its JPEG 2000 headers are incomplete") from exc


def _codestream(content: bytes) -> int:
    """Offset of the codestream, bare or in the boxes of a JP2 file."""
    at = 0
    while not content.startswith(b"\xff\x4f", at):
        length, kind = struct.unpack_from(">L4s", content, at)
        size = 8
        if length == 1:
            size, (length,) = 16, struct.unpack_from(">Q", content, at + 8)
        at += size if kind == b"jp2c" else length
        if length < size and kind != b"jp2c":
            raise IndexError("a box without a length")
    return at


def _check_codestream(content: bytes, at: int, name: str) -> None:
    def refuse(what: str) -> None:
        raise ImageError(f"{name}: a JPEG 2000 file of {what}, more than cameras make; save it as PNG")

    at += 2
    part, parts = None, 0  # offset of the current part of a tile
    while content[at : at + 2] != b"\xff\xd9" and at < len(content):
        marker, length = struct.unpack_from(">HH", content, at)
        body = at + 4
        if marker == 0xFF93:  # pixels until the next part
            at, part, parts = _next_part(content, part, at), None, parts + 1
            if parts > 100 * _MAX_TILES:
                refuse(f"{parts:,} parts")
            continue
        if not 0xFF4F <= marker <= 0xFF93 or length < 2:
            raise IndexError(f"marker {marker:#x}")
        if marker == 0xFF90:
            part = at
        elif marker == 0xFF51:
            right, bottom, _, _, width, height, left, top, components = struct.unpack_from(">8LH", content, body + 2)
            tiles = -(-(right - left) // max(1, width)) * -(-(bottom - top) // max(1, height))
            if tiles > _MAX_TILES or components > _MAX_COMPONENTS:
                refuse(f"{tiles:,} tiles, {components:,} channels")
        elif marker in (0xFF52, 0xFF53):
            if told := _bombastic(content, body, marker == 0xFF52):
                refuse(told)
        elif marker == 0xFF5F:
            refuse("several orders")
        at += 2 + length


def _next_part(content: bytes, part: int | None, at: int) -> int:
    """Offset of the end of the part of a tile that began at ``part`` and has its pixels after ``at``."""
    if part is None:
        raise IndexError("pixels without a tile")
    (length,) = struct.unpack_from(">L", content, part + 6)
    if length == 0:
        return len(content)
    if length < at + 2 - part:
        raise IndexError("a part of a tile that ends before it begins")
    return part + int(length)


def _bombastic(content: bytes, body: int, of_all: bool) -> str:
    """What is too much in the coding of all channels (COD), or of one (COC); empty if nothing is."""
    style, layers, at = content[body], int.from_bytes(content[body + 2 : body + 4], "big"), body + 5
    if not of_all:
        style, layers, at = content[body + 1], 1, body + 2
    levels, wide, high = content[at : at + 3]
    precincts = content[at + 5 : at + 6 + levels] if style & 1 else b""
    sides = [side & 15 for side in precincts] + [side >> 4 for side in precincts]
    few = layers <= _MAX_LAYERS and levels <= _MAX_LEVELS
    if few and min(wide, high) + 2 >= _LEAST_BLOCK and min(sides, default=15) >= _LEAST_PRECINCT:
        return ""
    return f"blocks of 2^{wide + 2} by 2^{high + 2} pixels in {layers:,} layers and {levels} levels"


# ICO: Pillow decodes its picture, of any size, on opening the file

_MAX_ICON = 1024  # pixels a side; its own directory can say 256
_MAX_ICONS, _MAX_ICON_CHUNKS = 256, 64


def check_icon(file: IO[bytes], name: str) -> None:
    """Refuse an icon with a large picture. Only the needed part of the file is read.

    Raises:
        ImageError: It has a large picture, or more pictures or parts than icons have.
    """
    file.seek(4)
    count = int.from_bytes(file.read(2), "little")
    if count > _MAX_ICONS:
        raise ImageError(f"{name}: an icon of {count:,} pictures; accepted: at most {_MAX_ICONS}; save it as PNG")
    for number in range(count):
        file.seek(6 + 16 * number)
        start = int.from_bytes(file.read(16)[12:], "little")
        file.seek(start)
        head = file.read(16)
        sides = [int.from_bytes(head[i : i + 4], "little") for i in (4, 8)]
        if int.from_bytes(head[:4], "little") == 12:  # OS/2's header has them in 16 bits
            sides = [int.from_bytes(head[i : i + 2], "little") for i in (4, 6)]
        if head.startswith(b"\x89PNG"):
            sides = _png_sides(file, start + 8, name)
        if max(sides) > 2 * _MAX_ICON:  # the height of a bitmap includes its mask
            raise ImageError(f"{name}: an icon with a picture of {sides[0]}x{sides[1]} pixels; save it as PNG")


def _png_sides(file: IO[bytes], at: int, name: str) -> list[int]:
    """The largest width and height in a PNG's headers before its pixels: Pillow uses the last."""
    sides = [0, 0]
    for _ in range(_MAX_ICON_CHUNKS):
        file.seek(at)
        part = file.read(16)
        if len(part) < 16 or part[4:8] in (b"IDAT", b"fdAT", b"IEND"):
            return sides
        if part[4:8] == b"IHDR":
            sides = [max(side, own) for side, own in zip(sides, struct.unpack(">II", part[8:]), strict=True)]
        at += 12 + int.from_bytes(part[:4], "big")
    raise ImageError(f"{name}: an icon with over {_MAX_ICON_CHUNKS} parts before its pixels; save it as PNG")


#: First bytes -> the check before Pillow opens such a file.
_CHECKS = (
    (b"II", _check_tiff), (b"MM", _check_tiff), (b"\xff\x4f\xff\x51", _check_jpeg2000),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _check_jpeg2000),
    (b"\0\0\1\0", lambda content, name: check_icon(io.BytesIO(content), name)),
)  # fmt: skip
