"""From pictures to the network's input, in the graph itself: Pillow's resize to the last bit, the cut, the scaling.

Pillow resizes 8-bit pictures by two products with weights of 22 bits behind the point, first along rows, of tall
pictures first along columns, and rounds to whole levels after each (src/libImaging/Resample.c,
``ImagingResampleHorizontal_8bpc``). Here the weights are computed from the size of the picture when the graph runs, in
float64 and in Pillow's order, and rounded as Pillow does. Each is split into two float32 numbers of 15 and of 7 bits: a
level is a whole number up to 255, so that every product, and every sum of up to 1,028 of them in whatever order, is
exact in float32. (Lines shrunk by more than 170 times have longer ones.)

What is tall has changed in Pillow 13.0 (python-pillow/Pillow, pull requests 9524 and 9549), and shows in the levels: a
graph does as the Pillow of its export does.

A weight is zero outside of a few pixels around its place. A product with all pixels of a row would cost 10 times
Pillow's time for 12 megapixels; so places go in groups, and each group has the pixels that it needs gathered.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import PIL
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from rest_deploy.artifact.info import PIXEL_CHANNELS, Levels, pixel_input
from rest_deploy.errors import ConfigError, ExportError
from rest_deploy.export.cpu_session import CpuSession
from rest_deploy.preprocess.transform import LONG, input_of, orders_by_result, scale_and_shift, short_side, transform
from rest_deploy.specs import DEFAULT_OPSET, ImageSize, InputKind, Interpolation, Preprocessing, Resize

#: Bits behind the point of Pillow's weights (PRECISION_BITS of Resample.c), and of the larger of their two parts.
_BITS, _UPPER_BITS = 22, 15
#: Weights of red, green and blue in grey, of 65536, and what is added to round (rgb2l of Pillow's Convert.c).
_GREY, _HALF = (19595.0, 38470.0, 7471.0), 32768.0
#: Places of a row that are computed together.
_GROUP = 16
#: Heights and widths of pictures that the way is checked with; and of the float32 variant how far a level may be from
#: Pillow's, and how many may be. Of 220 pictures up to one in two thousand was, each by one; with a few settings a
#: level is two off, where both passes round otherwise.
_CHECKED = ((1, 1), (2, 3), (37, 48), (97, 131), (480, 641), (31, 1013), (900, 250), (1500, 97), (1080, 1920), (1, 700))
_MOST_OFF, _MOST_APART = 2, 0.01
#: Whether what is tall depends on what a picture is resized to, as from Pillow 13.0 on.
_BY_RESULT = orders_by_result(PIL.__version__)
#: Parts of a pixel that the ends of a box are told in where there is no float64: finer than float32 at the least ends.
_FINE = 1 << 22
#: Before the names of nodes and values.
PREFIX = "pixels"


def with_pixels(
    model: onnx.ModelProto, steps: Preprocessing, kind: InputKind, *, exact: bool = True
) -> onnx.ModelProto:
    """Put the way from pictures to the input before a network.

    Args:
        model: Network of one input, float32 (batch, channels, height, width).
        steps: Its preprocessing; takes pictures.
        kind: ``PIXELS`` for pictures of any size, ``UINT8`` for such as are resized already.
        exact: Whether weights are computed in float64 and the products are banded, as ONNX Runtime does both best;
            else in float32, for TensorRT, which has no float64: then a level in a thousand may be off, nearly always by
            one. Pixels under the nearest centre are found in float64 alone.

    Returns:
        A new graph with the input :func:`~rest_deploy.artifact.info.pixel_input`.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    (image,) = graph.input
    built = _Graph()
    pictures = pixel_input().name
    size = steps.size if kind is InputKind.PIXELS else None
    rows = _resized(built, pictures, steps, size, exact) if size is not None else _as_they_are(built, pictures)
    _normalized(built, rows, steps, image.name)
    nodes, weights = [*built.nodes, *graph.node], [*graph.initializer, *built.weights()]
    rest = onnx.GraphProto(node=nodes, initializer=weights, value_info=graph.value_info, output=graph.output)
    spec = pixel_input()
    rest.input.append(helper.make_tensor_value_info(spec.name, TensorProto.UINT8, spec.shape))
    rest.name = graph.name
    graph.CopyFrom(rest)
    return made


def as_graph(steps: Preprocessing, kind: InputKind, *, exact: bool = True) -> onnx.ModelProto:
    """The way alone: pictures -> the network's input, ``image``."""
    shape = ("batch", len(steps.mean), "height", "width")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "same")]
    nothing = helper.make_graph([helper.make_node("Identity", ["image"], ["same"])], PREFIX, ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", DEFAULT_OPSET)]
    version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(nothing, opset_imports=opsets, ir_version=version)
    return with_pixels(model, steps, kind, exact=exact)


def check_levels(steps: Preprocessing, kind: InputKind, *, exact: bool = True) -> Levels:
    """Compare the way in ONNX Runtime with the transform of pictures in noise, the worst case, of many shapes.

    Raises:
        ExportError: They are further apart than is allowed.
    """
    run, rng = CpuSession(as_graph(steps, kind, exact=exact)).run, np.random.default_rng(0)
    scale = scale_and_shift(steps)[0].reshape(-1, 1, 1)
    most, apart, count = 0, 0, 0
    for height, width in _CHECKED:
        picture = rng.integers(0, 256, (height, width, PIXEL_CHANNELS), np.uint8)
        image = Image.fromarray(picture)
        ours = run(input_of(image, steps, kind)[None])["same"][0]
        levels = np.rint(np.abs(ours - transform(image, steps)) / scale)
        most, apart, count = max(most, int(levels.max())), apart + int((levels > 0).sum()), count + levels.size
    found = Levels(most, apart / count)
    if found.most > (0 if exact else _MOST_OFF) or found.share > _MOST_APART:
        raise ExportError(
            f"the graph resizes pictures otherwise than Pillow {PIL.__version__}: {found}; "
            "export with --input float, and report this"
        )
    return found


@dataclass
class _Graph:
    """Nodes and weights as they are written: a method a node, which gives the name of its output."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    _count: int = 0
    _weights: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def __getattr__(self, operator: str) -> Callable[..., str]:
        return functools.partial(self.node, operator)

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node; the name of its output."""
        number = self._count = self._count + 1
        output = output or f"{PREFIX}/{operator.lower()}_{number}"
        self.nodes.append(helper.make_node(operator, inputs, [output], f"{PREFIX}/node_{number}", **attributes))
        return output

    def either(self, condition: str, *ways: Callable[[], str]) -> str:
        """Add an ``If``: the value of the first way where a condition holds, of the second where it does not."""
        outer, branches = self.nodes, dict[str, onnx.GraphProto]()
        for name, way in zip(("then_branch", "else_branch"), ways, strict=True):
            self.nodes = []
            output = helper.make_tensor_value_info(way(), TensorProto.FLOAT, None)
            branches[name] = helper.make_graph(self.nodes, name, [], [output])
        self.nodes = outer
        return self.node("If", condition, **branches)

    def halves(self, value: str, axis: int) -> tuple[str, str]:
        """Add a Split into two."""
        first = self.node("Split", value, axis=axis, num_outputs=2)
        second = f"{first}/second"
        self.nodes[-1].output.append(second)
        return first, second

    def weight(self, values: Any, dtype: Any = np.int64) -> str:
        """The name of a constant; equal ones are one."""
        array = np.asarray(values, dtype)
        return self._weights.setdefault(
            (array.dtype.str, array.shape, array.tobytes()), f"{PREFIX}/{len(self._weights)}"
        )

    def weights(self) -> list[onnx.TensorProto]:
        """All constants."""
        return [
            numpy_helper.from_array(np.frombuffer(content, dtype).reshape(shape), name)
            for (dtype, shape, content), name in self._weights.items()
        ]


def _as_they_are(graph: _Graph, pictures: str) -> str:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W)."""
    return graph.Transpose(graph.Cast(pictures, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])


def _normalized(graph: _Graph, levels: str, steps: Preprocessing, output: str) -> None:
    """Levels, float32 (B, 3, H, W) -> the network's input."""
    if len(steps.mean) == 1:  # whole numbers below 2**24: exact in float32
        weighed = graph.Mul(levels, graph.weight(np.reshape(_GREY, (1, 3, 1, 1)), np.float32))
        total = graph.ReduceSum(weighed, graph.weight([1]), keepdims=1)
        total = graph.Add(total, graph.weight([_HALF], np.float32))
        levels = graph.Floor(graph.Mul(total, graph.weight([2.0**-16], np.float32)))
    scale, shift = (graph.weight(values.reshape(1, -1, 1, 1), np.float32) for values in scale_and_shift(steps))
    graph.Add(graph.Mul(levels, scale), shift, output=output)


def check_exact(steps: Preprocessing, kind: InputKind) -> None:
    """Refuse what cannot be computed without float64.

    Raises:
        ConfigError: It is that.
    """
    if kind is InputKind.PIXELS and steps.size is not None and steps.interpolation is Interpolation.NEAREST:
        raise ConfigError(
            "interpolation nearest needs float64 inside of the file, which TensorRT does not have; give --input uint8 "
            "and resize before, or another --interpolation"
        )


def _resized(graph: _Graph, pictures: str, steps: Preprocessing, size: ImageSize, exact: bool) -> str:
    """uint8 (B, H, W, 3) -> whole levels, float32 (B, 3, height, width)."""
    high, wide = (graph.Shape(pictures, start=axis, end=axis + 1) for axis in (1, 2))
    down, across = _axes(graph, high, wide, steps, size, exact=exact)
    if steps.interpolation is Interpolation.NEAREST:
        rows = graph.Gather(pictures, across.nearest(), axis=2)
        return _as_they_are(graph, graph.Gather(rows, down.nearest(), axis=1))
    if not exact:  # TensorRT does nothing else with uint8
        pictures = graph.Cast(pictures, to=TensorProto.FLOAT)
    passes = (
        functools.partial(_passes, graph, pictures, steps.interpolation, down, across, rows_first=True),
        functools.partial(_passes, graph, pictures, steps.interpolation, down, across, rows_first=False),
    )
    tall = _is_tall(graph, down, across)
    return graph.either(tall, *passes) if exact else graph.Where(tall, *(way() for way in passes))


def _is_tall(graph: _Graph, down: _Axis, across: _Axis) -> str:
    """Whether Pillow goes along columns first: where height shrinks by more than twice as many pixels as width; up to
    Pillow 12.3 where it shrinks, and is over a hundred times the width.
    """
    less, others = (graph.Sub(own.picture, own.sides()) for own in (down, across))
    more = graph.Sub(less, graph.Mul(others, graph.weight([2])))
    if not _BY_RESULT:
        more = graph.Sub(down.picture, graph.Mul(across.picture, graph.weight([100])))
    return graph.Greater(graph.Min(less, more), graph.weight([0]))


def _passes(
    graph: _Graph, pictures: str, interpolation: Interpolation, down: _Axis, across: _Axis, *, rows_first: bool
) -> str:
    """uint8 (B, H, W, 3) -> whole levels, float32 (B, 3, height, width), by products along one axis, then the other.

    Args:
        graph: That the nodes are added to.
        pictures: The value that goes in.
        interpolation: The filter.
        down, across: The sides.
        rows_first: Whether height shrinks first, for tall pictures.
    """
    first, second = (down, across) if rows_first else (across, down)
    lines = graph.Reshape(pictures, graph.weight([0, 0, -1]))  # (B, H, W 3)
    if not rows_first:
        lines = graph.Transpose(lines, perm=[0, 2, 1])
        lines = graph.Reshape(lines, graph.Concat(graph.weight([0]), across.picture, graph.weight([-1]), axis=0))
    weights, places = first.weights(interpolation, _GROUP if first.scale else first.length)
    groups = graph.Gather(lines, places, axis=1) if places else graph.Unsqueeze(lines, graph.weight([1]))
    groups = graph.Cast(groups, to=TensorProto.FLOAT)  # of uint8; only what is gathered becomes four times as large
    products = graph.MatMul(weights, groups)  # (B, groups, 2 places of one, the rest)
    levels = _levels(graph, products, 2)
    other = (second.picture, graph.weight([PIXEL_CHANNELS]))
    shape = graph.Concat(graph.weight([0, -1]), *(other if rows_first else other[::-1]), axis=0)
    levels = graph.Reshape(levels, shape)
    if places and first.length % _GROUP:
        levels = graph.Slice(levels, graph.weight([0]), graph.weight([first.length]), graph.weight([1]))
    if rows_first:
        levels = graph.Transpose(levels, perm=[0, 1, 3, 2])
    weights, _ = second.weights(interpolation, second.length)  # now (B, one side, 3, pixels of the other)
    weights = graph.Transpose(graph.Squeeze(weights, graph.weight([0])), perm=[1, 0])
    levels = _levels(graph, graph.MatMul(levels, weights), 3)
    return graph.Transpose(levels, perm=[0, 2, 1, 3] if rows_first else [0, 2, 3, 1])


def _levels(graph: _Graph, products: str, axis: int) -> str:
    """The sums of both parts of the weights -> the level that Pillow rounds to: floor(sum + 1/2), from 0 to 255."""
    upper, lower = graph.halves(products, axis)
    whole = graph.Floor(upper)
    left = graph.Add(graph.Sub(upper, whole), graph.Add(lower, graph.weight([0.5], np.float32)))
    level = graph.Add(whole, graph.Floor(left))
    return graph.Min(graph.Max(level, graph.weight([0.0], np.float32)), graph.weight([255.0], np.float32))


@dataclass
class _Axis:
    """A side of a picture that is resized: where the pixels of the result lie on it.

    Pixel x of the result has its centre at ``(x + first + 1/2) * scale + origin``, in pixels of the picture.

    Args:
        graph: That the nodes are added to.
        picture: Pixels of it, int64 (1,).
        full: Pixels that the whole side is resized to, int64 (1,).
        cut: Which of these is the first of the result, int64 (1,).
        length: Pixels of the result.
        most: Pixels that ``full`` is at most where all of the side is resized.
        first, origin, scale: float64 (1,); empty where weights are computed in float32.
        long: Whether only a box of the picture is resized, bool (1,); empty where all of it is.
    """

    graph: _Graph
    picture: str
    full: str
    cut: str
    length: int
    most: int
    first: str = ""
    origin: str = ""
    scale: str = ""
    long: str = ""

    def sides(self) -> str:
        """Pixels that Pillow is asked for, int64 (1,): of the whole side, or of the box of a long picture."""
        graph = self.graph
        return graph.Where(self.long, graph.weight([self.length]), self.full) if self.long else self.full

    def nearest(self) -> str:
        """The pixel of the picture under the centre of each of the result, int64 (length,).

        A centre that lies between two pixels is of that to which the sum of Pillow's steps is rounded, one for each
        pixel of the whole side (``ImagingScaleAffine`` of Geometry.c).
        """
        graph = self.graph
        real = _Real(graph, np.float64)
        start = graph.Cast(self.first, to=TensorProto.INT64)
        end = graph.Add(start, graph.weight([self.length]))
        most = graph.Min(end, graph.weight([self.most]))
        others = graph.Cast(graph.Range(graph.weight(1), graph.Squeeze(most), graph.weight(1)), to=TensorProto.DOUBLE)
        steps = graph.Add(graph.Mul(others, real([0])), self.scale)
        half = graph.Add(self.origin, graph.Mul(self.scale, real([0.5])))
        centres = graph.CumSum(graph.Concat(half, steps, axis=0), graph.weight(0))
        pixels = graph.Cast(graph.Slice(centres, start, end, graph.weight([0])), to=TensorProto.INT64)
        return graph.Min(pixels, graph.Sub(self.picture, graph.weight([1])))

    def _odd(self, places: NDArray[np.int64]) -> str:
        """Twice the centres of pixels of the result, in pixels of the whole side resized: 2 (x + cut) + 1."""
        return self.graph.Add(self.graph.weight(2 * places + 1), self.graph.Mul(self.cut, self.graph.weight([2])))

    def weights(self, interpolation: Interpolation, group: int) -> tuple[str, str]:
        """Weights of pixels of the picture in each of the result, in both parts, and which pixels these are.

        Args:
            interpolation: The filter.
            group: Pixels of the result that are computed together, where there are so many.

        Returns:
            float32 (groups, 2 group, pixels), the larger parts first; and int64 (groups, pixels), empty where it is one
            group of all.
        """
        graph, group = self.graph, min(group, self.length)
        places = np.arange(-(-self.length // group) * group).reshape(-1, group, 1)
        support, function = _FILTERS[interpolation]
        if not self.scale:
            apart, step = (graph.Cast(value, to=TensorProto.FLOAT) for value in self._in_whole_numbers(places))
            return self._in_parts(function(_Real(graph, np.float32), graph.Div(apart, step))), ""
        real = _Real(graph, np.float64)
        centre = graph.Add(
            graph.Mul(graph.Add(graph.Add(real(places), self.first), real([0.5])), self.scale), self.origin
        )
        step = graph.Max(self.scale, real([1.0]))
        reach = graph.Mul(step, real([support]))
        pixels, which = graph.Range(graph.weight(0), graph.Squeeze(self.picture), graph.weight(1)), ""
        if len(places) > 1:
            span = graph.Add(graph.Mul(self.scale, real([group - 1])), graph.Mul(reach, real([2])))
            span = graph.Cast(graph.Ceil(graph.Add(span, real([2]))), to=TensorProto.INT64)
            span = graph.Min(span, self.picture)
            start = graph.Sub(graph.Slice(centre, graph.weight([0]), graph.weight([1]), graph.weight([1])), reach)
            start = graph.Min(graph.Cast(graph.Floor(start), to=TensorProto.INT64), graph.Sub(self.picture, span))
            start = graph.Max(start, graph.weight([0]))
            pixels = graph.Add(start, graph.Range(graph.weight(0), graph.Squeeze(span), graph.weight(1)))
            which = graph.Squeeze(pixels, graph.weight([1]))
        apart = graph.Add(graph.Sub(graph.Cast(pixels, to=TensorProto.DOUBLE), centre), real([0.5]))
        return self._in_parts(function(real, graph.Mul(apart, graph.Div(real([1]), step)))), which

    def _in_whole_numbers(self, places: NDArray[np.int64]) -> tuple[str, str]:
        """How far centres of pixels are from those of places, (group, pixels), and what is 1 of a filter then, (1,):
        int64, as a quotient of both loses nothing in float32.
        """
        graph = self.graph
        every = graph.Range(graph.weight(0), graph.Squeeze(self.picture), graph.weight(1))
        ahead = graph.Add(graph.Mul(every, graph.weight([2])), graph.weight([1]))
        apart = graph.Sub(graph.Mul(ahead, self.full), graph.Mul(self._odd(places), self.picture))
        step = graph.Max(self.picture, self.full)
        if self.long:
            start = self._end(self.cut)
            reach = graph.Sub(self._end(graph.Add(self.cut, graph.weight([self.length]))), start)
            one = graph.weight([self.length * _FINE])
            before = graph.Add(
                graph.Mul(start, graph.weight([2 * self.length])), graph.Mul(graph.weight(2 * places + 1), reach)
            )
            apart = graph.Where(self.long, graph.Sub(graph.Mul(ahead, one), before), apart)
            step = graph.Where(self.long, graph.Max(one, reach), step)
        return apart, graph.Mul(step, graph.weight([2]))

    def _end(self, place: str) -> str:
        """Where a place of the whole side begins on a long picture, rounded to float32, in which Pillow holds ends of a
        box; int64 (1,), in parts of a pixel.
        """
        graph = self.graph
        fine = graph.weight([_FINE])
        full, ahead = graph.Max(self.full, graph.weight([1])), graph.Mul(place, self.picture)
        pixels = graph.Div(ahead, full)  # apart from the rest, as all parts at once could be over 2**63
        rest = graph.Div(graph.Mul(graph.Sub(ahead, graph.Mul(pixels, full)), fine), full)
        parts = graph.Add(graph.Mul(pixels, fine), rest)
        return graph.Cast(graph.Cast(parts, to=TensorProto.FLOAT), to=TensorProto.INT64)

    def _in_parts(self, weights: str) -> str:
        """Not yet of sum 1, (groups, group, pixels) -> as Pillow rounds them, in two parts."""
        graph = self.graph
        real = _Real(graph, np.float64 if self.scale else np.float32)
        total = graph.ReduceSum(weights, graph.weight([-1]), keepdims=1)
        total = graph.Max(total, real([_LEAST_SUM]))  # that of places beyond the result may be 0
        whole = graph.Mul(graph.Mul(weights, graph.Reciprocal(total)), real([2.0**_BITS]))
        whole = graph.Floor(graph.Add(whole, real([0.5])))  # halves go up, which only those of pixels inside can be
        upper = graph.Round(graph.Mul(whole, real([2.0 ** (_UPPER_BITS - _BITS)])))
        upper = graph.Mul(upper, real([2.0**-_UPPER_BITS]))
        lower = graph.Sub(graph.Mul(whole, real([2.0**-_BITS])), upper)
        both = graph.Concat(upper, lower, axis=1)
        return graph.Cast(both, to=TensorProto.FLOAT) if self.scale else both


@dataclass(frozen=True)
class _Real:
    """Constants of a floating-point type in a graph."""

    graph: _Graph
    dtype: Any

    def __call__(self, values: Any) -> str:
        return self.graph.weight(values, self.dtype)


def _axes(
    graph: _Graph, high: str, wide: str, steps: Preprocessing, size: ImageSize, *, exact: bool
) -> tuple[_Axis, _Axis]:
    """Height and width, as :func:`~rest_deploy.preprocess.transform.resized` resizes and cuts them."""
    if steps.resize is Resize.WARP:
        sides = [(high, graph.weight([size.height]), size.height), (wide, graph.weight([size.width]), size.width)]
        zero = graph.weight([0])
        axes = [_Axis(graph, picture, full, zero, length, length) for picture, full, length in sides]
    else:
        side = short_side(size, steps.crop_ratio)
        short = graph.weight([side])
        least = graph.Max(graph.Min(high, wide), graph.weight([1]))
        axes = []
        for picture, length in ((high, size.height), (wide, size.width)):
            full = graph.Div(graph.Mul(picture, short), least)
            axes.append(_Axis(graph, picture, full, _centred(graph, full, length), length, LONG * side))
        most = graph.weight([LONG * side])
        long = graph.Greater(graph.Max(*(own.full for own in axes)), most)
        axes = [replace(own, long=long) for own in axes]
    if exact:
        axes = [_placed(own) for own in axes]
    return axes[0], axes[1]


def _centred(graph: _Graph, full: str, length: int) -> str:
    """Half of what is cut off, rounded to the nearest even number where it ends in a half, as Python rounds."""
    off, two = graph.Sub(full, graph.weight([length])), graph.weight([2])
    half = graph.Div(off, two)
    odd = graph.Sub(half, graph.Mul(graph.Div(half, two), two))
    return graph.Div(graph.Add(off, odd), two)


def _placed(axis: _Axis) -> _Axis:
    """An axis with its places in float64, where a picture is long in those of the box that Pillow is given then."""
    graph, long = axis.graph, axis.long
    real = _Real(graph, np.float64)
    picture, full, first = (graph.Cast(value, to=TensorProto.DOUBLE) for value in (axis.picture, axis.full, axis.cut))
    scale = graph.Div(picture, full)
    if not long:
        return replace(axis, first=first, origin=real([0]), scale=scale)
    ends = (graph.Mul(first, scale), graph.Mul(graph.Add(first, real([axis.length])), scale))
    start, end = (graph.Cast(value, to=TensorProto.FLOAT) for value in ends)  # which Pillow holds a box in
    of_box = graph.Div(graph.Cast(graph.Sub(end, start), to=TensorProto.DOUBLE), real([axis.length]))
    return replace(
        axis,
        first=graph.Where(long, real([0]), first),
        origin=graph.Where(long, graph.Cast(start, to=TensorProto.DOUBLE), real([0])),
        scale=graph.Where(long, of_box, scale),
    )


def _triangle(real: _Real, x: str) -> str:
    return real.graph.Max(real.graph.Sub(real([1]), real.graph.Abs(x)), real([0]))


def _cubic(real: _Real, x: str) -> str:
    """Keys' cubic with a = -1/2, in Pillow's order of operations (``bicubic_filter``)."""
    graph, a = real.graph, -0.5
    x = graph.Min(graph.Abs(x), real([2]))  # where it is 0
    near = graph.Sub(graph.Mul(x, real([a + 2])), real([a + 3]))
    near = graph.Add(graph.Mul(graph.Mul(near, x), x), real([1]))
    far = graph.Add(graph.Mul(graph.Sub(x, real([5])), x), real([8]))
    far = graph.Mul(graph.Sub(graph.Mul(far, x), real([4])), real([a]))
    return graph.Where(graph.Less(x, real([1])), near, far)


def _lanczos(real: _Real, x: str) -> str:
    """sinc(x) sinc(x / 3) for -3 < x < 3."""
    graph = real.graph
    x = graph.Min(graph.Abs(x), real([3]))  # where it is 0
    waves = []
    for wave in (x, graph.Mul(x, real([1 / 3]))):
        angle = graph.Max(graph.Mul(wave, real([math.pi])), real([_NO_ANGLE]))  # the sinc of so little is 1
        waves.append(graph.Mul(graph.Sin(angle), graph.Reciprocal(angle)))
    return graph.Where(graph.Less(x, real([3])), graph.Mul(*waves), real([0]))


_NO_ANGLE = 1e-12
#: Below the sum of the weights of any place in a picture, some 0.5 and more.
_LEAST_SUM = 2.0**-10
#: Filter -> pixels that it reaches at scale 1, and its function (``BICUBIC`` and others in Resample.c).
_FILTERS: dict[Interpolation, tuple[float, Callable[[_Real, str], str]]] = {
    Interpolation.BILINEAR: (1.0, _triangle),
    Interpolation.BICUBIC: (2.0, _cubic),
    Interpolation.LANCZOS: (3.0, _lanczos),
}
