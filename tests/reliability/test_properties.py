"""Any network, any size, by property: the deploy form is the training form, and the ONNX file is the deploy form."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rest_deploy.export import onnx_exporter
from rest_deploy.export.cpu_session import CpuSession
from rest_deploy.export.onnx_exporter import OnnxConfig
from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.factory import create_model
from rest_deploy.models.rest import ResT
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.specs import TensorSpec
from tests.conftest import lively
from tests.reliability.record import Record

pytestmark = pytest.mark.slow

#: Of float64: the two forms compute the same in another order. Logits are of the order of 1, sums of up to a thousand
#: values; rounding grows with the depth. Measured: below 1e-12.
_FLOAT64 = 1e-9
#: Roundings of intermediate values that a network does on the way, in units of one of all its weights at a time.
_ROUNDINGS = 50
_TRIED = {"forms": 0, "files": 0, "sizes": 0}


@st.composite
def configs(draw: st.DrawFn, *, least: int = 1) -> ResTConfig:
    """Networks of every shape that a config may have, small enough to be run by the hundred.

    Args:
        draw: Hypothesis'.
        least: Channels of a stage.
    """
    heads = [draw(st.integers(1, 4)) for _ in range(4)]
    widths = [count * draw(st.integers(-(-least // count), -(-least // count) + 5)) for count in heads]
    assume(widths[0] % 2 == 0)
    ratios = [draw(st.sampled_from([0.5, 1.0, 2.0, 3.7, 4.0])) for _ in widths]
    assume(all(width * ratio >= 1 for width, ratio in zip(widths, ratios, strict=True)))
    return ResTConfig(
        embed_dims=tuple(widths),
        depths=tuple(draw(st.integers(1, 3)) for _ in widths),
        num_heads=tuple(heads),
        mlp_ratios=tuple(ratios),
        sr_ratios=tuple(draw(st.sampled_from([1, 2, 4, 6, 8])) for _ in widths),
        num_classes=draw(st.integers(1, 12)),
        in_channels=draw(st.sampled_from([1, 3])),
    )


inputs = st.tuples(st.integers(1, 4), st.integers(1, 80), st.integers(1, 80))


def _network(config: ResTConfig, seed: int) -> ResT:
    return lively(create_model(config, seed=seed), seed)


def _shaken(config: ResTConfig, batch: torch.Tensor, seed: int, wanted: NDArray[np.float64]) -> float:
    """How far the logits go where every weight and pixel is rounded once to float32: what this network makes of it.

    Some random networks make much of it: a LayerNorm of two channels divides by their difference.
    """
    model = _network(config, seed).double()
    generator = torch.Generator().manual_seed(seed)
    furthest = 0.0
    for _ in range(4):
        shaken = to_deploy(model)
        for value in (*shaken.parameters(), *shaken.buffers()):
            if value.is_floating_point():
                noise = torch.empty_like(value).uniform_(-1, 1, generator=generator)
                value.data.mul_(1 + 2**-24 * noise)
        pixels = batch.double()
        pixels = pixels * (1 + 2**-24 * torch.empty_like(pixels).uniform_(-1, 1, generator=generator))
        with torch.inference_mode():
            furthest = max(furthest, float((shaken(pixels) - torch.from_numpy(wanted)).abs().max()))
    return furthest


def _batch(config: ResTConfig, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    batch, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, config.in_channels, height, width), generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def examples(request: pytest.FixtureRequest) -> tuple[int, int]:
    """How many networks the two properties are tried with."""
    return (400, 30) if request.config.getoption("--soak") else (40, 3)


def test_the_deploy_form_is_the_training_form(examples: tuple[int, int], record: Record) -> None:
    @settings(max_examples=examples[0], deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(configs(), inputs, st.integers(0, 2**31))
    def check(config: ResTConfig, shape: tuple[int, int, int], seed: int) -> None:
        model = _network(config, seed).double()
        deploy = to_deploy(model)
        batch = _batch(config, shape, seed)
        with torch.inference_mode():
            wanted, found = model(batch), deploy(batch)
        scale = max(1.0, float(wanted.abs().max()))
        assert float((wanted - found).abs().max()) <= _FLOAT64 * scale
        _TRIED["forms"] += 1

    check()
    what = "random networks and sizes: deploy form against training form, float64"
    record.add(what, _TRIED["forms"], f"equal within {_FLOAT64:g} of the largest logit")


def test_the_onnx_file_is_the_deploy_form(examples: tuple[int, int], record: Record) -> None:
    sizes = st.lists(inputs, min_size=3, max_size=3)

    # ONNX Runtime's LayerNormalization takes the variance for the mean of the squares less the square of the mean. Over
    # two channels that can be next to nothing left of two large numbers, so networks so narrow are left out here.
    @settings(max_examples=examples[1], deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(configs(least=8), sizes, st.integers(0, 2**31), st.booleans())
    def check(config: ResTConfig, shapes: list[tuple[int, int, int]], seed: int, simplify: bool) -> None:
        deploy = to_deploy(_network(config, seed))
        image = TensorSpec("image", "float32", ("batch", config.in_channels, "height", "width"))
        logits = TensorSpec("logits", "float32", ("batch", config.num_classes))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.onnx"
            onnx_exporter.export(deploy, image, [logits], path, OnnxConfig(simplify=simplify))
            session = CpuSession(onnx.load(path), threads=1)
        exact = to_deploy(_network(config, seed).double())
        for shape in shapes:
            batch = _batch(config, shape, seed).float()
            with torch.inference_mode():
                wanted = exact(batch.double()).numpy()
            found = session.run(batch.numpy())["logits"]
            allowed = _ROUNDINGS * _shaken(config, batch, seed, wanted) + 1e-5 * max(1.0, float(np.abs(wanted).max()))
            assert float(np.abs(found - wanted).max()) <= allowed
            _TRIED["sizes"] += 1
        _TRIED["files"] += 1

    check()
    record.add(
        f"random networks as ONNX files, {_TRIED['sizes']} sizes, against the deploy form in float64",
        _TRIED["files"],
        f"within {_ROUNDINGS} times what rounding all weights once to float32 does",
    )
