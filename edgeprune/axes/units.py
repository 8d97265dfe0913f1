"""Units, and what it means for two of them to be one.

Units are united (they are one), substituted (one goes whenever any of a few
others goes), or locked (substituted by nothing: it never goes). All three only
ever add ties, and survive later ones, so one pass over a graph in order is
enough and every axis seen earlier stays true.

Invariant: a mistaken pairing can tie too much, never too little.
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
    pattern,
    same_columns,
    take,
    varies,
)


class Units:
    """All units of one graph, with what is known about how they hang together.

    ``parent`` is a union-find forest. ``first`` and ``second`` hold what a
    root was substituted by; a root with ``replaced`` set and both NONE is
    locked, and ``reason`` says by what.
    """

    def __init__(self) -> None:
        """Start without any unit."""
        self.parent: Column = np.empty(0, np.int64)
        self.first: Column = np.empty(0, np.int64)
        self.second: Column = np.empty(0, np.int64)
        self.replaced: NDArray[np.bool_] = np.empty(0, np.bool_)
        self.reason: Column = np.empty(0, np.int64)
        self.reasons: list[str] = []

    def fresh(self, size: int) -> Column:
        """Make ``size`` new units."""
        start = len(self.parent)
        nothing = np.full(size, NONE)
        self.parent = np.concatenate([self.parent, np.arange(start, start + size)])
        self.first = np.concatenate([self.first, nothing])
        self.second = np.concatenate([self.second, nothing])
        self.reason = np.concatenate([self.reason, nothing])
        self.replaced = np.concatenate([self.replaced, np.zeros(size, np.bool_)])
        return np.arange(start, start + size)

    def fresh_axis(self, size: int) -> Axis:
        """Make an axis of new units; a single position carries none."""
        return Axis(size, (self.fresh(size),) if size > 1 else ())

    def find(self, units: Column) -> Column:
        """Return the root of each unit, and NONE for NONE."""
        roots = self.parent[units]
        while True:
            further = self.parent[roots]
            if np.array_equal(further, roots):
                break
            roots = further
        self.parent[units[units >= 0]] = roots[units >= 0]
        return np.where(units < 0, NONE, roots)

    def resolve(self, axis: Axis) -> Axis:
        """Follow everything known: columns of roots that can still be removed."""
        pending = list(axis.columns)
        columns: list[Column] = []
        while pending:
            column = self.find(pending.pop(0))
            substituted = (column >= 0) & self.replaced[column]
            if substituted.any():
                pending.insert(0, np.where(substituted, self.first[column], column))
                second = np.where(substituted, self.second[column], NONE)
                if (second >= 0).any():
                    pending.insert(1, second)
            elif (column >= 0).any() and not any(np.array_equal(column, c) for c in columns):
                columns.append(column)
        return Axis(axis.size, tuple(columns))

    def lock(self, axis: Axis, reason: str) -> None:
        """Make every unit of the axis unremovable, remembering why."""
        for column in self.resolve(axis).columns:
            self._replace(np.unique(column[column >= 0]), reason=reason)

    def unify(self, a: Axis, b: Axis, reason: str) -> None:
        """State that position i of ``a`` goes exactly when position i of ``b`` goes.

        Where that cannot be expressed both are locked, with ``reason``.
        """
        for _ in range(64):
            a, b = self.resolve(a), self.resolve(b)
            if a.frozen or b.frozen:
                self.lock(a, reason)
                self.lock(b, reason)
                return
            if self._lock_lonely(a, b, reason):
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
        axis = self.resolve(axis)
        columns: list[list[Column]] = [[] for _ in sizes]
        for column in axis.columns:
            block = column.reshape(tuple(sizes))
            varying = [d for d in range(len(sizes)) if varies(block, d)]
            if not varying:
                self.lock(Axis(axis.size, (column,)), reason)
            elif len(varying) == 1:
                columns[varying[0]].append(
                    np.moveaxis(block, varying[0], 0).reshape(sizes[varying[0]], -1)[:, 0]
                )
            else:
                self._refine(column, sizes, varying, columns, reason)
        return tuple(Axis(size, tuple(found)) for size, found in zip(sizes, columns, strict=True))

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

    def reasons_of(self, axis: Axis) -> frozenset[str]:
        """Return why units that this axis once carried were locked."""
        found: set[int] = set()
        pending = list(axis.columns)
        while pending:
            roots = self.find(pending.pop())
            roots = np.unique(roots[roots >= 0])
            roots = roots[self.replaced[roots]]
            found.update(self.reason[roots].tolist())
            pending += [c for c in (self.first[roots], self.second[roots]) if (c >= 0).any()]
        return frozenset(self.reasons[i] for i in found if i >= 0)

    def _replace(
        self,
        roots: Column,
        first: Column | int = NONE,
        second: Column | int = NONE,
        reason: str = "",
    ) -> None:
        self.replaced[roots] = True
        self.first[roots] = first
        self.second[roots] = second
        if reason:
            if reason not in self.reasons:
                self.reasons.append(reason)
            self.reason[roots] = self.reasons.index(reason)

    def _unite(self, a: Column, b: Column) -> None:
        """Make units one, position by position, where both sides have one."""
        both = (a >= 0) & (b >= 0)
        a, b = a[both], b[both]
        while True:
            a, b = self.find(a), self.find(b)
            apart = a != b
            if not apart.any():
                return
            # Of several pairs with the same upper root the last one counts; the rest come next.
            a, b = a[apart], b[apart]
            self.parent[np.maximum(a, b)] = np.minimum(a, b)

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
            own = pattern(column)
            alike = (i for i, c in enumerate(rest) if np.array_equal(pattern(c), own))
            other = rest.pop(next(alike, 0))
            self._unite(column, other)

    def _lock_lonely(self, a: Axis, b: Axis, reason: str) -> bool:
        """Lock units that face a position without any; say whether there were some."""
        has_a = np.any([column >= 0 for column in a.columns], axis=0)
        has_b = np.any([column >= 0 for column in b.columns], axis=0)
        lonely = has_a != has_b
        if not lonely.any():
            # Two arities pair column by column only where no column has a hole.
            if len(a.columns) == len(b.columns) > 1:
                return self._lock_holes(a, b, reason)
            return False
        self._lock_positions(a, lonely, reason)
        self._lock_positions(b, lonely, reason)
        return True

    def _lock_holes(self, a: Axis, b: Axis, reason: str) -> bool:
        holes = np.any([column < 0 for column in (*a.columns, *b.columns)], axis=0)
        has = np.any([column >= 0 for column in a.columns], axis=0)
        if not (holes & has).any() or same_columns(a, b):
            return False
        self._lock_positions(a, holes, reason)
        self._lock_positions(b, holes, reason)
        return True

    def _lock_positions(self, axis: Axis, where: NDArray[np.bool_], reason: str) -> None:
        for column in self.resolve(axis).columns:
            units = column[where]
            if (units >= 0).any():
                self._replace(np.unique(units[units >= 0]), reason=reason)

    def _substitute(self, column: Column, by: tuple[Column, ...], reason: str) -> bool:
        """Replace each unit of a column by the few that stand at its position.

        Returns False when something had to be tied or locked first, so that
        both sides must be looked at again.
        """
        present = column >= 0
        units, where, inverse = np.unique(column[present], return_index=True, return_inverse=True)
        places = np.flatnonzero(present)
        first = places[where]
        others = np.unique(np.concatenate(by))
        own = np.isin(units, others)
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
                self._replace(np.unique(units[units >= 0]), reason=reason)
                return True
            both = (a >= 0) & (a != b)
            if both.any():
                self._unite(a[both], b[both])
                changed = True
        return changed


__all__ = ["NONE", "Axes", "Axis", "Column", "Units", "concatenate", "kept_mask", "merge", "take"]
