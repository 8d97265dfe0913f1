"""Operators that normalise: statistics over axes, and parameters along them."""

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, merge


@rule("aten.batch_norm")
def batch_norm(op: Op, x: Axes, *rest: object) -> Axes:
    """Tie weight, bias, running mean and running variance to the channels.

    In training form (a weight that is standardised) statistics run over all
    other axes.
    """
    _tie(op, x, rest[:4])
    if rest[4]:
        for d, axis in enumerate(x):
            if d != 1:
                op.averages("input", d, axis)
    return x


@rule("aten.instance_norm")
def instance_norm(op: Op, x: Axes, *rest: object) -> Axes:
    """Tie what belongs to channels; statistics run over all axes behind them."""
    _tie(op, x, rest[:4])
    if rest[4]:
        for d, axis in enumerate(x[2:], 2):
            op.averages("input", d, axis)
    return x


def _tie(op: Op, x: Axes, parameters: tuple[object, ...]) -> None:
    for parameter in parameters:
        if isinstance(parameter, tuple):
            op.unify(x[1], parameter[0])


@rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(op: Op, x: Axes, normalized: list[int], *rest: Axes | None) -> Axes:
    """Tie weight and bias to the trailing axes, over which the statistics are taken."""
    first = len(x) - len(normalized)
    trailing = x[first:]
    for parameter in rest[:2]:
        if isinstance(parameter, tuple):
            for axis, own in zip(trailing, parameter, strict=True):
                op.unify(axis, own)
    for d, axis in enumerate(trailing, first):
        op.averages("input", d, axis)
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
    for d, axis in enumerate((channels, *x[2:]), 1):
        op.averages("input", d, axis)
    return (x[0], channels, *x[2:])


@rule("aten._weight_norm")
def weight_norm(op: Op, v: Axes, g: Axes, dim: int) -> Axes:
    """Tie the lengths to the axis that has one each; lengths run over all other axes."""
    for d, (axis, length) in enumerate(zip(v, g, strict=True)):
        if d == dim:
            op.unify(axis, length)
        else:
            op.averages("v", d, axis)
    return v


__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "weight_norm"]
