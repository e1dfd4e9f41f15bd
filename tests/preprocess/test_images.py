"""Whatever Pillow opens comes out as upright 8-bit RGB with the right values; anything else is an ImageError."""

import io
import os
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from rest_deploy.errors import ImageError
from rest_deploy.preprocess import images
from rest_deploy.preprocess.images import list_images, load_image

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
    with pytest.raises(ImageError, match="32-bit pixels beyond 16 bits; save the image with 8 or 16"):
        load_image(make("I", *values))


def test_float_pixels_have_no_one_meaning(tmp_path):
    path = tmp_path / "float.tif"
    make("F", 0.0, 1.0).save(path)
    for source in (path, make("F", 0.0, 1.0)):
        with pytest.raises(ImageError, match="float pixels have no fixed range"):
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
    with pytest.raises(ImageError, match=r"not an image that Pillow can read|damaged or unsupported image"):
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
        image_or_image_error(path)


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
        image_or_image_error(path)


def test_an_unknown_pixel_format_is_refused(tmp_path):
    """Pillow's DDS reader says so with a NotImplementedError."""
    path = tmp_path / "image.dds"
    content = bytearray(encoded(photo(), "DDS"))
    content[80:84] = struct.pack("<I", 1)  # DDS_PIXELFORMAT.dwFlags
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"image\.dds: damaged or unsupported image"):
        load_image(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_a_damaged_avif_file_is_refused(tmp_path):
    """Pillow's AVIF reader says so with a RuntimeError."""
    path = tmp_path / "image.avif"
    head, _, frame = encoded(photo(), "AVIF").partition(b"mdat")
    path.write_bytes(head + b"mdat" + bytes(len(frame)))
    with pytest.raises(ImageError, match=r"image\.avif: damaged or unsupported image"):
        load_image(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"not an image\n" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"]
)
def test_what_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"image\.jpg: (not an image that Pillow can read|damaged)"):
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
    with pytest.raises(ImageError, match=r"bomb\.png: .* more than the 89,478,485 that are read; scale it down first"):
        load_image(path)


def test_the_limit_itself_is_still_read(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    photo(24, 20).save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 480)
    assert load_image(path).size == (24, 20)
    monkeypatch.setattr(images, "MAX_PIXELS", 479)
    for source in (path, photo(24, 20)):
        with pytest.raises(ImageError, match="24x20 pixels, more than the 479 that are read"):
            load_image(source)


def test_arrays_are_taken_as_rgb():
    array = np.random.RandomState(0).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    for view in (array, array[::-1], array[:, ::2], array[..., ::-1], np.asfortranarray(array)):
        image = load_image(view)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), view)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (np.float32, (4, 5, 3)),
        (np.int8, (4, 5, 3)),
        (np.uint16, (4, 5, 3)),
        (bool, (4, 5, 3)),
        (np.uint8, (4, 5)),
        (np.uint8, (4, 5, 1)),
        (np.uint8, (4, 5, 4)),
        (np.uint8, (3, 4, 5)),
        (np.uint8, (1, 4, 5, 3)),
        (np.uint8, (0, 5, 3)),
        (np.uint8, (4, 0, 3)),
        (np.uint8, ()),
    ],
)
def test_other_arrays_are_refused(dtype, shape):
    with pytest.raises(ImageError, match=r"image array of dtype .* needed: RGB, uint8 \(height, width, 3\)"):
        load_image(np.zeros(shape, dtype))


def test_a_folder_is_listed_in_order_of_name(tmp_path):
    names = ["10.jpg", "2.PNG", "a.jpeg", "b.bmp", "c.gif", "d.tif", "e.tiff", "f.webp", "g.ppm", "h.pgm"]
    for name in [*reversed(names), "notes.txt", "jpg", ".jpg", "._a.jpeg", "x.npy", "y.png.part"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "inside.jpg").touch()
    assert [path.name for path in list_images(tmp_path)] == sorted(names)
    assert list_images(str(tmp_path)) == list_images(tmp_path)
    assert list_images(tmp_path)[0].parent == tmp_path


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match=r"no images in this folder, subfolders and hidden files left out; looked"):
        list_images(tmp_path)


@pytest.mark.parametrize("name", ["none", "file.png"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file.png").touch()
    with pytest.raises(ImageError, match=name):
        list_images(tmp_path / name)
