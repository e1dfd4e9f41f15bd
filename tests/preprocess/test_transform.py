"""The transform against an independent statement of the authors' evaluation transform, which is torchvision's."""

import numpy as np
import pytest
from PIL import Image

from rest_deploy.errors import ImageError, InputError
from rest_deploy.preprocess import transform as module
from rest_deploy.preprocess.transform import fed_size, transform
from rest_deploy.specs import IMAGENET_MEAN, IMAGENET_STD, ImageSize, Interpolation, Preprocessing, Resize

GREY = {"mean": (0.1307,), "std": (0.3081,)}

#: Results reach 2.7 and float32 has steps of 2.4e-7 there; a product and a sum round twice.
TOLERANCE = 1e-6

SIZES = [
    (224, 224),
    (256, 256),
    (640, 480),  # landscape, (width, height)
    (480, 640),  # portrait
    (500, 375),
    (301, 299),
    (225, 333),
    (343, 256),  # 119 pixels beside the cut: half of it, 59.5, is rounded to the even 60
    (256, 341),  # and 58.5 to 58
    (257, 255),
    (1, 1),
    (2, 3),
    (7, 5),
    (33, 9),
    (5, 40),  # the most extreme that is still resized whole
]


def photo(width, height, seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8))


def smooth_photo(width, height):
    """Waves that stay off black and white."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [np.sin(x / 9 + phase) * np.cos(y / 7 - phase) for phase in (0, 1, 2)]
    return Image.fromarray(np.rint(127.5 + 100 * np.stack(channels, -1)).astype(np.uint8))


def to_tensor_and_normalize(pixels, mean, std):
    """ToTensor and Normalize of torchvision, in float64: (H, W, C) uint8 -> (C, H, W)."""
    return ((pixels / 255.0 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)


def authors_crop(image, resize=256, crop=224, resample=Image.Resampling.BICUBIC):
    """Resize(256, resample) of the short side and CenterCrop(224) of torchvision, on a Pillow image."""
    width, height = image.size
    short, long = sorted((width, height))
    new_long = int(resize * long / short)
    size = (resize, new_long) if width <= height else (new_long, resize)
    pixels = np.asarray(image.resize(size, resample))
    top = round((pixels.shape[0] - crop) / 2.0)
    left = round((pixels.shape[1] - crop) / 2.0)
    return pixels[top : top + crop, left : left + crop]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_default_is_the_authors_transform(width, height):
    image = photo(width, height)
    wanted = to_tensor_and_normalize(authors_crop(image), IMAGENET_MEAN, IMAGENET_STD)
    got = transform(image, Preprocessing())
    assert got.shape == wanted.shape == (3, 224, 224)
    assert np.abs(got - wanted).max() <= TOLERANCE


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_warp_at_384(width, height):
    image = photo(width, height)
    pixels = np.asarray(image.resize((384, 384), Image.Resampling.BICUBIC))
    got = transform(image, Preprocessing.for_size(ImageSize(384, 384)))
    assert got.shape == (3, 384, 384)
    assert np.abs(got - to_tensor_and_normalize(pixels, IMAGENET_MEAN, IMAGENET_STD)).max() <= TOLERANCE


def test_warp_takes_height_before_width():
    image = photo(50, 40)
    pixels = np.asarray(image.resize((30, 20), Image.Resampling.BICUBIC))
    got = transform(image, Preprocessing(Resize.WARP, ImageSize(20, 30)))
    assert got.shape == (3, 20, 30)
    assert np.abs(got - to_tensor_and_normalize(pixels, IMAGENET_MEAN, IMAGENET_STD)).max() <= TOLERANCE


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_native_only_normalises(width, height):
    image = photo(width, height)
    got = transform(image, Preprocessing(Resize.NATIVE, None))
    wanted = to_tensor_and_normalize(np.asarray(image), IMAGENET_MEAN, IMAGENET_STD)
    assert got.shape == (3, height, width)
    assert np.abs(got - wanted).max() <= TOLERANCE


@pytest.mark.parametrize("ratio", [1.0, 0.95, 0.9, 0.875, 0.5])
@pytest.mark.parametrize("side", [32, 160, 225, 288])
def test_crop_at_other_sizes_and_ratios(side, ratio):
    image = photo(300, 200)
    wanted = authors_crop(image, resize=int(side / ratio), crop=side)
    got = transform(image, Preprocessing(Resize.CROP, ImageSize(side, side), ratio, (0, 0, 0), (1, 1, 1)))
    assert got.shape == (3, side, side)
    assert np.abs(got - wanted.transpose(2, 0, 1) / 255).max() <= TOLERANCE


@pytest.mark.parametrize(("height", "width"), [(160, 224), (224, 160), (1, 64)])
@pytest.mark.parametrize("image_size", [(300, 200), (200, 300), (70, 70)])
def test_a_crop_that_is_not_square_lies_inside_the_image(height, width, image_size):
    """Black borders would show where the cut reaches past the edge."""
    white = Image.new("RGB", image_size, (255, 255, 255))
    got = transform(white, Preprocessing(Resize.CROP, ImageSize(height, width), 0.875, (0, 0, 0), (1, 1, 1)))
    assert got.shape == (3, height, width)
    assert np.abs(got - 1).max() <= TOLERANCE


#: Pillow's filter of each name.
PILLOWS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@pytest.mark.parametrize(("width", "height"), [(640, 480), (301, 299), (33, 9), (1, 1), (343, 256)])
@pytest.mark.parametrize("interpolation", Interpolation)
def test_each_filter_is_pillows_antialiased_as_there(interpolation, width, height):
    """Enlarged and made smaller, cropped and warped; of no other filter's values."""
    image, plain = photo(width, height), {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": interpolation}
    cropped = transform(image, Preprocessing(Resize.CROP, ImageSize(64, 64), 0.9, **plain))
    warped = transform(image, Preprocessing(Resize.WARP, ImageSize(30, 50), **plain))
    matches = set()
    for name, resample in PILLOWS.items():
        crop = authors_crop(image, resize=int(64 / 0.9), crop=64, resample=resample).transpose(2, 0, 1) / 255
        warp = np.asarray(image.resize((50, 30), resample)).transpose(2, 0, 1) / 255
        if max(np.abs(cropped - crop).max(), np.abs(warped - warp).max()) <= TOLERANCE:
            matches.add(name)
    assert matches == ({interpolation.value} if width > 1 else set(PILLOWS))


@pytest.mark.parametrize("interpolation", Interpolation)
def test_each_filter_cuts_a_long_image_at_the_same_places(monkeypatch, interpolation):
    image, steps = smooth_photo(2311, 231), Preprocessing(mean=(0,) * 3, std=(1,) * 3, interpolation=interpolation)
    part = transform(image, steps)
    monkeypatch.setattr(module, "LONG", float("inf"))
    # as below; the nearest pixel may be the next one, and the waves rise by 25 levels a pixel at most
    allowed = 26 if interpolation is Interpolation.NEAREST else 2.01
    assert np.abs(part - transform(image, steps)).max() <= allowed / 255


@pytest.mark.parametrize("interpolation", Interpolation)
def test_native_has_no_filter(interpolation):
    image = photo(40, 30)
    got = transform(image, Preprocessing(Resize.NATIVE, None, interpolation=interpolation))
    assert np.array_equal(got, transform(image, Preprocessing(Resize.NATIVE, None)))


@pytest.mark.parametrize("channels", [2, 4, 6, 13])
def test_networks_of_other_channels_take_no_pictures(channels):
    steps = Preprocessing(mean=(0.5,) * channels, std=(0.5,) * channels)
    with pytest.raises(
        InputError, match=rf"takes {channels} channels.* 1 or 3; .*logits.*\(B, {channels}, H, W\)"
    ) as got:
        transform(photo(40, 30), steps)
    assert len(str(got.value).splitlines()) == 1


def test_an_artifact_that_leaves_preprocessing_to_its_caller_takes_no_pictures():
    with pytest.raises(InputError, match=r"leaves preprocessing to its caller.*Predictor\.logits"):
        transform(photo(40, 30), None)


@pytest.mark.parametrize("resize", Resize)
def test_one_mean_turns_the_image_grey(resize):
    image = photo(50, 40)
    size = None if resize is Resize.NATIVE else ImageSize(32, 32)
    grey = transform(image, Preprocessing(resize, size, **GREY))
    rgb = transform(image, Preprocessing(resize, size, mean=(0, 0, 0), std=(1, 1, 1)))
    luma = np.tensordot([0.299, 0.587, 0.114], rgb, 1)[None]  # ITU-R BT.601, as Pillow and torchvision weigh
    assert grey.shape == luma.shape
    # Pillow rounds luma to a whole level: up to 1/2 and a little for its integer weights
    assert np.abs(grey - (luma - 0.1307) / 0.3081).max() <= 0.51 / 255 / 0.3081


def test_each_channel_has_its_own_mean_and_std():
    image = Image.new("RGB", (2, 2), (0, 128, 255))
    got = transform(image, Preprocessing(Resize.NATIVE, None, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)))
    wanted = [-0.1 / 0.5, (128 / 255 - 0.2) / 0.25, (1 - 0.3) / 2.0]
    assert np.abs(got - np.reshape(wanted, (3, 1, 1))).max() <= TOLERANCE


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing(**GREY),
        Preprocessing(Resize.WARP, ImageSize(30, 20)),
        Preprocessing(Resize.NATIVE, None),
        Preprocessing(Resize.NATIVE, None, **GREY),
    ],
)
def test_the_result_is_a_new_contiguous_float32_array(preprocessing):
    image = photo(40, 30)
    before = image.tobytes()
    first, second = transform(image, preprocessing), transform(image, preprocessing)
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    assert first.flags.writeable
    first[:] = 0
    assert second.any()
    assert image.tobytes() == before


@pytest.fixture
def resized(monkeypatch):
    """Sizes, as (width, height), that images are resized to."""
    sizes = []
    resize = Image.Image.resize

    def recorded(self, size, *args, **kwargs):
        sizes.append(size)
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    return sizes


@pytest.mark.parametrize(("width", "height"), [(5000, 1), (1, 5000), (20_000, 2), (1, 9)])
def test_extreme_shapes_resize_only_what_is_cut_out(resized, width, height):
    """Whole, the 1x5000 image would become 256x1,280,000: a gigabyte."""
    got = transform(photo(width, height), Preprocessing())
    assert got.shape == (3, 224, 224)
    assert np.isfinite(got).all()
    assert resized == [(224, 224)]


@pytest.mark.parametrize(("width", "height"), [(400, 40), (40, 400), (399, 41), (2311, 231), (19, 171)])
def test_both_ways_to_crop_a_long_image_agree(monkeypatch, resized, width, height):
    image = smooth_photo(width, height)
    preprocessing = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
    part = transform(image, preprocessing)
    monkeypatch.setattr(module, "LONG", float("inf"))
    whole = transform(image, preprocessing)
    assert resized[0] == (224, 224)
    assert min(resized[1]) == 256
    # Both sample at the same places. But Pillow rounds to whole levels between its two passes, and its versions differ
    # in which pass comes first: a level or two. (On noise more, as it clips there too; hence the waves.)
    assert np.abs(part - whole).max() <= 2.01 / 255


def test_a_long_image_is_cut_in_its_middle():
    stripe = np.zeros((40, 400, 3), np.uint8)
    stripe[:, 200:] = 255
    got = transform(Image.fromarray(stripe), Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)))
    assert got[:, :, :108].max() <= 2 / 255
    assert got[:, :, 116:].min() >= 253 / 255
    assert np.abs(got[..., :112] + got[..., :111:-1] - 1).max() <= 2 / 255  # the halves mirror each other


@pytest.mark.parametrize(
    "steps", [(Resize.CROP, ImageSize(32, 48)), (Resize.WARP, ImageSize(48, 32)), (Resize.NATIVE, None)]
)
def test_the_size_of_the_input_is_told_before_it_is_made(steps):
    steps = Preprocessing(*steps)
    size = fed_size(steps, 60, 70, "x.png")
    assert transform(Image.new("RGB", (70, 60)), steps).shape == (3, size.height, size.width)


def test_a_line_of_pixels_that_would_be_widened_first_is_refused():
    line = (67_108_865, 1, "x.png")
    with pytest.raises(ImageError, match=r"x\.png: .* 224x67108865 .* 89,478,485"):
        fed_size(Preprocessing(Resize.WARP, ImageSize(224, 224)), *line)
    assert fed_size(Preprocessing(Resize.CROP, ImageSize(224, 224)), *line) == ImageSize(224, 224)
