"""What is known of every unit: united with another, replaced by a few, or locked.

Units are united (they are one), replaced (one goes whenever any of a few
others goes), or locked (replaced by nothing: it never goes). All three only
ever add ties and survive later ones, so one pass over a graph in order is
enough, and every axis seen earlier stays true.
"""

import numpy as np
from numpy.typing import NDArray

from edgeprune.axes.columns import NONE, Axis, Column, occupied


class Forest:
    """All units of one graph, as arrays over their ids.

    ``_parent`` is a union-find forest. ``_first`` and ``_second`` hold what a
    root was replaced by; a root with ``_replaced`` set and both NONE is
    locked, and ``_reason`` says by what; NONE there means by its nature.
    The last entry of each array is never a unit's: NONE, which is -1, finds
    itself there, so columns with holes need no mask.
    """

    def __init__(self) -> None:
        """Start without any unit."""
        self.total = 0
        self.reasons: list[str] = []
        self._parent: Column = np.full(64, NONE)
        self._first: Column = np.full(64, NONE)
        self._second: Column = np.full(64, NONE)
        self._reason: Column = np.full(64, NONE)
        self._replaced: NDArray[np.bool_] = np.zeros(64, np.bool_)
        self._known: dict[str, int] = {}
        self._stones: list[int] = []

    def fresh(self, size: int) -> Column:
        """Make ``size`` new units."""
        start, self.total = self.total, self.total + size
        if self.total >= len(self._parent):
            self._grow(2 * self.total)
        made = np.arange(start, self.total)
        self._parent[made] = made
        return made

    def fresh_axis(self, size: int) -> Axis:
        """Make an axis of new units; a single position carries none."""
        return Axis(size, (self.fresh(size),) if size > 1 else ())

    def stuck_axis(self, size: int, reason: str) -> Axis:
        """Make an axis that loses nothing, and remembers why wherever it is passed on."""
        return Axis(size, self._remembered(np.full(size, self._index(reason))))

    def find(self, units: Column) -> Column:
        """Return the root of each unit, and NONE for NONE."""
        roots = self._parent[units]
        above = self._parent[roots]
        if np.array_equal(above, roots):
            return roots
        while not np.array_equal(above, roots):
            roots, above = above, self._parent[above]
        self._parent[units] = roots
        return roots

    def resolve(self, axis: Axis) -> Axis:
        """Follow everything known: columns of roots that can still be removed."""
        pending = list(axis.columns)
        columns: list[Column] = []
        while pending:
            column = self.find(pending.pop(0))
            replaced = self._replaced[column]
            if replaced.any():
                second = np.where(replaced, self._second[column], NONE)
                if (second >= 0).any():
                    pending.insert(0, second)
                pending.insert(0, np.where(replaced, self._first[column], column))
            elif (column >= 0).any() and not any(np.array_equal(column, c) for c in columns):
                columns.append(column)
        return Axis(axis.size, tuple(columns))

    def roots(self) -> Column:
        """Return every unit that can still be removed, once for all that are one."""
        ids = np.arange(self.total)
        live: Column = ids[(self._parent[ids] == ids) & ~self._replaced[ids]]
        return live

    def lock(self, axis: Axis, reason: str) -> None:
        """Make every unit of the axis unremovable, remembering why; no reason: by nature."""
        for column in self.resolve(axis).columns:
            self._lock(column[column >= 0], self._index(reason))

    def reasons_of(self, axis: Axis) -> frozenset[str]:
        """Return why positions of this axis that cannot go cannot: what locked them last."""
        stuck = self._blockers(axis)[~occupied(self.resolve(axis))]
        return frozenset(self.reasons[i] for i in np.unique(stuck).tolist() if i >= 0)

    def _grow(self, capacity: int) -> None:
        def longer(old: Column) -> Column:
            new = np.full(capacity, NONE)
            new[: len(old)] = old
            return new

        self._parent, self._first = longer(self._parent), longer(self._first)
        self._second, self._reason = longer(self._second), longer(self._reason)
        replaced = np.zeros(capacity, np.bool_)
        replaced[: len(self._replaced)] = self._replaced
        self._replaced = replaced

    def _index(self, reason: str) -> int:
        """Return the number of a reason, NONE for none; each has one locked unit of its own."""
        if not reason:
            return NONE
        if reason not in self._known:
            self._known[reason] = len(self.reasons)
            self.reasons.append(reason)
            stone = self.fresh(1)
            self._lock(stone, self._known[reason])
            self._stones.append(int(stone[0]))
        return self._known[reason]

    def _lock(self, roots: Column, reason: Column | int) -> None:
        """Lock roots, with the number of a reason for all or for each."""
        self._replaced[roots] = True
        self._reason[roots] = reason

    def _replace(self, roots: Column, first: Column, second: Column) -> None:
        """State that each root goes whenever ``first`` or ``second`` goes."""
        self._replaced[roots] = True
        self._first[roots] = first
        self._second[roots] = second

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
            self._parent[np.maximum(a, b)] = np.minimum(a, b)

    def _blockers(self, axis: Axis) -> Column:
        """Return for each position the number of the last reason that locked something there."""
        found = np.full(axis.size, NONE)
        pending = list(axis.columns)
        while pending:
            roots = self.find(pending.pop())
            if self._replaced[roots].any():
                # Roots that are not replaced have neither reason nor replacement.
                found = np.maximum(found, self._reason[roots])
                further = self._first[roots], self._second[roots]
                pending += [column for column in further if (column >= 0).any()]
        return found

    def _remembered(self, reasons: Column) -> tuple[Column, ...]:
        """Return a column of locked units with these reasons, or none without any."""
        if not (reasons >= 0).any():
            return ()
        stones = np.array([*self._stones, NONE])
        return (stones[reasons],)
