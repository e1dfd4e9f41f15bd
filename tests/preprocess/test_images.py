"""Whatever Pillow opens comes out as upright 8-bit RGB with the right values; anything else is an ImageError."""

import builtins
import errno
import io
import itertools
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import pytest
from PIL import IcoImagePlugin, Image, features

from rest_deploy.errors import ImageError, PredictorError
from rest_deploy.preprocess import image_files, images
from rest_deploy.preprocess.images import is_image, load_image
from rest_deploy.specs import Alpha
from tests.conftest import slow
from tests.reliability.picture_bombs import icons, tiff

BLACK, GREY, WHITE = (0, 0, 0), (128, 128, 128), (255, 255, 255)
RED, GREEN, BLUE, PINK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 127, 127)
ORIENTATION = 0x0112  # EXIF tag

#: How each orientation stores an upright image (EXIF 2.3, section 4.6.4), as the step that undoes it.
TURN_UPRIGHT = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UNDO = {
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
}


def make(mode, *pixels, size=(1, 1)):
    """An image of one colour, or of one pixel each in a row."""
    if len(pixels) == 1:
        return Image.new(mode, size, pixels[0])
    image = Image.new(mode, (len(pixels), 1))
    for x, pixel in enumerate(pixels):
        image.putpixel((x, 0), pixel)
    return image


def make_palette(mode="P", transparency=None):
    """Three pixels: red, green, blue."""
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    if transparency is not None:
        image.info["transparency"] = transparency
    if mode == "PA":
        image = image.convert("PA")
        image.putalpha(make("L", 255, 128, 0))
    return image


def pixels_of(image):
    assert image.mode == "RGB"
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


def assert_close(got, wanted, tolerance):
    assert len(got) == len(wanted)
    assert np.abs(np.subtract(got, wanted)).max() <= tolerance, f"{got} is not {wanted}"


def photo(width=24, height=20, seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(tag):
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    return exif


def described(tag):
    """EXIF of two entries."""
    exif = with_orientation(tag)
    exif[0x010E] = "described"
    return exif


def png_header(width, height, depth=8, colour=2):
    """The start of a PNG file that claims a size."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunk = struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


# Every mode of Pillow: (name, image, its pixels as RGB, tolerance). One level is what a rounding in Pillow may cost.
MODES = [
    ("1", make("1", 0, 255), [BLACK, WHITE], 0),
    ("L", make("L", 0, 128, 255), [BLACK, GREY, WHITE], 0),
    ("LA", make("LA", (0, 255), (0, 0), (0, 128), (128, 255)), [BLACK, WHITE, (127,) * 3, GREY], 1),
    ("La", make("La", (0, 255), (0, 0), (0, 128), (128, 255)), [BLACK, WHITE, (127,) * 3, GREY], 1),
    ("P", make_palette(), [RED, GREEN, BLUE], 0),
    ("P, one transparent", make_palette(transparency=1), [RED, WHITE, BLUE], 0),
    ("P, alpha table", make_palette(transparency=bytes([128, 255, 0])), [PINK, GREEN, WHITE], 1),
    ("PA", make_palette("PA"), [RED, (127, 255, 127), WHITE], 1),
    ("RGB", make("RGB", RED, (1, 2, 3)), [RED, (1, 2, 3)], 0),
    ("RGBA", make("RGBA", (*RED, 255), (*RED, 0), (*RED, 128)), [RED, WHITE, PINK], 1),
    ("RGBa", make("RGBa", (255, 0, 0, 255), (0, 0, 0, 0), (128, 0, 0, 128)), [RED, WHITE, PINK], 1),
    ("RGBX", make("RGBX", (*RED, 0), (1, 2, 3, 255)), [RED, (1, 2, 3)], 0),
    ("CMYK", make("CMYK", (0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)), [WHITE, RED, BLACK], 0),
    # ITU-R BT.601, as in JPEG: red is Y 76, Cb 85, Cr 255
    ("YCbCr", make("YCbCr", (0, 128, 128), (128, 128, 128), (76, 85, 255)), [BLACK, GREY, (254, 0, 0)], 1),
    ("HSV", make("HSV", (0, 255, 255), (85, 255, 255), (0, 0, 128)), [RED, GREEN, GREY], 1),
    # CIE L*a*b* with L* 0-100 on 0-255 and a*, b* of 0 at 128; the conversion is littleCMS'
    ("LAB", make("LAB", (0, 128, 128), (255, 128, 128)), [BLACK, WHITE], 2),
    ("I", make("I", 0, 32768, 65535), [BLACK, GREY, WHITE], 0),
    ("I;16", make("I;16", 0, 32768, 65535), [BLACK, GREY, WHITE], 0),
    ("I;16B", make("I;16B", 0, 32768, 65535), [BLACK, GREY, WHITE], 0),
    ("I;16L", make("I;16L", 0, 32768, 65535), [BLACK, GREY, WHITE], 0),
]


@pytest.mark.parametrize(("image", "wanted", "tolerance"), [m[1:] for m in MODES], ids=[m[0] for m in MODES])
def test_every_mode_in_memory(image, wanted, tolerance):
    before = image.tobytes()
    loaded = load_image(image)
    assert loaded.size == image.size
    assert_close(pixels_of(loaded), wanted, tolerance)
    assert image.tobytes() == before


FILES = {
    "1.png": "1 L LA P RGB RGBA I;16",
    "1.tif": "1 L LA P RGB RGBA RGBX CMYK YCbCr LAB I;16 I;16B",
    "1.bmp": "1 L P RGB",
    "1.ppm": "1 L RGB",
    "1.webp": "RGB RGBA",
    "1.gif": "1 L P",
}


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, modes in FILES.items() for mode in modes.split()])
def test_every_mode_in_files(tmp_path, name, mode):
    _, image, wanted, tolerance = next(m for m in MODES if m[0] == mode)
    path = tmp_path / name
    image.save(path, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
    assert_close(pixels_of(load_image(path)), wanted, tolerance)
    assert_close(pixels_of(load_image(str(path))), wanted, tolerance)


def test_sixteen_bit_grey_is_scaled_over_its_whole_range():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    grey = np.asarray(load_image(Image.fromarray(values)))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    assert np.array_equal(grey[..., 0], np.rint(values / 65535 * 255))


@pytest.mark.parametrize("values", [(-1, 5), (0, 65536)])
def test_32_bit_pixels_beyond_16_bits_have_no_one_meaning(values):
    with pytest.raises(ImageError, match=r"32-bit pixels .* 8 or 16 bits"):
        load_image(make("I", *values))


def test_float_pixels_have_no_one_meaning(tmp_path):
    path = tmp_path / "float.tif"
    make("F", 0.0, 1.0).save(path)
    for source in (path, make("F", 0.0, 1.0)):
        with pytest.raises(ImageError, match="float pixels"):
            load_image(source)


@pytest.mark.parametrize(("kind", "transparency"), [("PNG", 1), ("PNG", bytes([255, 0])), ("GIF", 1)])
def test_palette_files_with_transparency(tmp_path, kind, transparency):
    path = tmp_path / "palette"
    make_palette().save(path, kind, transparency=transparency)
    assert_close(pixels_of(load_image(path)), [RED, WHITE, BLUE], 0)


@pytest.mark.parametrize(
    ("image", "transparency", "wanted"),
    [
        (make("L", 0, 128), 0, [WHITE, GREY]),
        (make("RGB", RED, GREEN), RED, [WHITE, GREEN]),
        (make("1", 0, 255), 0, [WHITE, WHITE]),
        (make("1", 0, 255), 255, [BLACK, WHITE]),
        (make("I;16", 0, 32768), 0, [WHITE, GREY]),
    ],
    ids=["L", "RGB", "1", "1 white", "I;16"],
)
def test_a_png_may_name_one_colour_as_transparent(tmp_path, image, transparency, wanted):
    path = tmp_path / "key.png"
    image.save(path, transparency=transparency)
    assert_close(pixels_of(load_image(path)), wanted, 0)


def test_a_cmyk_jpeg(tmp_path):
    path = tmp_path / "cmyk.jpg"
    make("CMYK", (0, 255, 255, 0), size=(16, 16)).save(path, quality=100, subsampling=0)
    assert_close(pixels_of(load_image(path)), [RED] * 256, 4)  # JPEG's rounding


def test_a_grey_jpeg(tmp_path):
    path = tmp_path / "grey.jpg"
    make("L", 128, size=(16, 16)).save(path, quality=100)
    assert_close(pixels_of(load_image(path)), [GREY] * 256, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, kind):
    path = tmp_path / "animation"
    frames = [make("RGB", colour, size=(8, 8)) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert_close(pixels_of(load_image(path)), [RED] * 64, 0)


def four_corners(block=16):
    """Red, green, blue and grey corners in a landscape image, in blocks of JPEG's size."""
    corners = np.array([[RED, GREEN, GREEN], [BLUE, GREY, GREY]], np.uint8)
    return Image.fromarray(corners.repeat(block, 0).repeat(block, 1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("tag", TURN_UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, kind, tag):
    upright = four_corners()
    step = TURN_UPRIGHT[tag]
    stored = upright if step is None else upright.transpose(UNDO.get(step, step))
    path = tmp_path / "photo"
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    stored.save(path, kind, exif=with_orientation(tag), **options)
    loaded = load_image(path)
    assert loaded.size == upright.size
    assert_close(pixels_of(loaded), pixels_of(upright), 4 if kind == "JPEG" else 0)  # JPEG's rounding


@pytest.mark.parametrize("mode", ["L", "RGBA", "I", "I;16", "I;16B"])
def test_exif_orientation_is_applied_in_every_mode(mode):
    colours = {"RGBA": ((*BLACK, 255), (*WHITE, 255))}.get(mode, (0, 255 if mode == "L" else 65535))
    image = make(mode, *colours)
    image.getexif()[ORIENTATION] = 8
    loaded = load_image(image)
    assert loaded.size == (1, 2)
    assert pixels_of(loaded) == [WHITE, BLACK]


@pytest.mark.parametrize("tag", [0, 9, 65535])
def test_an_unknown_orientation_leaves_the_image_as_it_is(tmp_path, tag):
    path = tmp_path / "photo.png"
    four_corners().save(path, exif=with_orientation(tag))
    assert pixels_of(load_image(path)) == pixels_of(four_corners())


SAMPLES = {
    "png": encoded(photo(), "PNG", exif=with_orientation(6)),
    "png16": encoded(Image.fromarray(np.random.RandomState(0).randint(0, 65536, (20, 24)).astype(np.uint16)), "PNG"),
    "palette": encoded(photo().quantize(16), "PNG", transparency=3),
    "jpeg": encoded(photo(), "JPEG", exif=with_orientation(6)),
    "webp": encoded(photo(), "WEBP", exif=with_orientation(6)),
    "tiff": encoded(photo(), "TIFF"),
    "gif": encoded(photo().quantize(16), "GIF"),
    "bmp": encoded(photo(), "BMP"),
    "ppm": encoded(photo(), "PPM"),
}


def image_or_image_error(path):
    """The image, or None where it is refused; any other exception fails the test."""
    try:
        image = load_image(path)
    except ImageError as exc:
        message = str(exc)
    else:
        assert image.mode == "RGB"
        return image
    assert str(path) in message
    return None


@pytest.mark.parametrize("kind", SAMPLES)
def test_whole_samples_are_read(tmp_path, kind):
    path = tmp_path / "image"
    path.write_bytes(SAMPLES[kind])
    assert sorted(load_image(path).size) == [20, 24]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")  # Pillow warns of some damage before it raises
@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("tenths", range(1, 10))
def test_truncated_files_are_refused(tmp_path, kind, tenths):
    path = tmp_path / "image"
    path.write_bytes(SAMPLES[kind][: len(SAMPLES[kind]) * tenths // 10])
    with pytest.raises(ImageError, match=r"not an image|damaged"):
        load_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")  # Pillow warns of some damage before it raises
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # a flipped bit in the size
@pytest.mark.parametrize("kind", SAMPLES)
def test_flipped_bits_give_an_image_or_are_refused(tmp_path, kind):
    path = tmp_path / "image"
    generator = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(SAMPLES[kind])
        for _ in range(generator.choice([1, 2, 5])):
            damaged[generator.randrange(min(len(damaged), 400))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        refused += image_or_image_error(path) is None
    assert refused > 0


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")  # "Corrupt EXIF data"
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_cut_anywhere_gives_an_image_or_is_refused(tmp_path, kind):
    path = tmp_path / "image"
    whole = described(6).tobytes()
    for length in range(len(b"Exif\0\0"), len(whole)):
        path.write_bytes(encoded(photo(8, 6), kind, exif=whole[:length]))
        image = image_or_image_error(path)
        assert image is None or sorted(image.size) == [6, 8]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")  # "Corrupt EXIF data"
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_gives_an_image_or_is_refused(tmp_path, kind):
    path = tmp_path / "image"
    whole = described(6).tobytes()
    generator = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(generator.choice([1, 2, 4])):
            damaged[generator.randrange(8, len(whole))] = generator.randrange(256)
        path.write_bytes(encoded(photo(8, 6), kind, exif=bytes(damaged)))
        image = image_or_image_error(path)
        assert image is None or sorted(image.size) == [6, 8]


# Opened by the caller with Pillow, and not decoded

FRAMES = [photo(seed=seed) for seed in range(3)]
LAZY = SAMPLES | {
    "jpeg2000": encoded(photo(), "JPEG2000"),
    "ico": encoded(photo(32, 32), "ICO"),
    "tga": encoded(photo(), "TGA"),
    "progressive": encoded(photo(), "JPEG", progressive=True),
    "tiff in tiles of JPEG": encoded(photo(), "TIFF", compression="jpeg"),
    **{
        f"{kind} of three": encoded(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:])
        for kind in ("TIFF", "MPO", "PNG", "GIF", "WEBP")
    },
}


@pytest.mark.parametrize("kind", LAZY)
@pytest.mark.parametrize("opened", ["path", "file", "bytes"])
def test_an_image_that_was_opened_and_not_decoded_is_read_as_its_file(tmp_path, kind, opened):
    path = tmp_path / "image"
    path.write_bytes(LAZY[kind])
    wanted = load_image(path).tobytes()
    with open(path, "rb", 0) as file:
        source = {"path": path, "file": file, "bytes": io.BytesIO(LAZY[kind])}[opened]
        with Image.open(source) as image:
            for _ in range(2):
                assert load_image(image).tobytes() == wanted
        with Image.open(path) as image:
            image.load()
            assert load_image(image).tobytes() == wanted


@pytest.mark.parametrize("kind", ["TIFF", "MPO", "PNG", "GIF", "WEBP"])
def test_every_frame_that_a_caller_goes_to_is_read(kind):
    with (
        Image.open(io.BytesIO(LAZY[f"{kind} of three"])) as image,
        Image.open(io.BytesIO(LAZY[f"{kind} of three"])) as own,
    ):
        for frame in (1, 2, 0):
            image.seek(frame)
            own.seek(frame)
            assert load_image(image).tobytes() == own.convert("RGB").tobytes()


def scans(image, count):
    content = encoded(image, "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * count + content[-2:]


def test_what_a_file_costs_is_looked_at_of_an_image_that_was_opened(monkeypatch):
    """By its content: scans of a JPEG, also of a later frame and of a draft; tiles of a TIFF's page; JPEG 2000."""
    monkeypatch.setattr(image_files, "MAX_IMAGE_PIXELS", 1 << 16)
    large = Image.new("L", (256, 256))
    jpeg = scans(large, 20)
    offset = LAZY["MPO of three"].index(b"\xff\xd9\xff\xd8") + 2
    later = LAZY["MPO of three"][:offset] + scans(photo(), 3000)
    tile = {322: (8192,), 323: (8192,), 324: (512,), 325: (20,)}
    first = tiff_of({})
    page = tiff_of(tile)
    moved = len(first)
    entries = struct.unpack_from("<H", first, 8)[0]
    two = bytearray(first + page[8:512])
    struct.pack_into("<I", two, 10 + 12 * entries, moved)
    blocks = encoded(large.convert("RGB"), "JPEG2000", codeblock_size=(4, 4))
    for content, frame, draft, words in (
        (jpeg, 0, None, "JPEG of .* scans of 65,536 pixels"),
        (jpeg, 0, (32, 32), "JPEG of .* scans of 65,536 pixels"),
        (later, 1, None, "JPEG of .* scans of 480 pixels"),
        (page, 0, None, "tiles of 8192x8192"),
        (bytes(two), 1, None, "tiles of 8192x8192"),
        (blocks, 0, None, "JPEG 2000 file of blocks"),
    ):
        with Image.open(io.BytesIO(content)) as image:
            image.seek(frame)
            image.draft("L", draft)
            with pytest.raises(ImageError, match=words):
                load_image(image)
            assert not image_files.is_decoded(image)


def segments(marker, part, count):
    return (struct.pack(">HH", marker, 2 + len(part)) + part) * count


@pytest.mark.parametrize("start", [b"FLIR\0", *slow([b"http://ns.adobe.com/xmp/extension/\0", b"JP\0"])])
def test_metadata_of_a_jpeg_may_be_larger_than_its_pixels(start):
    """120 MB, in 2,000 segments: depth maps and the like are kept so."""
    part = start.ljust(60_000, b"x")
    for marker in (0xFFE1, 0xFFE2, 0xFFEB, 0xFFFE):
        content = SAMPLES["jpeg"][:2] + segments(marker, part, 2000) + SAMPLES["jpeg"][2:]
        assert load_image(content).tobytes() == load_image(SAMPLES["jpeg"]).tobytes()


def test_what_is_appended_part_by_part_is_not():
    """EXIF data of a JPEG, and tables, of which each makes objects; comments of a GIF."""
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0"
    gif = encoded(photo(), "GIF", comment=b"x").replace(b"!\xfe\1x\0", b"!\xfe" + b"\1x" * 90_000 + b"\0")
    for content in (
        SAMPLES["jpeg"][:2] + segments(0xFFE1, exif, 90_000) + SAMPLES["jpeg"][2:],
        SAMPLES["jpeg"][:2] + segments(0xFFDB, bytes(65 * 1000), 100) + SAMPLES["jpeg"][2:],
        gif,
    ):
        with pytest.raises(ImageError, match="parts"):
            load_image(content)


# Tags that announce more than the file holds; Pillow warns, and leaves them out


def exif_of(*entries):
    """EXIF data: (tag, kind, count, value or offset) each."""
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)


CUT_OFF = (0x927C, 7, 18_481_152, 30)  # a camera's own notes, as an ImageNet picture announces them


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_tag_of_exif_data_that_is_cut_off_is_read_past(kind):
    exif = exif_of((ORIENTATION, 3, 1, 6), CUT_OFF)
    assert len(exif) < 38
    content = encoded(photo(), kind, exif=b"Exif\0\0" + exif)
    assert load_image(content).size == (20, 24)


def tiff_of(tags):
    data = zlib.compress(bytes(64))
    return tiff(8, 8, {273: (512,), 278: (8,), 279: (len(data),)} | tags, data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
def test_a_tag_of_a_tiff_that_is_cut_off_is_read_past():
    content = tiff_of({65000: (1, 2)}).replace(
        struct.pack("<HHI", 65000, 4, 2), struct.pack("<HHI", 65000, 4, 1_250_000)
    )
    assert load_image(content).size == (8, 8)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@pytest.mark.parametrize("prefixes", [0, 1, 2])
def test_exif_data_whose_tags_all_name_the_same_bytes_are_refused(prefixes):
    entries = exif_of(*((tag, 7, 30_000, 8) for tag in range(4000)))
    content = encoded(photo(), "PNG", exif=b"Exif\0\0" * prefixes + entries)
    with pytest.raises(ImageError, match=r"EXIF data .* name 120,000,000"):
        load_image(content)


def test_a_tiffs_tile_is_found_behind_and_in_a_tag_of_64_bits():
    tile = {324: (512,), 325: (20,)}
    for tags in ({100: (1, 2)} | {322: (8192,)}, {322: (8192, 0)}):
        content = tiff_of(tile | {323: (8192,)} | tags)
        for tag in (100, 322):  # two numbers of 32 bits, as one of 64
            content = content.replace(struct.pack("<HHI", tag, 4, 2), struct.pack("<HHI", tag, 16, 1))
        with pytest.raises(ImageError, match="tiles of 8192x8192 pixels"):
            load_image(content)


def test_a_tiff_that_says_its_width_twice_is_no_larger_for_that():
    content = tiff_of({256: (8,), 100: (1 << 20,), 322: (8192,), 323: (8192,), 324: (512,), 325: (20,)})
    with pytest.raises(ImageError, match="tiles of 8192x8192 pixels"):
        load_image(content.replace(struct.pack("<HH", 100, 4), struct.pack("<HH", 256, 4)))


def test_an_unknown_pixel_format_is_refused(tmp_path):
    """Pillow's DDS reader says so with a NotImplementedError."""
    path = tmp_path / "image.dds"
    content = bytearray(encoded(photo(), "DDS"))
    content[80:84] = struct.pack("<I", 1)  # DDS_PIXELFORMAT.dwFlags
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"image\.dds: damaged"):
        load_image(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_a_damaged_avif_file_is_refused(tmp_path):
    """Pillow's AVIF reader says so with a RuntimeError."""
    path = tmp_path / "image.avif"
    head, _, frame = encoded(photo(), "AVIF").partition(b"mdat")
    path.write_bytes(head + b"mdat" + bytes(len(frame)))
    with pytest.raises(ImageError, match=r"image\.avif: damaged"):
        load_image(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"not an image\n" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"]
)
def test_what_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"image\.jpg: {'(not an image|damaged)' if content else 'an empty file'}"):
        load_image(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path, why in ((tmp_path / "none.jpg", "no such image file"), (tmp_path, "a folder, not a file")):
        with pytest.raises(ImageError, match=why):
            load_image(path)


def test_an_empty_path_is_not_the_current_folder():
    with pytest.raises(ImageError, match="the image's path is empty"):
        load_image("")


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe\.jpg: a pipe or a device, not a file"):
        load_image(tmp_path / "pipe.jpg")


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ImageError, match="empty image of 0x5 pixels"):
        load_image(Image.new("RGB", (0, 5)))


def test_an_image_that_was_closed_is_refused(tmp_path):
    path = tmp_path / "image.png"
    photo().save(path)
    image = Image.open(path)
    image.close()
    with pytest.raises(ImageError, match="damaged or unsupported image"):
        load_image(image)


@pytest.mark.parametrize(
    "side",
    [
        9_500,  # 90 million pixels: Pillow only warns, and load_image must neither pass the warning on nor decode
        60_000,  # Pillow refuses
        2**31 - 1,
    ],
)
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    with pytest.raises(ImageError, match=r"bomb\.png: .* 89,478,485;"):
        load_image(path)


def test_the_limit_itself_is_still_read(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    photo(24, 20).save(path)
    monkeypatch.setattr(image_files, "MAX_IMAGE_PIXELS", 480)
    assert load_image(path).size == (24, 20)
    monkeypatch.setattr(image_files, "MAX_IMAGE_PIXELS", 479)
    for source in (path, photo(24, 20)):
        with pytest.raises(ImageError, match=r"24x20 pixels; .* 479;"):
            load_image(source)


def test_arrays_are_taken_as_rgb():
    array = np.random.RandomState(0).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    for view in (array, array[::-1], array[:, ::2], array[..., ::-1], np.asfortranarray(array)):
        image = load_image(view)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), view)


@pytest.mark.parametrize("alpha", Alpha)
@pytest.mark.parametrize(("shape", "mode"), [((4, 5), "L"), ((4, 5, 1), "L"), ((4, 5, 4), "RGBA"), ((4, 3), "L")])
def test_other_arrays_are_taken_as_pillows_images_of_their_mode(shape, mode, alpha):
    array = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    theirs = Image.fromarray(array.reshape(shape[:2]) if mode == "L" else array)
    assert theirs.mode == mode
    for view in (array, array[::-1], np.asfortranarray(array)):
        theirs = Image.fromarray(np.ascontiguousarray(view.reshape(shape[:2]) if mode == "L" else view))
        assert load_image(view, alpha).tobytes() == load_image(theirs, alpha).tobytes()
    wanted = {"L": array.reshape(*shape[:2], -1)[..., :1].repeat(3, 2), "RGBA": array[..., :3]}[mode]
    if mode == "L" or alpha is Alpha.DROP:
        assert np.array_equal(np.asarray(load_image(array, alpha)), wanted)
    else:
        assert not np.array_equal(np.asarray(load_image(array, alpha)), wanted)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (np.float32, (4, 5, 3)),
        (np.float32, (4, 5)),
        (np.int8, (4, 5, 3)),
        (np.uint16, (4, 5, 3)),
        (np.uint16, (4, 5)),
        (bool, (4, 5, 3)),
        (np.uint8, (5,)),
        (np.uint8, (4, 5, 2)),
        (np.uint8, (4, 5, 5)),
        (np.uint8, (3, 4, 5)),
        (np.uint8, (1, 4, 5, 3)),
        (np.uint8, (0, 5, 3)),
        (np.uint8, (4, 0, 3)),
        (np.uint8, (0, 5)),
        (np.uint8, ()),
        (object, (4, 5, 3)),
    ],
)
def test_other_arrays_are_refused(dtype, shape):
    with pytest.raises(ImageError, match=rf"dtype {np.dtype(dtype)} .*needed: uint8 .*in RGBA") as caught:
        load_image(np.zeros(shape, dtype))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("source", [None, 3, np.uint8(3), [[1]], object(), {"path": "x"}])
def test_what_is_no_source_of_an_image_is_told_what_is(source):
    with pytest.raises(
        ImageError, match=rf"image is a {type(source).__name__}; accepted: a path, .*bytes.*file object"
    ):
        load_image(source)


# Transparency

#: Of each kind that has transparency: what Pillow reads from a file, and what it holds in memory.
TRANSPARENT = {
    "RGBA": make("RGBA", (*RED, 255), (*RED, 0), (10, 20, 30, 128)),
    "LA": make("LA", (0, 255), (200, 0), (77, 128)),
    "PA": make_palette("PA"),
    "P, one transparent": make_palette(transparency=1),
    "P, alpha table": make_palette(transparency=bytes([128, 255, 0])),
}
STORED = {
    **{kind: (image, {}) for kind, image in TRANSPARENT.items() if kind != "PA"},
    "L, one transparent": (make("L", 0, 128), {"transparency": 128}),
    "RGB, one transparent": (make("RGB", RED, GREEN), {"transparency": GREEN}),
    "P, alpha table of a file": (make_palette(), {"transparency": bytes([128, 255, 0])}),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # of Pillow's own conversion
@pytest.mark.parametrize("kind", TRANSPARENT)
def test_dropped_alpha_leaves_the_colours_that_pillow_has(kind):
    image = TRANSPARENT[kind]
    before = dict(image.info)
    dropped = load_image(image, Alpha.DROP)
    assert dropped.tobytes() == image.convert("RGB").tobytes()
    assert dropped.tobytes() != load_image(image).tobytes()  # white is the default
    assert load_image(image).tobytes() == load_image(image, Alpha.WHITE).tobytes()
    assert image.info == before


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # of Pillow's own conversion
@pytest.mark.parametrize("kind", STORED)
def test_dropped_alpha_is_what_imagefolder_reads(tmp_path, kind):
    path = tmp_path / "image.png"
    image, options = STORED[kind]
    image.save(path, **options)
    with open(path, "rb") as file:  # as torchvision's pil_loader does
        wanted = Image.open(file).convert("RGB")
    assert load_image(path, Alpha.DROP).tobytes() == wanted.tobytes()
    assert load_image(path).tobytes() != wanted.tobytes()


def test_dropping_alpha_tells_no_warning(tmp_path, recwarn):
    path = tmp_path / "image.png"
    make_palette().save(path, transparency=bytes([128, 255, 0]))
    load_image(path, Alpha.DROP)
    assert not recwarn.list


def test_premultiplied_colours_are_told_apart_from_their_alpha():
    assert pixels_of(load_image(make("RGBa", (128, 0, 0, 128)), Alpha.DROP)) == [RED]
    assert pixels_of(load_image(make("La", (64, 128)), Alpha.DROP)) == [(127,) * 3]


@pytest.mark.parametrize("alpha", Alpha)
def test_sixteen_bit_grey_and_turned_images_are_read_with_either_alpha(tmp_path, alpha):
    path = tmp_path / "grey.png"
    make("I;16", 0, 32768).save(path, transparency=0)
    assert pixels_of(load_image(path, alpha)) == [WHITE if alpha is Alpha.WHITE else BLACK, GREY]
    make("RGBA", (*RED, 255), (*GREEN, 0)).save(path, exif=with_orientation(8))
    assert load_image(path, alpha).size == (1, 2)


# Bytes and file objects


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("of", [bytes, bytearray, memoryview, io.BytesIO])
def test_an_encoded_file_in_memory_is_read_as_from_disk(tmp_path, kind, of):
    path = tmp_path / "image"
    path.write_bytes(SAMPLES[kind])
    assert load_image(of(SAMPLES[kind])).tobytes() == load_image(path).tobytes()


def test_every_second_byte_of_a_view_is_read_as_it_lies():
    doubled = bytes(byte for byte in SAMPLES["png"] for _ in range(2))
    assert load_image(memoryview(doubled)[::2]).tobytes() == load_image(SAMPLES["png"]).tobytes()


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_file_object_is_read_from_where_it_stands_and_left_open(tmp_path, buffering):
    path = tmp_path / "image"
    path.write_bytes(SAMPLES["gif"] + SAMPLES["png"])
    with open(path, "rb", buffering) as file:
        file.seek(len(SAMPLES["gif"]))
        assert load_image(file).tobytes() == load_image(SAMPLES["png"]).tobytes()
        assert not file.closed
        file.seek(0)
        assert load_image(file).tobytes() == load_image(SAMPLES["gif"]).tobytes()


def test_a_temporary_file_and_the_end_of_a_pipe_are_file_objects():
    with tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(SAMPLES["jpeg"])
        spooled.seek(0)
        assert load_image(spooled).tobytes() == load_image(SAMPLES["jpeg"]).tobytes()
    reader, writer = os.pipe()
    os.write(writer, SAMPLES["png"])
    os.close(writer)
    with os.fdopen(reader, "rb", 0) as pipe:  # which cannot be sought in
        assert load_image(pipe).tobytes() == load_image(SAMPLES["png"]).tobytes()


class _Given:
    """A file object whose read() gives what it was given."""

    def __init__(self, *parts):
        self._parts = list(parts)

    def read(self, size=-1):
        part = self._parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part


async def _later():
    return b""


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (io.StringIO("text"), "StringIO object: .* text mode; open it with mode 'rb'"),
        (_Given("text"), r"_Given object: its read\(\) .* str; needed: bytes"),
        (_Given(None), r"its read\(\) .* NoneType"),
        (_Given(b"\xff\xd8", ValueError("gone away")), "_Given object: cannot be read: gone away"),
        (_Given(OSError(errno.EIO, "Input/output error")), "_Given object: cannot be read: .*Input/output error"),
        (_Given(b""), r"no bytes .* seek\(0\)"),
        (_Given(b"no image", b""), "_Given object: not an image"),
        (_Given(SAMPLES["png"][:60], b""), "_Given object: (not an image|damaged)"),
    ],
)
def test_a_file_object_that_gives_no_image_is_named(file, words):
    with pytest.raises(ImageError, match=words) as caught:
        load_image(file)
    assert len(str(caught.value).splitlines()) == 1


def test_a_read_that_must_be_awaited_is_told_of_without_a_warning():
    with pytest.raises(ImageError, match=r"its read\(\) .* coroutine; needed: bytes"):
        load_image(_Given(_later()))


def test_a_file_opened_as_text_is_named(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(SAMPLES["png"])
    with open(path, encoding="latin-1") as file, pytest.raises(ImageError, match=r"image\.png: .* text mode"):
        load_image(file)
    with open(path, "rb") as file:
        file.close()
        with pytest.raises(ImageError, match=r"image\.png: cannot be read: .*closed file"):
            load_image(file)


def test_a_stream_without_an_end_is_not_read_for_ever(monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 3 << 20)
    with open("/dev/zero", "rb") as zeros, pytest.raises(ImageError, match="/dev/zero: over 3,145,728 bytes"):
        load_image(zeros)


# The machine's faults, which are no faults of the image


_STARVED = """
import resource, sys
from PIL import Image
from rest_deploy.errors import ImageError, PredictorError
from rest_deploy.preprocess.images import load_image
load_image(sys.argv[2])
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (32 << 20), -1))
try:
    load_image(sys.argv[1])
except PredictorError as exc:
    print("machine", exc)
except ImageError as exc:
    print("image", exc)
"""


def test_an_image_that_this_process_has_no_memory_for_is_no_bad_image(tmp_path):
    """64 megapixels, within what is read, take 768 MiB; the process may have 32."""
    Image.new("L", (8000, 8000)).save(tmp_path / "large.png")
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    command = [sys.executable, "-c", _STARVED, str(tmp_path / "large.png"), str(tmp_path / "small.png")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"machine {tmp_path / 'large.png'}: ")
    assert "memory" in told


def test_an_image_that_asks_for_more_than_its_pixels_need_is_a_bad_image(monkeypatch):
    def greedy(self, *args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", greedy)
    with pytest.raises(ImageError, match="memory than 24x20 pixels: damaged"):
        load_image(SAMPLES["palette"])


def test_free_memory_is_not_promised_twice_to_large_images(monkeypatch):
    """From the look at what is free to the last copy one thread has it; usual images do not wait."""
    held = []
    for module, name in ((images, "check_memory"), (images.ImageOps, "exif_transpose"), (Image.Image, "convert")):
        own = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, own=own: held.append(images._large.locked()) or own(*a))
    load_image(SAMPLES["palette"])
    usual, held[:] = list(held), []
    monkeypatch.setattr(images, "USUAL", 1)
    load_image(SAMPLES["palette"])
    assert len(usual) == len(held) >= 3
    assert not any(usual)
    assert all(held)
    with pytest.raises(ImageError):
        load_image(SAMPLES["png"][:-50])
    assert not images._large.locked()


_FORKED = """
import os, sys
from rest_deploy.preprocess import images
images.USUAL = 1
images._large.acquire()
child = os.fork()
if child == 0:
    images.load_image(sys.argv[1])
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_does_not_wait_for_a_thread_of_its_parent(tmp_path):
    photo().save(tmp_path / "image.png")
    command = [sys.executable, "-c", _FORKED, str(tmp_path / "image.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "7\n"


def test_too_many_open_files_are_no_fault_of_the_image(tmp_path):
    photo().save(tmp_path / "image.png")
    (tmp_path / "other.dat").write_bytes(SAMPLES["png"])
    assert is_image(tmp_path / "other.dat")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with pytest.raises(OSError, match="Too many open files"):
            held.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(65))
        for reading in (lambda: load_image(tmp_path / "image.png"), lambda: is_image(tmp_path / "other.dat")):
            with pytest.raises(PredictorError, match=r"(image\.png|other\.dat): .*Too many open files"):
                reading()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in held:
            os.close(handle)
    assert load_image(tmp_path / "image.png").size == (24, 20)


def test_an_image_that_may_not_be_read_is_the_images_fault(tmp_path, monkeypatch):
    photo().save(tmp_path / "image.png")

    def refusing(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(builtins, "open", refusing)
    with pytest.raises(ImageError, match=r"image\.png: cannot be read: Permission denied; allow"):
        load_image(tmp_path / "image.png")


# Which files are images

NO_IMAGES = {
    "notes.txt": b"P1 of the plan, and nothing else\n" * 9,
    "table.csv": b"a,b\n1,2\n",
    "labels.json": b"{}",
    "code.h": b"#define A 1\n#define B 2\n",
    "page.html": b"<html><img></html>",
    "drawing.svg": b"<svg/>",
    "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "drawing": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "page.pdf": b"%PDF-1.7\n",
    "film.mpg": b"\0\0\1\xb3\x14\0\xf0\0" * 9,
    "data.h5": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "array.npy": b"\x93NUMPY\1\0",
    "archive.zip": b"PK\3\4" + bytes(99),
    "points.pcd": b"# .PCD v.7 - Point Cloud Data\n" * 99,
    "empty": b"",
    "zeros.bin": bytes(5000),
    "raw.nef": SAMPLES["tiff"],  # the preview is a TIFF, and not the picture
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_other_files_are_no_images(tmp_path, name):
    (tmp_path / name).write_bytes(NO_IMAGES[name])
    assert not is_image(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jfif", ".jpe", ".tif", ".webp", ".jp2", ".pnm", ".tga", ".mpo"])
def test_a_damaged_picture_is_one_by_its_suffix(tmp_path, suffix):
    """So that it is told of as damaged, and not passed over."""
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"damaged")
    assert is_image(path)
    with pytest.raises(ImageError, match=r"x\..*: "):
        load_image(path)


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("name", ["x", "x.dat", "x.txt", "x.jpg.download", "x.0001", "x.pcd"])
def test_where_the_suffix_says_nothing_the_content_does(tmp_path, kind, name):
    (tmp_path / name).write_bytes(SAMPLES[kind])
    assert is_image(tmp_path / name)


def test_a_damaged_picture_is_one_by_its_signature(tmp_path):
    (tmp_path / "x").write_bytes(SAMPLES["jpeg"][:200])
    assert is_image(tmp_path / "x")
    with pytest.raises(ImageError, match=r"x: "):
        load_image(tmp_path / "x")


def test_a_bomb_without_a_suffix_is_an_image_to_be_refused(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(png_header(60_000, 60_000))
    assert is_image(path)
    with pytest.raises(ImageError, match=r"bomb: .* 89,478,485"):
        load_image(path)


def test_an_icon_is_not_decoded_to_be_found(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(IcoImagePlugin.IcoFile, "getimage", lambda *args: opened.append(args))
    for bomb, (name, found) in itertools.product(icons(), {"x.ico": True, "x": False, "x.dat": False}.items()):
        (tmp_path / name).write_bytes(bomb.content)
        assert is_image(tmp_path / name) is found
        with pytest.raises(ImageError, match=rf"{name}: an icon "):
            load_image(tmp_path / name)
    assert opened == []


@pytest.mark.parametrize("sizes", [[(16, 16)], [(16, 16), (256, 256)]])
@pytest.mark.parametrize("inside", ["png", "bmp"])
def test_an_icon_is_found_by_its_content(tmp_path, sizes, inside):
    photo(256, 256).save(tmp_path / "x", "ICO", sizes=sizes, bitmap_format=inside)
    assert is_image(tmp_path / "x")
    assert load_image(tmp_path / "x").size == sizes[-1]


@pytest.mark.parametrize(
    "start", [b"", b"{", b"P6\n", b"#define ", b"BM", b"GIF89a", b"\0\0\1\0\1\0", b"\0\0\1\0\xff\0"]
)
def test_of_a_file_of_another_kind_the_first_bytes_alone_are_read(tmp_path, start):
    """Of a terabyte; to read it whole would take all memory and be told as such."""
    path = tmp_path / "large.dat"
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(1 << 40)
    assert is_image(path) is start.startswith(b"GIF89a")
