"""How operators that ONNX defined anew are written with what was there before.

A rule takes a node and a tape to write on, and returns what replaces the node's
outputs, or the reason why nothing can. The nodes it writes are those of the opset
before the one that its key names.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Written: TypeAlias = Sequence[ir.Value] | str
Rule: TypeAlias = Callable[[ir.Node, ir.tape.Tape], Written]


def layer_normalization(node: ir.Node, tape: ir.tape.Tape) -> Written:
    """(x − mean) / √(variance + ε) · scale + bias, each an operator.

    Squares are written as ``Pow``, the form in which runtimes know the whole again.
    """
    x, scale, *bias = node.inputs
    if any(output.uses() for output in node.outputs[1:]):
        return "its mean and deviation are used"
    axis = node.attributes.get_int("axis", -1)
    if axis >= 0:
        if x is None or x.shape is None:
            return "the shape of its input is not known"
        axis -= x.shape.rank()
    half = x is not None and x.dtype == ir.DataType.FLOAT16
    if half:  # its definition computes statistics in float32
        x = tape.op("Cast", [x], {"to": ir.DataType.FLOAT})
    mean: dict[str, int | list[int]] = {"axes": list(range(axis, 0)), "keepdims": 1}
    centred = tape.op("Sub", [x, tape.op("ReduceMean", [x], mean)])
    squares = tape.op("Pow", [centred, _number(tape, 2.0)])
    epsilon = _number(tape, node.attributes.get_float("epsilon", 1e-5))
    variance = tape.op("Add", [tape.op("ReduceMean", [squares], mean), epsilon])
    y = tape.op("Div", [centred, tape.op("Sqrt", [variance])])
    if half:
        y = tape.op("Cast", [y], {"to": ir.DataType.FLOAT16})
    y = tape.op("Mul", [y, scale])
    return [tape.op("Add", [y, bias[0]])] if bias and bias[0] is not None else [y]


def gelu(node: ir.Node, tape: ir.tape.Tape) -> Written:
    """x / 2 · (1 + erf(x / √2)), or its approximation by tanh (Hendrycks and Gimpel, 2016)."""
    (x,) = node.inputs
    kind = x.dtype if x is not None else None
    if node.attributes.get_string("approximate", "none") == "tanh":
        cubed = tape.op(
            "Mul", [tape.op("Pow", [x, _number(tape, 3.0, kind)]), _number(tape, 0.044715, kind)]
        )
        inner = tape.op(
            "Mul", [tape.op("Add", [x, cubed]), _number(tape, math.sqrt(2 / math.pi), kind)]
        )
        curve = tape.op("Tanh", [inner])
    else:
        curve = tape.op("Erf", [tape.op("Div", [x, _number(tape, math.sqrt(2), kind)])])
    gate = tape.op("Add", [curve, _number(tape, 1.0, kind)])
    return [tape.op("Mul", [tape.op("Mul", [x, gate]), _number(tape, 0.5, kind)])]


def group_normalization_per_channel(node: ir.Node, tape: ir.tape.Tape) -> Written:
    """InstanceNorm over groups, then scale and bias (C,) for each channel."""
    x, scale, bias = node.inputs
    if x is None or x.shape is None:
        return "the shape of its input is not known"
    groups = node.attributes["num_groups"].as_int()
    kind = x.dtype or ir.DataType.FLOAT
    ones = _constant(tape, np.ones(groups, kind.numpy()))
    zeros = _constant(tape, np.zeros(groups, kind.numpy()))
    y = _over_groups(node, tape, ones, zeros)
    column = _constant(tape, np.array([-1] + [1] * (x.shape.rank() - 2), np.int64))
    y = tape.op("Mul", [y, tape.op("Reshape", [scale, column])])
    return [tape.op("Add", [y, tape.op("Reshape", [bias, column])])]


def group_normalization_per_group(node: ir.Node, tape: ir.tape.Tape) -> Written:
    """InstanceNorm over groups, whose scale and bias are (G,) as well."""
    _, scale, bias = node.inputs
    return [_over_groups(node, tape, scale, bias)]


def grid_sample(node: ir.Node, tape: ir.tape.Tape) -> Written:
    """The same with modes under the names that images had before volumes came."""
    x = node.inputs[0]
    if x is None or x.shape is None or x.shape.rank() != 4:
        return "only images can be sampled before opset 20"
    mode = node.attributes.get_string("mode", "linear")
    names = {"linear": "bilinear", "cubic": "bicubic"}
    kept = {name: each for name, each in node.attributes.items() if name != "mode"}
    return [tape.op("GridSample", list(node.inputs), {**kept, "mode": names.get(mode, mode)})]


def reduction(node: ir.Node, tape: ir.tape.Tape) -> Written:
    """The same with axes as an attribute."""
    axes = _integers(node, 1)
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        return "its axes are computed"
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        return [tape.op("Identity", [node.inputs[0]])]
    keepdims = {"keepdims": node.attributes.get_int("keepdims", 1)}
    return [
        tape.op(node.op_type, [node.inputs[0]], {**keepdims, "axes": axes} if axes else keepdims)
    ]


def pad(node: ir.Node, tape: ir.tape.Tape) -> Written:
    """The same with a width for each dimension."""
    data, pads, *rest = node.inputs
    value = rest[:1] if rest and rest[0] is not None else []
    if len(rest) == 2 and rest[1] is not None:
        axes, widths = _integers(node, 3), _integers(node, 1)
        if data is None or data.shape is None or axes is None or widths is None:
            return "its axes or widths are computed, or the shape of its input is not known"
        rank = data.shape.rank()
        full = np.zeros((2, rank), np.int64)
        full[:, [axis % rank for axis in axes]] = np.reshape(widths, (2, -1))
        pads = _constant(tape, full.ravel())
    return [tape.op("Pad", [data, pads, *value], dict(node.attributes))]


def split(node: ir.Node, tape: ir.tape.Tape) -> Written:
    """The same with the size of each part."""
    x, *sizes = node.inputs
    axis, count = node.attributes.get_int("axis", 0), len(node.outputs)
    if not sizes or sizes[0] is None:
        length = x.shape[axis] if x is not None and x.shape is not None else None
        if not isinstance(length, int):
            return "the length of what it splits is not known"
        part = -(-length // count)
        parts = [part] * (count - 1) + [length - part * (count - 1)]
        sizes = [_constant(tape, np.array(parts, np.int64))]
    return tape.op_multi_out("Split", [x, sizes[0]], {"axis": axis}, num_outputs=count)


def resize(node: ir.Node, tape: ir.tape.Tape) -> Written:
    """The same without what later definitions added, where that is not used."""
    for name, usual in (("antialias", 0), ("keep_aspect_ratio_policy", "stretch")):
        value = node.attributes[name].value if name in node.attributes else usual
        if value != usual:
            return f"its {name} is {value!r}, which opset 18 introduced"
    if "axes" in node.attributes:
        return "it names the axes that it resizes, which opset 18 introduced"
    new = ("antialias", "keep_aspect_ratio_policy")
    kept = {name: each for name, each in node.attributes.items() if name not in new}
    return [tape.op("Resize", list(node.inputs), kept)]


REDUCTIONS: Final = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
RULES: Final[Mapping[tuple[str, int], Rule]] = {
    ("LayerNormalization", 17): layer_normalization,
    **{(f"Reduce{name}", 18): reduction for name in REDUCTIONS},
    ("Pad", 18): pad,
    ("Split", 18): split,
    ("Resize", 18): resize,
    ("GroupNormalization", 18): group_normalization_per_group,
    ("GridSample", 20): grid_sample,
    ("Gelu", 20): gelu,
    ("GroupNormalization", 21): group_normalization_per_channel,
}  # by operator, and the opset that defined it anew


def _over_groups(
    node: ir.Node, tape: ir.tape.Tape, scale: ir.Value | None, bias: ir.Value | None
) -> ir.Value:
    x, groups = node.inputs[0], node.attributes["num_groups"].as_int()
    flat = tape.op("Reshape", [x, _constant(tape, np.array([0, groups, -1], np.int64))])
    epsilon = {"epsilon": node.attributes.get_float("epsilon", 1e-5)}
    y = tape.op("InstanceNormalization", [flat, scale, bias], epsilon)
    shape = x.shape if x is not None else None
    if shape is not None and all(isinstance(size, int) for size in shape[1:]):
        back = _constant(tape, np.array([0, *shape[1:]], np.int64))
    else:
        back = tape.op("Shape", [x])
    return tape.op("Reshape", [y, back])


def _integers(node: ir.Node, position: int) -> list[int] | None:
    """Return a constant input, or None where it is absent or computed."""
    value = node.inputs[position] if position < len(node.inputs) else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(each) for each in tensor.numpy().ravel()]


def _number(
    tape: ir.tape.Tape, value: float, kind: ir.DataType | None = ir.DataType.FLOAT
) -> ir.Value:
    return _constant(tape, np.array(value, (kind or ir.DataType.FLOAT).numpy()))


def _constant(tape: ir.tape.Tape, array: NDArray[Any]) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(array)})
