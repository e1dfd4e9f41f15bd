"""From pictures to the network's input, in the graph: every bit as with Pillow, and a check that finds what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

from rest_deploy.artifact.info import Levels
from rest_deploy.errors import ConfigError, ExportError
from rest_deploy.export import pixels
from rest_deploy.export.cpu_session import CpuSession
from rest_deploy.export.pixels import as_graph, check_exact, check_levels
from rest_deploy.preprocess.transform import input_of, scale_and_shift, transform
from rest_deploy.specs import ImageSize, InputKind, Interpolation, Preprocessing, Resize
from tests.conftest import IMAGES, further, slow

#: Networks: square and not, with sides that are multiples of a group of places and that are not, down to one pixel.
SIZES = ((224, 224), (64, 48), (48, 65), (1, 1), (3, 100), (33, 7))
RESIZES = ("crop", "warp")
#: Of pictures: one pixel, lines, odd, long both ways, tall ones of either order of passes, multiples, smaller ones.
SHAPES = (
    *((1, 1), (1, 2), (2, 1), (1, 37), (53, 1), (31, 47), (7, 90), (90, 7), (13, 200), (450, 20), (270, 90), (128, 96)),
    *((448, 448), (55, 50), (50, 55), (192, 51)),
)


def _steps(size: tuple[int, int] | None, **asked: Any) -> Preprocessing:
    grey = asked.pop("grey", False)
    if grey:
        asked |= {"mean": (0.45,), "std": (0.22,)}
    if size is None:
        return Preprocessing(resize="native", size=None, **asked)
    return Preprocessing(size=ImageSize(*size), **asked)


def _noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def _apart(run: Callable[..., Any], picture: NDArray[np.uint8], steps: Preprocessing, kind: InputKind) -> NDArray[Any]:
    """Levels that each value is apart from what Pillow and the transform make; NaN where the bits differ otherwise."""
    image = Image.fromarray(picture)
    wanted, made = transform(image, steps), run(input_of(image, steps, kind)[None])["same"][0]
    assert made.shape == wanted.shape
    assert made.dtype == wanted.dtype
    apart: NDArray[Any] = np.rint(np.abs(made - wanted) / scale_and_shift(steps)[0].reshape(-1, 1, 1))
    return np.where((apart == 0) & (made != wanted), np.nan, apart)


def _session(steps: Preprocessing, kind: InputKind = InputKind.PIXELS, *, exact: bool = True) -> Callable[..., Any]:
    return CpuSession(as_graph(steps, kind, exact=exact)).run


# ---- what is made


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_every_bit_is_pillow_s(resize: str, interpolation: Interpolation, rng: np.random.Generator) -> None:
    for number, size in enumerate(SIZES):
        steps = _steps(size, resize=resize, interpolation=interpolation, grey=number % 3 == 2)
        run = _session(steps)
        for shape in SHAPES:
            assert not _apart(run, _noise(rng, *shape), steps, InputKind.PIXELS).any(), (size, shape)


@settings(deadline=None)
@given(data=st.data())
def test_every_bit_is_pillow_s_at_random_sizes(data: st.DataObject) -> None:
    side = st.one_of(st.integers(1, 40), st.integers(1, 400))
    size = (data.draw(st.integers(1, 80)), data.draw(st.integers(1, 80)))
    steps = _steps(
        size,
        resize=data.draw(st.sampled_from(RESIZES)),
        interpolation=data.draw(st.sampled_from(list(Interpolation))),
        crop_ratio=data.draw(st.floats(0.2, 1)),
        grey=data.draw(st.booleans()),
    )
    run, rng = _session(steps), np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    for _ in range(4):
        shape = data.draw(side), data.draw(side)
        assert not _apart(run, _noise(rng, *shape), steps, InputKind.PIXELS).any(), shape


@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_pictures_at_the_ends_of_the_levels(interpolation: Interpolation, rng: np.random.Generator) -> None:
    """Where sums are cut off at 0 and at 255, and where all of them are the same."""
    steps = _steps((48, 48), interpolation=interpolation)
    run = _session(steps)
    for picture in (
        np.zeros((90, 130, 3), np.uint8),
        np.full((90, 130, 3), 255, np.uint8),
        255 * rng.integers(0, 2, (90, 130, 3), np.uint8),
        255 * rng.integers(0, 2, (20, 31, 3), np.uint8),
        np.indices((90, 130)).sum(0)[..., None].repeat(3, axis=2).astype(np.uint8),
    ):
        assert not _apart(run, picture, steps, InputKind.PIXELS).any()


@pytest.mark.parametrize("grey", [False, True], ids=["RGB", "grey"])
@pytest.mark.parametrize("kind", [InputKind.UINT8, InputKind.PIXELS])
def test_every_level_is_normalised_as_the_transform_does(kind: InputKind, grey: bool, rng: np.random.Generator) -> None:
    """Every level of every channel, and of grey every rounding of some 30,000 colours; nothing is resized."""
    steps = _steps(None, grey=grey)
    run = _session(steps, kind)
    for picture in (np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3), _noise(rng, 180, 170)):
        assert not _apart(run, picture, steps, kind).any()


@pytest.mark.parametrize("kind", [InputKind.UINT8, InputKind.PIXELS])
def test_a_batch_is_its_pictures(kind: InputKind, rng: np.random.Generator) -> None:
    steps = _steps((48, 33))
    run = _session(steps, kind)
    for shape in ((61, 40), (200, 40), (31, 400)) if kind is InputKind.PIXELS else ((48, 33),):
        pictures = np.stack([_noise(rng, *shape) for _ in range(5)])
        alone = [run(own[None])["same"][0] for own in pictures]
        np.testing.assert_array_equal(run(pictures)["same"], np.stack(alone))


def test_photographs() -> None:
    steps = _steps((224, 224))
    run = _session(steps)
    photographs = sorted(IMAGES.rglob("*.jpg"))
    assert photographs
    for path in photographs[:12]:
        with Image.open(path) as image:
            assert not _apart(run, np.asarray(image.convert("RGB")), steps, InputKind.PIXELS).any(), path


@pytest.mark.parametrize("shape", [(1500, 2000), (3000, 1000), (2400, 1080), (90, 2000)])
def test_large_pictures(shape: tuple[int, int], rng: np.random.Generator) -> None:
    """A camera's, a tall one, a screenshot of a phone, a long one."""
    steps = _steps((224, 224), interpolation="bicubic")
    assert not _apart(_session(steps), _noise(rng, *shape), steps, InputKind.PIXELS).any()


def _pictures(count: int) -> Iterator[NDArray[np.uint8]]:
    """Photographs at random sizes, and noise, from 1x1 to 4000x3000."""
    rng = np.random.default_rng(0)
    photographs = sorted(IMAGES.rglob("*.jpg"))
    for number in range(count):
        height, width = (int(side) for side in np.exp(rng.uniform(0, np.log((3000, 4000)))))
        if number == 0:
            height, width = 1, 1
        elif number == 1:
            height, width = 3000, 4000
        if number % 2:
            yield _noise(rng, height, width)
        else:
            with Image.open(photographs[number // 2 % len(photographs)]) as image:
                yield np.asarray(image.convert("RGB").resize((width, height)))


@pytest.mark.parametrize("interpolation", [*slow(["bilinear", "bicubic"]), "lanczos"])
@pytest.mark.parametrize("resize", RESIZES)
def test_in_float32_a_level_in_a_thousand_is_one_off(resize: str, interpolation: str, rng: np.random.Generator) -> None:
    """Of noise, the worst case; long pictures, where Pillow is given a box with ends in float32, and tall ones too."""
    steps = _steps((224, 224), resize=resize, interpolation=interpolation)
    run, apart, count = _session(steps, exact=False), 0, 0
    for shape in ((500, 375), (333, 500), (530, 18), (40, 2000), (900, 250), (109, 3068), (100_000, 1), (7, 9)):
        levels = _apart(run, _noise(rng, *shape), steps, InputKind.PIXELS)
        assert levels.max() <= 1, shape
        apart, count = apart + int(np.count_nonzero(levels)), count + levels.size
    assert apart <= 0.002 * count


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bicubic", *further(["bilinear", "lanczos"])])
def test_two_hundred_photographs_and_noise(interpolation: str) -> None:
    """What is found stands in the output of pytest -rP."""
    steps = _steps((224, 224), interpolation=interpolation)
    exact, real = (_session(steps, exact=own) for own in (True, False))
    most = {"float64": 0.0, "float32": 0.0}
    apart, count = dict.fromkeys(most, 0), 0
    for picture in _pictures(220):
        for name, run in (("float64", exact), ("float32", real)):
            levels = _apart(run, picture, steps, InputKind.PIXELS)
            most[name] = max(most[name], float(levels.max()))
            apart[name] += int(np.count_nonzero(levels))
        count += levels.size
    for name, distance in most.items():
        print(f"{name}: {apart[name] / count:.6%} of {count} levels apart, by {distance:g} at most")
    assert (most["float64"], apart["float64"]) == (0, 0)
    assert most["float32"] <= 1
    assert apart["float32"] <= 0.002 * count


# ---- how


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("resize", [*RESIZES, "native"])
@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_it_is_valid_onnx(exact: bool, resize: str, interpolation: Interpolation) -> None:
    asked = (
        {"interpolation": interpolation} if resize == "native" else {"interpolation": interpolation, "resize": resize}
    )
    steps = _steps(None if resize == "native" else (48, 33), **asked)
    for kind in (InputKind.PIXELS, InputKind.UINT8):
        if kind is InputKind.PIXELS and not exact and interpolation is Interpolation.NEAREST and resize != "native":
            with pytest.raises(ConfigError, match="interpolation nearest needs float64"):
                check_exact(steps, kind)
            continue
        check_exact(steps, InputKind.UINT8)
        onnx.checker.check_model(as_graph(steps, kind, exact=exact), full_check=True)


@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_the_standard_s_evaluator_agrees(interpolation: Interpolation, rng: np.random.Generator) -> None:
    steps = _steps((20, 17), interpolation=interpolation)
    run = ReferenceEvaluator(as_graph(steps, InputKind.PIXELS)).run
    for shape in ((31, 23), (70, 24), (9, 100)):
        apart = _apart(
            lambda batch: {"same": run(None, {"pixels": batch})[0]}, _noise(rng, *shape), steps, InputKind.PIXELS
        )
        assert not apart.any(), shape


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(500, 375), (2000, 3000), (40, 30)])
def test_both_parts_of_a_weight_are_short_and_their_sum_is_pillow_s(interpolation: str, shape: tuple[int, int]) -> None:
    """15 and 22 bits behind the point, so that products with levels are exact, and their sums: at most 1,028 pixels see
    a place here, of 255 levels and 64 units of the smaller part each, below 2**24.
    """
    model = as_graph(_steps((224, 224), interpolation=interpolation, resize="warp"), InputKind.PIXELS)
    for name, parts in _weights_of(model, shape):
        larger, smaller = (own.astype(np.float64) for own in np.split(parts, 2, axis=1))
        assert np.array_equal(larger * 2**15, np.rint(larger * 2**15)), name
        assert np.array_equal(smaller * 2**22, np.rint(smaller * 2**22)), name
        assert np.abs(smaller).max() <= 2.0**-16
        both = (larger + smaller).astype(np.float32)
        assert np.array_equal(both.astype(np.float64), larger + smaller)
        assert np.abs((larger + smaller).sum(axis=2) - 1).max() < 1e-4
        assert 255 * 64 * (smaller != 0).sum(axis=2).max() < 2**24


def _weights_of(model: onnx.ModelProto, shape: tuple[int, int]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Both parts of the weights of each pass, (groups, 2 places of one, pixels), of the way along rows first."""
    (choice,) = (node for node in model.graph.node if node.op_type == "If")
    way = next(attribute.g for attribute in choice.attribute if attribute.name == "else_branch")
    joined = {node.output[0] for node in way.node if node.op_type == "Concat"}
    names = [node.output[0] for node in way.node if node.op_type == "Cast" and node.input[0] in joined]
    assert len(names) == 2
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    for field in ("node", "output"):
        alone.graph.ClearField(field)
    alone.graph.node.extend([*list(model.graph.node)[: list(model.graph.node).index(choice)], *way.node])
    run = CpuSession(alone, names).run
    yield from run(np.zeros((1, *shape, 3), np.uint8)).items()


def test_a_name_of_a_weight_is_its_own(rng: np.random.Generator) -> None:
    """Equal constants are one; nodes of both ways have names of their own."""
    model = as_graph(_steps((48, 33)), InputKind.PIXELS)
    weights = [(own.data_type, tuple(own.dims), own.raw_data) for own in model.graph.initializer]
    assert len(set(weights)) == len(weights)
    inner = [node for own in model.graph.node for attribute in own.attribute for node in attribute.g.node]
    names = [name for node in (*model.graph.node, *inner) for name in node.output]
    assert len(set(names)) == len(names)
    assert all(name.startswith("pixels/") for name in names if name not in ("image", "same"))


def test_the_same_graph_twice() -> None:
    made = [as_graph(_steps((48, 33)), InputKind.PIXELS).SerializeToString(deterministic=True) for _ in range(2)]
    assert made[0] == made[1]


# ---- what the check finds


def test_the_check_tells_what_it_found() -> None:
    found = check_levels(_steps((48, 48)), InputKind.PIXELS)
    assert (found.most, found.share) == (0, 0)
    assert str(found) == "every level is Pillow's"
    found = check_levels(_steps((224, 224)), InputKind.PIXELS, exact=False)
    assert found.most <= 1
    assert str(Levels(1, 0.00123)) == "0.0012 of all levels differ from Pillow's, by at most 1 of 255"


@pytest.mark.parametrize(
    ("interpolation", "side"),
    [(Interpolation.BICUBIC, 224), (Interpolation.BILINEAR, 160), (Interpolation.LANCZOS, 97)],
)
def test_of_what_engines_resize_few_levels_are_off(interpolation: Interpolation, side: int) -> None:
    """With the first two one level is two off, where both passes round otherwise: no reason to refuse an engine."""
    steps = Preprocessing(resize=Resize.WARP, size=ImageSize(side, side), interpolation=interpolation)
    found = check_levels(steps, InputKind.PIXELS, exact=False)
    assert found.most <= 2
    assert found.share < 0.002


def _no_antialias(model: onnx.ModelProto) -> None:
    """The reach of a filter stays one pixel, however much a picture shrinks."""
    for node in _nodes(model):
        if node.op_type == "Max" and any("div" in name for name in node.input):
            node.input[:] = [node.input[1], node.input[1]]


def _lost_part(model: onnx.ModelProto) -> None:
    """The smaller part of each weight is none."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE and numpy_helper.to_array(tensor).tolist() == [2.0**-22]:
            tensor.CopyFrom(numpy_helper.from_array(np.array([2.0**-22 * 0.99]), tensor.name))


def _cut_elsewhere(model: onnx.ModelProto) -> None:
    """Half of what is cut off is rounded down."""
    node = next(node for node in model.graph.node if node.op_type == "Add" and all("sub_" in own for own in node.input))
    node.op_type = "Sub"


def _rounded_once(model: onnx.ModelProto) -> None:
    """What the first pass gives is no whole level."""
    for node in _nodes(model):
        if node.op_type == "Floor" and "floor" not in node.input[0] and "add" in node.input[0]:
            node.op_type = "Identity"


def _other_order(model: onnx.ModelProto) -> None:
    """Tall pictures go along rows first."""
    (node,) = (node for node in model.graph.node if node.op_type == "If")
    one, other = node.attribute
    one.name, other.name = other.name, one.name


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for node in model.graph.node:
        yield node
        for attribute in node.attribute:
            yield from attribute.g.node


@pytest.mark.parametrize("fault", [_no_antialias, _lost_part, _cut_elsewhere, _rounded_once, _other_order])
@pytest.mark.parametrize("size", [(224, 224), (64, 48)])
def test_the_check_finds(
    fault: Callable[[onnx.ModelProto], None], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = _steps(size, resize="crop", crop_ratio=0.9)
    honest = as_graph(steps, InputKind.PIXELS)
    planted = onnx.ModelProto()
    planted.CopyFrom(honest)
    fault(planted)
    assert planted != honest
    monkeypatch.setattr(pixels, "as_graph", lambda *_, **__: planted)
    with pytest.raises(ExportError, match=r"resizes pictures otherwise than Pillow .* export with --input float"):
        check_levels(steps, InputKind.PIXELS)


def test_the_check_of_what_is_not_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels that a file only normalises are exact in float32 too."""
    steps = _steps((48, 48))
    assert check_levels(steps, InputKind.UINT8, exact=False).most == 0
    monkeypatch.setattr(pixels, "_GREY", (19594.0, 38471.0, 7471.0))
    with pytest.raises(ExportError, match="otherwise than Pillow"):
        check_levels(_steps((48, 48), grey=True), InputKind.UINT8)
