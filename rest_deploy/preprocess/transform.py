"""The transform that an artifact declares: from an RGB image to the network's input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.errors import ImageError, InputError
from rest_deploy.preprocess.image_files import MAX_IMAGE_PIXELS
from rest_deploy.specs import ImageSize, InputKind, Interpolation, Preprocessing, Resize

_FILTERS = {
    Interpolation.NEAREST: Image.Resampling.NEAREST,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.LANCZOS: Image.Resampling.LANCZOS,
}


def transform(image: Image.Image, preprocessing: Preprocessing | None) -> NDArray[np.float32]:
    """Resize, scale and normalise one image.

    Args:
        image: 8-bit RGB.
        preprocessing: The steps; None if the artifact leaves them to its caller.

    Returns:
        float32 of shape (channels, height, width).

    Raises:
        InputError: The network takes no pictures.
    """
    preprocessing = of_pictures(preprocessing)
    image = resized(image, preprocessing)
    if len(preprocessing.mean) == 1:
        image = image.convert("L")
    pixels: NDArray[Any] = np.asarray(image, dtype=np.uint8)
    pixels = pixels.reshape(image.height, image.width, -1)
    scale, shift = scale_and_shift(preprocessing)
    out = np.empty((pixels.shape[2], image.height, image.width), np.float32)
    for channel in range(pixels.shape[2]):
        np.multiply(pixels[..., channel], np.float32(scale[channel]), out=out[channel])
        out[channel] += np.float32(shift[channel])
    return out


def input_of(image: Image.Image, preprocessing: Preprocessing, kind: InputKind) -> NDArray[Any]:
    """What a file of a kind of input is given of one image, without the batch: (H, W, 3), or as :func:`transform`.

    Raises:
        InputError: The network takes no pictures.
    """
    if kind is InputKind.FLOAT:
        return transform(image, preprocessing)
    return np.asarray(image if kind is InputKind.PIXELS else resized(image, preprocessing), dtype=np.uint8)


def scale_and_shift(preprocessing: Preprocessing) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(pixel / 255 - mean) / std as one multiply and one add a pixel: both constants of each channel."""
    std = np.asarray(preprocessing.std)
    return 1 / (255 * std), -np.asarray(preprocessing.mean) / std


def of_pictures(preprocessing: Preprocessing | None) -> Preprocessing:
    """The preprocessing, if it says how pictures become the input.

    Raises:
        InputError: It has other channels than grey or RGB, or there is none.
    """
    if preprocessing is None:
        raise InputError(
            "the artifact leaves preprocessing to its caller, so it does not accept pictures; make the input and "
            "call Predictor.logits with float32 (B, channels, H, W)"
        )
    channels = len(preprocessing.mean)
    if not preprocessing.takes_pictures:
        raise InputError(
            f"the network takes {channels} channels, and pictures have 1 or 3; make the input and call "
            f"Predictor.logits with float32 (B, {channels}, H, W)"
        )
    return preprocessing


def fed_size(preprocessing: Preprocessing, height: int, width: int, name: str) -> ImageSize:
    """The size of the network's input for an image, before the image is resized.

    Pillow resizes rows first, then columns. In a warp, a line of pixels 67 million high becomes as many rows of 224
    pixels before it becomes 224 rows. A crop of a long image resizes only the part that is cut out.

    Args:
        preprocessing: The steps.
        height, width: Of the image, upright.
        name: Of the image, for a message.

    Raises:
        ImageError: The image would be too large during the resize.
    """
    size = preprocessing.size
    if preprocessing.resize is Resize.WARP and size is not None and size.width * height > MAX_IMAGE_PIXELS:
        raise ImageError(
            f"{name}: an image of {width}x{height} pixels has {size.width}x{height} pixels during the resize; "
            f"accepted: at most {MAX_IMAGE_PIXELS:,}; scale it down first"
        )
    return size or ImageSize(height, width)


def resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """An 8-bit RGB image at the size of the network's input."""
    size = preprocessing.size
    if preprocessing.resize is Resize.NATIVE or size is None:
        return image
    if preprocessing.resize is Resize.WARP:
        return image.resize((size.width, size.height), _FILTERS[preprocessing.interpolation])
    return _crop(image, size, preprocessing.crop_ratio, _FILTERS[preprocessing.interpolation])


#: Above this ratio of long to short side only the part that is cut out is resized; the whole could take gigabytes.
LONG = 8


def _crop(image: Image.Image, size: ImageSize, ratio: float, resample: Image.Resampling) -> Image.Image:
    """Resize so that ``size`` is ``ratio`` of the short side, then cut the centre out.

    Sizes and offsets are rounded as in torchvision's Resize and CenterCrop, with which the authors measured accuracy.
    """
    short = short_side(size, ratio)
    if image.width <= image.height:
        width, height = short, int(short * image.height / image.width)
    else:
        width, height = int(short * image.width / image.height), short
    left, top = round((width - size.width) / 2), round((height - size.height) / 2)
    box = (left, top, left + size.width, top + size.height)
    if max(width, height) > LONG * short:  # the same except for rounding between the passes
        x, y = image.width / width, image.height / height
        source = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
        return image.resize((size.width, size.height), resample, box=source)
    return image.resize((width, height), resample).crop(box)


def orders_by_result(version: str) -> bool:
    """Whether a version of Pillow goes along columns first where height shrinks by more than twice as many pixels as
    width, as from 13.0 on; before, where it is over a hundred times the width.
    """
    major = version.partition(".")[0]
    return not major.isdecimal() or int(major) >= 13


def short_side(size: ImageSize, ratio: float) -> int:
    """Pixels that the short side of an image is resized to, before ``size`` is cut out."""
    return int(max(size.height, size.width) / ratio)
