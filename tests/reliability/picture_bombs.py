"""Classify pictures that cost more than they look: python -m tests.reliability.picture_bombs FOLDER [ARTIFACT]

Files made by code, each of which took gigabytes or minutes in Pillow or in a network that takes pictures at their own
size. In a process of its own with six GiB of memory, and an alarm for each. After each a good picture must be answered
as before. Without an artifact the files are made. Prints one line of JSON.
"""

from __future__ import annotations

import faulthandler
import io
import json
import resource
import signal
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, features

from rest_deploy import Predictor
from rest_deploy.environment import peak_mib
from rest_deploy.errors import ImageError, InputError
from rest_deploy.preprocess.image_files import decoding_bytes
from rest_deploy.preprocess.images import load_image
from tests.reliability.corpus import Sample, picture, png
from tests.reliability.process import resident

_MEMORY = 6 << 30
_SECONDS = 10


def blank(width: int, height: int) -> Sample:
    """A PNG of zeros: some kilobytes."""
    return Sample(f"PNG of {width}x{height}", png(width, height, zlib.compress(bytes(height * (1 + 3 * width)), 1)))


def tiff(width: int, height: int, tags: dict[int, tuple[int, ...]], data: bytes = b"", compression: int = 8) -> bytes:
    """A TIFF of 8-bit grey: its own tags, 32 bits each, and what stands behind the directory, at byte 512."""
    base = {256: (width,), 257: (height,), 258: (8,), 259: (compression,), 262: (1,), 277: (1,)}
    entries, body = b"", b""
    own = sorted((base | tags).items())
    for tag, values in own:
        raw = struct.pack(f"<{len(values)}I", *values)
        place = struct.pack("<I", 512 + len(data) + len(body)) if len(raw) > 4 else raw
        body += raw if len(raw) > 4 else b""
        entries += struct.pack("<HHI", tag, 4, len(values)) + place
    head = b"II*\0" + struct.pack("<IH", 8, len(own)) + entries + bytes(4)
    return head.ljust(512, b"\0") + data + body


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png_with(chunk: bytes, data: bytes, count: int) -> bytes:
    plain = png(8, 8, zlib.compress(bytes(8 * 25)))
    part = struct.pack(">I", len(data)) + chunk + data + struct.pack(">I", zlib.crc32(chunk + data))
    at = plain.index(b"IDAT") - 4
    return plain[:at] + part * count + plain[at:]


def large() -> Iterator[Sample]:
    """Pictures that are whole, within what is read, and more than a network can take at their own size."""
    for side in (2048, 4096, 9400):
        yield blank(side, side)
    line = zlib.compress(bytes(67_108_865), 9)
    rows = {273: (512,), 278: (67_108_865,)}
    yield Sample("TIFF of 1x67108865", tiff(1, 67_108_865, rows | {279: (len(line),)}, line))
    yield Sample(
        "TIFF of 1x67108865 in 111 bytes", tiff(1, 67_108_865, rows | {279: (10,)}, b"")[:111].ljust(111, b"\0")
    )
    yield blank(1_000_000, 1)


def hostile() -> Iterator[Sample]:
    """Files whose structure asks for more than their pixels."""
    jpeg, gif = _encoded(Image.new("RGB", (8, 8)), "JPEG"), _encoded(Image.new("P", (8, 8)), "GIF")
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0"
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    yield Sample("JPEG of 300,000 EXIF segments", jpeg[:2] + segment * 300_000 + jpeg[2:])
    for what, kind, part in (("tables", 0xDB, bytes(65)), ("frames", 0xC0, jpeg[jpeg.index(b"\xff\xc0") + 4 :][:15])):
        table = struct.pack(">BBH", 0xFF, kind, 2 + 65_520) + (part * 5000)[:65_520]
        yield Sample(f"JPEG of 100 MB of {what}", jpeg[:2] + table * 1600 + jpeg[2:])
    yield Sample("JPEG of 2,000,000 comments", jpeg[:2] + b"\xff\xfe\0\2" * 2_000_000 + jpeg[2:])
    yield Sample("JPEG of 10 MB of filling", jpeg[:2] + b"\xff" * 10_000_000 + jpeg[2:])
    scans = _encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last = scans[scans.rindex(b"\xff\xda") : -2]
    yield Sample("JPEG of 200 scans", scans[:-2] + last * 200 + scans[-2:])
    yield Sample("JPEG of comments between scans", scans[:-2] + b"\xff\xfe\0\2" * 500_000 + scans[-2:])
    for what, tags in {
        "tiles of 8192": {322: (8192,), 323: (8192,), 324: (512,), 325: (20,)},
        "tiles of 4 billion": {322: (2**32 - 1,), 323: (2**32 - 1,), 324: (512,), 325: (20,)},
        "tiles said twice": {322: (16, 1), 323: (2**31,), 324: (512,), 325: (20,)},
    }.items():
        yield Sample(f"TIFF of {what}", tiff(8, 8, tags, zlib.compress(bytes(1 << 20), 9)))
    many = 500_000
    yield Sample("TIFF of 500,000 strips", tiff(1, many, {273: (512,) * many, 278: (1,), 279: (1,) * many}, b"", 1))
    yield Sample("PNG of 1,000,000 chunks", _png_with(b"prVt", b"", 1_000_000))
    yield Sample("PNG of 500,000 texts", _png_with(b"tEXt", b"c\0x", 500_000))
    entries = b"".join(struct.pack("<HHII", tag, 7, 400_000, 8) for tag in range(30_000))
    unfolding = b"II*\0\x08\0\0\0" + struct.pack("<H", 30_000) + entries + bytes(100_000)
    yield Sample("PNG of EXIF data that unfold to 12 GB", _png_with(b"eXIf", unfolding, 1))
    doubly = _png_with(b"eXIf", b"Exif\0\0" * 2 + unfolding, 1)
    yield Sample("PNG of EXIF data that unfold to 12 GB, said twice to be such", doubly)
    webp = _encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True, exif=unfolding)
    yield Sample("WebP of EXIF data that unfold to 12 GB", webp)
    yield Sample("WebP of a canvas of 16 million a side", _canvas(webp, (1 << 24) - 1))
    at = 13 + 3 * (2 << (gif[10] & 7)) * (gif[10] >> 7)
    yield Sample("GIF of 500,000 comments", gif[:at] + b"!\xfe\1x\0" * 500_000 + gif[at:])
    yield Sample("PPM of a comment of 20 MB", b"P6\n#" + b"x" * 20_000_000 + b"\n1 1 255\n\0\0\0")
    yield Sample("PPM in text with comments", b"P3 64 64 255\n" + b"#\n" * 250_000 + b"0 " * (64 * 64 * 3))
    qoi = b"qoif" + struct.pack(">II", 8000, 8000) + b"\3\0" + b"\xfd" * (8000 * 8000 // 62 + 1) + bytes(7) + b"\1"
    yield Sample("QOI of 64 megapixels, decoded in Python", qoi)
    for size in ((4, 4), (8, 8)):
        yield Sample(
            f"JPEG 2000 of blocks of {size[0]}",
            _encoded(Image.new("RGB", (400, 400)), "JPEG2000", codeblock_size=size),
        )
    layers = bytearray(_encoded(picture(64, 64), "JPEG2000"))
    at = layers.index(b"\xff\x52")
    layers[at + 6 : at + 8] = b"\xff\xff"
    yield Sample("JPEG 2000 of 65,535 layers", bytes(layers))
    yield from icons()


def icons() -> Iterator[Sample]:
    """Whose pictures Pillow decodes while it opens them."""
    inside = blank(9000, 9000).content
    text = struct.pack(">I4sIIBI", 9, b"tEXt", 8, 8, 0, zlib.crc32(b"tEXt" + struct.pack(">IIB", 8, 8, 0)))
    small = png(8, 8, b"")[8:33]
    parts = struct.pack(">I4sI", 0, b"prVt", zlib.crc32(b"prVt")) * 100
    for what, more in {
        "": b"",
        ", behind a text": text,
        ", behind a small one": small,
        ", of 100 parts": parts,
    }.items():
        yield Sample(f"ICO with a picture of 81 megapixels{what}", _icon(inside[:8] + more + inside[8:]))
    yield Sample("ICO of 65,535 pictures", b"\0\0\1\0\xff\xff" + _icon(inside)[6:22] * 65_535)


def _icon(inside: bytes) -> bytes:
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22) + inside


def _canvas(webp: bytes, side: int) -> bytes:
    content = bytearray(webp)
    at = content.index(b"VP8X") + 12
    content[at : at + 6] = side.to_bytes(3, "little") * 2
    return bytes(content)


def usual() -> Iterator[Sample]:
    """What each decoder takes, four megapixels of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 4), np.uint8)
    rgba, line = Image.fromarray(noise), Image.fromarray(noise.reshape(-1, 1, 4)[:1_000_000])
    rgb, grey = rgba.convert("RGB"), Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0])
    files = {
        "PNG": _encoded(rgb, "PNG", compress_level=1),
        "PNG with alpha": _encoded(rgba, "PNG", compress_level=1),
        "PNG in 16 bits": _encoded(grey, "PNG", compress_level=1),
        "PNG of 1x1000000": _encoded(line, "PNG", compress_level=1),
        "JPEG, progressive": _encoded(rgb, "JPEG", progressive=True, subsampling=0),
        "JPEG": _encoded(rgb, "JPEG"),
        "GIF": _encoded(rgb.quantize(64), "GIF"),
        "TIFF": _encoded(rgb, "TIFF", compression="tiff_lzw"),
        "WebP": _encoded(rgb, "WEBP", method=0),
        "WebP with alpha": _encoded(rgba, "WEBP", lossless=True, method=0),
        "JPEG 2000": _encoded(rgb, "JPEG2000"),
        **(
            {"AVIF with alpha": _encoded(rgba, "AVIF", speed=10, subsampling="4:4:4")} if features.check("avif") else {}
        ),
    }
    for name, content in files.items():
        yield Sample(name, content)


def make(folder: Path) -> None:
    """Write all files, in a process of its own, as this takes more memory than reading them."""
    for kind, files in (("large", large()), ("hostile", hostile()), ("usual", usual())):
        (folder / kind).mkdir()
        for sample in files:
            (folder / kind / sample.name).write_bytes(sample.content)
    print("{}")


def _measured(folder: Path) -> dict[str, tuple[int, int]]:
    """What decoding took, in bytes, and what was said of it; of those that took more than any before."""
    said = {}
    for path in folder.iterdir():
        with Image.open(path) as image:
            said[path] = decoding_bytes(image) + 2 * path.stat().st_size
    found = {}
    for path in sorted(said, key=lambda path: said[path]):
        before, held = peak_mib(), resident()
        load_image(path)
        if peak_mib() > before:
            found[path.name] = (round(peak_mib() * 2**20) - held, said[path])
    return found


def main(folder: Path, artifact: Path) -> None:
    """Each as a file, one of the large ones as bytes and as a Pillow image too, and arrays."""
    warnings.simplefilter("ignore")
    faulthandler.register(signal.SIGALRM, chain=True)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    predictor, bad = Predictor(artifact, threads=1, max_pixels=1 << 20), list[str]()  # as a service gives it
    good = picture()
    wanted = predictor.classify(good)
    told: dict[str, str] = {}

    def attempt(what: str, source: object, name: str) -> None:
        (folder / "now").write_text(what)
        signal.alarm(_SECONDS)
        try:
            predictor.logits(source) if what.startswith("batch") else predictor.classify(source)
            told[what] = "answered"
        except (ImageError, InputError) as exc:
            told[what] = str(exc)
            if name not in str(exc) or len(str(exc).splitlines()) > 1:
                bad.append(f"{what}: {exc}")
        except BaseException as exc:
            bad.append(f"{what}: {type(exc).__name__}: {exc}")
        signal.alarm(0)
        if predictor.classify(good) != wanted:
            bad.append(f"after {what}: other answers")

    measured, before = _measured(folder / "usual"), peak_mib()
    for path in [*sorted((folder / "large").iterdir()), *sorted((folder / "hostile").iterdir())]:
        attempt(path.name, path, str(path))
    grown, held = peak_mib() - before, resident()
    for _ in range(3):  # each takes gigabytes while it is answered, and gives them back
        predictor.classify(np.zeros((800, 800, 3), np.uint8))
    kept = resident() - held
    square = (folder / "large" / "PNG of 2048x2048").read_bytes()
    attempt("PNG of 2048x2048 as bytes", square, "image")
    attempt("PNG of 2048x2048 in Pillow", Image.open(io.BytesIO(square)), "image")
    hostile = (folder / "hostile" / "JPEG of 200 scans").read_bytes()
    attempt("JPEG of 200 scans in Pillow", Image.open(io.BytesIO(hostile)), "image")
    attempt("array of 2048x2048", np.zeros((2048, 2048, 3), np.uint8), "image")
    attempt("array of 1x4000000", np.zeros((1, 4_000_000, 3), np.uint8), "image")
    attempt("batch of 2048x2048", np.zeros((1, 3, 2048, 2048), np.float32), "the batch")
    attempt("batch of 10000 of 1000x1000", np.broadcast_to(np.float32(0), (10_000, 3, 1000, 1000)), "the batch")
    predictor = Predictor(artifact, threads=1)  # as whoever says nothing
    for name in ("PNG of 9400x9400", "TIFF of 1x67108865"):
        path = folder / "large" / name
        attempt(f"{name} where nobody said how large", path, str(path))
    print(json.dumps({"told": told, "bad": bad, "measured": measured, "kept_mib": kept / 2**20, "grown_mib": grown}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2])) if len(sys.argv) > 2 else make(Path(sys.argv[1]))
