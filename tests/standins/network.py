"""Networks of the TensorRT stand-in, and the parser that fills them from an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from tests.standins.enums import Dims
from tests.standins.faces import Behaviour, takes
from tests.standins.plan import Tensor

_TYPES = {"FLOAT16": "HALF", "BFLOAT16": "BF16"}  # the others have the same name in ONNX


class INetworkDefinition(Behaviour):
    """A network: its inputs and outputs, and the ONNX model that they came from."""

    face_name = "INetworkDefinition"

    def __init__(self, owner: Any, logger: Any, builder: Any, flags: int) -> None:
        super().__init__(owner, logger)
        self._builder = builder
        self.mask = flags
        self.model: onnx.ModelProto | None = None
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    @property
    def flags(self) -> int:
        return self.mask

    @property
    def builder(self) -> Any:
        return self._builder

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    @property
    def num_layers(self) -> int:
        return len(self.model.graph.node) if self.model else 0

    @takes("NetworkDefinitionCreationFlag")
    def get_flag(self, flag: Any) -> bool:
        return bool(self.mask >> int(flag) & 1)

    @takes("int")
    def get_input(self, index: int) -> Any:
        return self._tensor(self.inputs, index)

    @takes("int")
    def get_output(self, index: int) -> Any:
        return self._tensor(self.outputs, index)

    def _tensor(self, tensors: list[Tensor], index: int) -> Any:
        if not 0 <= index < len(tensors):
            return None
        return ITensor(self.owner, self.logger, tensors[index], tensors is self.inputs)


class ITensor(Behaviour):
    """An input or output of a network."""

    face_name = "ITensor"

    def __init__(self, owner: Any, logger: Any, tensor: Tensor, is_input: bool) -> None:
        super().__init__(owner, logger)
        self._tensor, self._is_input = tensor, is_input

    @property
    def name(self) -> str:
        return self._tensor.name

    @property
    def shape(self) -> Dims:
        return Dims(self._tensor.shape)

    @property
    def dtype(self) -> Any:
        return getattr(self.owner.module.DataType, self._tensor.dtype)

    @property
    def is_network_input(self) -> bool:
        return self._is_input

    @property
    def is_network_output(self) -> bool:
        return not self._is_input

    @property
    def is_shape_tensor(self) -> bool:
        return False


class OnnxParser(Behaviour):
    """Reads an ONNX file into a network; False where it cannot, with errors to ask for."""

    face_name = "OnnxParser"
    constructible = True

    @takes("INetworkDefinition", "ILogger")
    def __init__(self, owner: Any, network: INetworkDefinition, logger: Any) -> None:
        super().__init__(owner, logger)
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    @takes("int")
    def get_error(self, index: int) -> Any:
        return self._errors[index] if 0 <= index < len(self._errors) else None

    def clear_errors(self) -> None:
        self._errors.clear()

    @takes("str")
    def parse_from_file(self, model: str) -> bool:
        if not Path(model).is_file():
            words = "Assertion failed: stat(onnxModelFile, &sb) == 0 && S_ISREG(sb.st_mode): Input file cannot be found"
            said = f"{words}, or is not a regular file: {model}"
            return self._refuse("INVALID_VALUE", said, "parseFromFile", "ModelImporter.cpp", 1422)
        try:
            return self._read(onnx.load(model))
        except (DecodeError, OSError, onnx.checker.ValidationError):
            return self._undecodable()

    @takes("Buffer", "str?")
    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            return self._read(onnx.load_from_string(model))
        except DecodeError:
            return self._undecodable()

    def _undecodable(self) -> bool:
        words = "Assertion failed: model->ParseFromCodedStream(&codedInput): Failed to parse the ONNX model."
        return self._refuse("MODEL_DESERIALIZE_FAILED", words, "deserializeOnnxModel", "onnxProtoUtils.hpp", 73)

    def _refuse(self, code: str, words: str, function: str, file: str, line: int) -> bool:
        self._errors.append(ParserError(self.owner, self.logger, code, words, (function, file, line)))
        return self.fail(f"({function}): {code}: {words}", False)

    def _read(self, model: onnx.ModelProto) -> bool:
        weights = {initializer.name for initializer in model.graph.initializer}
        self._network.model = model
        self._network.inputs = [_tensor(value) for value in model.graph.input if value.name not in weights]
        for number, node in enumerate(model.graph.node):
            if node.op_type == "Det":
                return self._refuse_node(number, node)
        self._network.outputs = [_tensor(value) for value in model.graph.output]
        return True

    def _refuse_node(self, number: int, node: onnx.NodeProto) -> bool:
        place = ("checkDet", "onnxOpCheckers.cpp", 1130)
        self._errors.append(ParserError(self.owner, self.logger, "UNSUPPORTED_NODE", "false", place, number, node))
        self.log("ERROR", f'ModelImporter.cpp:140: While parsing node number {number} [Det -> "{node.output[0]}"]:')
        self.log("ERROR", f"ModelImporter.cpp:142: --- Begin node ---\nNode name: {node.name}")
        self.log("ERROR", "ModelImporter.cpp:143: --- End node ---")
        return self.fail(
            "ModelImporter.cpp:151: ERROR: onnxOpCheckers.cpp:1130 In function checkDet:\n[8] false", False
        )


class ParserError(Behaviour):
    """One error of a parser."""

    face_name = "ParserError"

    def __init__(  # noqa: PLR0917
        self,
        owner: Any,
        logger: Any,
        code: str,
        words: str,
        place: tuple[str, str, int],
        number: int = -1,
        node: onnx.NodeProto | None = None,
    ) -> None:
        super().__init__(owner, logger)
        self._code, self._words, self._place, self._number, self._node = code, words, place, number, node

    def code(self) -> Any:
        return getattr(self.owner.module.ErrorCode, self._code)

    def desc(self) -> str:
        return self._words

    def func(self) -> str:
        return self._place[0]

    def file(self) -> str:
        return self._place[1]

    def line(self) -> int:
        return self._place[2]

    def node(self) -> int:
        return self._number

    def node_name(self) -> str:
        return self._node.name if self._node else ""

    def node_operator(self) -> str:
        return self._node.op_type if self._node else ""

    def local_function_stack(self) -> list[str]:
        return []

    def local_function_stack_size(self) -> int:
        return 0


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type)
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return Tensor(value.name, _TYPES.get(name, name), shape)
