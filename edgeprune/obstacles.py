"""What stands in the way of cutting: the frozen dimensions of a model, by reason."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from edgeprune.axes.analysis import Analysis


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """One reason for which dimensions of parameters cannot, or not wholly, shrink.

    Attributes:
        reason: the operator, at its module, and what about it; or the model's own
            input or output.
        tensors: the parameters with such a dimension, in the order of the graph.
        params: values that they hold.
        stuck: how many of these are in tensors of which no dimension can shrink.
    """

    reason: str
    tensors: tuple[str, ...]
    params: int
    stuck: int


def cuttable(analysis: Analysis, names: frozenset[str]) -> dict[str, int]:
    """Return the number of values of each of the named parameters that can shrink at all."""
    return {
        name: count
        for name, count in _counts(analysis).items()
        if name in names and any(not axis.frozen for axis in analysis.parameters[name])
    }


def obstacles(analysis: Analysis, names: frozenset[str]) -> tuple[Obstacle, ...]:
    """Return why the named parameters cannot be cut further; what holds up most comes first."""
    held: dict[str, dict[str, None]] = defaultdict(dict)
    for axis in analysis.frozen:
        if axis.parameter in names:
            for reason in axis.reasons:
                held[reason][axis.parameter] = None
    counts, free = _counts(analysis), cuttable(analysis, names)
    found = [_obstacle(reason, tuple(own), counts, free) for reason, own in held.items()]
    return tuple(sorted(found, key=lambda each: (-each.stuck, -each.params, each.reason)))


def _counts(analysis: Analysis) -> dict[str, int]:
    counts = {}
    for name, axes in analysis.parameters.items():
        counts[name] = 1
        for axis in axes:
            counts[name] *= axis.size
    return counts


def _obstacle(
    reason: str, tensors: tuple[str, ...], counts: Mapping[str, int], free: Mapping[str, int]
) -> Obstacle:
    return Obstacle(
        reason=reason,
        tensors=tensors,
        params=sum(counts[name] for name in tensors),
        stuck=sum(counts[name] for name in tensors if name not in free),
    )
