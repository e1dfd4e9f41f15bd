"""TensorRT-RTX's own module against its stand-in, as far as it goes without a GPU: the same calls, the same answers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.standins.bench import PROFILE, Shapes, Workshop, make_monitor, refusal, write_onnx
from tests.standins.tensorrt import BEHAVIOURS, FakeTensorRT

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'rest-deploy[trt-rtx]'")
FAKE = FakeTensorRT("tensorrt_rtx-1.7.1.116")

if trt.__version__ != FAKE.version:
    pytest.skip(f"compares with TensorRT-RTX {FAKE.version}, installed is {trt.__version__}", allow_module_level=True)

SMALL, LARGE = PROFILE[0], PROFILE[2]


def words(message: str) -> str:
    """An error without its place in the source."""
    return re.sub(r"\.? ?In \w+\(?\)? at .*$|\. In validate at .*$", "", message, flags=re.DOTALL).rstrip(". )")


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., tuple[Workshop, Workshop]]:
    def make(**kwargs: Any) -> tuple[Workshop, Workshop]:
        path = write_onnx(tmp_path / "small.onnx", **kwargs)
        return Workshop(trt, path), Workshop(FAKE.module, path)

    return make


PROFILES: dict[str, tuple[str, Shapes]] = {
    "good": ("image", PROFILE),
    "another name": ("img", PROFILE),
    "rank 3": ("image", [shape[1:] for shape in PROFILE]),
    "4 channels": ("image", [(shape[0], 4, *shape[2:]) for shape in PROFILE]),
    "swapped": ("image", PROFILE[::-1]),
    "ranks that differ": ("image", (SMALL, SMALL[1:], LARGE)),
    "from 0": ("image", ((0, *SMALL[1:]), *PROFILE[1:])),
}


@pytest.mark.parametrize("case", PROFILES)
@pytest.mark.parametrize("static", [False, True])
def test_profiles(case: str, static: bool, both: Callable[..., tuple[Workshop, Workshop]]) -> None:
    name, ends = PROFILES[case]
    found = []
    for shop in both(shape=(1, 3, 64, 64)) if static else both():
        number = shop.add_profile(ends, name)
        plan = shop.build()
        found.append((number, plan is None, sorted(words(message) for message in shop.logger.errors())))
    assert found[0] == found[1]


def test_no_profile_and_one_that_goes_bad(both: Callable[..., tuple[Workshop, Workshop]]) -> None:
    found = []
    for shop in both():
        assert shop.build() is None
        profile = shop.builder.create_optimization_profile()
        profile.set_shape("image", *PROFILE)
        numbers = [shop.config.add_optimization_profile(profile) for _ in range(2)]
        profile.set_shape("image", *PROFILE[::-1])
        assert shop.build() is None
        found.append((numbers, bool(profile), [words(message) for message in shop.logger.errors()]))
        assert refusal(lambda p=profile: p.set_shape("image", (-1, 3, 32, 32), *PROFILE[1:])) == "RuntimeError"
    assert found[0] == found[1]


@pytest.mark.parametrize("stop_at", [None, 3, 20])
def test_progress(stop_at: int | None, both: Callable[..., tuple[Workshop, Workshop]]) -> None:
    found = []
    for shop in both():
        shop.add_profile()
        shop.config.progress_monitor = monitor = make_monitor(shop.trt, stop_at)
        plan = shop.build()
        found.append((plan is None, monitor.told, [words(message) for message in shop.logger.errors()]))
    assert found[0] == found[1]


@pytest.mark.parametrize("content", ["missing", "junk", "empty", "Det", "Gemm"])
def test_parser(content: str, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    if content in ("Det", "Gemm"):
        write_onnx(path, head=content)
    elif content != "missing":
        path.write_bytes(b"junk" * 100 if content == "junk" else b"")
    found = []
    for shop in (Workshop(trt, path), Workshop(FAKE.module, path)):
        errors = [shop.parser.get_error(number) for number in range(shop.parser.num_errors)]
        told = [
            (e.code().name, e.desc(), e.node_name(), e.node_operator(), e.node(), e.func(), e.file(), e.line())
            for e in errors
        ]
        tensors = [shop.network.get_input(0), shop.network.get_output(0)]
        shapes = [tensor and (tensor.name, tuple(tensor.shape), tensor.dtype.name) for tensor in tensors]
        found.append((shop.parsed, told, shop.network.num_inputs, shop.network.num_outputs, shapes))
    assert found[0] == found[1]


def test_targets(both: Callable[..., tuple[Workshop, Workshop]]) -> None:
    found = []
    for shop in both():
        kinds, config = shop.trt.ComputeCapability, shop.config
        shop.add_profile()
        answers: list[Any] = [config.set_compute_capability(kinds.SM86, 0)]
        config.num_compute_capabilities = 2
        answers += [config.set_compute_capability(kinds.NONE, 0), config.set_compute_capability(kinds.SM86, 0)]
        answers += [shop.build() is None, shop.logger.errors()[-1]]  # the second is not set
        answers += [config.set_compute_capability(kinds.SM89, 1), shop.build() is None]
        answers += [config.get_compute_capability(1).name, config.set_compute_capability(kinds.SM89, 2)]
        found.append(answers)
    assert found[0] == found[1]


def test_defaults_and_odd_settings(both: Callable[..., tuple[Workshop, Workshop]]) -> None:
    found = []
    for shop in both():
        config, flags = shop.config, shop.trt.BuilderFlag
        config.builder_optimization_level = 9
        config.hardware_compatibility_level = shop.trt.HardwareCompatibilityLevel.AMPERE_PLUS
        names = ("profiling_verbosity", "engine_capability", "runtime_platform", "tiling_optimization_level")
        answers = [str(getattr(config, name)) for name in names]
        answers += [str(config.get_flag(flag)) for flag in (flags.TF32, flags.DEBUG)]
        answers += [str(config.builder_optimization_level), str(config.max_aux_streams)]
        answers += [message for kind, message in shop.logger.said if kind == "WARNING"]
        answers += [str(config.get_memory_pool_limit(shop.trt.MemoryPoolType.WORKSPACE)), str(config.progress_monitor)]
        found.append(answers)
    assert found[0] == found[1]


def test_host_memory_and_shapes(both: Callable[..., tuple[Workshop, Workshop]]) -> None:
    found = []
    for shop in both():
        shop.add_profile()
        plan, shape, flag = shop.build(), shop.network.get_input(0).shape, shop.trt.BuilderFlag.TF32
        calls: list[Callable[..., Any]] = [
            lambda plan, shape, flag: len(plan), lambda plan, shape, flag: plan[0],
            lambda plan, shape, flag: iter(plan), lambda plan, shape, flag: plan.hex(),
            lambda plan, shape, flag: plan + b"", lambda plan, shape, flag: bytes(plan),
            lambda plan, shape, flag: hash(plan), lambda plan, shape, flag: bytes(memoryview(plan)),
            lambda plan, shape, flag: hash(shape), lambda plan, shape, flag: shape == shape,  # noqa: PLR0124
            lambda plan, shape, flag: shape.index(3), lambda plan, shape, flag: tuple(shape),
            lambda plan, shape, flag: 1 << flag, lambda plan, shape, flag: flag < 3,
            lambda plan, shape, flag: flag | 1, lambda plan, shape, flag: list(type(flag)),
            lambda plan, shape, flag: type(flag)["TF32"], lambda plan, shape, flag: hash(flag),
        ]  # fmt: skip
        answers = [refusal(lambda c=call, p=plan, s=shape, f=flag: c(p, s, f)) for call in calls]
        facts = [bool(plan), len(bytes(plan)) == plan.nbytes, plan.dtype.name, shape == (-1, 3, -1, -1), repr(shape)]
        found.append((answers, facts, shape[1:3], int(flag) == flag, type(flag)(99).name))
    assert found[0] == found[1]


def test_interfaces() -> None:
    for module in (trt, FAKE.module):
        made = type("Logger", (module.ILogger,), {"__init__": lambda self: None})
        assert refusal(made) == "TypeError"
        assert [refusal(call) for call in (module.IHostMemory, module.ICudaEngine, module.Runtime)] == ["TypeError"] * 3
        assert module.Logger(module.Logger.INFO).min_severity == module.ILogger.Severity.INFO


def test_deprecations(both: Callable[..., tuple[Workshop, Workshop]]) -> None:
    for shop in both():
        with pytest.warns(DeprecationWarning, match=r"Use Deprecated in TensorRT-RTX 1\.2\. Timing cache"):
            shop.config.get_timing_cache()
        cache = shop.config.create_timing_cache(b"junk")
        said = ("WARNING", "Failed to deserialize timing cache. Returning an empty timing cache.")
        assert shop.logger.said[-1] == said
        with pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX"):
            assert shop.config.set_timing_cache(cache, False)


def test_names_of_members_and_arguments() -> None:
    """The file's names are the module's, and what has a behaviour takes arguments by the same names."""
    for name, members in FAKE.names.items():
        if members:
            assert all(hasattr(getattr(trt, name), member) for member in members), name
    wrong = []
    for behaviour in BEHAVIOURS:
        for member in FAKE.names[behaviour.face_name]:
            ours, theirs = getattr(behaviour, member, None), vars(getattr(trt, behaviour.face_name))[member]
            if ours is None or isinstance(ours, property):
                same = ours is None or isinstance(theirs, property)
                settable = ours is None or not ours.fset or theirs.fset is not None
                readable = ours is None or not ours.fget or theirs.fget is not None
                matches = same and settable and readable
            else:
                said = re.findall(r"\(self: [^,)]*((?:, \w+: .*?)?)\) ->", theirs.__doc__)
                accepted = [re.findall(r"(?:^|, )(\w+): ", part) for part in said]
                matches = list(inspect.signature(ours).parameters)[1:] in accepted or "Overloaded" in theirs.__doc__
            if not matches:
                wrong.append(f"{behaviour.face_name}.{member}")
    assert not wrong
