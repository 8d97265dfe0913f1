"""What one unit of each channel group costs in the dense model.

Only what a group takes part in is counted again, so that this stays quick for
models of many groups.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeprune.axes.analysis import Analysis
from edgeprune.axes.columns import Axes, Axis


@dataclass(frozen=True, kw_only=True)
class UnitCost:
    """What goes with one unit of a group while all others stay."""

    params: int
    macs: int


class _Term(NamedTuple):
    """A count: ``constant`` times the sizes of axes, by ``batch``."""

    constant: int
    axes: Axes
    batch: int


def unit_costs(analysis: Analysis, names: frozenset[str]) -> dict[str, UnitCost]:
    """Return the cost of one unit of each group, by its name.

    names: the parameters to count.
    """
    tensors = [_Term(1, axes, 1) for name, axes in analysis.parameters.items() if name in names]
    work = [_Term(cost.constant, cost.axes, cost.batch) for cost in analysis.findings.costs]
    params, macs = _lost(analysis, tensors), _lost(analysis, work)
    return {
        group.name: UnitCost(params=params[index], macs=macs[index])
        for index, group in enumerate(analysis.groups)
    }


def _lost(analysis: Analysis, terms: Iterable[_Term]) -> list[int]:
    """Return by how much the terms' sum falls with one unit of each group."""
    first = np.full(analysis.units.total, -1)
    first[[group.units[0] for group in analysis.groups]] = np.arange(len(analysis.groups))
    lost = [0] * len(analysis.groups)
    for term in terms:
        whole = [axis.size for axis in term.axes]
        gone = [_positions(first, analysis.units.resolve(axis)) for axis in term.axes]
        for index in {index for positions in gone for index in positions}:
            left = [n - positions[index] for n, positions in zip(whole, gone, strict=True)]
            lost[index] += _count(term, whole) - _count(term, left)
    return lost


def _positions(first: NDArray[np.int64], axis: Axis) -> Counter[int]:
    """Count the positions of an axis that carry the first unit of a group, by its index."""
    found: set[tuple[int, int]] = set()
    for column in axis.columns:
        index = np.where(column >= 0, first[column], -1)
        places = np.flatnonzero(index >= 0)
        found.update(zip(index[places].tolist(), places.tolist(), strict=True))
    return Counter(index for index, _ in found)


def _count(term: _Term, sizes: Sequence[int]) -> int:
    product = term.constant
    for size in sizes:
        product *= size
    return product // term.batch
