"""Operators that act on each element: their operands lose the same positions."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final, TypeGuard

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, Axis

UNARY: Final = (
    "relu", "relu6", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "sigmoid",
    "hardsigmoid", "hardswish", "hardtanh", "softplus", "tanh", "log_sigmoid", "exp", "log", "sin",
    "cos", "sqrt", "rsqrt", "reciprocal", "abs", "neg", "sign", "square", "erf", "floor", "ceil",
    "round", "dropout", "feature_dropout", "alpha_dropout",
    "contiguous", "clone", "to", "type_as", "alias", "detach", "lift_fresh_copy", "_to_copy",
    "logical_not", "bitwise_not", "nan_to_num", "_assert_tensor_metadata",
)  # fmt: skip
BINARY: Final = (
    "sub", "rsub", "mul", "div", "pow", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_and", "logical_or", "bitwise_and", "bitwise_or", "where", "masked_fill", "addcmul",
    "lerp", "atan2", "clamp", "clamp_min", "clamp_max", "copy", "remainder", "fmod",
)  # fmt: skip


@rule(*(f"aten.{name}" for name in UNARY))
def unary(op: Op, x: Axes, *rest: object) -> Axes:
    """Keep every axis; a second tensor gives its type alone."""
    return x


@rule(*(f"aten.{name}" for name in BINARY))
def binary(op: Op, *operands: object) -> Axes:
    """Unite the axes of all tensor operands, as broadcasting lines them up."""
    return broadcast(op, [operand for operand in operands if is_axes(operand)])


@rule("aten.add")
def add(op: Op, x: Axes, y: Axes | float, alpha: float) -> Axes:
    """Unite both operands; a sum of two activations is a residual stream."""
    if not is_axes(y):
        return x
    out = broadcast(op, [x, y])
    if len(x) == len(y) and op.varying >= {"self", "other"}:
        for a, b, axis in zip(x, y, out, strict=True):
            if a.size == b.size > 1:
                op.mark("width", axis)
    return out


@rule("aten.prelu")
def prelu(op: Op, x: Axes, weight: Axes) -> Axes:
    """Tie the slopes to the channels."""
    if weight and weight[0].size > 1:
        op.unify(x[1], weight[0])
    return x


def broadcast(op: Op, operands: Sequence[Axes]) -> Axes:
    """Unite axes aligned at the right; an axis of size 1 that carries a unit cannot stretch."""
    out: list[Axis] = []
    for aligned in zip_longest(*(reversed(operand) for operand in operands)):
        present = [axis for axis in aligned if axis is not None]
        size = max(axis.size for axis in present)
        full = [axis for axis in present if axis.size == size]
        for axis in present:
            if axis.size != size:
                op.lock(axis, why="broadcast from size 1")
        for axis in full[1:]:
            op.unify(full[0], axis)
        out.append(full[0])
    return tuple(reversed(out))


def is_axes(value: object) -> TypeGuard[Axes]:
    """Say whether an argument is a tensor."""
    return isinstance(value, tuple) and all(isinstance(item, Axis) for item in value)
