"""Operators that move, merge and divide axes."""

from collections.abc import Iterator, Sequence

from edgeprune.axes.op import Op, rule
from edgeprune.axes.rules.sizes import follow
from edgeprune.axes.units import Axes, Axis, merge


@rule("aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten")
def reshape(op: Op, x: Axes, *rest: object) -> Axes:
    """Match runs of axes with equal products; merge each run and split it anew."""
    result = _reshaped(op, x)
    if "size" in op.arguments or "shape" in op.arguments:
        follow(op, "size" if "size" in op.arguments else "shape", result)
    elif "sizes" in op.arguments:
        dim = op.arguments["dim"] % len(x)
        follow(op, "sizes", result[dim : dim + len(op.arguments["sizes"])])
    return result


@rule("aten.reshape_as", "aten.view_as")
def reshape_as(op: Op, x: Axes, other: Axes) -> Axes:
    """Take the sizes of another tensor, which therefore loses the same positions."""
    result = _reshaped(op, x)
    for a, b in zip(result, other, strict=True):
        op.unify(a, b)
    return result


@rule("aten.ravel")
def ravel(op: Op, x: Axes) -> Axes:
    """Merge all axes."""
    return (merge(x),)


def _reshaped(op: Op, x: Axes) -> Axes:
    out: list[Axis] = []
    for sources, sizes in _blocks([axis.size for axis in x], op.shape):
        out += _reblock(op, [x[i] for i in sources], [op.shape[i] for i in sizes])
    return tuple(out)


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


@rule("aten.transpose", "aten.swapaxes", "aten.swapdims")
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


@rule("aten.t", "aten.mT", "aten.adjoint", "aten.matrix_H")
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


def _list(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else value
