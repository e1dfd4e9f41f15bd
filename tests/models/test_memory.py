"""The estimate of a call's memory against what was measured, and the largest image that a memory takes."""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rest_deploy.errors import ConfigError
from rest_deploy.models import rest_family
from rest_deploy.models.family import (
    MAP_BLOCK,
    NetworkConfig,
    config_of,
    get_config,
    list_models,
    network_bytes,
    pixels_within,
)
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.models.restv2_family import ResTv2Config
from rest_deploy.specs import Precision
from tests.conftest import DIGITS, DIGITS_V2, ROOT

#: What the docstring of the estimate promises, as a share of what was measured, and from where on.
LEAST, MOST, FROM_MIB = 0.9, 1.6, 1000

CONFIGS: dict[str, NetworkConfig] = {
    "digits": ResTConfig(embed_dims=(16, 32, 64, 128), depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), num_classes=10),
    "lite": get_config("rest_lite"),
    "small": get_config("rest_small"),
    "base": get_config("rest_base"),
    "digits v2": ResTv2Config(embed_dims=(16, 32, 64, 128), depths=(1, 1, 2, 1), num_classes=10),
    "tiny v2": get_config("restv2_tiny"),
}
SHAPES_OF_A_MEGAPIXEL = ((1000, 1000), (32, 31250), (1, 1_000_000))
#: (network, format, precision, (batch, height, width), MiB): of the first call, of PyTorch the most of two, beside what
#: the open network takes. Measured on 2026-11-25 on two cores of an AMD EPYC with AVX2 by what is now
#: benchmarks/memory.py; ONNX Runtime 1.32.0, PyTorch 2.13.0.
MEASURED: list[tuple[str, str, str, tuple[int, int, int], int]] = [
    ("digits", "onnx", "fp32", (8, 224, 224), 33),
    ("lite", "onnx", "fp32", (8, 224, 224), 80),
    ("digits", "onnx", "int8", (8, 224, 224), 28),
    ("lite", "onnx", "int8", (8, 224, 224), 79),
    ("digits", "pytorch", "fp32", (8, 224, 224), 55),
    ("lite", "pytorch", "fp32", (8, 224, 224), 124),
    ("base", "onnx", "fp32", (8, 224, 224), 122),
    ("digits", "onnx", "fp32", (4, 512, 512), 97),
    ("lite", "onnx", "fp32", (4, 512, 512), 194),
    ("digits", "onnx", "int8", (4, 512, 512), 163),
    ("lite", "onnx", "int8", (4, 512, 512), 206),
    ("digits", "pytorch", "fp32", (4, 512, 512), 373),
    ("lite", "pytorch", "fp32", (4, 512, 512), 441),
    ("digits", "onnx", "fp32", (1, 768, 768), 109),
    ("lite", "onnx", "fp32", (1, 768, 768), 142),
    ("digits", "onnx", "int8", (1, 768, 768), 194),
    ("lite", "onnx", "int8", (1, 768, 768), 223),
    ("digits", "pytorch", "fp32", (1, 768, 768), 486),
    ("lite", "pytorch", "fp32", (1, 768, 768), 547),
    ("digits", "onnx", "fp32", (1, 1024, 1024), 295),
    ("lite", "onnx", "fp32", (1, 1024, 1024), 322),
    ("small", "onnx", "fp32", (1, 1024, 1024), 322),
    ("digits", "onnx", "int8", (1, 1024, 1024), 559),
    ("lite", "onnx", "int8", (1, 1024, 1024), 598),
    ("digits", "pytorch", "fp32", (1, 1024, 1024), 1225),
    ("lite", "pytorch", "fp32", (1, 1024, 1024), 1318),
    ("base", "onnx", "fp32", (1, 1024, 1024), 382),
    ("digits", "onnx", "fp32", (1, 480, 6400), 2418),
    ("lite", "onnx", "fp32", (1, 480, 6400), 2574),
    ("small", "onnx", "fp32", (1, 480, 6400), 2574),
    ("digits", "onnx", "fp32", (1, 1536, 1536), 1442),
    ("digits", "onnx", "int8", (1, 1536, 1536), 2810),
    ("lite", "onnx", "int8", (1, 480, 6400), 4925),
    ("lite", "onnx", "fp32", (64, 224, 224), 679),
    ("lite", "onnx", "int8", (64, 224, 224), 651),
    ("digits", "onnx", "fp32", (64, 224, 224), 250),
    ("lite", "pytorch", "fp32", (64, 224, 224), 777),
    ("digits", "pytorch", "fp32", (64, 224, 224), 346),
    ("lite", "onnx", "fp32", (1, 1536, 1536), 1571),
    ("digits", "onnx", "fp32", (16, 512, 512), 380),
    ("digits", "onnx", "int8", (16, 512, 512), 645),
    ("digits", "onnx", "fp32", (1, 64, 65536), 4340),
    ("digits", "onnx", "fp32", (1, 2048, 2048), 4340),
    ("lite", "onnx", "int8", (1, 1536, 1536), 2985),
    ("lite", "onnx", "fp32", (8, 512, 512), 400),
    ("base", "onnx", "fp32", (64, 224, 224), 1030),
    ("small", "onnx", "fp32", (1, 2048, 2048), 4530),
    ("digits", "onnx", "int8", (1, 2048, 2048), 8565),
    ("digits", "onnx", "fp16", (1, 1024, 1024), 563),
    ("digits", "onnx", "fp16", (1, 480, 1600), 423),
    # The same on 2026-11-26.
    ("digits v2", "onnx", "fp32", (8, 224, 224), 33),
    ("digits v2", "onnx", "fp32", (1, 1024, 1024), 294),
    ("digits v2", "onnx", "fp32", (64, 224, 224), 250),
    ("digits v2", "onnx", "fp32", (1, 480, 6400), 2411),
    ("digits v2", "onnx", "fp32", (1, 1536, 1536), 1441),
    ("digits v2", "onnx", "int8", (1, 1024, 1024), 576),
    ("digits v2", "onnx", "int8", (1, 480, 4800), 2677),
    ("digits v2", "onnx", "fp16", (1, 1024, 1024), 559),
    ("digits v2", "pytorch", "fp32", (1, 1024, 1024), 601),
    ("digits v2", "pytorch", "fp32", (64, 224, 224), 323),
    ("tiny v2", "onnx", "fp32", (8, 224, 224), 131),
    ("tiny v2", "onnx", "fp32", (1, 1024, 1024), 382),
    ("tiny v2", "onnx", "fp32", (64, 224, 224), 1046),
    ("tiny v2", "onnx", "fp32", (1, 480, 6400), 2758),
    ("tiny v2", "onnx", "fp32", (1, 1536, 1536), 1612),
    ("tiny v2", "onnx", "int8", (1, 1024, 1024), 655),
    ("tiny v2", "onnx", "int8", (1, 480, 4800), 2855),
    ("tiny v2", "onnx", "fp16", (1, 1024, 1024), 668),
    ("tiny v2", "pytorch", "fp32", (1, 1024, 1024), 796),
    ("tiny v2", "pytorch", "fp32", (64, 224, 224), 957),
    # PyTorch in blocks of queries, on 2026-11-26 too: with two threads, or with one, which takes as much.
    ("digits", "pytorch", "fp32", (1, 1100, 1100), 1742),
    ("digits", "pytorch", "fp32", (1, 1200, 1200), 2349),
    ("digits", "pytorch", "fp32", (1, 1536, 1536), 672),
    ("digits", "pytorch", "fp32", (1, 2048, 2048), 363),
    ("digits", "pytorch", "fp32", (1, 480, 6400), 366),
    ("digits", "pytorch", "fp32", (1, 1, 200_000), 128),
    ("digits", "pytorch", "fp32", (16, 512, 512), 1335),
    ("digits", "pytorch", "fp32", (32, 512, 512), 2722),
    ("lite", "pytorch", "fp32", (1, 1536, 1536), 634),
    ("lite", "pytorch", "fp32", (1, 2048, 2048), 1042),
    ("digits v2", "pytorch", "fp32", (1, 1536, 1536), 478),
    ("digits v2", "pytorch", "fp32", (1, 2048, 2048), 396),
    ("digits v2", "pytorch", "fp32", (1, 1, 200_000), 113),
    ("tiny v2", "pytorch", "fp32", (1, 1536, 1536), 846),
    ("tiny v2", "pytorch", "fp32", (1, 2048, 2048), 1256),
    # The reference, by one call of the network in float64, with one thread.
    ("lite", "float64", "fp32", (1, 1024, 1024), 1202),
    ("digits", "float64", "fp32", (1, 1200, 1200), 1127),
    ("lite", "float64", "fp32", (1, 1536, 1536), 1638),
    ("digits", "float64", "fp32", (1, 2048, 2048), 801),
    ("small", "float64", "fp32", (1, 2048, 2048), 2913),
    ("digits v2", "float64", "fp32", (1, 1024, 1024), 1105),
    ("tiny v2", "float64", "fp32", (1, 1536, 1536), 1253),
    ("tiny v2", "float64", "fp32", (1, 2048, 2048), 2229),
]

#: What is measured of blocks, which come and go in an arena, as a share of what is estimated.
LEAST_IN_BLOCKS, MOST_IN_BLOCKS = 0.8, 1.25
#: (network, precision, (batch, height, width), MiB) in ONNX Runtime 1.32.0 with large maps in blocks, on 2026-11-26 by
#: benchmarks/memory.py: the most of two calls, beside what the open network takes.
MEASURED_IN_BLOCKS: list[tuple[str, str, tuple[int, int, int], int]] = [
    ("digits", "fp32", (64, 224, 224), 126),
    ("digits", "fp32", (1, 1024, 1024), 81),
    ("digits", "fp32", (1, 480, 6400), 144),
    ("digits", "fp32", (1, 1536, 1536), 115),
    ("digits", "fp32", (1, 2048, 2048), 143),
    ("digits v2", "fp32", (64, 224, 224), 125),
    ("digits v2", "fp32", (1, 1024, 1024), 81),
    ("digits v2", "fp32", (1, 480, 6400), 152),
    ("digits v2", "fp32", (1, 1536, 1536), 115),
    ("digits v2", "fp32", (1, 2048, 2048), 151),
    ("lite", "fp32", (64, 224, 224), 316),
    ("lite", "fp32", (1, 1024, 1024), 90),
    ("lite", "fp32", (1, 480, 6400), 303),
]


@pytest.mark.parametrize("measured", MEASURED, ids=lambda row: "-".join(map(str, row[:4])))
def test_the_estimate_is_near_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, measured: tuple[str, str, str, tuple[int, int, int], int]
) -> None:
    monkeypatch.setattr(rest_family, "_channels_a_block", lambda: 8)  # of the machine that measured
    network, format, precision, shape, mib = measured
    estimate = network_bytes(CONFIGS[network], *shape, precision=Precision(precision), format=format) / 2**20
    if mib < FROM_MIB:  # there what matters is that it is small
        assert 0.75 * mib - 8 < estimate < MOST * mib + 16
    else:
        assert LEAST <= estimate / mib <= MOST


@pytest.mark.parametrize("measured", MEASURED_IN_BLOCKS, ids=lambda row: "-".join(map(str, row[:3])))
def test_the_estimate_of_blocks_is_near_what_was_measured(
    measured: tuple[str, str, tuple[int, int, int], int],
) -> None:
    network, precision, shape, mib = measured
    estimate = network_bytes(CONFIGS[network], *shape, precision=Precision(precision), block=MAP_BLOCK) / 2**20
    assert LEAST_IN_BLOCKS * mib < estimate < MOST_IN_BLOCKS * mib + 16


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [DIGITS, DIGITS_V2], ids=["rest", "restv2"])
def test_a_file_that_is_exported_now_takes_what_is_estimated(checkpoint: Path, tmp_path: Path) -> None:
    """Its graph lets ONNX Runtime compute softmaxes in place, or else it takes twice as much; in blocks a tenth."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from rest_deploy.pipeline import ExportRequest, run_export

    for blockwise, side in ((False, 1536), (True, 2048)):
        request = ExportRequest(None, tmp_path / "x.onnx", checkpoint=checkpoint, verify=False)
        info = run_export(replace(request, options={"blockwise": blockwise})).info
        words = [sys.executable, "-m", "benchmarks.memory", str(request.output), "--child", "1", str(side), str(side)]
        measured = int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        assert (measured > FROM_MIB << 20) is not blockwise
        assert LEAST_IN_BLOCKS <= network_bytes(config_of(info), 1, side, side, block=info.map_block) / measured <= MOST


def test_memory_grows_with_the_square_of_the_pixels() -> None:
    """A photograph of 24 megapixels at its own size is what no server survives."""
    small = network_bytes(get_config("rest_small"), 1, 1000, 1500)
    large = network_bytes(get_config("rest_small"), 1, 4000, 6000)
    assert large / small > 0.7 * 16**2
    assert 100 << 30 < large < 200 << 30


@pytest.mark.parametrize("name", list_models())
def test_in_pytorch_memory_grows_with_the_pixels_where_maps_are_in_blocks(name: str) -> None:
    in_float32, in_float64 = (
        functools.partial(network_bytes, get_config(name), 1, format=format) for format in ("pytorch", "float64")
    )
    for needed in (in_float32, in_float64):
        assert needed(8192, 8192) < 4.2 * needed(4096, 4096)
    assert in_float64(2048, 2048) < 8 << 30


def test_what_counts_is_the_shape_and_not_the_pixels_alone() -> None:
    square, strip, line = (network_bytes(get_config("rest_lite"), 1, *size) for size in SHAPES_OF_A_MEGAPIXEL)
    assert strip < 1.2 * square
    assert line > 100 * square


def test_blocks_of_channels_are_as_wide_as_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    def pytorch_bytes(block: int) -> int:
        monkeypatch.setattr(rest_family, "_channels_a_block", lambda: block)
        return network_bytes(get_config("rest_lite"), 1, 1024, 1024, format="pytorch")

    assert 1.7 < pytorch_bytes(16) / pytorch_bytes(8) < 2


@pytest.mark.parametrize("format", ["onnx", "pytorch", "float64"])
@pytest.mark.parametrize("gib", [0.1, 1, 16])
def test_the_largest_square_fits_and_the_next_does_not(format: str, gib: float) -> None:
    config, limit = get_config("rest_base"), int(gib * 2**30)
    side = round(pixels_within(limit, functools.partial(network_bytes, config, format=format)) ** 0.5)
    assert network_bytes(config, 1, side, side, format=format) <= limit
    assert network_bytes(config, 1, side + 1, side + 1, format=format) > limit


@pytest.mark.parametrize(("format", "block"), [("pytorch", None), ("float64", None), ("onnx", MAP_BLOCK)])
def test_up_to_the_largest_square_all_fit(format: str, block: int | None) -> None:
    """Larger squares may take less, where large maps go in blocks."""
    needed = functools.partial(network_bytes, get_config("rest_small"), format=format, block=block)
    takes = [needed(1, side, side) for side in range(1, 1700)]
    assert any(one > other for one, other in itertools.pairwise(takes))
    for limit in (2**26, 80 << 20, 10**9, 15 * 10**8):
        side = math.isqrt(pixels_within(limit, needed))
        assert max(takes[:side], default=0) <= limit or max(takes[: side * 15 // 16]) <= limit
        assert side >= len(takes) or needed(1, side + 1, side + 1) > limit


def test_nothing_fits_into_nothing() -> None:
    assert pixels_within(0, functools.partial(network_bytes, get_config("rest_lite"))) == 0


def test_no_estimate_for_an_engine() -> None:
    with pytest.raises(ConfigError, match=r"'trt-rtx'.*onnx, pytorch"):
        network_bytes(get_config("rest_lite"), 1, 224, 224, format="trt-rtx")


def test_it_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['numpy'] = None; "
    code += "from rest_deploy.models import family; "
    code += "print(family.network_bytes(family.get_config('rest_lite'), 1, 224, 224))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == network_bytes(get_config("rest_lite"), 1, 224, 224)
