"""Quantisers as TensorRT takes them: signed, centred, and along axis 0 for weights.

NNCF has no settings for this: with symmetric ranges it still drops the sign where
no value is negative, scales matrices along their last axis, and quantises both
summands of a residual connection.
"""

from collections import Counter
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeprune_exporters.quantization.pairs import Pair, read_pairs

FUSED: Final = frozenset({"Conv", "MatMul", "Gemm"})  # TensorRT adds a residual within these


def for_tensorrt(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a symmetrically quantised graph with the quantisers that TensorRT takes.

    Source: TensorRT documentation, "Working with quantized types", the sections on
    explicit quantisation and on where to place Q/DQ.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    for pair in read_pairs(changed):
        if pair.zero.dtype == np.uint8 and not pair.zero.any():
            _give_sign(changed, pair)
    _release_residuals(changed)
    _turn_matrices(changed)
    return _without_unused(changed)


def _give_sign(graph: onnx.ModelProto, pair: Pair) -> None:
    """Let 127 steps reach as far as 255 did."""
    _, scale, zero = pair.dequantizer.input
    _store(graph, scale, (pair.scale * np.float32(255 / 127)).astype(np.float32))
    _store(graph, zero, pair.zero.astype(np.int8))


def _release_residuals(graph: onnx.ModelProto) -> None:
    """Hand one summand of an addition on in full, where the operator that makes it can add.

    TensorRT then sums in the accumulator of that operator, and rounds once.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    uses = Counter(name for node in graph.graph.node for name in node.input)
    pairs = {pair.dequantizer.output[0]: pair for pair in read_pairs(graph)}
    for node in graph.graph.node:
        if node.op_type != "Add" or not all(name in pairs for name in node.input):
            continue
        for place, name in enumerate(node.input):
            maker = makers.get(pairs[name].value)
            if uses[name] == 1 and maker is not None and maker.op_type in FUSED:
                node.input[place] = pairs[name].value
                break


def _turn_matrices(graph: onnx.ModelProto) -> None:
    """Store matrices that are scaled along axis 1 transposed, and turn them back behind."""
    for pair in read_pairs(graph):
        if pair.weight is None or pair.weight.ndim != 2 or pair.axis != 1 or pair.scale.size == 1:
            continue
        _store(graph, pair.value, np.ascontiguousarray(pair.weight.T))
        for node in (pair.quantizer, pair.dequantizer):
            if node is not None:
                _set_axis(node, 0)
        _turn_back(graph, pair.dequantizer)


def _turn_back(graph: onnx.ModelProto, node: onnx.NodeProto) -> None:
    name = node.output[0]
    node.output[0] = f"{name}_turned"
    back = onnx.helper.make_node(
        "Transpose", [node.output[0]], [name], f"{node.name}_turned", perm=[1, 0]
    )
    position = next(i for i, each in enumerate(graph.graph.node) if each.name == node.name)
    graph.graph.node.insert(position + 1, back)


def _set_axis(node: onnx.NodeProto, axis: int) -> None:
    kept = [each for each in node.attribute if each.name != "axis"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("axis", axis)])


def _store(graph: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    tensor = next(each for each in graph.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def _without_unused(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph without what nothing reads any more."""
    model = onnx_ir.from_proto(graph)
    RemoveUnusedNodesPass()(model)
    return onnx_ir.to_proto(model)
