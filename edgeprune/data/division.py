"""Dividing a data set into train, val and test.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011) over groups: the
rarest label is dealt out first, each group to the split that misses most of it.
One rule so serves single labels, findings and patients alike. Invariant: a group
is never in two splits, and the same seed gives the same division.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeprune.data.splits import Labels


def divide(
    labels: Labels, groups: Sequence[Hashable], shares: Sequence[float], *, seed: int
) -> tuple[NDArray[np.intp], ...]:
    """Deal positions 0 to N - 1 out to one split per share, keeping each group together.

    labels: int64 (N,) or 0/1 (N, K). groups: N names. shares: they sum to 1.
    """
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)
    counts = np.zeros((len(numbers), _table(labels).shape[1]))
    np.add.at(counts, member, _table(labels))
    split_of = _deal(counts, np.asarray(shares, dtype=float), np.random.default_rng(seed))
    return tuple(np.flatnonzero(split_of[member] == split) for split in range(len(shares)))


def _table(labels: Labels) -> NDArray[np.float64]:
    """Lay labels out as one column each, with one more for images without any finding."""
    if labels.ndim == 1:
        return np.eye(int(labels.max()) + 1)[labels]
    return np.column_stack([labels, labels.sum(axis=1) == 0]).astype(float)


def _deal(
    counts: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.intp]:
    wanted = shares[:, None] * counts.sum(axis=0)
    split_of = np.full(len(counts), -1, dtype=np.intp)
    shuffled = rng.permutation(len(counts))
    while (open_ := shuffled[split_of[shuffled] < 0]).size:
        remaining = counts[open_].sum(axis=0)
        label = int(np.argmin(np.where(remaining > 0, remaining, np.inf)))
        holders = open_[counts[open_, label] > 0]
        # Large groups first: the small ones can still even out what they leave.
        for group in holders[np.argsort(-counts[holders, label], kind="stable")]:
            # Of equal needs, the split that misses most images altogether.
            split = max(range(len(shares)), key=lambda s: (wanted[s, label], wanted[s].sum()))
            split_of[group] = split
            wanted[split] -= counts[group]
    return split_of
