"""ONNX files from somebody else: what no file of rest-export has is refused before a runtime sees it."""

from __future__ import annotations

import gc
import os
import random
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import TensorProto, helper, numpy_helper

from rest_deploy import Predictor
from rest_deploy.artifact.onnx_encoding import GRAPH, Reader, Refused, read_model
from rest_deploy.artifact.onnx_file import OnnxFile
from rest_deploy.artifact.onnx_graph import refuse_hostile
from rest_deploy.errors import ArtifactError, RestDeployError
from rest_deploy.models.family import FAMILIES
from tests.conftest import slow
from tests.reliability.conftest import Amount, Worker
from tests.reliability.forged_graphs import Change, forged, with_graph
from tests.reliability.record import Record
from tests.reliability.reencoded import WAYS, put_together, take_apart, varint


def _external(location: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)

    return change


def _external_without_saying_so(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def _external_in_a_constant(model: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["secret"], value=tensor))


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Relu", ["round"], ["about"]))
    model.graph.node.insert(1, helper.make_node("Relu", ["about"], ["round"]))


def _self_loop(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["self"], ["self"]))


def _function_of_functions(model: onnx.ModelProto) -> None:
    """Thirty functions, each calling the one before twice: a billion nodes once they are written out."""
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]
    body = [helper.make_node("Relu", ["x"], ["y"])]
    for depth in range(30):
        model.functions.append(helper.make_function("evil", f"f{depth}", ["x"], ["y"], body, opset))
        calls = [("x", "h"), ("h", "y")]
        body = [helper.make_node(f"f{depth}", [one], [other], domain="evil") for one, other in calls]
    model.opset_import.append(helper.make_opsetid("evil", 1))
    model.graph.node.append(helper.make_node("f29", [model.graph.input[0].name], ["out"], domain="evil"))


def _unused_function(model: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 18)]
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("", "Conv", ["x"], ["y"], body, opset))  # in place of ONNX's own


def _graph_in_a_graph(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("Relu", [model.graph.input[0].name], ["out"], body=inner))


def _ways(inner: list[onnx.NodeProto], output: str = "made") -> Change:
    """An ``If`` on the image, with nodes in its branches."""

    def change(model: onnx.ModelProto) -> None:
        image = model.graph.input[0].name
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        branches = {name: helper.make_graph(inner, name, [], [value]) for name in ("then_branch", "else_branch")}
        model.graph.node.append(helper.make_node("If", [image], ["out"], **branches))

    return change


def _scan(model: onnx.ModelProto, scanned: str, inner: list[onnx.NodeProto]) -> None:
    value = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("row", "made")}
    body = helper.make_graph(inner, "body", [value["row"]], [value["made"]])
    model.graph.node.append(helper.make_node("Scan", [scanned], ["out"], body=body, num_scan_inputs=1))


def _deep(model: onnx.ModelProto) -> None:
    """Four graphs in each other."""
    for _ in range(3):
        inner = helper.make_graph([], "inner", [], [])
        if model.graph.node[-1].op_type == "If":
            inner.node.append(model.graph.node[-1])
            del model.graph.node[-1]
        model.graph.node.append(helper.make_node("If", ["image"], ["out"], then_branch=inner, else_branch=inner))


def _scan_of_constants(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1 << 16, 1), np.float32), "many"))
    _scan(model, "many", [helper.make_node("Relu", ["row"], ["made"])])


def _product_behind_branches(model: onnx.ModelProto) -> None:
    """Which of two constants it is, an image decides; either way the product is one of constants."""
    for name, shape in (("tall", (20_000, 1)), ("wide", (1, 20_000))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
        _ways([helper.make_node("Identity", [name], ["made"])])(model)
        model.graph.node[-1].output[0] = f"{name} behind"
    model.graph.node.append(helper.make_node("MatMul", ["tall behind", "wide behind"], ["square"]))


def _one_branch(model: onnx.ModelProto) -> None:
    _ways([helper.make_node("Relu", ["image"], ["made"])])(model)
    del model.graph.node[-1].attribute[1]


def _loop(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", [], ["out"]))


def _fill_memory(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 40]), "size"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["out"]))


def _terabytes(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1 << 40]


def _negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-1, 4]


def _many_axes(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1] * 10_000


def _terabytes_in_a_constant(model: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1 << 40], raw_data=b"1234")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add(dims=[1 << 40])


def _own_domain(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", [model.graph.input[0].name], ["out"], domain="com.evil"))


def _imported_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.evil", 1))


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def _same_name_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", [model.graph.input[0].name], [model.graph.node[0].output[0]]))


def _convolution(name: str, value: int | list[int]) -> Change:
    """One attribute of a convolution, in place of all it has."""

    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        del node.attribute[:]
        node.attribute.append(helper.make_attribute(name, value))

    return change


def _outer_product(model: onnx.ModelProto) -> None:
    """Two vectors of 20 KB whose product has 400 million values, of which the logits get the mean."""
    for name, shape in (("column", (20_000, 1)), ("row", (1, 20_000))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.int8), name))
        model.graph.node.append(helper.make_node("Cast", [name], [f"{name}/wide"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("MatMul", ["column/wide", "row/wide"], ["matrix"]))


def _product_behind_shapes(model: onnx.ModelProto) -> None:
    """The shape of a shape is a constant, which ONNX Runtime folds into what it is multiplied by."""
    shapes = [("image", "shape"), ("shape", "rank")]
    model.graph.node.extend(helper.make_node("Shape", [one], [other]) for one, other in shapes)
    model.graph.node.append(helper.make_node("Cast", ["rank"], ["four"], to=TensorProto.FLOAT))
    for name, shape in (("tall", (20_000, 1)), ("wide", (1, 20_000))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    model.graph.node.append(helper.make_node("Mul", ["tall", "four"], ["scaled"]))
    model.graph.node.append(helper.make_node("MatMul", ["scaled", "wide"], ["square"]))


def _two_opsets(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("", 11))


def _no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def _another_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 7


def _many_inputs(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Add", [model.graph.input[0].name] * 1000, ["out"]))


def _dangling(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Conv").input[0] = "nowhere"


def _divided_by(*numbers: int) -> Change:
    """A whole number of the image, divided by constants."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), "divisor"))
        model.graph.node.append(helper.make_node("Shape", ["image"], ["numbers"], start=2, end=3))
        model.graph.node.append(helper.make_node("Div", ["numbers", "divisor"], ["quotient"]))

    return change


def _divided_by_a_size(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Shape", ["image"], ["numbers"], start=2, end=3))
    model.graph.node.append(helper.make_node("Sub", ["numbers", "numbers"], ["zero"]))
    model.graph.node.append(helper.make_node("Div", ["numbers", "zero"], ["quotient"]))


def _block(number: int) -> Change:
    """Another size of the blocks that large maps go in."""

    def change(model: onnx.ModelProto) -> None:
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "map_block")
        tensor.CopyFrom(numpy_helper.from_array(np.array([number], np.int64), tensor.name))

    return change


def _unbounded_quotient(model: onnx.ModelProto) -> None:
    """The lower bound of a block's rows is taken away, in a branch."""
    for node in model.graph.node:
        for attribute in node.attribute:
            bound = next((inner for inner in attribute.g.node if inner.op_type == "Max"), None)
            if bound is not None:
                bound.CopyFrom(helper.make_node("Concat", [bound.input[0]], list(bound.output), axis=0))
                return


def _size_of_blocks(name: str, values: Any, dtype: Any) -> Change:
    """On a GPU other numbers are written over it, in bytes that were checked before."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, dtype), name))

    return change


_DIVISION = "a division by values that may be zero"
HOSTILE: dict[str, tuple[Change, str]] = {
    "a size of blocks of two numbers": (_size_of_blocks("map_block", [1, 2], np.int64), "a size of blocks, map_block"),
    "a size of blocks of none": (_size_of_blocks("map_whole", [], np.int64), "a size of blocks, map_whole"),
    "a size of blocks in float64": (_size_of_blocks("map_block", [1], np.float64), "a size of blocks, map_block"),
    "a division by zero": (_divided_by(0), _DIVISION),
    "a division by -1": (_divided_by(-1), _DIVISION),
    "a division by the least number": (_divided_by(-(1 << 63)), _DIVISION),
    "a division by two numbers": (_divided_by(1, 0), _DIVISION),
    "a division by a computed size": (_divided_by_a_size, _DIVISION),
    "blocks of no numbers": (_block(0), _DIVISION),
    "blocks of fewer than none": (_block(-1), _DIVISION),
    "blocks of 2^62 numbers": (_block(1 << 62), _DIVISION),
    "rows of a block that may be none": (_unbounded_quotient, _DIVISION),
    "weights above its folder": (_external("../../etc/passwd"), "weights in other files"),
    "weights at a path": (_external("/etc/passwd"), "weights in other files"),
    "weights beside it": (_external("weights.bin"), "weights in other files"),
    "weights elsewhere, not said": (_external_without_saying_so, "weights in other files"),
    "a constant elsewhere": (_external_in_a_constant, "weights in other files"),
    "a cycle": (_cycle, "a node whose input nothing before it makes"),
    "a node that feeds itself": (_self_loop, "a node whose input nothing before it makes"),
    "a value from nowhere": (_dangling, "a node whose input nothing before it makes"),
    "a billion nodes in functions": (_function_of_functions, "functions or training graphs"),
    "a function": (_unused_function, "functions or training graphs"),
    "a graph in an attribute": (_graph_in_a_graph, "graphs or several tensors in an attribute"),
    "four graphs in each other": (_deep, "graphs or several tensors in an attribute"),
    "a choice of one": (_one_branch, "graphs or several tensors in an attribute"),
    "a value from nowhere in a branch": (
        _ways([helper.make_node("Relu", ["nowhere"], ["made"])]),
        "a node whose input nothing before it makes",
    ),
    "a branch that gives nothing": (_ways([]), "an output that nothing makes"),
    "a name of the graph around it again": (
        _ways([helper.make_node("Relu", ["image"], ["image"])], "image"),
        "two values of one name",
    ),
    "another domain in a branch": (
        _ways([helper.make_node("Relu", ["image"], ["made"], domain="com.evil")]),
        "operators of another domain",
    ),
    "a scan of constants": (_scan_of_constants, "Scan of constants alone"),
    "a product behind branches": (_product_behind_branches, "'MatMul' of constants alone"),
    "a loop": (_loop, "the operator 'Loop'"),
    "an operator that fills memory": (_fill_memory, "the operator 'ConstantOfShape'"),
    "a weight of terabytes": (_terabytes, r"a tensor of 1.1e\+12 values in [0-9,]+ bytes"),
    "a weight of negative size": (_negative, "a tensor of .* values in"),
    "a weight of 10,000 axes": (_many_axes, "more than 8 times dims"),
    "a constant of terabytes": (_terabytes_in_a_constant, r"a tensor of 1.1e\+12 values"),
    "a padding of 100,000 pixels": (_convolution("pads", [100_000] * 4), r"pads of 1e\+05"),
    "a negative padding": (_convolution("pads", [-1] * 4), "pads of "),
    "a product of constants": (_outer_product, "'MatMul' of constants alone"),
    "a product behind shapes": (_product_behind_shapes, "'Mul' of constants alone"),
    "two versions of the operators": (_two_opsets, r"the versions \[18, 11\] of ONNX's operators"),
    "no version of the operators": (_no_opset, r"the versions \[\] of ONNX's operators"),
    "an old version of the operators": (_another_opset, r"the versions \[7\] of ONNX's operators"),
    "a node of a thousand inputs": (_many_inputs, "more than 16 times input"),
    "dilations of a trillion": (_convolution("dilations", [1 << 40, 1]), r"dilations of 1.1e\+12"),
    "no groups": (_convolution("group", 0), "group of 0"),
    "a sparse weight": (_sparse, "sparse weights"),
    "operators of another domain": (_own_domain, "operators of another domain"),
    "another domain imported": (_imported_domain, "operators of 'com.evil'"),
    "a training graph": (_training, "functions or training graphs"),
    "two values of one name": (_same_name_twice, "two values of one name"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_file_of_ours_has_is_refused(name: str, tiny_onnx: Path, tmp_path: Path, record: Record) -> None:
    change, why = HOSTILE[name]
    path = forged(tiny_onnx, tmp_path / "evil.onnx", change)
    with pytest.raises(
        ArtifactError, match=rf"evil\.onnx: (refused: it has|damaged, .*by rest-export \() ?({why}).*again$"
    ):
        Predictor(path)
    record.count("hostile ONNX graphs", "refused before a runtime sees them", name)


# What makes the input from pictures.


def _weight(model: onnx.ModelProto, name: str, values: Any, dtype: Any = np.int64) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
    return name


def _first(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Nodes before all others, in their order."""
    for number, node in enumerate(nodes):
        model.graph.node.insert(number, node)


def _node(operator: str, *inputs: str, output: str = "out", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def _range(start: int, limit: int, step: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        names = [_weight(model, f"evil {name}", number) for name, number in
                 (("start", start), ("limit", limit), ("step", step))]  # fmt: skip
        _first(model, _node("Range", *names))

    return change


def _range_of_a_shape(model: onnx.ModelProto) -> None:
    """A shape that is a constant, whatever the picture is: the runtime computes it as the file is opened."""
    _first(
        model,
        _node("Reshape", "pixels", _weight(model, "many", [1 << 40, -1]), output="flat"),
        _node("Shape", "flat", output="sides", start=0, end=1),
        _node("Squeeze", "sides", output="side"),
        _node("Range", _weight(model, "no", 0), "side", _weight(model, "one", 1)),
    )


def _range_from_below(model: onnx.ModelProto) -> None:
    """Its start is at most 1, and far below it."""
    _first(
        model,
        _node("Min", _weight(model, "one", 1), _weight(model, "low", -(1 << 50)), output="start"),
        _node("Range", "start", "one", "one"),
    )


def _range_of_what_is_computed(model: onnx.ModelProto) -> None:
    _first(
        model,
        _node("Shape", "pixels", output="side", start=1, end=2),
        _node("Mul", "side", _weight(model, "many", [1 << 40]), output="limit"),
        _node("Range", _weight(model, "no", 0), "limit", _weight(model, "one", 1)),
    )


def _range_of_another_branch(model: onnx.ModelProto) -> None:
    """What is small in one branch is not in the other, by the same name."""
    made = helper.make_tensor_value_info("made", TensorProto.INT64, None)
    ways = []
    for number in (1, 1 << 50):
        limit = numpy_helper.from_array(np.array(number), "own limit")
        ranged = _node("Range", _weight(model, f"no {number}", 0), "own limit", f"one {number}", output="made")
        _weight(model, f"one {number}", 1)
        ways.append(helper.make_graph([ranged], "way", [], [made], [limit]))
    model.graph.node.append(_node("If", "pixels", then_branch=ways[0], else_branch=ways[1]))


def _product_of_ranges(model: onnx.ModelProto) -> None:
    """Three numbers make 65,536, and these four billion."""
    _first(
        model,
        _node(
            "Range", _weight(model, "no", 0), _weight(model, "many", 1 << 16), _weight(model, "one", 1), output="row"
        ),
        _node("Unsqueeze", "row", _weight(model, "axis", [1]), output="column"),
        _node("Mul", "row", "column"),
    )


def _least_of_ranges(model: onnx.ModelProto) -> None:
    _first(
        model,
        _node("Min", _weight(model, "many", 1 << 16), _weight(model, "more", 1 << 40), output="limit"),
        _node("Range", _weight(model, "no", 0), "limit", _weight(model, "one", 1), output="row"),
        _node("Unsqueeze", "row", _weight(model, "axis", [1]), output="column"),
        _node("Less", "row", "column"),
    )


def _doubled(operator: str, times: int, given: list[int]) -> Change:
    """A constant beside itself, that beside itself, and so on."""

    def change(model: onnx.ModelProto) -> None:
        name = _weight(model, "seed", given)
        for number in reversed(range(times)):
            model.graph.node.insert(
                0, _node(operator, f"twice {number}", f"twice {number}", axis=0, output=f"twice {number + 1}")
            )
        model.graph.node[0].input[:] = [name, name]

    return change


def _doubled_size(model: onnx.ModelProto) -> None:
    """The same of a side of the picture, which a runtime does not compute before there is one."""
    _doubled("Concat", 40, [1])(model)
    model.graph.node[0].input[:] = ["side", "side"]
    _first(model, _node("Shape", "pixels", output="side", start=1, end=2))


def _copies(model: onnx.ModelProto) -> None:
    """Each no larger than the constant, and a thousand of them."""
    _weight(model, "large", np.ones(1 << 16), np.float32)
    _first(model, *(_node("Abs", "large", output=f"copy {number}") for number in range(1000)))


def _gathered(model: onnx.ModelProto) -> None:
    table, places = (
        _weight(model, "table", np.ones((1, 1 << 14)), np.float32),
        _weight(model, "places", np.zeros(1 << 14)),
    )
    _first(model, _node("Gather", table, places, axis=0))


def _chosen(model: onnx.ModelProto) -> None:
    zeros = [_weight(model, f"zeros {axis}", np.zeros(shape), np.float32) for axis, shape in
             (("down", (1 << 14, 1)), ("across", (1, 1 << 14)))]  # fmt: skip
    few = _weight(model, "few", [0.0], np.float32)
    _first(model, _node("Less", few, few, output="which"), _node("Where", "which", *zeros))


def _divided_behind(*nodes: onnx.NodeProto) -> Change:
    """A side of the picture, divided by what nodes make of it, ``zero``."""

    def change(model: onnx.ModelProto) -> None:
        _first(model, _node("Shape", "pixels", output="side", start=1, end=2), *nodes, _node("Div", "side", "zero"))

    return change


def _cast(type_: int, **more: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        _first(model, _node("Cast", "pixels", to=type_, **more))

    return change


def _axes_of(operator: str) -> Change:
    """A list of axes that a runtime compares each with each."""

    def change(model: onnx.ModelProto) -> None:
        _first(model, _node(operator, "pixels", _weight(model, "axes", np.arange(1 << 20))))

    return change


def _parts(number: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        _first(model, _node("Split", "pixels", axis=1, num_outputs=number))

    return change


def _no_input(operator: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        _first(model, _node(operator))

    return change


def _padded(numbers: list[int], **mode: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        _first(model, _node("Pad", "pixels", _weight(model, "amounts", numbers), **mode))

    return change


def _tensor(numbers: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(numbers))


def _padded_beside(**more: Any) -> Change:
    """By a Constant whose value is out of bounds, and another that is not."""

    def change(model: onnx.ModelProto) -> None:
        far = _tensor([0, 0, 0, 0, 0, 0, 0, 1 << 27])
        _first(model, _node("Constant", value=far, output="amounts", **more), _node("Pad", "pixels", "amounts"))

    return change


def _range_beside(model: onnx.ModelProto) -> None:
    far = _node("Constant", value=_tensor(-(1 << 27)), __t=_tensor(1), output="start")
    _first(model, far, _node("Range", "start", _weight(model, "no", 0), _weight(model, "one", 1)))


def _divided_beside(model: onnx.ModelProto) -> None:
    _divided_behind(_node("Constant", value=_tensor([0]), __f=1.0, output="zero"))(model)


def _padded_by_what_is_computed(model: onnx.ModelProto) -> None:
    _first(
        model,
        _node("Abs", _weight(model, "numbers", [0, 0, 0, 0, 0, 0, 0, 1]), output="amounts"),
        _node("Pad", "pixels", "amounts"),
    )


def _padded_constants(shape: tuple[int, ...]) -> Change:
    """Of few numbers, or none, many: they grow with each axis."""

    def change(model: onnx.ModelProto) -> None:
        amounts = _weight(model, "amounts", [0, 1] * len(shape))
        _first(model, _node("Pad", _weight(model, "few", np.zeros(shape, np.int64)), amounts))

    return change


_PAD = "a Pad by more than a few numbers that it holds"
_RANGE = "a Range of more than a size"
_ALONE = "of constants alone"
HOSTILE_PIXELS: dict[str, tuple[Change, str]] = {
    "a range of terabytes": (_range(0, 1 << 50, 1), _RANGE),
    "a range of a size and one": (_range(0, (1 << 20) + 1, 1), _RANGE),
    "a range from far below": (_range(-(1 << 50), 1, 1), _RANGE),
    "a range of no steps": (_range(0, 5, 0), "a Range whose steps may be none"),
    "a range of steps back": (_range(0, 5, -1), "a Range whose steps may be none"),
    "a range to a number below none": (_range(0, -1, 1), _RANGE),
    "a range of a constant shape": (_range_of_a_shape, _RANGE),
    "a range from the least of two": (_range_from_below, _RANGE),
    "a range of a product": (_range_of_what_is_computed, _RANGE),
    "a range of another branch's": (_range_of_another_branch, _RANGE),
    "a range of nothing": (_no_input("Range"), _RANGE),
    "a product of two ranges": (_product_of_ranges, f"'Mul' {_ALONE}"),
    "a comparison of two ranges": (_least_of_ranges, f"'Less' {_ALONE}"),
    "a constant beside itself, 40 times": (_doubled("Concat", 40, [1, 2, 3, 4]), f"'Concat' {_ALONE} that make more"),
    "a size beside itself, 40 times": (_doubled_size, f"'Concat' {_ALONE} that make more"),
    "a thousand copies": (_copies, f"'Abs' {_ALONE} that make more"),
    "a row a million times": (_gathered, f"'Gather' {_ALONE}"),
    "a choice of a column and a row": (_chosen, f"'Where' {_ALONE}"),
    "a cast to whole numbers, saturated": (
        _divided_behind(
            _node("Sub", "side", "side", output="none"),
            _node("Cast", "none", to=TensorProto.INT64, saturate=1, output="zero"),
        ),
        _DIVISION,
    ),
    **{
        f"a division behind {operator}": (
            _divided_behind(_node("Sub", "side", "side", output="none"), _node(operator, "none", *more, output="zero")),
            _DIVISION,
        )
        for operator, more in (("Abs", ()), ("Min", ("side",)), ("ReduceSum", ()), ("Squeeze", ()), ("Max", ()))
    },
    "a cast to text": (_cast(TensorProto.STRING), "a Cast to another type"),
    "a cast to complex numbers": (_cast(TensorProto.COMPLEX128), "a Cast to another type"),
    "a cast to nothing": (_cast(0), "a Cast to another type"),
    "a cast to type 1000": (_cast(1000), "a Cast to another type"),
    **{
        f"{operator} by a million axes": (_axes_of(operator), f"'{operator}' by more than 8 axes")
        for operator in ("Unsqueeze", "Squeeze", "Reshape", "ReduceSum", "Split", "Pad")
    },
    "a split into 2^40": (_parts(1 << 40), "num_outputs of 1.1e"),
    "a pad by terabytes": (_padded([0, 0, 0, 0, 0, 0, 0, 1 << 40]), _PAD),
    "a pad by 2": (_padded([0, 0, 0, 0, 2, 0, 0, 1]), _PAD),
    "a pad that reflects": (_padded([0, 0, 0, 0, 0, 0, 0, 1], mode="reflect"), "a Pad of another mode"),
    "a pad by an attribute beside the constant": (_padded_beside(__t=_tensor([1])), "the attribute '__t'"),
    "a pad by one of two values": (_padded_beside(value_int=1), "a Constant of no value, or of several"),
    "a range from an attribute beside the constant": (_range_beside, "the attribute '__t'"),
    "a division by an attribute beside the constant": (_divided_beside, "the attribute '__f'"),
    "a pad by less than nothing": (_padded([0, 0, 0, 0, -1, 0, 0, 1]), _PAD),
    "a pad by what is computed": (_padded_by_what_is_computed, _PAD),
    "a pad by nothing": (_no_input("Pad"), _PAD),
    "a pad of constants": (_padded_constants((32,)), f"'Pad' {_ALONE}"),
    "a pad of one constant": (_padded_constants((1, 1, 1, 1)), f"'Pad' {_ALONE}"),
    "a pad of no constants": (_padded_constants((0,)), f"'Pad' {_ALONE}"),
    "a split into -1": (_parts(-1), "num_outputs of -1"),
}


@pytest.mark.parametrize("name", HOSTILE_PIXELS)
def test_what_no_file_that_takes_pictures_has_is_refused(
    name: str, tiny_by_input: dict[str, Path], tmp_path: Path, record: Record
) -> None:
    change, why = HOSTILE_PIXELS[name]
    path = forged(tiny_by_input["pixels"], tmp_path / "evil.onnx", change)
    with pytest.raises(ArtifactError, match=rf"evil\.onnx: refused: it has ({why}).*again$"):
        Predictor(path)
    record.count("hostile ONNX graphs", "refused before a runtime sees them", name)


@pytest.mark.parametrize("operator", ["Squeeze", "Shape", "Min", "Gather", "Where", "CumSum", "Split", "Cast", "Sin"])
def test_a_node_without_inputs_does_no_harm(operator: str, tiny_by_input: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        Predictor(forged(tiny_by_input["pixels"], tmp_path / "evil.onnx", _no_input(operator)))


def test_a_side_that_the_file_fixes_is_none_of_a_picture(tiny_by_input: dict[str, Path], tmp_path: Path) -> None:
    """Its shape would be a constant, and a Range of it be computed as the file is opened."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 50

    with pytest.raises(ArtifactError, match=_RANGE):
        Predictor(forged(tiny_by_input["pixels"], tmp_path / "evil.onnx", change))


@pytest.mark.parametrize("kind", ["uint8", "pixels"])
def test_random_changes_of_a_graph_that_takes_pictures_do_no_harm(
    kind: str, tiny_by_input: dict[str, Path], tmp_path: Path, worker: Worker, amount: Amount
) -> None:
    found = worker("forged_graphs", tiny_by_input[kind], tmp_path, amount(60, 1000, 20))
    assert found["opened"] > 0
    assert found["refused"] > 0


def _shuffle(ratio: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "DepthToSpace")
        next(attribute for attribute in node.attribute if attribute.name == "blocksize").i = ratio

    return change


@pytest.mark.parametrize("ratio", [0, -2, 1025, 1 << 40, (1 << 63) - 1])
def test_a_shuffle_of_impossible_blocks_is_refused(
    ratio: int, tiny_v2_onnx: Path, tmp_path: Path, record: Record
) -> None:
    path = forged(tiny_v2_onnx, tmp_path / "evil.onnx", _shuffle(ratio))
    with pytest.raises(ArtifactError, match=r"evil\.onnx: refused: it has blocksize of "):
        Predictor(path)
    record.count("hostile ONNX graphs", "refused before a runtime sees them", f"blocks of {ratio}")


def _cut(where: int, value: int) -> Change:
    """Another start (1), end (2) or step (4) of a Slice, which can only make less of what there is."""

    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Slice")
        model.graph.initializer.append(numpy_helper.from_array(np.array([value, value]), "evil"))
        while len(node.input) <= where:
            node.input.append("")
        node.input[where] = "evil"

    return change


@pytest.mark.parametrize("where", [1, 2, 4])
@pytest.mark.parametrize("value", [-(1 << 63), -1, 0, 1, (1 << 63) - 1])
def test_a_cut_elsewhere_is_refused_or_does_no_harm(where: int, value: int, tiny_v2_onnx: Path, tmp_path: Path) -> None:
    """What is cut another way no longer fits what it is added to, or is one pixel that is spread over a map."""
    path = forged(tiny_v2_onnx, tmp_path / "evil.onnx", _cut(where, value))
    try:
        with Predictor(path, threads=1) as predictor:
            assert predictor.logits(np.zeros((1, 3, 20, 20), np.float32)).shape == (1, 7)
    except RestDeployError as exc:
        assert "\n" not in str(exc)  # noqa: PT017


def test_a_shuffle_under_the_record_of_a_family_without_is_refused(
    tiny_onnx: Path, tiny_v2_onnx: Path, tmp_path: Path
) -> None:
    graph = _graph(tiny_v2_onnx).SerializeToString()
    with pytest.raises(ArtifactError, match=r"the operator '(DepthToSpace|Slice)'"):
        Predictor(with_graph(tiny_onnx, tmp_path / "evil.onnx", graph))


def test_what_is_changed_but_could_be_ours_is_opened(tiny_onnx: Path, tmp_path: Path) -> None:
    with Predictor(forged(tiny_onnx, tmp_path / "same.onnx", lambda model: None)) as predictor:
        assert predictor.logits(np.zeros((1, 3, 9, 9), np.float32)).shape == (1, 7)


@pytest.mark.parametrize(
    ("piece", "count", "why"),
    [
        (helper.make_node("Relu", ["x"], ["y"]), 100_001, "more than 100,000 times node"),
        (helper.make_node("Relu", ["x"] * 16, ["y"] * 16), 90_000, "more than 1,048,576 fields"),
    ],
)
def test_a_graph_of_too_much_is_refused(
    piece: onnx.NodeProto, count: int, why: str, tiny_onnx: Path, tmp_path: Path
) -> None:
    (node,) = take_apart(onnx.GraphProto(node=[piece]))
    graph = put_together([node]) * count
    opset = b"\x42\x04\x0a\x00\x10\x12"
    content = b"\x08\x08" + b"\x3a" + varint(len(graph)) + graph + opset
    with pytest.raises(ArtifactError, match=why):
        Predictor(with_graph(tiny_onnx, tmp_path / "many.onnx", content))


def _graph(source: Path, change: Change = lambda model: None) -> onnx.ModelProto:
    model = onnx.load(source)
    del model.metadata_props[:]
    change(model)
    return model


@pytest.mark.parametrize("name", ["nothing", "a loop", *slow(name for name in HOSTILE if name != "a loop")])
def test_another_encoding_is_refused_whatever_it_holds(
    name: str, tiny_onnx: Path, tmp_path: Path, record: Record
) -> None:
    model = _graph(tiny_onnx, HOSTILE[name][0]) if name in HOSTILE else _graph(tiny_onnx)
    pieces = take_apart(model)
    assert put_together(pieces) == model.SerializeToString()  # what is changed below is the way alone
    for way, encode in WAYS.items():
        content = encode(pieces)
        assert content != model.SerializeToString()
        path = with_graph(tiny_onnx, tmp_path / "evil.onnx", content)
        with pytest.raises(ArtifactError, match=r"evil\.onnx: (refused: it has|damaged, truncated)") as refused:
            Predictor(path)
        assert "\n" not in str(refused.value)
        record.count("ONNX graphs in another encoding, harmless and hostile", "refused before a runtime sees them", way)


@pytest.mark.parametrize("extra", [("key", "value"), ("rest_deploy", "{}"), ("rest_deploy_sha256", "0" * 64)])
def test_other_metadata_is_refused(extra: tuple[str, str], tiny_onnx: Path, tmp_path: Path) -> None:
    model = _graph(tiny_onnx)
    model.metadata_props.add(key=extra[0], value=extra[1])
    path = with_graph(tiny_onnx, tmp_path / "more.onnx", model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"more\.onnx"):
        Predictor(path)


def test_a_file_beside_it_is_never_read(tiny_onnx: Path, tmp_path: Path) -> None:
    """The attack that was found: weights beside the file, under tags of which C++ reads the lower 32 bits alone."""
    (tmp_path / "weights.bin").write_bytes(bytes(1 << 20))
    model = _graph(tiny_onnx, _external("weights.bin"))
    content = WAYS["tags of 33 bits"](take_apart(model))
    with pytest.raises(ArtifactError):
        Predictor(with_graph(tiny_onnx, tmp_path / "evil.onnx", content))


def test_the_runtime_gets_the_bytes_that_were_checked(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the file is another one as soon as it has been read."""
    path = Path(shutil.copy(tiny_onnx, tmp_path / "swapped.onnx"))
    batch = np.ones((1, 3, 20, 20), np.float32)
    with Predictor(path) as predictor:
        wanted = predictor.logits(batch)
    honest = OnnxFile.__init__

    def swap(self: OnnxFile, name: str | Path) -> None:
        honest(self, name)
        path.write_bytes(b"something else")

    monkeypatch.setattr(OnnxFile, "__init__", swap)
    with Predictor(path) as predictor:
        np.testing.assert_array_equal(predictor.logits(batch), wanted)
    assert path.read_bytes() == b"something else"


def _static_height(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9


def test_a_graph_of_another_shape_than_its_record(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="its record describes another network than its graph"):
        Predictor(forged(tiny_onnx, tmp_path / "static.onnx", _static_height))


def test_a_damaged_file_is_let_go_of_at_once(tiny_onnx: Path, tmp_path: Path) -> None:
    """Whoever tries again and again what is damaged does not gather it."""
    content = bytearray(tiny_onnx.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    gc.disable()
    try:
        with pytest.raises(ArtifactError):
            Predictor(path)
        held = [one for one in gc.get_objects() if type(one) is OnnxFile]
    finally:
        gc.enable()
    assert held == []


def test_an_open_file_is_not_held_twice(tiny_onnx: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Predictor(tiny_onnx) as predictor:
        assert predictor._runtime._session._model_bytes is None  # type: ignore[attr-defined]
        assert set(os.listdir("/proc/self/fd")) == before


def _differences(read: Mapping[str, Any], message: Any, content: bytes) -> list[str]:
    """Fields in which a message is another to us than to the onnx package."""
    told = {"dim_value": "size", "dim_param": "size"}
    theirs = {told.get(field.name, field.name): value for field, value in message.ListFields()}
    found = [f"{message.DESCRIPTOR.name}: {sorted(set(read) ^ set(theirs))}"] if set(read) != set(theirs) else []
    found += [f"{message.DESCRIPTOR.name}: unknown"] if len(UnknownFieldSet(message)) else []
    for name in set(read) & set(theirs):
        ours, values = read[name], theirs[name]
        several = isinstance(ours, list)
        pairs = list(zip(ours, values, strict=True)) if several else [(ours, values)]
        for one, other in pairs:
            if isinstance(one, dict):
                found += _differences(one, other, content)
            elif isinstance(one, tuple):
                whole = other.SerializeToString() if hasattr(other, "SerializeToString") else other
                found += [name] * (content[one[0] : one[1]] != whole)
            elif name in ("f", "floats"):
                found += [name] * (one != struct.pack("<f", other))
            else:
                found += [name] * (one != (other.decode() if isinstance(other, bytes) else other))
    return found


def _compared(content: bytes) -> bool:
    """Whether a file is taken; one that is taken is to the onnx package what it is to us, down to each field."""
    try:
        model = read_model(content)
        refuse_hostile(content, model, FAMILIES["rest"].operators)
    except (Refused, UnicodeDecodeError):
        return False
    theirs = onnx.load_model_from_string(content)
    assert theirs.SerializeToString(deterministic=True) == content
    begin, end = model["graph"]
    graph = Reader(content).message(begin, end, GRAPH)
    assert not _differences({**model, "graph": (begin, end)}, theirs, content)
    assert not _differences(graph, theirs.graph, content)
    return True


def test_what_is_taken_is_what_the_onnx_package_reads(tiny_onnx: Path, amount: Amount, record: Record) -> None:
    """A differential test: files of ours with random damage to their structure and their bytes."""
    whole, taken, count = tiny_onnx.read_bytes(), 0, amount(600, 20_000, 300)
    assert _compared(whole)
    start = whole.index(onnx.load(tiny_onnx).graph.node[0].SerializeToString())
    spans = [(0, 64), (start, start + 4000), (len(whole) - 3000, len(whole))]  # the rest are weights
    for seed in range(count):
        generator = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(generator.choice((1, 1, 2, 4))):
            at = generator.randrange(*generator.choice(spans))
            if generator.random() < 0.5:
                damaged[at] ^= 1 << generator.randrange(8)
            else:
                damaged[at] = generator.randrange(256)
        taken += _compared(bytes(damaged))
    assert 0 < taken < count
    record.add(
        "ONNX files with random damage", count, f"{count - taken} refused; {taken} are to onnx what they are to us"
    )


def test_the_comparison_finds_what_differs(tiny_onnx: Path) -> None:
    content = tiny_onnx.read_bytes()
    model, theirs = read_model(content), onnx.load(tiny_onnx)
    assert not _differences(model, theirs, content)
    assert _differences({**model, "ir_version": 9}, theirs, content) == ["ir_version"]
    assert _differences({**model, "doc_string": ""}, theirs, content) == ["ModelProto: ['doc_string']"]
    theirs.graph.node[3].op_type = "Loop"
    assert _differences(model, theirs, content) == ["graph"]
    assert _differences(model, onnx.ModelProto.FromString(content + b"\x80\x7d\x01"), content) == [
        "ModelProto: unknown"
    ]


def test_every_flipped_bit_is_found(tiny_onnx: Path, tmp_path: Path, amount: Amount, record: Record) -> None:
    whole = tiny_onnx.read_bytes()
    generator = random.Random(0)
    count = amount(100, 3000, 30)
    path = tmp_path / "flipped.onnx"
    for _ in range(count):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"flipped\.onnx"):
            Predictor(path)
    record.add("an ONNX file with one bit flipped, anywhere", count, "refused")


@pytest.mark.parametrize("tail", [b"\0", b"\x3a\x00", b"\x72\x02\x0a\x00", b"\xc2\x01\x00"])
def test_what_is_appended_is_found(tail: bytes, tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "longer.onnx"
    path.write_bytes(tiny_onnx.read_bytes() + tail)
    with pytest.raises(ArtifactError, match=r"longer\.onnx: (damaged, truncated|it is not as it was when it was made)"):
        Predictor(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_what_is_cut_off_is_found(share: float, tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "shorter.onnx"
    whole = tiny_onnx.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ArtifactError, match=r"shorter\.onnx"):
        Predictor(path)


def test_random_changes_of_a_forged_graph_do_no_harm(
    tiny_onnx: Path, tmp_path: Path, worker: Worker, amount: Amount, record: Record
) -> None:
    """Whoever seals what he damaged gets an error, or a network with other numbers: in a process with little memory."""
    count = amount(100, 1000, 30)
    found = worker("forged_graphs", tiny_onnx, tmp_path, count)
    assert found["opened"] > 0
    assert found["refused"] > 0
    record.add(
        "ONNX graphs with random damage, sealed by whoever did it",
        count,
        f"{found['refused']} refused, {found['opened']} opened with other weights; no crash",
    )


@pytest.mark.slow
def test_random_changes_of_a_graph_with_shuffles_do_no_harm(
    tiny_v2_onnx: Path, tmp_path: Path, worker: Worker, amount: Amount
) -> None:
    found = worker("forged_graphs", tiny_v2_onnx, tmp_path, amount(100, 1000))
    assert found["opened"] > 0
    assert found["refused"] > 0
