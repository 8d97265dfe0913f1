"""Operators that make constants: uniform ones follow a cut, all others stay as they are."""

from edgeprune.axes.op import Op, rule
from edgeprune.axes.rules.sizes import follow
from edgeprune.axes.units import Axes, Axis


@rule(
    "aten.zeros", "aten.ones", "aten.full", "aten.empty",
    "aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.new_empty",
)  # fmt: skip
def uniform(op: Op, *arguments: object) -> Axes:
    """Fill a tensor with one number: any position may go, and its size follows."""
    out = tuple(op.units.fresh_axis(size) for size in op.shape)
    follow(op, "size", out)
    return out


@rule("aten.zeros_like", "aten.ones_like", "aten.full_like", "aten.empty_like")
def uniform_like(op: Op, x: Axes, *arguments: object) -> Axes:
    """Fill a tensor of another one's shape, which it takes as it then is."""
    return x


@rule("aten.arange", "aten.linspace", "aten.scalar_tensor", "aten.eye")
def constant(op: Op, *arguments: object) -> Axes:
    """Make numbers that differ by position, none of which can go."""
    return tuple(op.units.stuck_axis(size, f"a constant: {op.where}") for size in op.shape)


@rule("aten.one_hot")
def one_hot(op: Op, x: Axes, *arguments: object) -> Axes:
    """Turn class numbers into rows; which classes there are is a constant."""
    return (*x, op.units.stuck_axis(op.shape[-1], f"classes counted: {op.where}"))


@rule("aten.meshgrid")
def meshgrid(op: Op, tensors: list[Axes], indexing: str = "ij") -> list[Axes]:
    """Spread each of several vectors along an axis of its own."""
    axes = [tensor[0] if tensor else Axis(1) for tensor in tensors]
    if indexing == "xy":
        axes[:2] = axes[1::-1]
    return [tuple(axes) for _ in tensors]
