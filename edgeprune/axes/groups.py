"""From units to channel groups: units that occur in the same places.

Two units are of one group when they occur in the same parameters, dimensions
and columns, equally often: then each costs the same, and which of them go is
only a matter of their scores. What a slice takes and what it leaves are apart,
so that a plan, which empties no group, empties no slice either.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.axes.op import Findings
from edgeprune.axes.units import NONE, Axes, Axis, Column, Units

KINDS: Final = ("heads", "head_dim", "width")  # marked by rules, the first that applies


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """Where a group's units are in a parameter: positions per unit along one dimension."""

    parameter: str
    dim: int
    positions: int


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Units that are removed one by one but stand in the same places.

    Attributes:
        name: the module whose weight brings them forth, as ``layer1.0.conv1``;
            heads and head dimensions carry their kind behind a colon.
        kind: ``conv``, ``hidden``, ``heads``, ``head_dim``, ``width`` (a residual stream).
        size: number of units.
        parameters: where they occur.
        readers: the modules that contract them.
        units: root ids, (size,), in the order of the channels.
    """

    name: str
    kind: str
    size: int
    parameters: tuple[Occurrence, ...]
    readers: tuple[str, ...]
    units: NDArray[np.int64] = field(repr=False, compare=False)


def group_units(
    units: Units, parameters: Mapping[str, Axes], findings: Findings
) -> tuple[ChannelGroup, ...]:
    """Partition all removable units into channel groups, in the order of the graph."""
    places = _places(parameters)
    sequence, origin = _sequence(units.total, places)
    signature = _signatures(units.total, [*places, *_pieces(units, findings)])
    members = _partition(signature[sequence], sequence)
    group_of = np.full(units.total + 1, NONE)
    for number, own in enumerate(members):
        group_of[own] = number
    occurrences = _occurrences(members, group_of, places)
    readers = _readers(units, findings, group_of, len(members))
    names = _Names(units, parameters, findings)
    return tuple(
        ChannelGroup(
            name=names.unique(own[0], places[origin[own[0]]].parameter),
            kind=names.kind(own[0]),
            size=len(own),
            parameters=tuple(occurrences[number]),
            readers=tuple(readers[number]),
            units=own,
        )
        for number, own in enumerate(members)
    )


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One column of one dimension of a parameter, without its holes."""

    parameter: str
    dim: int
    column: Column


def _places(parameters: Mapping[str, Axes]) -> list[_Place]:
    return [
        _Place(parameter=name, dim=dim, column=column[column >= 0])
        for name, axes in parameters.items()
        for dim, axis in enumerate(axes)
        for column in axis.columns
    ]


def _pieces(units: Units, findings: Findings) -> list[_Place]:
    """List what slices take of an axis, each unit once: a group in one of them never empties it."""
    axes = [units.resolve(axis) for axis in findings.pieces]
    columns = (column for axis in axes for column in axis.columns)
    return [_Place(parameter="", dim=0, column=np.unique(c[c >= 0])) for c in columns]


def _signatures(total: int, places: list[_Place]) -> NDArray[np.uint64]:
    """Sum a number drawn for each place and multiplicity: equal sums, equal places."""
    signature = np.zeros(total, np.uint64)
    counts = np.zeros(total, np.int64)
    rng = np.random.default_rng(0)
    drawn: dict[tuple[int, int], np.uint64] = {}
    for index, place in enumerate(places):
        counts[place.column] = 0
        np.add.at(counts, place.column, 1)
        times = counts[place.column]
        for count in np.unique(times).tolist():
            number = drawn.setdefault((index, count), rng.integers(1, 2**63, dtype=np.uint64))
            own = place.column[times == count]
            # Not +=: a unit that stands here several times is counted once.
            signature[own] = signature[own] + number
    return signature


def _sequence(total: int, places: list[_Place]) -> tuple[Column, Column]:
    """List all units by first occurrence; return with it the number of each unit's first place."""
    origin = np.full(total, NONE)
    found = []
    for index, place in enumerate(places):
        new = place.column[origin[place.column] < 0]
        origin[new] = index
        _, first = np.unique(new, return_index=True)
        found.append(new[np.sort(first)])
    return np.concatenate([np.empty(0, np.int64), *found]), origin


def _partition(signature: NDArray[np.uint64], sequence: Column) -> list[Column]:
    """List the units of each group, by first occurrence among groups and within them."""
    _, first, inverse = np.unique(signature, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(sequence[order], np.cumsum(np.bincount(inverse))[:-1]) if len(first) else []
    return [parts[i] for i in np.argsort(first)]


def _occurrences(
    members: list[Column], group_of: Column, places: list[_Place]
) -> list[list[Occurrence]]:
    """List where the first unit of each group occurs, which stands for all of them."""
    leads = np.zeros(len(group_of), np.bool_)
    leads[[own[0] for own in members]] = True
    found: list[list[Occurrence]] = [[] for _ in members]
    for place in places:
        present = Counter(group_of[place.column[leads[place.column]]].tolist())
        for group, positions in present.items():
            found[group].append(
                Occurrence(parameter=place.parameter, dim=place.dim, positions=positions)
            )
    return found


def _readers(units: Units, findings: Findings, group_of: Column, groups: int) -> list[list[str]]:
    """List for each group the modules that contract it."""
    found: list[list[str]] = [[] for _ in range(groups)]
    for reader in findings.readers:
        for group in np.unique(group_of[_units_of(units, reader.axis)]).tolist():
            if group >= 0:
                found[group].append(reader.module)
    return found


def _units_of(units: Units, axis: Axis) -> Column:
    return np.concatenate([np.empty(0, np.int64), *units.resolve(axis).columns])


class _Names:
    """What units are and what brings them forth: marks of rules first, then weights."""

    def __init__(self, units: Units, parameters: Mapping[str, Axes], findings: Findings) -> None:
        self.kinds = [*KINDS, *dict.fromkeys(kind for _, kind, _ in findings.producers)]
        self.names = [parameter.removesuffix(".weight") for parameter, _, _ in findings.producers]
        self.taken: Counter[str] = Counter()
        # The last entry takes what is written for NONE.
        self.kind_of = np.full(units.total + 1, NONE)
        self.name_of = np.full(units.total + 1, NONE)
        # In reverse, so that what comes first has the last word.
        for number, (_, kind, axis) in reversed(list(enumerate(findings.producers))):
            own = _units_of(units, axis)
            self.kind_of[own] = self.kinds.index(kind)
            if self.names[number]:
                self.name_of[own] = number
        sums = _summed(units, parameters, findings)
        for kind in reversed(KINDS):
            for axis in (axis for mark, axis in findings.marks if mark == kind):
                own = _units_of(units, axis)
                self.kind_of[own[sums[own]] if kind == "width" else own] = self.kinds.index(kind)

    def kind(self, unit: int) -> str:
        """Say what a unit is."""
        return self.kinds[self.kind_of[unit]] if self.kind_of[unit] >= 0 else "hidden"

    def unique(self, unit: int, parameter: str) -> str:
        """Name the group of a unit that first occurs in a parameter; count equal names."""
        number, kind = self.name_of[unit], self.kind(unit)
        name = self.names[number] if number >= 0 else parameter.removesuffix(".weight")
        name = f"{name}:{kind}" if kind in ("heads", "head_dim") else name
        self.taken[name] += 1
        return name if self.taken[name] == 1 else f"{name}#{self.taken[name]}"


def _summed(units: Units, parameters: Mapping[str, Axes], findings: Findings) -> NDArray[np.bool_]:
    """Say which units are the sum of several contractions, as a residual stream is."""
    weights = {
        name or number: axis
        for number, (name, _, axis) in enumerate(findings.producers)
        # A depthwise convolution brings forth no units: it passes them.
        if name not in parameters or parameters[name][1].size > 1
    }
    count = np.zeros(units.total + 1, np.int64)
    for axis in weights.values():
        count[np.unique(_units_of(units, axis))] += 1
    return count > 1
