"""Operators that normalise: statistics over an axis, or parameters along it."""

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, merge


@rule("aten.batch_norm", "aten.instance_norm")
def batch_norm(op: Op, x: Axes, *rest: object) -> Axes:
    """Tie weight, bias, running mean and running variance to the channels.

    Without running statistics (an instance, a weight to standardise) they are
    taken over all other axes, which therefore lose nothing.
    """
    for parameter in rest[:4]:
        if isinstance(parameter, tuple):
            op.unify(x[1], parameter[0])
    if rest[4]:
        op.lock(x[0], *x[2:], why="statistics over these axes")
    return x


@rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(op: Op, x: Axes, normalized: list[int], *rest: Axes | None) -> Axes:
    """Tie weight and bias to the trailing axes, over which the statistics are taken."""
    trailing = x[len(x) - len(normalized) :]
    for parameter in rest[:2]:
        if isinstance(parameter, tuple):
            for axis, own in zip(trailing, parameter, strict=True):
                op.unify(axis, own)
    if len(trailing) > 1:
        op.lock(*trailing, why="statistics over several axes")
    op.averages(x[-1])
    op.on_cut(lambda kept: {"normalized_shape": [kept.count(axis) for axis in trailing]})
    return x


@rule("aten.group_norm")
def group_norm(
    op: Op, x: Axes, groups: int, weight: Axes | None, bias: Axes | None, *rest: object
) -> Axes:
    """Tie weight and bias to the channels; with several groups, cut all groups alike."""
    channels = x[1]
    if groups > 1:
        group, inside = op.split(channels, (groups, channels.size // groups))
        op.on_cut(lambda kept: {"num_groups": kept.count(group)})
        channels = merge([group, inside])
    for parameter in (weight, bias):
        if parameter is not None:
            op.unify(channels, parameter[0])
    op.averages(channels)
    return (x[0], channels, *x[2:])


@rule("aten.softmax", "aten.log_softmax", "aten._softmax")
def softmax(op: Op, x: Axes, dim: int, *rest: object) -> Axes:
    """Keep every axis but the one that is normalised."""
    op.lock(x[dim], why="normalised axis")
    return x


__all__ = ["batch_norm", "group_norm", "layer_norm", "softmax"]
