"""Operators that reduce axes: what they compute over units follows the gates.

A sum gets nothing from a position that is 0, so it reads its axis. Any other
statistic is weighted by the gates. What answers with positions instead of
values, or with which value is where, cannot lose any.
"""

import math
from collections.abc import Collection

from edgeprune.axes.op import Op, rule
from edgeprune.axes.rules.pointwise import broadcast, is_axes
from edgeprune.axes.units import Axes, Axis


@rule("aten.sum", "aten.nansum", "aten.count_nonzero")
def total(op: Op, x: Axes, dim: list[int] | int | None = None, *rest: object) -> Axes:
    """Read the reduced axes: a position that is 0 adds nothing."""
    dims = _dims(x, dim)
    for d in dims:
        op.reads("self", d, x[d])
    return _reduced(op, x, dims)


@rule("aten.linalg_vector_norm", "aten.norm")
def norm(op: Op, x: Axes, order: float | None, dim: object = None, *rest: object) -> Axes:
    """Read the reduced axes; of orders that are not positive 0 changes the norm."""
    dims = _dims(x, dim)
    positive = order is None or (isinstance(order, int | float) and order > 0)
    for d in dims:
        if positive:
            op.reads("self", d, x[d])
        else:
            op.lock(x[d], why=f"norm of order {order}")
    return _reduced(op, x, dims)


@rule(
    "aten.mean", "aten.amax", "aten.amin", "aten.var", "aten.std", "aten.var_mean",
    "aten.std_mean", "aten.prod", "aten.logsumexp",
)  # fmt: skip
def statistic(op: Op, x: Axes, *rest: object) -> Axes | list[Axes]:
    """Weigh what the statistic is taken over by its gates."""
    dims = _dims(x, op.arguments.get("dim"))
    beside = math.prod(x[d].size for d in dims if x[d].frozen)
    for d in dims:
        if beside <= _freedom_lost(op):
            op.lock(x[d], why="unbiased: of a single position it is no number")
        op.averages("self", d, x[d])
    out = _reduced(op, x, dims)
    return [out for _ in op.shapes] if op.returns_list else out


def _freedom_lost(op: Op) -> float:
    """Return by how much a variance divides less than by the number of positions."""
    for name in ("correction", "unbiased"):
        if name in op.arguments:
            given = op.arguments[name]
            return 1.0 if given is None else float(given)
    return 0.0


@rule("aten.max", "aten.min")
def extreme(op: Op, x: Axes, *rest: object) -> Axes | list[Axes]:
    """Weigh the reduced axis, unless positions are asked for as well; or compare two tensors."""
    if rest and is_axes(rest[0]):
        return broadcast(op, [x, rest[0]])
    comparing = op.returns_list and _positions_are_used(op)
    out: Axes | list[Axes] = (positions if comparing else statistic)(op, x)
    return out


def _positions_are_used(op: Op) -> bool:
    return any(user.users for user in op.node.users if user.args[1] == 1)


@rule(
    "aten.argmax", "aten.argmin", "aten.any", "aten.all", "aten.median", "aten.mode",
    "aten.kthvalue", "aten.topk", "aten.sort", "aten.argsort", "aten.cummax", "aten.cummin",
)  # fmt: skip
def positions(op: Op, x: Axes, *rest: object) -> Axes | list[Axes]:
    """Lock the axis along which positions are compared."""
    dims = _dims(x, op.arguments.get("dim"))
    why = "positions are compared"
    op.lock(*(x[d] for d in dims), why=why)
    out = _reduced(op, x, dims)
    if len(op.shape) == len(x):
        out = tuple(op.stuck(op.shape[d], why) if d in dims else a for d, a in enumerate(x))
    return [out for _ in op.shapes] if op.returns_list else out


@rule("aten.cumsum")
def running_sum(op: Op, x: Axes, dim: int, *rest: object) -> Axes:
    """Read the axis that is summed along, which stays."""
    op.reads("self", dim % len(x), x[dim])
    return x


@rule("aten.cumprod", "aten.softmax", "aten.log_softmax", "aten._softmax")
def along(op: Op, x: Axes, dim: int, *rest: object) -> Axes:
    """Weigh the axis that is normalised or multiplied along, which stays."""
    op.averages("self", dim % len(x), x[dim])
    return x


@rule("aten.cosine_similarity")
def cosine(op: Op, x: Axes, y: Axes, dim: int, *rest: object) -> Axes:
    """Contract one axis of both operands, and of their lengths."""
    out = broadcast(op, [x, y])
    dim %= len(out)
    for argument, operand in zip(("x1", "x2"), (x, y), strict=True):
        own = dim - len(out) + len(operand)
        op.reads(argument, own, operand[own])
    return (*out[:dim], *out[dim + 1 :])


def _dims(x: Axes, dim: object) -> list[int]:
    """Return the dimensions that are reduced, all of them when none is named."""
    if isinstance(dim, bool) or not isinstance(dim, int | list) or dim == []:
        return list(range(len(x)))
    return [d % len(x) for d in ([dim] if isinstance(dim, int) else dim)]


def _reduced(op: Op, x: Axes, dims: Collection[int]) -> Axes:
    """Return what is left: reduced axes leave, or stay with size 1."""
    keeps_dims = len(op.shape) == len(x)
    return tuple(
        Axis(1) if d in dims else axis for d, axis in enumerate(x) if keeps_dims or d not in dims
    )


__all__ = [
    "along", "cosine", "extreme", "norm", "positions", "running_sum", "statistic", "total",
]  # fmt: skip
