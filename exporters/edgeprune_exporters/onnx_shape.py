"""Whether an ONNX graph is what can be exported: a classifier of images in float32."""

from typing import Final

import onnx
from onnx import TensorProto

QUANTISED: Final = ("QuantizeLinear", "DequantizeLinear", "QLinear", "DynamicQuantize", "Integer")
HALF: Final = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
NOT_LOGITS: Final = frozenset({"Softmax", "Sigmoid", "LogSoftmax", "ArgMax"})


def image_shape(graph: onnx.ModelProto) -> tuple[int | None, tuple[int, int, int]]:
    """Return the batch size, None for any, and the shape (C, H, W) of a checked graph."""
    batch, channels, height, width = _sizes(_inputs(graph)[0])
    return batch, (channels or 0, height or 0, width or 0)


def refusal(graph: onnx.ModelProto) -> str | None:
    """Say why a graph cannot be exported, or None."""
    return (
        _foreign(graph)
        or _input_refusal(_inputs(graph))
        or _output_refusal(graph)
        or _precision_refusal(graph)
    )


def _inputs(graph: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that are no weights: old files list those as well."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    return [value for value in graph.graph.input if value.name not in weights]


def _foreign(graph: onnx.ModelProto) -> str | None:
    found = sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in graph.graph.node
            if node.domain not in ("", "ai.onnx")
        }
    )
    if not found:
        return None
    return f"it needs operators that are not ONNX's own: {', '.join(found[:5])}"


def _input_refusal(inputs: list[onnx.ValueInfoProto]) -> str | None:
    if len(inputs) != 1 or len(_sizes(inputs[0])) != 4:
        return f"it takes {_words(inputs)}; one input of images (N, C, H, W) is needed"
    if any(size is None for size in _sizes(inputs[0])[1:]):
        return f"it takes {_words(inputs)}: write the file with one size of images"
    if inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        return f"it takes {_words(inputs)}; images in float32 are needed"
    return None


def _output_refusal(graph: onnx.ModelProto) -> str | None:
    outputs = list(graph.graph.output)
    known = bool(outputs) and outputs[0].type.tensor_type.HasField("shape")
    if len(outputs) != 1 or (known and len(_sizes(outputs[0])) != 2):
        return f"it gives {_words(outputs)}; one output of logits (N, K) is needed"
    if outputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        return f"it gives {_words(outputs)}; logits in float32 are needed"
    for node in graph.graph.node:
        if outputs[0].name in node.output and node.op_type in NOT_LOGITS:
            return f"its output is of {node.op_type}, so no logits: write the file without it"
    return None


def _precision_refusal(graph: onnx.ModelProto) -> str | None:
    for node in graph.graph.node:
        if any(word in node.op_type for word in QUANTISED):
            return f"it is quantised already ({node.op_type} '{node.name}'): give the float32 file"
    if any(tensor.data_type in HALF for tensor in graph.graph.initializer):
        return "it has weights in half precision: give the float32 file"
    return None


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _words(values: list[onnx.ValueInfoProto]) -> str:
    """Say what inputs or outputs there are, with types and shapes."""
    if not values:
        return "nothing"
    return " and ".join(_described(value) for value in values[:4])


def _described(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = ", ".join(str(size or "?") for size in _sizes(value))
    return f"'{value.name}' ({kind}, of shape ({shape}))"
