"""Operators on positions in space: batch and channels pass.

Where positions become channels or channels positions, the channels proper are
a factor of the axis, and the positions the other, which stays.
"""

import math
from collections.abc import Sequence

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, Axis, merge

POOLS = [
    f"aten.{kind}{d}d"
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
    for d in (1, 2, 3)
] + [f"aten.max_pool{d}d_with_indices" for d in (1, 2, 3)]
UPSAMPLING = [
    f"aten.{name}"
    for name in (
        "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
        "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
        "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
        "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    )
]  # fmt: skip


@rule(*POOLS, *UPSAMPLING)
def resample(op: Op, x: Axes, *rest: object) -> Axes | list[Axes]:
    """Keep batch and channels; positions in space come out in another number."""
    space = next(d for d in (1, 2, 3) if f"{d}d" in op.name)
    op.fix(*x[-space:])
    out = (*x[:-space], *(Axis(size) for size in op.shape[-space:]))
    return [out for _ in op.shapes] if op.returns_list else out


@rule("aten.pad", "aten.constant_pad_nd")
def pad(op: Op, x: Axes, amounts: list[int], *rest: object) -> Axes:
    """Add positions at the ends of axes: without units when they are of one constant."""
    constant = not rest or rest[0] == "constant" or not isinstance(rest[0], str)
    return _padded(op, x, amounts, constant=constant)


@rule(*(f"aten.{kind}_pad{d}d" for kind in ("reflection", "replication") for d in (1, 2, 3)))
def pad_by_own_values(op: Op, x: Axes, amounts: list[int]) -> Axes:
    """Add positions in space that repeat others."""
    return _padded(op, x, amounts, constant=False)


def _padded(op: Op, x: Axes, amounts: list[int], *, constant: bool) -> Axes:
    out = list(x)
    for k in range(len(amounts) // 2):
        d = len(x) - 1 - k
        before, after = amounts[2 * k : 2 * k + 2]
        if before == after == 0:
            continue
        if before < 0 or after < 0 or not constant:
            out[d] = _spent(op, x[d], op.shape[d], "padded from its own values, or cropped")
        elif x[d].columns:
            ends = [op.units.stuck_axis(n, f"{op.where} (padding)") for n in (before, after)]
            out[d] = op.units.join([ends[0], x[d], ends[1]])
        else:
            out[d] = Axis(op.shape[d])
    return tuple(out)


@rule("aten.im2col")
def im2col(op: Op, x: Axes, kernel: Sequence[int], *rest: object) -> Axes:
    """Lay the window around each position along the channels: (…, C, H, W) → (…, C·K, L)."""
    op.fix(*x[-2:])
    return (*x[:-3], merge([x[-3], Axis(math.prod(kernel))]), Axis(op.shape[-1]))


@rule("aten.col2im")
def col2im(op: Op, x: Axes, size: object, kernel: Sequence[int], *rest: object) -> Axes:
    """Sum windows back into a map: (…, C·K, L) → (…, C, H, W)."""
    window = math.prod(kernel)
    channels, positions = op.split(x[-2], (x[-2].size // window, window))
    op.lock(positions, why="positions in a window")
    op.fix(x[-1])
    return (*x[:-2], channels, *(Axis(size) for size in op.shape[-2:]))


@rule("aten.unfold")
def windows(op: Op, x: Axes, dim: int, size: int, step: int) -> Axes:
    """Slide a window along an axis, which must stay: (…, N, …) → (…, M, …, size)."""
    dim %= max(len(x), 1)
    out = [*x, Axis(size)]
    out[dim] = _spent(op, x[dim], op.shape[dim], "seen through a sliding window")
    return tuple(out)


@rule("aten.pixel_shuffle")
def pixel_shuffle(op: Op, x: Axes, factor: int) -> Axes:
    """Lay channels out in space: (…, C·r·r, H, W) → (…, C, H·r, W·r)."""
    channels, *positions = op.split(x[-3], (op.shape[-3], factor, factor))
    op.lock(*positions, why="positions in space")
    op.fix(*x[-2:])
    return (*x[:-3], channels, *(Axis(size) for size in op.shape[-2:]))


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(op: Op, x: Axes, factor: int) -> Axes:
    """Lay positions along the channels: (…, C, H·r, W·r) → (…, C·r·r, H, W)."""
    op.fix(*x[-2:])
    channels = merge([x[-3], Axis(factor), Axis(factor)])
    return (*x[:-3], channels, *(Axis(size) for size in op.shape[-2:]))


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(op: Op, x: Axes, groups: int) -> Axes:
    """Deal the channels of each group out in turns: the groups are cut alike, or whole."""
    group, inside = op.split(x[1], (groups, x[1].size // groups))
    op.on_cut(lambda kept: {"groups": kept.count(group)})
    return (x[0], merge([inside, group]), *x[2:])


@rule("aten.affine_grid_generator")
def affine_grid(op: Op, theta: Axes, *rest: object) -> Axes:
    """Make a grid of positions from one matrix for each sample."""
    op.lock(*theta[1:], why="a transformation of space")
    return (theta[0], *(Axis(size) for size in op.shape[1:]))


@rule("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def grid_sample(op: Op, x: Axes, grid: Axes, *rest: object) -> Axes:
    """Read a map at given positions: (N, C, …) and (N, …, D) → (N, C, …)."""
    op.unify(x[0], grid[0])
    op.lock(*grid[1:], why="positions to read")
    op.fix(*x[2:])
    return (*x[:2], *(Axis(size) for size in op.shape[2:]))


def _spent(op: Op, axis: Axis, size: int, why: str) -> Axis:
    """Lock an axis that is rebuilt with another size; return what it becomes."""
    op.lock(axis, why=why)
    return op.units.stuck_axis(size, f"{op.where} ({why})") if axis.columns else Axis(size)


__all__ = ["pad", "resample"]
