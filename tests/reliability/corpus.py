"""Images of every mode and format that Pillow writes, and what can be done to them."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, features

#: Every mode of Pillow's that images are held in.
MODES = "1 L LA La P PA RGB RGBA RGBX RGBa CMYK YCbCr HSV LAB I F I;16 I;16B".split()  # noqa: SIM905
#: What Pillow writes that is no image file of one's own: a document, a program, streams.
_NO_IMAGES = frozenset({"PDF", "EPS", "HDF5", "GRIB", "BUFR", "WMF", "MPEG"})
_ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO")


@dataclass(frozen=True)
class Sample:
    """A file that Pillow wrote: what it is, and its bytes."""

    name: str
    content: bytes


def picture(width: int = 24, height: int = 20) -> Image.Image:
    """An RGB picture with edges, a ramp and noise."""
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3), np.uint8)
    noise[..., 0] += np.linspace(0, 190, width, dtype=np.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).ellipse((2, 2, width // 2, height // 2), fill=(250, 240, 10))
    return image


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """A picture in a mode, by the way that Pillow goes there."""
    if mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    steps = {
        "La": ("LA", "La"),
        "PA": ("P", "PA"),
        "RGBa": ("RGBA", "RGBa"),
        "I": ("L", "I"),
        "F": ("L", "F"),
        "I;16": ("L", "I", "I;16"),
        "I;16B": ("L", "I", "I;16B"),
        "HSV": ("HSV",),
    }
    for step in steps.get(mode, (mode,)):
        image = image.convert(step)
    return image


def samples() -> list[Sample]:
    """One file for each format and mode that Pillow writes, animations, and orientations 1 to 8."""
    Image.init()
    made = []
    for kind in sorted(set(Image.SAVE) - _NO_IMAGES):
        for mode in MODES:
            content = _saved(in_mode(picture(), mode), kind)
            if content is not None:
                made.append(Sample(f"{kind} {mode}", content))
        for size in ((1, 1), (1, 5000), (5000, 1)):
            content = _saved(
                picture(*size).convert("RGB") if min(size) > 8 else Image.new("RGB", size, (9, 99, 200)), kind
            )
            if content is not None:
                made.append(Sample(f"{kind} {size[0]}x{size[1]}", content))
    for kind in sorted(set(_ANIMATED) & set(Image.SAVE_ALL)):
        frames = [picture(), picture().rotate(90), picture().rotate(180)]
        content = _saved(frames[0], kind, save_all=True, append_images=frames[1:])
        if content is not None:
            made.append(Sample(f"{kind} animated", content))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            content = _saved(picture(), kind, exif=exif)
            if content is not None:
                made.append(Sample(f"{kind} orientation {orientation}", content))
    return made


def _saved(image: Image.Image, kind: str, **options: object) -> bytes | None:
    """A file of a format, None where it does not take such images."""
    if kind == "AVIF" and not features.check("avif"):
        return None
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.save(buffer, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, SystemError, AttributeError, NotImplementedError, struct.error):
        return None
    return buffer.getvalue()


def bombs() -> list[Sample]:
    """Small files that announce or unfold to a lot."""
    made = [Sample(f"PNG of {side} a side", png(side, side, b"\0")) for side in (9_500, 65_000, 2**31 - 1)]
    zeros = zlib.compress(bytes(64 << 20), 9)
    made.append(Sample("PNG with more pixels than it says", png(8, 8, zeros)))
    text = b"Comment\0\0" + zeros
    made.append(Sample("PNG with 64 MiB of text", png(8, 8, zlib.compress(bytes(8 * 25)), ((b"zTXt", text),))))
    profile = b"icc\0\0" + zeros
    made.append(Sample("PNG with a profile of 64 MiB", png(8, 8, zlib.compress(bytes(8 * 25)), ((b"iCCP", profile),))))
    gif = _saved(picture().quantize(16), "GIF") or b""
    made.append(Sample("GIF of 65,535 a side", gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:]))
    bmp = _saved(picture(), "BMP") or b""
    made.append(Sample("BMP of 2 billion a side", bmp[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + bmp[26:]))
    made.append(Sample("PPM of a billion a side", b"P6 1000000000 1000000000 255\n\0"))
    return made


def png(width: int, height: int, data: bytes, more: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG of 8-bit RGB from its compressed data and other chunks."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", data), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def truncated(sample: Sample) -> Iterator[Sample]:
    """A file cut at every tenth of its length."""
    for tenths in range(10):
        yield Sample(f"{sample.name}, {tenths}/10 of it", sample.content[: len(sample.content) * tenths // 10])


def damaged(sample: Sample, generator: random.Random) -> Sample:
    """A file with something done to it: bits, bytes, a piece cut out, doubled, overwritten, or a tail of another."""
    content = bytearray(sample.content)
    ways = ("bits", "bytes", "cut", "double", "extremes", "swap", "tail")
    way = generator.choice(ways)
    head = max(1, min(len(content), generator.choice((64, 512, len(content)))))
    for _ in range(generator.choice((1, 2, 8))):
        at = generator.randrange(head)
        length = generator.randrange(1, 40)
        if way == "bits":
            content[min(at, len(content) - 1)] ^= 1 << generator.randrange(8)
        elif way == "bytes":
            content[at : at + 1] = generator.randbytes(1)
        elif way == "cut":
            del content[at : at + length]
        elif way == "double":
            content[at:at] = content[at : at + length]
        elif way == "extremes":
            content[at : at + 4] = generator.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
        elif way == "swap":
            other = generator.randrange(head)
            content[at : at + length], content[other : other + length] = (
                content[other : other + length],
                content[at : at + length],
            )
        else:
            content += generator.randbytes(length)
        if not content:
            content = bytearray(b"\0")
    return Sample(f"{sample.name}, {way}", bytes(content))
