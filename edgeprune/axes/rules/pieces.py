"""Operators that join tensors, and take axes apart."""

from itertools import pairwise

import numpy as np
import torch
from torch import fx

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, Axis, take

SPLIT_WITH_SIZES = torch.ops.aten.split_with_sizes.default


@rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(op: Op, tensors: list[Axes], dim: int = 0) -> Axes:
    """Lay one axis end to end and unite the others."""
    return _joined(op, [t for t in tensors if not (len(t) == 1 and t[0].size == 0)], dim)


def _joined(op: Op, tensors: list[Axes], dim: int) -> Axes:
    dim %= len(tensors[0])
    for other in tensors[1:]:
        for d, (a, b) in enumerate(zip(tensors[0], other, strict=True)):
            if d != dim:
                op.unify(a, b)
    out = list(tensors[0])
    out[dim] = op.units.join([t[dim] for t in tensors])
    return tuple(out)


@rule("aten.hstack", "aten.vstack", "aten.dstack")
def cat_by_name(op: Op, tensors: list[Axes]) -> Axes:
    """Lay tensors side by side, on top of each other, or in depth."""
    dim = ("vstack", "hstack", "dstack").index(op.name.partition("::")[2])
    lifted = [_lifted(t, dim) for t in tensors]
    return _joined(op, lifted, min(dim, len(lifted[0]) - 1))


def _lifted(x: Axes, dim: int) -> Axes:
    """Return the axes that a vector or matrix has as an operand of such a stack."""
    if len(x) == 1 and dim != 1:
        x = (Axis(1), *x)
    return (*x, Axis(1)) if len(x) == 2 and dim == 2 else x


@rule("aten.stack")
def stack(op: Op, tensors: list[Axes], dim: int = 0) -> Axes:
    """Unite all axes; the new one is frozen."""
    for other in tensors[1:]:
        for a, b in zip(tensors[0], other, strict=True):
            op.unify(a, b)
    out = list(tensors[0])
    out.insert(dim % (len(out) + 1), Axis(len(tensors)))
    return tuple(out)


@rule(
    "aten.chunk", "aten.split", "aten.split_with_sizes", "aten.tensor_split", "aten.unsafe_chunk",
    "aten.unsafe_split", "aten.unsafe_split_with_sizes",
)  # fmt: skip
def split(op: Op, x: Axes, how: object, dim: int = 0) -> list[Axes]:
    """Slice one axis into pieces, which a cut sizes by what each keeps."""
    dim %= len(x)
    sizes = [shape[dim] for shape in op.shapes]
    ends = np.cumsum([0, *sizes])
    pieces = [take(x[dim], slice(a, b)) for a, b in pairwise(ends)]
    op.keeps_some(*pieces)
    op.on_cut(
        lambda kept: (
            {"split_sizes": [kept.count(piece) for piece in pieces], "dim": dim}
            if kept.shrinks(x[dim])
            else {}
        ),
        target=SPLIT_WITH_SIZES,
    )
    return [(*x[:dim], piece, *x[dim + 1 :]) for piece in pieces]


@rule("aten.unbind")
def unbind(op: Op, x: Axes, dim: int = 0) -> list[Axes]:
    """Take an axis apart, which therefore loses nothing."""
    dim %= len(x)
    op.lock(x[dim], why="taken apart")
    return [(*x[:dim], *x[dim + 1 :]) for _ in op.shapes]


@rule("aten.select")
def select(op: Op, x: Axes, dim: int, index: int) -> Axes:
    """Take one position, which must stay; a cut moves its index."""
    dim %= len(x)
    rest = (*x[:dim], *x[dim + 1 :])
    if _symbolic(op, "index"):
        op.lock(x[dim], why="a position that depends on the batch")
        return rest
    index %= x[dim].size
    op.lock(take(x[dim], slice(index, index + 1)), why="selected position")
    # An axis that loses nothing may be the batch: its size here means nothing.
    op.on_cut(lambda kept: {"index": kept.before(x[dim], index)} if kept.shrinks(x[dim]) else {})
    return rest


@rule("aten.slice")
def slice_(op: Op, x: Axes, dim: int, *bounds: int | None) -> Axes:
    """Take a range of positions; a cut moves its ends."""
    start, end, step = bounds
    dim %= len(x)
    axis = x[dim]
    if _symbolic(op, "start", "end", "step"):
        return (*x[:dim], _stuck(op, axis, dim, "symbolic range"), *x[dim + 1 :])
    first, last, step = slice(start, end, step).indices(axis.size)
    if step > 1:
        taken = _strided(op, axis, dim, first, step)
    else:
        taken = take(axis, slice(first, last))
        op.keeps_some(taken)
        op.on_cut(
            lambda kept: (
                {"start": kept.before(axis, first), "end": kept.before(axis, last)}
                if kept.shrinks(axis)
                else {}
            )
        )
    return (*x[:dim], taken, *x[dim + 1 :])


def _strided(op: Op, axis: Axis, dim: int, first: int, step: int) -> Axis:
    """Take one position of each block of ``step``; whole blocks may go, and then fit again."""
    blocks = axis.size // step
    if first >= step or op.shape[dim] != blocks or blocks * step != axis.size:
        return _stuck(op, axis, dim, "strided range")
    block, inside = op.split(axis, (blocks, step))
    op.lock(inside, why="strided range")
    op.on_cut(lambda kept: {"end": kept.count(axis)} if kept.shrinks(axis) else {})
    return block


@rule("aten.narrow")
def narrow(op: Op, x: Axes, dim: int, start: int, length: int) -> Axes:
    """Take so many positions from one on; a cut moves both."""
    dim %= len(x)
    axis = x[dim]
    if _symbolic(op, "start", "length") or not isinstance(start, int):
        return (*x[:dim], _stuck(op, axis, dim, "symbolic range"), *x[dim + 1 :])
    start %= max(axis.size, 1)
    taken = take(axis, slice(start, start + length))
    op.keeps_some(taken)
    op.on_cut(
        lambda kept: (
            {"start": kept.before(axis, start), "length": kept.count(taken)}
            if kept.shrinks(axis)
            else {}
        )
    )
    return (*x[:dim], taken, *x[dim + 1 :])


@rule("aten.diagonal")
def diagonal(op: Op, x: Axes, offset: int = 0, first: int = 0, second: int = 1) -> Axes:
    """Take the diagonal of two axes, which lose the same positions."""
    first, second = first % len(x), second % len(x)
    rest = tuple(axis for d, axis in enumerate(x) if d not in (first, second))
    if offset or x[first].size != x[second].size:
        why = "a diagonal beside the main one"
        op.lock(x[second], why=why)
        return (*rest, _stuck(op, x[first], len(rest), why))
    op.unify(x[first], x[second])
    return (*rest, x[first])


def _symbolic(op: Op, *names: str) -> bool:
    return any(isinstance(op.arguments[name], fx.Node) for name in names)


def _stuck(op: Op, axis: Axis, dim: int, why: str) -> Axis:
    """Lock an axis; return what it leaves in the output, with what stood in its way."""
    op.lock(axis, why=why)
    size = op.shape[dim]
    return op.units.stuck_axis(size, f"{op.where} ({why})") if axis.columns else Axis(size)
