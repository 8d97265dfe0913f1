"""What could be cut from a model, and what could not and why: nothing is changed.

Numbers are of the dense model. A weight between two groups belongs to both, so
what groups own adds up to more than the model has.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.axes.groups import ChannelGroup
from edgeprune.capture import Captured, trainable
from edgeprune.obstacles import Obstacle, cuttable, obstacles
from edgeprune.prices import UnitCost, unit_costs


@dataclass(frozen=True, kw_only=True)
class InspectedGroup:
    """A channel group and what it costs.

    Attributes:
        name, kind, size, readers: as in ``ChannelGroup``.
        params: parameters that it owns: those that go with one unit while all else
            stays, times its units.
        macs: multiply-accumulates of one image, likewise.
        tensors: where its units are: parameter, dimension, positions per unit.
    """

    name: str
    kind: str
    size: int
    params: int
    macs: int
    readers: tuple[str, ...]
    tensors: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What ``inspect`` found.

    Attributes:
        params, macs: of the model; multiply-accumulates of one image.
        cuttable: parameters in tensors of which at least one dimension can shrink.
        groups: the channel groups, in the order of the graph.
        obstacles: what is frozen, by reason; what holds up most comes first.
        notes: of the capture.
    """

    params: int
    macs: int
    cuttable: int
    groups: tuple[InspectedGroup, ...]
    obstacles: tuple[Obstacle, ...]
    notes: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the parameters that can be cut at all."""
        return self.cuttable / self.params if self.params else 0.0

    @property
    def kinds(self) -> dict[str, dict[str, int]]:
        """Groups and units of each kind, the kind with the most units first."""
        totals: dict[str, dict[str, int]] = {}
        for group in self.groups:
            own = totals.setdefault(group.kind, {"groups": 0, "units": 0})
            own["groups"] += 1
            own["units"] += group.size
        return dict(sorted(totals.items(), key=lambda item: (-item[1]["units"], item[0])))

    def to_dict(self) -> dict[str, Any]:
        """Return what was found as JSON values."""
        return {
            "params": self.params,
            "macs": self.macs,
            "cuttable": {"params": self.cuttable, "share": self.share},
            "kinds": self.kinds,
            "groups": [asdict(group) for group in self.groups],
            "frozen": [asdict(obstacle) for obstacle in self.obstacles],
            "notes": list(self.notes),
        }


def inspect(dense: Captured) -> Inspection:
    """List the channel groups of a captured model, what they own, and what is frozen."""
    return describe(analyse(dense), trainable(dense.module), dense.notes)


def describe(analysis: Analysis, names: frozenset[str], notes: tuple[str, ...]) -> Inspection:
    """Put an analysis into numbers. names: the trainable parameters."""
    costs = unit_costs(analysis, names)
    return Inspection(
        params=analysis.count_parameters(names),
        macs=analysis.count_macs(),
        cuttable=sum(cuttable(analysis, names).values()),
        groups=tuple(_inspected(group, costs[group.name]) for group in analysis.groups),
        obstacles=obstacles(analysis, names),
        notes=notes,
    )


def _inspected(group: ChannelGroup, cost: UnitCost) -> InspectedGroup:
    return InspectedGroup(
        name=group.name,
        kind=group.kind,
        size=group.size,
        params=cost.params * group.size,
        macs=cost.macs * group.size,
        readers=group.readers,
        tensors=tuple(asdict(occurrence) for occurrence in group.parameters),
    )
