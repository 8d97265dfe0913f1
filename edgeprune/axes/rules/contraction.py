"""Operators that contract an axis: where units are read, and where work is done."""

import math
from typing import cast

from edgeprune.axes.op import Op, rule
from edgeprune.axes.rules.pointwise import broadcast
from edgeprune.axes.units import Axes, Axis, merge


@rule("aten.linear")
def linear(op: Op, x: Axes, weight: Axes, bias: Axes | None) -> Axes:
    """Contract the last axis of x with the second of weight: (…, I) → (…, O)."""
    op.unify(x[-1], weight[1])
    op.reads("input", len(x) - 1, weight[1])
    op.produces("weight", "hidden", weight[0])
    if bias is not None:
        op.unify(weight[0], bias[0])
    op.costs(1, *x[:-1], weight[0], weight[1])
    return (*x[:-1], weight[0])


@rule("aten.conv1d", "aten.conv2d", "aten.conv3d")
def convolution(op: Op, x: Axes, weight: Axes, bias: Axes | None, *settings: object) -> Axes:
    """Contract channels within each group: (N, G·I, …) → (N, G·O, …).

    A depthwise convolution is the case I = 1: its groups themselves are units.
    """
    if len(x) != len(weight):
        return _give_up(op, *x, *weight, *(bias or ()), why="no batch")
    groups = cast(int, settings[-1])
    kernel = weight[2:]
    op.fix(*kernel, *x[2:])
    if groups == 1:
        op.unify(x[1], weight[1])
        read, out = weight[1], weight[0]
    else:
        read, out = _grouped(op, x[1], weight, groups)
    op.reads("input", 1, read)
    op.produces("weight", "conv", out)
    if bias is not None:
        op.unify(out, bias[0])
    positions = math.prod(op.shape[2:]) * math.prod(axis.size for axis in kernel)
    op.costs(positions, x[0], out, weight[1])
    return (x[0], out, *(Axis(size) for size in op.shape[2:]))


def _grouped(op: Op, channels: Axis, weight: Axes, groups: int) -> tuple[Axis, Axis]:
    """Tie the groups of input and output; return what is read and what comes out."""
    group, inside = op.split(channels, (groups, channels.size // groups))
    group_out, outside = op.split(weight[0], (groups, weight[0].size // groups))
    op.unify(group, group_out)
    op.unify(inside, weight[1])
    op.on_cut(lambda kept: {"groups": kept.count(group_out)})
    return merge([Axis(groups), weight[1]]), merge([group_out, outside])


@rule("aten.matmul", "aten.bmm", "aten.mm")
def matmul(op: Op, a: Axes, b: Axes) -> Axes:
    """Contract the last axis of a with the second to last of b, over broadcast batches."""
    if len(a) < 2 or len(b) < 2:
        return _give_up(op, *a, *b, why="vector operand")
    op.unify(a[-1], b[-2])
    left, right = op.arguments
    # Gates come by sample, so they go to an operand that has samples.
    if left in op.varying:
        op.reads(left, len(a) - 1, a[-1])
    else:
        op.reads(right, len(b) - 2, b[-2])
    batch = broadcast(op, [a[:-2], b[:-2]])
    for axis in batch:
        op.mark("heads", axis)
    if batch:
        op.mark("head_dim", a[-1])
    op.costs(1, *batch, a[-2], a[-1], b[-1])
    return (*batch, a[-2], b[-1])


@rule("aten.scaled_dot_product_attention")
def attention(
    op: Op, query: Axes, key: Axes, value: Axes, mask: Axes | None, *settings: object
) -> Axes:
    """Contract head_dim of query and key: (…, H, N, D), (…, H, M, D), (…, H, M, E) → (…, H, N, E).

    The implicit scale is that of the dense head_dim, so a cut writes it out.
    """
    _dropout, _causal, scale, shared = settings
    if shared:
        return _give_up(op, *query, *key, *value, *(mask or ()), why="grouped-query attention")
    op.unify(query[-1], key[-1])
    op.reads("query", len(query) - 1, query[-1])
    op.fix(query[-2], key[-2], value[-2])
    lead = broadcast(op, [query[:-2], key[:-2], value[:-2]])
    if mask is not None:
        broadcast(op, [mask, (*lead, query[-2], key[-2])])
    for axis in lead:
        op.mark("heads", axis)
    op.mark("head_dim", query[-1])
    op.mark("head_dim", value[-1])
    size = query[-1].size
    dense_scale = size**-0.5 if scale is None else scale
    op.on_cut(lambda kept: {} if kept.count(query[-1]) == size else {"scale": dense_scale})
    tokens = query[-2].size * key[-2].size
    op.costs(tokens, *lead, query[-1])
    op.costs(tokens, *lead, value[-1])
    return (*lead, query[-2], value[-1])


@rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def transposed_convolution(
    op: Op, x: Axes, weight: Axes, bias: Axes | None, *settings: object
) -> Axes:
    """Contract channels with the first axis of weight: (N, I, …) → (N, O, …)."""
    if len(x) != len(weight):
        return _give_up(op, *x, *weight, *(bias or ()), why="no batch")
    out = weight[1]
    if settings[-2] == 1:
        op.unify(x[1], weight[0])
    else:
        op.lock(x[1], *weight, why="groups")
        out = Axis(op.shape[1])
    op.fix(*x[2:], *weight[2:])
    op.reads("input", 1, weight[0])
    op.produces("weight", "conv", out)
    if bias is not None:
        op.unify(out, bias[0])
    positions = math.prod(axis.size for axis in (*x[2:], *weight[2:]))
    op.costs(positions, x[0], weight[0], weight[1])
    return (x[0], out, *(Axis(size) for size in op.shape[2:]))


def _give_up(op: Op, *axes: Axis, why: str) -> Axes:
    """Lock what goes in; what comes out loses nothing."""
    op.lock(*axes, why=why)
    return tuple(Axis(size) for size in op.shape)


__all__ = ["attention", "convolution", "linear", "matmul", "transposed_convolution"]
