"""What it means for two axes to lose the same positions, and for one to be taken apart.

Invariant: a mistaken pairing can tie too much, never too little. Where a tie
cannot be expressed the units are locked, and an axis that cannot shrink hands
on what stands in its way to whatever it is tied with.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeprune.axes.columns import (
    NONE,
    Axes,
    Axis,
    Column,
    concatenate,
    kept_mask,
    merge,
    occupied,
    pattern,
    same_columns,
    take,
    varies,
)
from edgeprune.axes.forest import Forest


class Units(Forest):
    """All units of one graph, and the ties between axes that carry them."""

    def unify(self, a: Axis, b: Axis, reason: str) -> None:
        """State that position i of ``a`` goes exactly when position i of ``b`` goes.

        Where that cannot be expressed both are locked, with ``reason``.
        """
        known = a, b
        for _ in range(64):
            a, b = self.resolve(a), self.resolve(b)
            if a.frozen and b.frozen:
                return
            if self._lock_lonely(a, b, known, reason):
                continue
            if len(a.columns) == len(b.columns):
                self._unite_pairs(a.columns, b.columns)
                return
            one, many = (a, b) if len(a.columns) == 1 else (b, a)
            if len(one.columns) != 1:
                break
            if self._substitute(one.columns[0], many.columns, reason):
                return
        self.lock(a, reason)
        self.lock(b, reason)

    def split(self, axis: Axis, sizes: Sequence[int], reason: str) -> Axes:
        """Return the axes that a reshape of this one into ``sizes`` has, outermost first."""
        known, axis = axis, self.resolve(axis)
        columns: list[list[Column]] = [[] for _ in sizes]
        for column in axis.columns:
            block = column.reshape(tuple(sizes))
            varying = [d for d in range(len(sizes)) if varies(block, d)]
            if not varying:
                self.lock(Axis(axis.size, (column,)), reason)
            elif len(varying) == 1:
                columns[varying[0]].append(_along(block, varying[0]))
            else:
                self._refine(column, sizes, varying, columns, reason)
        self._hand_on(known, sizes, columns)
        return tuple(Axis(size, tuple(found)) for size, found in zip(sizes, columns, strict=True))

    def join(self, axes: Sequence[Axis]) -> Axis:
        """Return the axis of a concatenation, with what stands in the way of each part."""
        whole = concatenate([self.resolve(axis) for axis in axes])
        blockers = np.concatenate([self._blockers(axis) for axis in axes])
        return Axis(whole.size, (*whole.columns, *self._remembered(blockers)))

    def _hand_on(self, axis: Axis, sizes: Sequence[int], columns: list[list[Column]]) -> None:
        """Let each part of a split remember what stands in the way of the whole."""
        blockers = self._blockers(axis).reshape(tuple(sizes))
        for d in range(len(sizes)):
            others = tuple(k for k in range(len(sizes)) if k != d)
            columns[d] += self._remembered(blockers.max(axis=others))

    def _refine(
        self,
        column: Column,
        sizes: Sequence[int],
        varying: Sequence[int],
        columns: list[list[Column]],
        reason: str,
    ) -> None:
        """Make a column that varies along several axes a product of new units along each."""
        parts = {d: self.fresh(sizes[d]) for d in varying}
        product = merge([Axis(s, (parts[d],) if d in parts else ()) for d, s in enumerate(sizes)])
        self.unify(Axis(len(column), (column,)), product, reason)
        for d, part in parts.items():
            columns[d].append(part)

    def _unite_pairs(self, a: tuple[Column, ...], b: tuple[Column, ...]) -> None:
        """Unite columns with columns, the most alike with each other."""
        rest = list(b)
        waiting = []
        for column in a:
            same = next((i for i, c in enumerate(rest) if np.array_equal(c, column)), None)
            if same is None:
                waiting.append(column)
            else:
                rest.pop(same)
        for column in waiting:
            other = rest.pop(self._most_alike(column, rest))
            self._unite(column, other)

    def _most_alike(self, column: Column, among: list[Column]) -> int:
        if len(among) == 1:
            return 0
        own = pattern(column)
        alike = (i for i, c in enumerate(among) if np.array_equal(pattern(c), own))
        return next(alike, 0)

    def _lock_lonely(self, a: Axis, b: Axis, known: tuple[Axis, Axis], reason: str) -> bool:
        """Lock units that face a position without any; say whether there were some."""
        has_a, has_b = occupied(a), occupied(b)
        lonely = has_a != has_b
        if not lonely.any():
            # Two arities pair column by column only where no column has a hole.
            if len(a.columns) == len(b.columns) > 1:
                return self._lock_holes(a, b, reason)
            return False
        # What stands in the way of one axis is what will be told of the other.
        blockers = np.maximum(*(self._blockers(axis) for axis in known))
        self._lock_positions(a, lonely, blockers)
        self._lock_positions(b, lonely, blockers)
        return True

    def _lock_holes(self, a: Axis, b: Axis, reason: str) -> bool:
        holes = np.any([column < 0 for column in (*a.columns, *b.columns)], axis=0)
        if not (holes & occupied(a)).any() or same_columns(a, b):
            return False
        self._lock_positions(a, holes, reason)
        self._lock_positions(b, holes, reason)
        return True

    def _lock_positions(self, axis: Axis, where: NDArray[np.bool_], reason: Column | str) -> None:
        """Lock the units at some positions, for one reason or that of each position."""
        numbers = np.full(axis.size, self._index(reason)) if isinstance(reason, str) else reason
        for column in self.resolve(axis).columns:
            present = where & (column >= 0)
            self._lock(column[present], numbers[present])

    def _substitute(self, column: Column, by: tuple[Column, ...], reason: str) -> bool:
        """Replace each unit of a column by the few that stand at its position.

        Returns False when something had to be tied or locked first, so that
        both sides must be looked at again.
        """
        present = column >= 0
        units, where, inverse = np.unique(column[present], return_index=True, return_inverse=True)
        places = np.flatnonzero(present)
        first = places[where]
        own = np.isin(units, np.concatenate(by))
        if own.any():
            own_places = np.isin(column, units[own])
            self._lock_positions(Axis(len(column), by), own_places, reason)
            self._lock_positions(Axis(len(column), (column,)), own_places, reason)
            return False
        if len(units) < len(places) and self._tie_repeats(by, places, first[inverse], reason):
            return False
        rest = by[0][first]
        for other in by[1:-1]:
            joined = self.fresh(len(units))
            self._replace(joined, rest, other[first])
            rest = joined
        self._replace(units, rest, by[-1][first])
        return True

    def _tie_repeats(
        self, by: tuple[Column, ...], places: Column, representative: Column, reason: str
    ) -> bool:
        """Make what replaces a unit the same wherever it occurs; say if that changed something."""
        changed = False
        for column in by:
            a, b = self.find(column[places]), self.find(column[representative])
            hole = (a < 0) != (b < 0)
            if hole.any():
                units = np.concatenate([a[hole], b[hole]])
                self._lock(units[units >= 0], self._index(reason))
                return True
            both = (a >= 0) & (a != b)
            if both.any():
                self._unite(a[both], b[both])
                changed = True
        return changed


def _along(block: NDArray[np.int64], dim: int) -> Column:
    """Return a block of units along the one dimension in which it varies."""
    line = block[tuple(slice(None) if d == dim else 0 for d in range(block.ndim))]
    return line.copy()  # a view would keep the whole block in memory


__all__ = ["NONE", "Axes", "Axis", "Column", "Units", "concatenate", "kept_mask", "merge", "take"]
