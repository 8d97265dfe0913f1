"""The pairs of QuantizeLinear and DequantizeLinear in an ONNX graph, read back and checked.

Invariant of every graph that is written: both halves of a pair round alike, weights
are signed with one scale per output channel and no zero point, activations have one
scale, and biases are float.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeprune.errors import ExportError

WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

Constants = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A value that is rounded to 8 bits.

    Attributes:
        quantizer: the node that rounds, or None where a weight is stored rounded.
        dequantizer: the node that makes a float of it.
        value: name of what is rounded; of the stored integers where a weight is.
        weight: the constant that is rounded, or None for an activation.
        scale: of one step; a scalar, or one per channel.
        zero: the integer that stands for 0.
    """

    quantizer: onnx.NodeProto | None
    dequantizer: onnx.NodeProto
    value: str
    weight: NDArray[Any] | None
    scale: NDArray[Any]
    zero: NDArray[Any]

    @property
    def axis(self) -> int:
        """The channel axis of a weight, counted from the front."""
        assert self.weight is not None  # noqa: S101 - activations have one scale
        axis = next((each.i for each in self.dequantizer.attribute if each.name == "axis"), 1)
        return int(axis) % max(self.weight.ndim, 1)


def read_pairs(graph: onnx.ModelProto) -> tuple[Pair, ...]:
    """Return the pairs in the order of the graph."""
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    return tuple(
        _pair(node, makers.get(node.input[0]), constants)
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear"
    )


def _pair(node: onnx.NodeProto, maker: onnx.NodeProto | None, constants: Constants) -> Pair:
    quantizer = maker if maker is not None and maker.op_type == "QuantizeLinear" else None
    value = quantizer.input[0] if quantizer is not None else node.input[0]
    if quantizer is None and value not in constants:
        raise ExportError(f"'{node.name}' gets its integers from no quantiser")
    scale = constants[node.input[1]]
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros_like(scale, np.uint8)
    return Pair(
        quantizer=quantizer,
        dequantizer=node,
        value=value,
        weight=constants.get(value),
        scale=scale,
        zero=zero,
    )


def check_pairs(graph: onnx.ModelProto, *, signed: bool) -> None:
    """Read every pair back, and hold it against the rules.

    Args:
        graph: a quantised graph.
        signed: the rules of TensorRT hold: integers are signed, every zero point is 0
            and the channels of weights lie on axis 0 (TensorRT documentation, "Working
            with quantized types"; onnx-tensorrt, ``operators.md``).

    Raises:
        ExportError: a pair breaks a rule; it is named, with what was found.
    """
    pairs = read_pairs(graph)
    for pair in pairs:
        reason = (
            _weight_fault(pair, signed) if pair.weight is not None else _value_fault(pair, signed)
        )
        if reason := _half_fault(pair) or reason:
            raise ExportError(f"the quantiser '{pair.dequantizer.name}' {reason}")
    rounded = {pair.dequantizer.output[0] for pair in pairs}
    for node in graph.graph.node:
        if node.op_type in WEIGHTED and len(node.input) > 2 and node.input[2] in rounded:
            raise ExportError(f"the bias of '{node.name}' is quantised; it has to stay float")


def _half_fault(pair: Pair) -> str | None:
    if not (np.isfinite(pair.scale).all() and (pair.scale > 0).all()):
        return "has a scale that is not a positive number"
    if pair.zero.dtype not in (np.int8, np.uint8):
        return f"rounds to {pair.zero.dtype}, not to 8 bits"
    if pair.quantizer is not None and list(pair.quantizer.input[1:]) != list(
        pair.dequantizer.input[1:]
    ):
        return "does not restore with the scale that it rounds with"
    return None


def _value_fault(pair: Pair, signed: bool) -> str | None:
    if pair.scale.size != 1:
        return f"has {pair.scale.size} scales for one activation"
    if signed and pair.zero.dtype != np.int8:
        return f"rounds an activation to {pair.zero.dtype}: TensorRT takes int8 only"
    if signed and pair.zero.any():
        return f"has zero point {int(pair.zero)}: TensorRT takes 0 only"
    return None


def _weight_fault(pair: Pair, signed: bool) -> str | None:
    assert pair.weight is not None  # noqa: S101 - the caller looked
    if pair.zero.dtype != np.int8 or pair.zero.any():
        return "rounds a weight with a zero point or without sign"
    if pair.scale.size not in (1, pair.weight.shape[pair.axis]):
        return f"has {pair.scale.size} scales for a weight of shape {pair.weight.shape}"
    if signed and pair.scale.size > 1 and pair.axis != 0:
        return f"scales a weight along axis {pair.axis}: TensorRT takes axis 0 only"
    return None
