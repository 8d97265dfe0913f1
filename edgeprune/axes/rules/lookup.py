"""Operators that look positions up by number: what is numbered must stay."""

from edgeprune.axes.op import Op, rule
from edgeprune.axes.rules.pointwise import broadcast
from edgeprune.axes.units import Axes, Axis


@rule("aten.embedding")
def embedding(op: Op, weight: Axes, indices: Axes, *rest: object) -> Axes:
    """Look up rows, which must stay; columns pass."""
    op.fix(weight[0])
    op.fix(*indices)
    return (*indices, weight[1])


@rule("aten.index")
def index(op: Op, x: Axes, indices: list[Axes | None]) -> Axes:
    """Look up positions along some axes, which must stay; the others pass.

    What was looked up stands where the axes were if these are adjacent, and
    first if they are not.
    """
    looked_up = [d for d, item in enumerate(indices) if item is not None]
    _numbered(op, *(x[d] for d in looked_up))
    tensors = [item for item in indices if item is not None]
    for item in tensors:
        op.fix(*item)
    made = max(len(item) for item in tensors)
    rest = [axis for d, axis in enumerate(x) if d not in looked_up]
    adjacent = looked_up == list(range(looked_up[0], looked_up[-1] + 1))
    lead = looked_up[0] if adjacent else 0
    fresh = (Axis(size) for size in op.shape[lead : lead + made])
    return (*rest[:lead], *fresh, *rest[lead:])


@rule("aten.index_select")
def index_select(op: Op, x: Axes, dim: int, indices: Axes) -> Axes:
    """Look up positions along one axis, which must stay."""
    dim %= max(len(x), 1)
    _numbered(op, x[dim])
    op.fix(*indices)
    return (*x[:dim], Axis(op.shape[dim]), *x[dim + 1 :])


@rule("aten.gather")
def gather(op: Op, x: Axes, dim: int, indices: Axes, *rest: object) -> Axes:
    """Look up a position for each element; along all other axes both go together."""
    dim %= max(len(x), 1)
    _numbered(op, x[dim])
    for d, (own, other) in enumerate(zip(x, indices, strict=True)):
        if d != dim and own.size == other.size:
            op.unify(own, other)
        elif d != dim:
            op.lock(own, other, why="only the first positions are looked up")
    return indices


@rule("aten.take_along_dim")
def take_along(op: Op, x: Axes, indices: Axes, dim: int | None = None) -> Axes:
    """Look up a position for each element, other axes broadcast."""
    if dim is None:
        _numbered(op, *x)
        return indices
    dim %= len(x)
    _numbered(op, x[dim])
    left = broadcast(op, [x[:dim], indices[:dim]])
    return (*left, indices[dim], *broadcast(op, [x[dim + 1 :], indices[dim + 1 :]]))


def _numbered(op: Op, *axes: Axis) -> None:
    """Lock axes whose positions are looked up; rows of a table are no channels by nature."""
    if "self" in op.varying:
        op.lock(*axes, why="looked up")
    else:
        op.fix(*axes)


__all__ = ["embedding", "gather", "index", "index_select", "take_along"]
