"""What an ONNX file may hold: the graphs that rest-export writes, and nothing else.

What an ONNX file could do otherwise (name files of the machine as weights, nest graphs in graphs, expand functions into
billions of nodes, go round in circles, announce tensors of terabytes) is refused before a runtime sees it. A seal does
not help there (``onnx_file.py``): whoever makes such a file can seal it. How one is written is in ``onnx_encoding.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from rest_deploy.artifact.onnx_encoding import BLOCK_SIZES, GRAPH, NESTED, Reader, Refused
from rest_deploy.specs import MAP_NUMBERS, OPSETS
from rest_deploy.values import shown

#: What files have beside the operators of their family: in INT8, to choose the size of a block of a large map, and to
#: make the input from pictures.
_OPERATORS = frozenset(
    "DequantizeLinear DynamicQuantizeLinear MatMulInteger QuantizeLinear "  # noqa: SIM905
    "Add Concat Constant Div Greater If Max Mul Reshape Scan Shape Slice Sub Transpose "
    "Abs Cast Ceil CumSum Floor Gather Less MatMul Min Range Reciprocal ReduceSum Round Sin Split Squeeze Unsqueeze "
    "Where".split()
)
_DOMAINS = ("", "ai.onnx")
#: Attributes of convolutions, and of the shuffle -> least and largest; a reduction by 2048 pads by 1024.
_LIMITS = {
    "pads": (0, 1024),
    "strides": (1, 4096),
    "kernel_shape": (1, 4096),
    "dilations": (1, 64),
    "group": (1, 1 << 20),
    "blocksize": (1, 1024),
    "num_outputs": (1, 16),
}
#: What a Pad may add at an end of an axis.
_MOST_PAD = 1
#: Operators whose output may be larger than all of their inputs together.
_WIDENING = frozenset(
    "Add Sub Mul Div Max Min Greater Less Where MatMul MatMulInteger Gemm Conv Gather".split()  # noqa: SIM905
)
#: Numbers that such a one may make where no image is needed, unless it makes no more than it was given: of sizes, of
#: which there are a few.
_FEW = 16
_MOST_DIMS = 8
#: Numbers of a Range that no image sets a bound to: pixels of a side that a picture is resized to.
_MOST_RANGE = 1 << 20
#: Numbers that all nodes together may make of constants alone, for each byte of a file: weights that it unpacks.
_MADE = 4
#: Operators whose inputs after the first are axes, sizes or places of axes. A runtime compares each with each.
_OF_AXES = frozenset("CumSum Pad ReduceMean ReduceSum Reshape Slice Split Squeeze Unsqueeze".split())  # noqa: SIM905
#: Operators that hold graphs -> the names of these.
_HOLDERS = {"If": {"then_branch", "else_branch"}, "Scan": {"body"}}
#: TensorProto.DataType -> bytes of a value: FLOAT, UINT8, INT8, INT32, INT64, FLOAT16, DOUBLE.
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 10: 2, 11: 8}
_FLOATS, _WHOLE = (1, 10, 11), 7
#: Operators that give floating-point numbers alone.
_FLOATING = frozenset("Ceil Conv Floor Gelu LayerNormalization Reciprocal Round Sigmoid Sin Softmax Sqrt".split())  # noqa: SIM905
#: AttributeProto.AttributeType -> the field that holds such a value.
_VALUE_OF = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints"}


def refuse_hostile(content: bytes, model: Mapping[str, Any], operators: Set[str]) -> None:
    """Make sure that a model and its graph are ones that rest-export could have written.

    Args:
        content: The file.
        model: What :func:`~rest_deploy.artifact.onnx_encoding.read_model` gave.
        operators: Of the family in FP32.

    Raises:
        Refused: They are not.
    """
    opsets = model.get("opset_import", [])
    for opset in opsets:
        if opset.get("domain", "") not in _DOMAINS:
            raise Refused(f"operators of {shown(opset['domain'])}")
    if len(opsets) != 1 or opsets[0].get("version") not in OPSETS:
        raise Refused(f"the versions {[opset.get('version') for opset in opsets]} of ONNX's operators")
    if "graph" not in model:
        raise Refused("no graph")
    begin, end = model["graph"]
    graph = Reader(content).message(begin, end, GRAPH)
    _Examiner(content, operators | _OPERATORS).graph(graph, _Known({"": 0.0}, {}, {}))
    _refuse_division(content, graph, set())


class _Known(NamedTuple):
    """What is known of the values of a graph, and of those around it, by their names.

    Args:
        numbers: How many numbers one has at most; infinite where an image tells.
        sizes: Of constants of a few small whole numbers the largest.
        largest: Of what is a size the largest that it may be; infinite for a side of an image.
    """

    numbers: Mapping[str, float]
    sizes: Mapping[str, int]
    largest: Mapping[str, float]


class _Examiner:
    """Refuses a graph, and those in it, that hold what no file of ours has, or that ask for memory without end.

    Args:
        content: The file.
        operators: That it may have.
    """

    def __init__(self, content: bytes, operators: Set[str]) -> None:
        self._content, self._operators = content, operators
        self._left = float(_MADE * len(content))
        self._images = frozenset[str]()

    def graph(self, graph: Mapping[str, Any], around: _Known) -> float:
        """How many numbers one of the outputs of a graph has at most.

        Args:
            graph: It.
            around: Values of the graphs around it.
        """
        weights, inputs = graph.get("initializer", []), graph.get("input", [])
        for tensor in weights:
            _refuse_tensor(tensor)
        own = {_name(one): math.inf for one in inputs}
        own |= {_name(one): float(math.prod(one.get("dims", []))) for one in weights}
        if len(own) != len(inputs) + len(weights) or not own.keys().isdisjoint(around.numbers):
            raise Refused("two values of one name")
        if len(around.numbers) == 1:  # of the outermost
            self._images = frozenset(_name(one) for one in inputs if _of_any_size(one))
        small = {_name(one): size for one in weights if (size := self._size(one)) is not None}
        known, sizes, largest = {**around.numbers, **own}, {**around.sizes, **small}, {**around.largest, **small}
        for node in graph.get("node", []):  # ONNX has them in the order of their computation
            taken, given = node.get("input", []), node.get("output", [])
            if not known.keys() >= set(taken):
                raise Refused("a node whose input nothing before it makes")
            numbers = self._node(node, _Known(known, sizes, largest))
            if not math.isinf(numbers):
                self._left -= numbers
                if self._left < 0:
                    raise Refused(f"{shown(node.get('op_type', ''))} of constants alone that make more than the file")
            if not known.keys().isdisjoint(given) or len(set(given)) != len(given):
                raise Refused("two values of one name")
            known |= dict.fromkeys(given, numbers)
            if (
                node.get("op_type") == "Constant"
                and (size := self._size(node["attribute"][0].get("t", {}))) is not None
            ):
                sizes |= dict.fromkeys(given, size)
            if (most := self._largest(node, largest)) is not None:
                largest |= dict.fromkeys(given, most)
        outputs = [_name(one) for one in graph.get("output", [])]
        if not known.keys() >= set(outputs):
            raise Refused("an output that nothing makes")
        return max((known[name] for name in outputs), default=0.0)

    def _size(self, tensor: Mapping[str, Any]) -> int | None:
        """The largest of the sizes that a constant is; None where it is none, many, or one beyond all bounds."""
        begin, end = tensor.get("raw_data", (0, 0)) if tensor.get("data_type") == _WHOLE else (0, 0)
        item = _ITEM_BYTES[_WHOLE]
        if not 0 < end - begin <= _MOST_DIMS * item:
            return None
        numbers = [
            int.from_bytes(self._content[at : at + item], "little", signed=True) for at in range(begin, end, item)
        ]
        return max(numbers) if min(numbers) >= 0 and max(numbers) <= _MOST_RANGE else None

    def _largest(self, node: Mapping[str, Any], largest: Mapping[str, float]) -> float | None:
        """The largest size that a node gives; None where that is not known."""
        operator, taken = node.get("op_type", ""), node.get("input", [])
        if operator == "Shape" and self._images.issuperset(taken[:1]):
            return math.inf
        if operator not in ("Min", "Squeeze"):
            return None
        return min(
            (largest[name] for name in taken[: None if operator == "Min" else 1] if name in largest), default=None
        )

    def _node(self, node: Mapping[str, Any], known: _Known) -> float:
        """How many numbers a node makes at most."""
        operator, attributes = node.get("op_type", ""), node.get("attribute", ())
        if operator not in self._operators:
            raise Refused(f"the operator {shown(operator)}")
        if node.get("domain", "") not in _DOMAINS:
            raise Refused("operators of another domain")
        named = {_refuse_attribute(attribute): attribute for attribute in attributes}
        if len(named) != len(attributes):
            raise Refused(f"an attribute of {operator} twice")
        held = {name for name, attribute in named.items() if "g" in attribute}
        if held != _HOLDERS.get(operator, set()):
            raise Refused(NESTED)
        taken = [known.numbers[name] for name in node.get("input", []) if name]
        if operator in _OF_AXES and max(taken[1:], default=0) > _MOST_DIMS:
            raise Refused(f"{shown(operator)} by more than {_MOST_DIMS} axes")
        if operator == "Constant" and (len(named) != 1 or not next(iter(named)).startswith("value")):
            raise Refused("a Constant of no value, or of several")
        if operator == "Cast" and named.get("to", {}).get("i") not in _ITEM_BYTES:
            raise Refused("a Cast to another type than tensors have")
        if held:
            return self._inner(operator, [named[name]["g"] for name in held], sum(taken), known)
        return _made(node, named, taken, known)

    def _inner(self, operator: str, graphs: Iterable[Mapping[str, Any]], taken: float, known: _Known) -> float:
        """How many numbers a node with graphs in it makes at most."""
        if operator == "Scan" and not math.isinf(taken):
            raise Refused("Scan of constants alone")
        made = max(self.graph(one, known) for one in graphs)
        return math.inf if operator == "Scan" else made


def _made(node: Mapping[str, Any], named: Mapping[str, Any], taken: Sequence[float], known: _Known) -> float:
    """How many numbers a node without graphs in it makes at most.

    Args:
        node: It.
        named: Its attributes.
        taken: How many numbers its inputs have at most.
        known: Of values before it.
    """
    operator, names = node.get("op_type", ""), node.get("input", [])
    made = sum(taken)
    if operator == "Shape":  # of a shape the shape is constant
        start, end = (
            int(named.get(name, {}).get("i", default)) for name, default in (("start", 0), ("end", _MOST_DIMS))
        )
        made = float(end - start if 0 <= start <= end <= _MOST_DIMS else _MOST_DIMS)
    elif operator == "Constant":
        made = float(max((_numbers(attribute) for attribute in named.values()), default=0))
    elif operator == "Range":
        if len(names) != 3 or names[0] not in known.sizes or names[1] not in known.largest:
            raise Refused("a Range of more than a size")
        if known.sizes.get(names[2], 0) < 1:
            raise Refused("a Range whose steps may be none")
        made = known.largest[names[1]]
    elif operator == "Pad":
        if known.sizes.get("".join(names[1:2]), math.inf) > _MOST_PAD:
            raise Refused("a Pad by more than a few numbers that it holds")
        if named.get("mode", {}).get("s", "constant") != "constant":  # older runtimes reflect what is not there
            raise Refused("a Pad of another mode than with a constant")
        if not math.isinf(known.numbers[names[0]]):
            raise Refused("'Pad' of constants alone")
    elif operator in _WIDENING and not math.isinf(made):
        made = math.prod(taken)
        if made > max([_FEW, *taken]):  # two vectors of a few bytes make a matrix of terabytes
            raise Refused(f"{shown(operator)} of constants alone")
    return made


def _of_any_size(image: Mapping[str, Any]) -> bool:
    """Whether the sides of an input are told by an image, or small."""
    dims = image.get("type", {}).get("tensor_type", {}).get("shape", {}).get("dim", [])
    return all(isinstance(dim.get("size", ""), str) or dim["size"] <= _MOST_RANGE for dim in dims)


def _refuse_division(content: bytes, graph: Mapping[str, Any], around: Set[str]) -> None:
    """Refuse a division by whole numbers that may be zero or negative: by those it ends the process.

    Args:
        content: The file.
        graph: A graph of it.
        around: Values of the graphs around it by which one may divide.
    """
    divisors = {*around, *(_name(one) for one in graph.get("initializer", []) if _divides(content, one))}
    for node in graph.get("node", []):
        operator, taken = node.get("op_type", ""), node.get("input", [])
        for attribute in node.get("attribute", ()):
            if "g" in attribute:
                _refuse_division(content, attribute["g"], divisors)
            elif operator == "Constant" and (
                attribute.keys() & {"f", "floats"} or _divides(content, attribute.get("t"))
            ):
                divisors.update(node.get("output", []))
        if operator == "Cast" and any(
            own.get("name") == "to" and own.get("i") in _FLOATS for own in node.get("attribute", ())
        ):
            divisors.update(node.get("output", []))
        if operator in _FLOATING or (operator == "Max" and not divisors.isdisjoint(taken)):  # at least what may divide
            divisors.update(node.get("output", []))
        elif operator == "Div" and not divisors.issuperset(taken[1:]):
            raise Refused("a division by values that may be zero")


def _one_number(content: bytes, tensor: Mapping[str, Any]) -> int | None:
    """The whole number that a tensor is; None where it is not one."""
    number = content[slice(*tensor.get("raw_data", (0, 0)))]
    return int.from_bytes(number, "little", signed=True) if len(number) == _ITEM_BYTES[_WHOLE] else None


def _divides(content: bytes, tensor: Mapping[str, Any] | None) -> bool:
    """Whether one may divide by a constant: by floating-point numbers, and by one whole number from 1 up."""
    if tensor is None or tensor.get("data_type") in _FLOATS:
        return tensor is not None
    number = _one_number(content, tensor) if tensor.get("data_type") == _WHOLE else None
    return number is not None and MAP_NUMBERS.low <= number <= MAP_NUMBERS.high


def _numbers(constant: Mapping[str, Any]) -> int:
    """How many numbers the value of a Constant has."""
    if "t" in constant:
        return math.prod(constant["t"].get("dims", []))
    return max(1, len(constant.get("ints", ())), len(constant.get("floats", ())))


def _refuse_attribute(attribute: Mapping[str, Any]) -> str:
    """The name of an attribute that may be."""
    name, kind = attribute.get("name", ""), _VALUE_OF.get(attribute.get("type", 0))
    if name.startswith("__"):  # of any name that begins so runtimes take any value, and make nothing of it
        raise Refused(f"the attribute {shown(name)}")
    if not attribute.keys() <= {"name", "type", kind} or kind is None:  # which of two a runtime would take, it knows
        raise Refused(f"a value of another type than it says in {shown(name)}")
    if kind == "t":
        _refuse_tensor(attribute.get("t", {}))
    elif name in _LIMITS:
        low, high = _LIMITS[name]
        numbers = attribute.get("ints", [attribute.get("i", 0)] if kind == "i" else [])
        if not all(low <= number <= high for number in numbers):
            raise Refused(f"{name} of {max(numbers, key=abs):.3g}")
    return str(name)


def _refuse_tensor(tensor: Mapping[str, Any]) -> None:
    if _name(tensor) in BLOCK_SIZES and (tensor.get("data_type"), tensor.get("dims")) != (_WHOLE, [1]):
        raise Refused(f"a size of blocks, {_name(tensor)}, that is not one whole number")
    dims, item = tensor.get("dims", []), _ITEM_BYTES.get(tensor.get("data_type", 0))
    if item is None:
        raise Refused(f"a tensor of data type {tensor.get('data_type', 0)}")
    begin, end = tensor.get("raw_data", (0, 0))
    if min(dims, default=0) < 0 or math.prod(dims) * item != end - begin:
        raise Refused(f"a tensor of {math.prod(dims):.3g} values in {end - begin:,} bytes")


def _name(value: Mapping[str, Any]) -> str:
    return str(value.get("name", ""))
