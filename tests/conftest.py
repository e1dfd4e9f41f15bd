"""Models and artifacts that many tests share, each made once."""

from __future__ import annotations

import gc
import importlib.util
import math
import os
import signal
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from rest_deploy import errors
from rest_deploy.benchmarking import conditions
from rest_deploy.cli import terminal
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.models.restv2_family import ResTv2Config
from rest_deploy.specs import ImageSize, InputKind, Preprocessing, Resize

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet

    from rest_deploy.models.network import Network
    from rest_deploy.models.rest import ResT
    from rest_deploy.models.restv2 import ResTv2
    from rest_deploy.pipeline import ExportResult
    from tests.once import Once
    from tests.serving.servers import Served

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "examples" / "images"
DIGITS = ROOT / "examples" / "digits" / "rest_digits.safetensors"
DIGITS_V2 = ROOT / "examples" / "digits" / "restv2_digits.safetensors"

#: Small enough to trace in a second, with every kind of block: one head and several, reduction and none.
TINY = ResTConfig(
    embed_dims=(8, 16, 24, 32), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4), sr_ratios=(4, 2, 2, 1), num_classes=7
)
TINY_V2 = ResTv2Config(
    embed_dims=(8, 16, 24, 32), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4), sr_ratios=(4, 2, 2, 1), num_classes=7
)

ONCE = pytest.StashKey["Once | None"]()
#: `make pythons` runs the tests of what deploys, which need no networks; fixtures that make one skip there.
TORCH = importlib.util.find_spec("torch") is not None


def slow(cases: Iterable[object]) -> list[ParameterSet]:
    """Cases of a test for the second lane."""
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


def further(cases: Iterable[object]) -> list[ParameterSet]:
    """Cases of ``make soak`` alone: a minute each, and of a kind of which the second lane has another."""
    marks = (pytest.mark.slow, pytest.mark.soak)
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks) for case in cases]


def in_first_lane(config: pytest.Config) -> bool:
    """Whether ``make test`` runs: of what is tried at random a part is tried, all of it in the second lane."""
    return bool(config.getoption("markexpr") == "not slow")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--soak``: what tests/reliability tries is tried in full, for twenty minutes."""
    parser.addoption("--soak", action="store_true", help="try all that make soak promises, not a part of it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--soak`` its cases are left out."""
    if not config.getoption("--soak"):
        left = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis tries fewer examples in the first lane, where a test does not say how many."""
    settings.register_profile("first lane", max_examples=20)
    if in_first_lane(config):
        settings.load_profile("first lane")


@pytest.fixture(scope="session", autouse=True)
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Once | None]:
    """Traces and answers of networks that were seen before, in this process or in another worker."""
    request.config.stash[ONCE] = None
    if not TORCH:
        yield None
        return
    import torch

    from tests.once import Once

    if in_first_lane(request.config):  # Hypothesis 6.100, the oldest, calls a test flaky behind it
        gc.freeze()  # what is loaded: each search for garbage would go through it, for a third of a second
    worker = "PYTEST_XDIST_WORKER" in os.environ
    torch.set_num_threads(1 if worker else 2)  # OpenMP's threads wait for each other, long where others take the cores
    folder = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as monkeypatch:
        request.config.stash[ONCE] = once = Once((folder.parent if worker else folder) / "once")
        once.install(monkeypatch)
        yield once


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that is marked ``anew`` computes for itself."""
    once = item.config.stash[ONCE]
    if once is None:
        return (yield)
    once.active = item.get_closest_marker("anew") is None
    try:
        return (yield)
    finally:
        once.active = True


def lively(model: Network, seed: int = 0) -> Any:
    """Give a model weights that no layer leaves near zero: statistics and biases of BatchNorm too."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            fan_in = value[0].numel() if value.ndim > 1 else 1
            spread = {"running_var": (0.2 * noise).exp(), "running_mean": 0.1 * noise, "bias": 0.1 * noise}
            fallback = 1 + 0.1 * noise if value.ndim == 1 else noise / fan_in**0.5
            value.copy_(spread.get(key.rsplit(".", 1)[-1], fallback))
    return model


@pytest.fixture(scope="session")
def tiny_model() -> ResT:
    """A tiny ResT in float32 with lively weights."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from rest_deploy.models.factory import create_model

    return lively(create_model(TINY))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: ResT) -> Path:
    """Its self-describing checkpoint: native size, own labels."""
    from rest_deploy.models.card import Card
    from rest_deploy.models.checkpoint import save_checkpoint

    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    native = Preprocessing(resize=Resize.NATIVE, size=None)
    save_checkpoint(path, tiny_model.state_dict(), Card("tiny", tuple("abcdefg"), native))
    return path


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> ExportResult:
    """Its verified ONNX file, and what was told of it."""
    from rest_deploy.pipeline import ExportRequest, run_export

    output = tmp_path_factory.mktemp("tiny_onnx") / "tiny.onnx"
    return run_export(ExportRequest(None, output, checkpoint=tiny_checkpoint))


@pytest.fixture(scope="session")
def tiny_onnx(tiny_export: ExportResult) -> Path:
    """Path of the tiny model's ONNX file."""
    return tiny_export.path


@pytest.fixture(scope="session")
def tiny_v2_model() -> ResTv2:
    """A tiny ResTv2 in float32 with lively weights."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from rest_deploy.models.factory import create_model

    made: ResTv2 = lively(create_model(TINY_V2)).requires_grad_(False)
    return made


@pytest.fixture(scope="session")
def tiny_v2_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_v2_model: ResTv2) -> Path:
    """Its self-describing checkpoint: native size, own labels."""
    from rest_deploy.models.checkpoint import save_checkpoint

    path = tmp_path_factory.mktemp("tiny_v2") / "tiny2.safetensors"
    native = Preprocessing(resize=Resize.NATIVE, size=None)
    save_checkpoint(path, tiny_v2_model, name="tiny2", labels=tuple("abcdefg"), preprocessing=native)
    return path


@pytest.fixture(scope="session")
def tiny_v2_onnx(tiny_v2_checkpoint: Path) -> Path:
    """Its verified ONNX file."""
    from rest_deploy.pipeline import ExportRequest, run_export

    return run_export(ExportRequest(None, tiny_v2_checkpoint.with_suffix(".onnx"), checkpoint=tiny_v2_checkpoint)).path


@pytest.fixture(scope="session")
def tiny_by_input(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> dict[str, Path]:
    """What a file takes -> the tiny model's ONNX file that crops pictures to 48x33 (height x width), not verified."""
    from rest_deploy.pipeline import ExportRequest, run_export

    folder, steps = tmp_path_factory.mktemp("tiny_by_input"), Preprocessing(size=ImageSize(48, 33), crop_ratio=0.9)
    made = {}
    for kind in InputKind:
        request = ExportRequest(
            None,
            folder / f"{kind.value}.onnx",
            checkpoint=tiny_checkpoint,
            preprocessing=steps,
            input=kind,
            verify=False,
        )
        made[kind.value] = run_export(request).path
    return made


@pytest.fixture(scope="session")
def lite_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rest_lite with random weights, as ``rest-export --model rest_lite`` makes it."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from rest_deploy.pipeline import ExportRequest, run_export

    return run_export(ExportRequest("rest_lite", tmp_path_factory.mktemp("lite") / "rest_lite.onnx")).path


@pytest.fixture(scope="session")
def tritonserver() -> Path:
    """A real server, of an environment of its own (``make triton``), or where TRITONSERVER says."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    program = Path(os.environ.get("TRITONSERVER", ROOT / ".venv-triton" / "bin" / "tritonserver"))
    if not program.is_file():
        pytest.skip("there is no tritonserver; make triton brings one")
    return program


@pytest.fixture(scope="session")
def served(tritonserver: Path, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the tiny model that tests share."""
    from tests.serving.servers import serving

    with serving(tritonserver, tmp_path_factory.mktemp("served"), [tiny_onnx]) as running:
        yield running


@pytest.fixture(autouse=True)
def _from_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install lines as they are where the package came from a registry, not from this clone."""
    monkeypatch.setattr(errors, "origin", lambda: 'pip install "rest-deploy[{}]"')


@pytest.fixture(autouse=True)
def _however_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of progress on stderr, on a slow machine either."""
    monkeypatch.setattr(terminal, "LINE_EVERY_S", math.inf)


@pytest.fixture(autouse=True)
def _of_any_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate of the machine, which every benchmark asks for, takes seconds of large products: small ones do here."""
    monkeypatch.setattr(conditions, "_SIDES", (64, 128))
    monkeypatch.setattr(conditions, "_SECONDS", 0.002)


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded randomness."""
    return np.random.default_rng(20210528)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, as at a terminal; a process started in the background inherits it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
