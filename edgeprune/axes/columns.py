"""One dimension of a tensor as columns of units.

A *unit* is an integer: one thing that may be removed. An *axis* is one
dimension of a tensor as columns of units: position i goes when the unit at i
of any column goes. Products of sizes are several columns, concatenations are
columns laid end to end, no column means that the axis never shrinks (frozen).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.int64]
NONE: Final = -1  # in a column: no unit at this position


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension: its size, and columns of units, each of that length."""

    size: int
    columns: tuple[Column, ...] = ()

    @property
    def frozen(self) -> bool:
        """Whether nothing can be removed here, as far as is known so far."""
        return not self.columns


Axes = tuple[Axis, ...]


def merge(axes: Sequence[Axis]) -> Axis:
    """Return the axis that a reshape of several into one has, outermost first."""
    shape = tuple(axis.size for axis in axes)
    columns = []
    for d, axis in enumerate(axes):
        ones = [1] * len(shape)
        ones[d] = axis.size
        columns += [np.broadcast_to(c.reshape(ones), shape).reshape(-1) for c in axis.columns]
    return Axis(int(np.prod(shape, dtype=np.int64)), tuple(columns))


def concatenate(axes: Sequence[Axis]) -> Axis:
    """Return the axis of a concatenation: columns laid end to end."""
    width = max((len(axis.columns) for axis in axes), default=0)
    columns = [
        np.concatenate(
            [a.columns[k] if k < len(a.columns) else np.full(a.size, NONE) for a in axes]
        )
        for k in range(width)
    ]
    return Axis(sum(axis.size for axis in axes), tuple(columns))


def take(axis: Axis, index: slice | Column) -> Axis:
    """Return the axis of a selection of positions."""
    columns = tuple(column[index] for column in axis.columns)
    size = len(np.arange(axis.size)[index])
    return Axis(size, columns)


def kept_mask(axis: Axis, removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say which positions of a resolved axis stay, given which root units go."""
    mask = np.ones(axis.size, np.bool_)
    for column in axis.columns:
        mask &= ~(removed[column] & (column >= 0))
    return mask


def occupied(axis: Axis) -> NDArray[np.bool_]:
    """Say which positions of an axis carry a unit in any column."""
    mask = np.zeros(axis.size, np.bool_)
    for column in axis.columns:
        mask |= column >= 0
    return mask


def varies(block: NDArray[np.int64], dim: int) -> bool:
    """Say whether a block of units differs anywhere along a dimension."""
    return bool((block != block.take([0], axis=dim)).any())


def pattern(column: Column) -> Column:
    """Number units by first occurrence, so that equal patterns compare equal."""
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return np.where(column < 0, NONE, order[inverse])


def same_columns(a: Axis, b: Axis) -> bool:
    """Say whether every column of one axis is a column of the other."""
    return all(any(np.array_equal(x, y) for y in b.columns) for x in a.columns)
