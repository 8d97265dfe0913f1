"""Layers that contract channels with a weight: where units are read, and where work is done."""

import math
from typing import cast

from torch import fx

from edgeprune.axes.op import Kept, Op, Scaled, rule
from edgeprune.axes.units import Axes, Axis, merge


@rule("aten.linear")
def linear(op: Op, x: Axes, weight: Axes, bias: Axes | None) -> Axes:
    """Contract the last axis of x with the last of weight: (…, I) → (…, O)."""
    op.unify(x[-1], weight[-1])
    op.reads("input", len(x) - 1, weight[-1])
    op.costs(1, *x[:-1], *weight)
    if len(weight) == 1:
        return x[:-1]
    op.produces("weight", "hidden", weight[0])
    if bias is not None:
        op.unify(weight[0], bias[0])
    return (*x[:-1], weight[0])


@rule("aten.bilinear")
def bilinear(op: Op, x: Axes, y: Axes, weight: Axes, bias: Axes | None) -> Axes:
    """Contract the last axes of x and y with weight: (…, I), (…, J), (O, I, J) → (…, O)."""
    for argument, operand, own in (("input1", x, weight[1]), ("input2", y, weight[2])):
        op.unify(operand[-1], own)
        op.reads(argument, len(operand) - 1, own)
    for a, b in zip(x[:-1], y[:-1], strict=True):
        op.unify(a, b)
    op.produces("weight", "hidden", weight[0])
    if bias is not None:
        op.unify(weight[0], bias[0])
    op.costs(1, *x[:-1], *weight)
    return (*x[:-1], weight[0])


@rule("aten.conv1d", "aten.conv2d", "aten.conv3d")
def convolution(op: Op, x: Axes, weight: Axes, bias: Axes | None, *settings: object) -> Axes:
    """Contract channels within each group: (N, G·I, …) → (N, G·O, …), or without N.

    A depthwise convolution is the case I = 1: its groups themselves are units.
    """
    groups = cast(int, settings[-1])
    batch, channels, space = _parts(x, weight)
    read, out = weight[1], weight[0]
    if groups == 1:
        op.unify(channels, read)
    else:
        group, inside = op.split(channels, (groups, channels.size // groups))
        group_out, outside = op.split(out, (groups, out.size // groups))
        op.unify(group, group_out)
        op.unify(inside, weight[1])
        read, out = merge([Axis(groups), weight[1]]), merge([group_out, outside])
        _count_groups(op, group)
    op.reads("input", len(batch), read)
    _finish(op, weight, bias, out)
    space_out = _through(op, space, weight[2:])
    kernel = math.prod(axis.size for axis in weight[2:])
    op.costs(kernel, *batch, out, weight[1], *space_out)
    return (*batch, out, *space_out)


def _through(op: Op, space: Axes, kernel: Axes) -> Axes:
    """Pass positions that each come out alone; where neighbours meet, or some are skipped, fix."""
    out = []
    for d, (axis, width) in enumerate(zip(space, kernel, strict=True)):
        size = op.shape[len(op.shape) - len(space) + d]
        if width.size == 1 and axis.size == size and _step(op, d) == 1:
            out.append(axis)
        else:
            op.fix(axis)
            out.append(Axis(size))
    return tuple(out)


def _step(op: Op, dim: int) -> int:
    stride = op.arguments["stride"]
    return int(stride[dim] if len(stride) > 1 else stride[0])


@rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def transposed_convolution(
    op: Op, x: Axes, weight: Axes, bias: Axes | None, *settings: object
) -> Axes:
    """Contract channels with the first axis of weight: (N, G·I, …) → (N, G·O, …), or without N."""
    groups = cast(int, settings[-2])
    batch, channels, space = _parts(x, weight)
    read, out = weight[0], weight[1]
    if groups == 1:
        op.unify(channels, read)
    else:
        group, inside = op.split(channels, (groups, channels.size // groups))
        group_read, own = op.split(read, (groups, read.size // groups))
        op.unify(group, group_read)
        op.unify(inside, own)
        read, out = merge([Axis(groups), own]), merge([group, weight[1]])
        _count_groups(op, group)
    op.reads("input", len(batch), read)
    _finish(op, weight, bias, out)
    op.fix(*space)
    positions = math.prod(axis.size for axis in (*space, *weight[2:]))
    op.costs(positions, *batch, weight[0], weight[1])
    return (*batch, out, *(Axis(size) for size in op.shape[len(batch) + 1 :]))


def _parts(x: Axes, weight: Axes) -> tuple[Axes, Axis, Axes]:
    """Return the batch, which may be missing, the channels and the space of an image."""
    lead = len(x) - len(weight) + 1
    return x[:lead], x[lead], x[lead + 1 :]


def _count_groups(op: Op, group: Axis) -> None:
    """State that the number of groups follows the axis of groups."""
    dense = op.arguments["groups"]

    def rewrite(kept: Kept) -> dict[str, object]:
        if not kept.shrinks(group):
            return {}
        left = kept.count(group)
        return {"groups": Scaled(dense, left) if isinstance(dense, fx.Node) else left}

    op.on_cut(rewrite)


def _finish(op: Op, weight: Axes, bias: Axes | None, out: Axis) -> None:
    """State what all convolutions share."""
    op.fix(*weight[2:])
    op.produces("weight", "conv", out)
    if bias is not None:
        op.unify(out, bias[0])


__all__ = ["bilinear", "convolution", "linear", "transposed_convolution"]
