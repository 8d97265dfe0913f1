"""From units to channel groups: units that occur in the same places.

Two units are of one group when they occur in the same parameters, dimensions
and columns, equally often: then each costs the same, and which of them go is
only a matter of their scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.axes.op import Findings
from edgeprune.axes.units import Axes, Axis, Column, Units

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
    signature = _signatures(units.total, places)
    kinds = _kinds(units, findings, parameters)
    readers = _readers(units, findings)
    taken: dict[str, int] = {}
    groups = []
    for members in _partition(signature, places):
        base, kind = _name_and_kind(int(members[0]), members, places, kinds)
        name = f"{base}:{kind}" if kind in ("heads", "head_dim") else base
        taken[name] = taken.get(name, 0) + 1
        groups.append(
            ChannelGroup(
                name=name if taken[name] == 1 else f"{name}#{taken[name]}",
                kind=kind,
                size=len(members),
                parameters=_occurrences(members, places),
                readers=tuple(r for r, own in readers if np.isin(members, own).any()),
                units=members,
            )
        )
    return tuple(groups)


@dataclass(frozen=True, kw_only=True)
class _Place:
    parameter: str
    dim: int
    column: Column


def _places(parameters: Mapping[str, Axes]) -> list[_Place]:
    return [
        _Place(parameter=name, dim=dim, column=column)
        for name, axes in parameters.items()
        for dim, axis in enumerate(axes)
        for column in axis.columns
    ]


def _signatures(total: int, places: list[_Place]) -> NDArray[np.uint64]:
    """Sum a random number per place and multiplicity: equal sums, equal places."""
    signature = np.zeros(total, np.uint64)
    for index, place in enumerate(places):
        found, counts = np.unique(place.column[place.column >= 0], return_counts=True)
        for count in np.unique(counts):
            number = np.random.default_rng([index, int(count)]).integers(1, 2**63, dtype=np.uint64)
            signature[found[counts == count]] += number
    return signature


def _partition(signature: NDArray[np.uint64], places: list[_Place]) -> list[Column]:
    """List the units of each group, by first occurrence among groups and within them."""
    seen: dict[int, list[int]] = {}
    known = np.zeros(len(signature), np.bool_)
    for place in places:
        column = place.column[place.column >= 0]
        new, first = np.unique(column[~known[column]], return_index=True)
        for unit in new[np.argsort(first)].tolist():
            seen.setdefault(int(signature[unit]), []).append(unit)
        known[new] = True
    return [np.array(members, np.int64) for members in seen.values()]


def _occurrences(members: Column, places: list[_Place]) -> tuple[Occurrence, ...]:
    return tuple(
        Occurrence(parameter=p.parameter, dim=p.dim, positions=int((p.column == members[0]).sum()))
        for p in places
        if (p.column == members[0]).any()
    )


def _kinds(
    units: Units, findings: Findings, parameters: Mapping[str, Axes]
) -> list[tuple[str, str, Column]]:
    """List (kind, name, units): what rules marked, then what weights bring forth."""
    found: list[tuple[str, str, Column]] = []
    for kind in KINDS:
        axes = [axis for mark, axis in findings.marks if mark == kind]
        found.append((kind, "", _all_units(units, axes)))
    for parameter, kind, axis in findings.producers:
        found.append((kind, parameter.removesuffix(".weight"), _all_units(units, [axis])))
    return found


def _all_units(units: Units, axes: list[Axis]) -> Column:
    columns = [c for axis in axes for c in units.resolve(axis).columns]
    return np.unique(np.concatenate(columns)) if columns else np.empty(0, np.int64)


def _name_and_kind(
    unit: int, members: Column, places: list[_Place], kinds: list[tuple[str, str, Column]]
) -> tuple[str, str]:
    own = [(kind, name) for kind, name, column in kinds if unit in column]
    first = next(p.parameter for p in places if (p.column == unit).any())
    name = next((name for _, name in own if name), first.removesuffix(".weight"))
    return name, own[0][0] if own else "hidden"


def _readers(units: Units, findings: Findings) -> list[tuple[str, Column]]:
    return [(r.module, _all_units(units, [r.axis])) for r in findings.readers]
