"""Operators that reduce axes: reduced axes lose nothing."""

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, Axis


@rule(
    "aten.mean", "aten.sum", "aten.amax", "aten.amin", "aten.var", "aten.std", "aten.prod",
    "aten.any", "aten.all", "aten.argmax", "aten.argmin",
)  # fmt: skip
def reduce(op: Op, x: Axes, dim: list[int] | int | None = None, *rest: object) -> Axes:
    """Lock the reduced axes, which leave or stay with size 1."""
    if isinstance(dim, bool) or not isinstance(dim, int | list) or dim == []:
        dims = list(range(len(x)))
    else:
        dims = [d % len(x) for d in ([dim] if isinstance(dim, int) else dim)]
    op.lock(*(x[d] for d in dims), why="reduced axis")
    keeps_dims = len(op.shape) == len(x)
    return tuple(
        Axis(1) if d in dims else axis for d, axis in enumerate(x) if keeps_dims or d not in dims
    )


__all__ = ["reduce"]
