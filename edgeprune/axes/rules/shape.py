"""Operators that move, split, merge, select or join axes."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from edgeprune.axes.op import Op, rule
from edgeprune.axes.rules.pointwise import broadcast
from edgeprune.axes.rules.sizes import follow
from edgeprune.axes.units import Axes, Axis, merge, take


@rule("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten")
def reshape(op: Op, x: Axes, *rest: object) -> Axes:
    """Match runs of axes with equal products; merge each run and split it anew."""
    out: list[Axis] = []
    for sources, sizes in _blocks([axis.size for axis in x], op.shape):
        out += _reblock(op, [x[i] for i in sources], [op.shape[i] for i in sizes])
    result = tuple(out)
    if "size" in op.arguments or "shape" in op.arguments:
        name = "size" if "size" in op.arguments else "shape"
        follow(op, name, result)
    elif "sizes" in op.arguments:
        dim = op.arguments["dim"] % len(x)
        follow(op, "sizes", result[dim : dim + len(op.arguments["sizes"])])
    return result


def _reblock(op: Op, sources: Sequence[Axis], sizes: Sequence[int]) -> Axes:
    if len(sources) == 1 and len(sizes) == 1:
        return (sources[0],)
    flat = merge(sources)
    return (flat,) if len(sizes) == 1 else op.split(flat, sizes)


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Cut two shapes of equal volume into the shortest runs of equal volume."""
    i = j = 0
    while i < len(old) or j < len(new):
        sources, sizes = [], []
        a = b = 1
        if i < len(old):
            sources, a, i = [i], old[i], i + 1
        if j < len(new):
            sizes, b, j = [j], new[j], j + 1
        while a != b:
            if a < b:
                sources.append(i)
                a, i = a * old[i], i + 1
            else:
                sizes.append(j)
                b, j = b * new[j], j + 1
        yield sources, sizes


@rule("aten.permute")
def permute(op: Op, x: Axes, dims: list[int]) -> Axes:
    """Reorder axes."""
    return tuple(x[d] for d in dims)


@rule("aten.transpose", "aten.swapaxes")
def transpose(op: Op, x: Axes, first: int, second: int) -> Axes:
    """Exchange two axes."""
    axes = list(x)
    axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


@rule("aten.movedim", "aten.moveaxis")
def move(op: Op, x: Axes, sources: int | list[int], targets: int | list[int]) -> Axes:
    """Take axes out and put each where it is wanted."""
    pairs = [(t % len(x), s % len(x)) for s, t in zip(_list(sources), _list(targets), strict=True)]
    taken = {source for _, source in pairs}
    order = [d for d in range(len(x)) if d not in taken]
    for target, source in sorted(pairs):
        order.insert(target, source)
    return tuple(x[d] for d in order)


@rule("aten.t", "aten.mT")
def transpose_matrix(op: Op, x: Axes) -> Axes:
    """Exchange the last two axes."""
    return (*x[:-2], *reversed(x[-2:]))


@rule("aten.numpy_T")
def reverse(op: Op, x: Axes) -> Axes:
    """Put the axes in reverse order."""
    return tuple(reversed(x))


@rule("aten.unsqueeze")
def unsqueeze(op: Op, x: Axes, dim: int) -> Axes:
    """Add an axis of size 1."""
    dim %= len(x) + 1
    return (*x[:dim], Axis(1), *x[dim:])


@rule("aten.squeeze")
def squeeze(op: Op, x: Axes, dims: int | list[int] | None = None) -> Axes:
    """Drop axes of size 1, which must stay until then."""
    chosen = range(len(x)) if dims is None else _list(dims)
    drop = {d % len(x) for d in chosen if x[d].size == 1}
    op.lock(*(x[d] for d in drop), why="squeezed away")
    return tuple(axis for d, axis in enumerate(x) if d not in drop)


@rule("aten.expand", "aten.broadcast_to")
def expand(op: Op, x: Axes, *rest: object) -> Axes:
    """Repeat axes of size 1, which come out frozen."""
    new = len(op.shape) - len(x)
    out = [Axis(size) for size in op.shape[:new]]
    for axis, size in zip(x, op.shape[new:], strict=True):
        if axis.size != size:
            op.lock(axis, why="expanded from size 1")
        out.append(axis if axis.size == size else Axis(size))
    follow(op, "size", tuple(out))
    return tuple(out)


@rule("aten.expand_as")
def expand_as(op: Op, x: Axes, other: Axes) -> Axes:
    """Repeat axes of size 1 as often as another tensor has positions."""
    return broadcast(op, [other, x])


@rule("aten.cat", "aten.concat")
def cat(op: Op, tensors: list[Axes], dim: int) -> Axes:
    """Lay one axis end to end and unite the others."""
    tensors = [t for t in tensors if not (len(t) == 1 and t[0].size == 0)]
    dim %= len(tensors[0])
    for other in tensors[1:]:
        for d, (a, b) in enumerate(zip(tensors[0], other, strict=True)):
            if d != dim:
                op.unify(a, b)
    out = list(tensors[0])
    out[dim] = op.units.join([t[dim] for t in tensors])
    return tuple(out)


@rule("aten.stack")
def stack(op: Op, tensors: list[Axes], dim: int) -> Axes:
    """Unite all axes; the new one is frozen."""
    for other in tensors[1:]:
        for a, b in zip(tensors[0], other, strict=True):
            op.unify(a, b)
    out = list(tensors[0])
    out.insert(dim % (len(out) + 1), Axis(len(tensors)))
    return tuple(out)


@rule("aten.chunk", "aten.split", "aten.split_with_sizes", "aten.tensor_split")
def split(op: Op, x: Axes, how: object, dim: int = 0) -> list[Axes]:
    """Slice one axis into pieces, which a cut sizes by what each keeps."""
    dim %= len(x)
    sizes = [shape[dim] for shape in op.shapes]
    ends = np.cumsum([0, *sizes])
    pieces = [take(x[dim], slice(a, b)) for a, b in pairwise(ends)]
    op.on_cut(
        lambda kept: (
            {"split_sizes": [kept.count(piece) for piece in pieces], "dim": dim}
            if kept.shrinks(x[dim])
            else {}
        ),
        target=torch.ops.aten.split_with_sizes.default,
    )
    return [(*x[:dim], piece, *x[dim + 1 :]) for piece in pieces]


@rule("aten.unbind")
def unbind(op: Op, x: Axes, dim: int) -> list[Axes]:
    """Take an axis apart, which therefore loses nothing."""
    dim %= len(x)
    op.lock(x[dim], why="taken apart")
    return [(*x[:dim], *x[dim + 1 :]) for _ in op.shapes]


@rule("aten.select")
def select(op: Op, x: Axes, dim: int, index: int) -> Axes:
    """Take one position, which must stay; a cut moves its index."""
    dim %= len(x)
    index %= x[dim].size
    op.lock(take(x[dim], slice(index, index + 1)), why="selected position")
    # An axis that loses nothing may be the batch: its size here means nothing.
    op.on_cut(lambda kept: {"index": kept.before(x[dim], index)} if kept.shrinks(x[dim]) else {})
    return (*x[:dim], *x[dim + 1 :])


@rule("aten.slice")
def slice_(op: Op, x: Axes, dim: int, *bounds: int | None) -> Axes:
    """Take a range of positions; a cut moves its ends."""
    start, end, step = bounds
    dim %= len(x)
    axis = x[dim]
    symbolic = any(isinstance(op.arguments[k], torch.fx.Node) for k in ("start", "end", "step"))
    if step != 1 or symbolic:
        op.lock(axis, why="strided or symbolic range")
        return (*x[:dim], Axis(op.shape[dim]), *x[dim + 1 :])
    first, last, _ = slice(start, end).indices(axis.size)
    op.on_cut(
        lambda kept: (
            {"start": kept.before(axis, first), "end": kept.before(axis, last)}
            if kept.shrinks(axis)
            else {}
        )
    )
    return (*x[:dim], take(axis, slice(first, last)), *x[dim + 1 :])


@rule("aten.flip")
def flip(op: Op, x: Axes, dims: list[int]) -> Axes:
    """Reverse axes."""
    turned = {d % len(x) for d in dims}
    back = slice(None, None, -1)
    return tuple(take(axis, back) if d in turned else axis for d, axis in enumerate(x))


@rule("aten.roll")
def roll(op: Op, x: Axes, shifts: object, dims: list[int]) -> Axes:
    """Lock the axes that are rolled."""
    chosen = {d % len(x) for d in dims} or set(range(len(x)))
    op.lock(*(x[d] for d in chosen), why="rolled")
    return x


@rule("aten.pad", "aten.constant_pad_nd")
def pad(op: Op, x: Axes, amounts: list[int], *rest: object) -> Axes:
    """Add positions without units at the ends of axes."""
    out = list(x)
    constant = not rest or rest[0] == "constant" or not isinstance(rest[0], str)
    for k in range(len(amounts) // 2):
        d = len(x) - 1 - k
        before, after = amounts[2 * k : 2 * k + 2]
        if before == after == 0:
            continue
        if before < 0 or after < 0 or not constant:
            op.lock(x[d], why="padded from its own values, or cropped")
        ends = Axis(max(before, 0)), Axis(max(after, 0))
        padded = op.units.join([ends[0], x[d], ends[1]])
        out[d] = padded if padded.size == op.shape[d] else Axis(op.shape[d])
    return tuple(out)


@rule("aten.embedding")
def embedding(op: Op, weight: Axes, indices: Axes, *rest: object) -> Axes:
    """Look up rows, which must stay; columns pass."""
    op.lock(weight[0], *indices, why="looked up")
    return (*indices, weight[1])


@rule("aten.index")
def index(op: Op, x: Axes, indices: list[Axes | None]) -> Axes:
    """Look up positions along axes, which must stay; adjacent or leading lookups pass the rest."""
    looked_up = [d for d, item in enumerate(indices) if item is not None]
    op.lock(*(x[d] for d in looked_up), why="looked up")
    for item in indices:
        if item is not None:
            op.lock(*item, why="an index")
    adjacent = looked_up == list(range(looked_up[0], looked_up[-1] + 1))
    rest = [axis for d, axis in enumerate(x) if d not in looked_up]
    if not adjacent:
        op.lock(*rest, why="lookups that are not adjacent")
        return tuple(Axis(size) for size in op.shape)
    made = len(op.shape) - len(rest)
    lead = looked_up[0]
    fresh = [Axis(size) for size in op.shape[lead : lead + made]]
    return (*rest[:lead], *fresh, *rest[lead:])


def _list(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else value
