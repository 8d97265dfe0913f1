"""Operators that repeat, turn or reverse the positions of axes."""

from edgeprune.axes.op import Kept, Op, rule
from edgeprune.axes.rules.pointwise import broadcast
from edgeprune.axes.rules.sizes import follow
from edgeprune.axes.units import Axes, Axis, merge, take


@rule("aten.expand", "aten.broadcast_to")
def expand(op: Op, x: Axes, *rest: object) -> Axes:
    """Repeat axes of size 1; any of the copies may go, and their number follows."""
    new = len(op.shape) - len(x)
    out = [op.units.fresh_axis(size) for size in op.shape[:new]]
    for axis, size in zip(x, op.shape[new:], strict=True):
        if axis.size != size:
            op.lock(axis, why="expanded from size 1")
        out.append(axis if axis.size == size else op.units.fresh_axis(size))
    follow(op, "size", tuple(out))
    return tuple(out)


@rule("aten.expand_as")
def expand_as(op: Op, x: Axes, other: Axes) -> Axes:
    """Repeat axes of size 1 as often as another tensor has positions."""
    return broadcast(op, [other, x])


@rule("aten.repeat", "aten.tile")
def repeat(op: Op, x: Axes, times: list[int]) -> Axes:
    """Lay copies of axes end to end; positions go in all copies, or copies whole."""
    name = "repeats" if "repeats" in op.arguments else "dims"
    x = (*(Axis(1) for _ in op.shape[len(x) :]), *x)
    written = [1] * (len(x) - len(times)) + list(op.arguments[name])
    copies = [
        _copies(op, axis, given, size // max(axis.size, 1))
        for given, axis, size in zip(written, x, op.shape, strict=True)
    ]

    def rewrite(kept: Kept) -> dict[str, object]:
        pairs = zip(written, copies, strict=True)
        return {name: [kept.count(c) if kept.shrinks(c) else given for given, c in pairs]}

    op.on_cut(rewrite)
    return tuple(
        merge(pair) if pair[0].size > 1 else pair[1] for pair in zip(copies, x, strict=True)
    )


def _copies(op: Op, axis: Axis, given: object, times: int) -> Axis:
    """Make the axis of copies; how many depend on the batch stay that many."""
    if axis.size == 1 < times:
        op.lock(axis, why="repeated from size 1")
    return op.units.fresh_axis(times) if isinstance(given, int) else Axis(times)


@rule("aten.repeat_interleave")
def repeat_interleave(op: Op, x: Axes, times: object, dim: object = None, *rest: object) -> Axes:
    """Lay copies of each position side by side: positions go with all copies, or copies whole."""
    if not isinstance(times, int):
        return _by_counts(op, x, times)
    d = dim % len(x) if isinstance(dim, int) else 0
    x = x if isinstance(dim, int) else (merge(x),)
    copies = _copies(op, x[d], op.arguments["repeats"], times)
    out = merge([x[d], copies])

    def rewrite(kept: Kept) -> dict[str, object]:
        values: dict[str, object] = {}
        if kept.shrinks(copies):
            values["repeats"] = kept.count(copies)
        if op.arguments["output_size"] is not None and kept.shrinks(out):
            values["output_size"] = kept.count(out)
        return values

    op.on_cut(rewrite)
    return (*x[:d], out, *x[d + 1 :])


def _by_counts(op: Op, x: Axes, times: object) -> Axes:
    """Lock what is repeated as often as a tensor says."""
    for axes in (x, times):
        if isinstance(axes, tuple):
            op.lock(*axes, why="repeated by a tensor")
    return tuple(op.units.stuck_axis(n, f"{op.where} (repeated by a tensor)") for n in op.shape)


@rule("aten.flip")
def flip(op: Op, x: Axes, dims: list[int]) -> Axes:
    """Reverse axes."""
    turned = {d % len(x) for d in dims}
    back = slice(None, None, -1)
    return tuple(take(axis, back) if d in turned else axis for d, axis in enumerate(x))


@rule("aten.roll")
def roll(op: Op, x: Axes, shifts: list[int], dims: list[int]) -> Axes:
    """Turn axes: what left at the end comes in at the start, in the number that a cut leaves."""
    if not dims or not all(isinstance(shift, int) for shift in op.arguments["shifts"]):
        op.lock(*x, why="rolled over all axes")
        return x
    starts = [
        (d % len(x), -shift % max(x[d].size, 1)) for d, shift in zip(dims, shifts, strict=True)
    ]
    if len({d for d, _ in starts}) < len(starts):
        op.lock(*x, why="rolled several times")
        return x
    out = list(x)
    for d, start in starts:
        out[d] = op.units.join([take(x[d], slice(start, None)), take(x[d], slice(0, start))])

    def rewrite(kept: Kept) -> dict[str, object]:
        if not any(kept.shrinks(x[d]) for d, _ in starts):
            return {}
        after = [kept.count(x[d]) - kept.before(x[d], start) for d, start in starts]
        return {
            "shifts": [
                new if kept.shrinks(x[d]) else old
                for new, old, (d, _) in zip(after, shifts, starts, strict=True)
            ]
        }

    op.on_cut(rewrite)
    return tuple(out)
