"""How much memory a call takes, told from a network's hyper-parameters before anything is run, without PyTorch."""

from __future__ import annotations

from rest_deploy.errors import ConfigError, ImageError
from rest_deploy.machine import check_memory
from rest_deploy.models.family import NetworkConfig, family_of
from rest_deploy.specs import Precision

#: Formats that run on the CPU.
_FORMATS = ("onnx", "pytorch")


def network_bytes(
    config: NetworkConfig,
    batch: int,
    height: int,
    width: int,
    *,
    precision: Precision = Precision.FP32,
    format: str = "onnx",
) -> int:
    """Memory of one call on the CPU beside what an open network takes: its input, and all that is alive at its peak.

    Args:
        config: Of the network.
        batch: Images of the call.
        height, width: Of the images, in pixels.
        precision: Of the file.
        format: ``"onnx"`` in ONNX Runtime, ``"pytorch"`` for a checkpoint.

    Raises:
        ConfigError: The format is of no network that runs on the CPU.
    """
    if format not in _FORMATS:
        raise ConfigError(f"no estimate of memory for format {format!r}; there is one for: {', '.join(_FORMATS)}")
    return family_of(config).call_bytes(config, batch, height, width, precision=precision, format=format)


def check_image(
    config: NetworkConfig,
    height: int,
    width: int,
    name: str,
    *,
    precision: Precision = Precision.FP32,
    format: str = "onnx",
    widening: int = 1,
) -> None:
    """Refuse an image whose call would take more memory than is free.

    Args:
        config, precision, format: As of :func:`network_bytes`.
        height, width: Of the network's input.
        name: What a message calls the image.
        widening: How many times the bytes of a float32 each number has.

    Raises:
        ImageError: It would.
        PredictorError: Too little is free for any image.
    """
    needed = widening * network_bytes(config, 1, height, width, precision=precision, format=format)
    check_memory(needed, f"{name}: an input of {height}x{width}", ImageError, "scale it down first")


def pixels_within(
    config: NetworkConfig,
    limit_bytes: int,
    *,
    precision: Precision = Precision.FP32,
    format: str = "onnx",
) -> int:
    """Pixels of the largest square image whose call takes at most so many bytes; 0 where not even one pixel does.

    One of as many pixels and another shape takes about as much while its short side is some 32 pixels or more. A line
    of pixels takes a hundred times as much, as there is nothing to reduce across it: where shapes are not known, ask
    :func:`network_bytes` of each.

    Raises:
        ConfigError: As :func:`network_bytes`.
    """
    fits, does_not = 0, 1
    while network_bytes(config, 1, does_not, does_not, precision=precision, format=format) <= limit_bytes:
        fits, does_not = does_not, 2 * does_not
    while does_not - fits > 1:
        side = (fits + does_not) // 2
        if network_bytes(config, 1, side, side, precision=precision, format=format) <= limit_bytes:
            fits = side
        else:
            does_not = side
    return fits * fits
