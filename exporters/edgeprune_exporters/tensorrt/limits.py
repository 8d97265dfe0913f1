"""Which operators a version of TensorRT can read, known before a device is asked.

Facts from the operator lists of onnx-tensorrt (docs/operators.md for 8.5, 8.6, 10.0
and 10.15), its changelog, and TensorRT's release notes. What is not known is not
refused here: the parser on the device has the last word.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto

from edgeprune.targets.tensorrt_versions import OLDEST, OPSETS, Version

# The first version that has an operator, for those that not all versions have.
SINCE: Final[Mapping[str, Version]] = {
    "CastLike": (8, 6),
    "GroupNormalization": (8, 6),
    "Hardmax": (8, 6),
    "IsInf": (8, 6),
    "LayerNormalization": (8, 6),
    "Gelu": (10, 0),
    "Mish": (10, 0),
    "Attention": (10, 14),
    "RMSNormalization": (10, 15),
    "RotaryEmbedding": (10, 15),
    "TensorScatter": (10, 15),
    "Swish": (11, 0),
    "DFT": (11, 2),
}
NEVER: Final = frozenset({
    "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "Det",
    "DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool",
    "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss", "Optional",
    "OptionalGetElement", "OptionalHasElement", "QLinearConv", "QLinearMatMul", "RegexFullMatch",
    "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat",
    "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Unique",
})  # fmt: skip
TYPES: Final = frozenset({
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8,
    TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
})  # fmt: skip


def version_text(version: Version) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def least_version(graph: onnx.ModelProto, opset: int) -> Version:
    """Return the oldest version that can read a graph."""
    by_opset = min(since for since, largest in OPSETS if opset <= largest)
    return max([by_opset, *(SINCE.get(node.op_type, OLDEST) for node in _nodes(graph.graph))])


def graph_refusal(graph: onnx.ModelProto, version: Version) -> str | None:
    """Say what in a graph a version of TensorRT cannot read, by node, or None."""
    constants = _constants(graph.graph)
    for name, tensor in constants.items():
        if tensor.data_type not in TYPES | {TensorProto.UINT8}:  # of these, Q and DQ say more
            return f"'{name}' is of type {_type(tensor.data_type)}, which TensorRT does not take"
    for node in _nodes(graph.graph):
        if reason := _missing(node, version) or _restricted(node, constants):
            return f"node '{node.name}' ({node.op_type}): {reason}"
    return None


def _constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        value = _attribute(node, "value")
        if node.op_type == "Constant" and isinstance(value, TensorProto):
            constants[node.output[0]] = value
    return constants


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the branches and bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _missing(node: onnx.NodeProto, version: Version) -> str | None:
    if node.domain not in {"", "ai.onnx"}:
        return f"TensorRT reads ONNX's own operators, and this one is of '{node.domain}'"
    if node.op_type in NEVER:
        return "TensorRT has no such operator"
    since = SINCE.get(node.op_type, OLDEST)
    if version < since:
        return (
            f"TensorRT {version_text(version)} has no such operator, "
            f"{version_text(since)} is the first that has"
        )
    return None


Constants = Mapping[str, TensorProto]


def _restricted(node: onnx.NodeProto, constants: Constants) -> str | None:
    check = RESTRICTIONS.get(node.op_type)
    return check(node, constants) if check is not None else None


def _cast(node: onnx.NodeProto, constants: Constants) -> str | None:
    to = _attribute(node, "to")
    return None if to in TYPES else f"TensorRT has no {_type(to)}"


def _quantization(node: onnx.NodeProto, constants: Constants) -> str | None:
    """Only signed integers of 8 bits with a zero point of 0 are read."""
    if len(node.input) > 2 and node.input[2]:
        point = constants.get(node.input[2])
        if point is None:
            return "its zero point is no constant, as TensorRT needs it"
        if np.any(onnx.numpy_helper.to_array(point)):
            return "its zero point is not 0, and TensorRT quantises symmetrically"
        kind = point.data_type
    elif node.op_type == "QuantizeLinear":
        kind = _attribute(node, "output_dtype") or TensorProto.UINT8  # ONNX's default
    elif node.input[0] in constants:
        kind = constants[node.input[0]].data_type
    else:
        return None  # its type is that of the QuantizeLinear before it, which is looked at
    return None if kind == TensorProto.INT8 else f"its integers are {_type(kind)}, and not int8"


def _pooling(node: onnx.NodeProto, constants: Constants) -> str | None:
    if len(node.output) > 1 and node.output[1]:
        return "TensorRT gives no indices of the largest values"
    if any(step != 1 for step in _attribute(node, "dilations") or ()):
        return "TensorRT does not dilate pooling"
    return None


def _first_output_only(node: onnx.NodeProto, constants: Constants) -> str | None:
    return "TensorRT gives its first output alone" if any(node.output[1:]) else None


def _resize(node: onnx.NodeProto, constants: Constants) -> str | None:
    return "TensorRT does not antialias" if _attribute(node, "antialias") else None


def _scatter(node: onnx.NodeProto, constants: Constants) -> str | None:
    reduction = _attribute(node, "reduction") or b"none"
    return None if reduction == b"none" else f"TensorRT has no reduction {reduction.decode()}"


RESTRICTIONS: Final[Mapping[str, Callable[[onnx.NodeProto, Constants], str | None]]] = {
    "AveragePool": _pooling,
    "Cast": _cast,
    "DequantizeLinear": _quantization,
    "LayerNormalization": _first_output_only,
    "MaxPool": _pooling,
    "QuantizeLinear": _quantization,
    "Resize": _resize,
    "ScatterND": _scatter,
}


def _attribute(node: onnx.NodeProto, name: str) -> Any:  # noqa: ANN401 - a dozen types
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return None


def _type(number: int) -> str:
    return str(TensorProto.DataType.Name(number)).lower()
