"""Operators that act on each element: their operands lose the same positions."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final, TypeGuard

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, Axis

UNARY: Final = (
    # activations
    "relu", "relu6", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "sigmoid",
    "hardsigmoid", "hardswish", "hardtanh", "hardshrink", "softshrink", "tanhshrink", "softsign",
    "softplus", "tanh", "log_sigmoid", "threshold", "rrelu", "logit",
    # functions of a number
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos",
    "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "sinc", "sqrt", "rsqrt", "reciprocal",
    "abs", "neg", "negative", "positive", "sign", "sgn", "square", "erf", "erfc", "erfinv",
    "floor", "ceil", "round", "trunc", "fix", "frac", "nan_to_num", "deg2rad", "rad2deg",
    "isnan", "isinf", "isfinite", "logical_not", "bitwise_not", "fill",
    # identities in evaluation mode
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous", "clone",
    "to", "type_as", "alias", "detach", "lift_fresh", "lift_fresh_copy", "_to_copy",
)  # fmt: skip
BINARY: Final = (
    "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "floor_divide",
    "pow", "float_power", "remainder", "fmod", "maximum", "minimum", "fmax", "fmin", "atan2",
    "hypot", "copysign", "heaviside", "xlogy", "logaddexp", "logaddexp2", "eq", "ne", "lt", "le",
    "gt", "ge", "less", "less_equal", "greater", "greater_equal", "not_equal", "isclose",
    "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor",
    "__and", "__or", "__xor",  # of __and__ and so on, whose last underscores mean nothing here
    "where", "masked_fill", "addcmul", "addcdiv", "lerp", "clamp", "clamp_min", "clamp_max", "clip",
    "copy",
)  # fmt: skip


@rule(*(f"aten.{name}" for name in UNARY))
def unary(op: Op, x: Axes, *rest: object) -> Axes:
    """Keep every axis; a second tensor gives its type or one number alone."""
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
    slopes = weight[0] if weight else Axis(1)
    if slopes.size > 1:
        op.unify(x[1], slopes)
    else:
        op.lock(slopes, why="broadcast from size 1")
    return x


@rule("aten.glu")
def glu(op: Op, x: Axes, dim: int) -> Axes:
    """Gate the first half of an axis by the second, which therefore lose the same."""
    dim %= len(x)
    halves, channels = op.split(x[dim], (2, x[dim].size // 2))
    op.lock(halves, why="halves of a gate")
    return (*x[:dim], channels, *x[dim + 1 :])


@rule("aten.bucketize")
def bucketize(op: Op, x: Axes, boundaries: Axes, *rest: object) -> Axes:
    """Number each element by the interval that it lies in; intervals must stay."""
    op.fix(*boundaries)
    return x


@rule("aten.tril", "aten.triu")
def triangle(op: Op, x: Axes, *rest: object) -> Axes:
    """Clear one side of the diagonal: where that is depends on every position."""
    op.lock(*x[-2:], why="positions compared")
    return x


@rule("aten.broadcast_tensors")
def broadcast_tensors(op: Op, tensors: list[Axes]) -> list[Axes]:
    """Stretch all operands to one shape."""
    out = broadcast(op, tensors)
    return [out for _ in tensors]


def broadcast(op: Op, operands: Sequence[Axes]) -> Axes:
    """Unite axes aligned at the right; an axis of size 1 that carries a unit cannot stretch."""
    out: list[Axis] = []
    for aligned in zip_longest(*(reversed(operand) for operand in operands)):
        present = [axis for axis in aligned if axis is not None]
        # Not the largest: beside an axis of size 1 an empty one counts.
        size = next((axis.size for axis in present if axis.size != 1), 1)
        full = [axis for axis in present if axis.size == size]
        for axis in present:
            if axis.size != size:
                op.lock(axis, why="broadcast from size 1")
        for axis in full[1:]:
            op.unify(full[0], axis)
        # One with columns also remembers what they met.
        out.append(next((axis for axis in full if axis.columns), full[0]))
    return tuple(reversed(out))


def is_axes(value: object) -> TypeGuard[Axes]:
    """Say whether an argument is a tensor."""
    return isinstance(value, tuple) and all(isinstance(item, Axis) for item in value)
