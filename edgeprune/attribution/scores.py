"""How much each unit carries: what every criterion returns.

Invariant: rank 1 is the weakest of all, the first to go, here as in a plan.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class UnitScore:
    """One unit as a row of a table.

    Attributes:
        group: its channel group.
        kind: of the group; empty where it is not known.
        unit: its index in the group.
        score: larger for what matters more.
        rank: among all units by score as it is, 1 for the weakest.
        rank_in_group: among those of its group.
        per_class: its score for each class, None for a class without images;
            empty where nothing is known by class.
        most: the class that it matters most to, if that is known.
    """

    group: str
    kind: str
    unit: int
    score: float
    rank: int
    rank_in_group: int
    per_class: tuple[float | None, ...]
    most: str | None


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """One channel group as a whole.

    Attributes:
        group: its name.
        kind: its kind; empty where it is not known.
        size: its units.
        total: sum of their scores.
        mean: the same per unit, which compares layers of different widths.
        per_class: sums for each class, as in ``UnitScore``.
    """

    group: str
    kind: str
    size: int
    total: float
    mean: float
    per_class: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """One number per unit, larger for what matters more.

    Attributes:
        criterion: how they came about: a name, with the settings that are not
            the default, as ``find_criterion`` reads it.
        values: per group, (size,) of float64.
        per_class: per group, (classes, size) of float64, summed over the images
            of each class, or learned; None where the criterion knows no class.
        classes: names of the classes, in the order of ``per_class``.
        counts: images of each class; empty where that is not known.
        kinds: the kind of each group.
        aggregate: how images were summed; None for criteria that score the
            model or all images at once.
        sampler: how the images were chosen, or None.
        samples: ids of the images that were looked at.
        hashes: SHA-256 of the pixels of each, or empty.
    """

    criterion: str
    values: Mapping[str, Tensor]
    per_class: Mapping[str, Tensor] | None = None
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    aggregate: str | None = None
    sampler: str | None = None
    samples: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()

    def __getitem__(self, group: str) -> Tensor:
        """Return a group's scores, (size,)."""
        return self.values[group]

    def most_affected(self, group: str) -> list[str] | None:
        """Name for each unit the class that it matters most to, per image, if that is known."""
        if self.per_class is None or not len(self.per_class[group]):
            return None
        best = self._per_image(self.per_class[group]).argmax(0).tolist()
        return [self.classes[i] if self.classes else str(i) for i in best]

    def by_class(self, group: str) -> list[tuple[float | None, ...]]:
        """Return the scores of each unit for each class; None for a class without images."""
        if self.per_class is None:
            return [()] * len(self.values[group])
        return [self._known(row) for row in self.per_class[group].T.tolist()]

    @property
    def layers(self) -> tuple[LayerScore, ...]:
        """Groups as a whole, in the order of the graph."""
        return tuple(self._layer(name) for name in self.values)

    def rows(self) -> Iterator[UnitScore]:
        """Yield every unit, group by group."""
        overall = ranks({name: values.numpy() for name, values in self.values.items()})
        for name, values in self.values.items():
            own = ranks({name: values.numpy()})[name]
            most = self.most_affected(name)
            for unit, (score, per_class) in enumerate(
                zip(values.tolist(), self.by_class(name), strict=True)
            ):
                yield UnitScore(
                    group=name,
                    kind=self.kinds.get(name, ""),
                    unit=unit,
                    score=score,
                    rank=int(overall[name][unit]),
                    rank_in_group=int(own[unit]),
                    per_class=per_class,
                    most=most[unit] if most else None,
                )

    def _layer(self, name: str) -> LayerScore:
        values = self.values[name]
        sums = None if self.per_class is None else self.per_class[name].sum(1).tolist()
        return LayerScore(
            group=name,
            kind=self.kinds.get(name, ""),
            size=len(values),
            total=float(values.sum()),
            mean=float(values.mean()),
            per_class=() if sums is None else self._known(sums),
        )

    def _known(self, per_class: Sequence[float]) -> tuple[float | None, ...]:
        if not self.counts:
            return tuple(per_class)
        pairs = zip(per_class, self.counts, strict=True)
        return tuple(value if count else None for value, count in pairs)

    def _per_image(self, per_class: Tensor) -> Tensor:
        """Compare classes (classes, size) as if they had as many images, without those of none."""
        if not any(self.counts):
            return per_class
        counts = torch.tensor(self.counts, dtype=per_class.dtype)[:, None]
        # What was learned is no sum over images.
        images = counts.clamp_min(1) if self.aggregate is not None else 1
        return (per_class / images).where(counts > 0, -torch.inf)


def ranks(values: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.int64]]:
    """Rank units of several groups together, 1 for the weakest; of equal ones the last goes first.

    Of equal units in different groups those of the first group go first.
    """
    groups = list(values.values())
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    owner = owner[np.argsort(np.concatenate(groups), kind="stable")] if groups else owner
    found: dict[str, NDArray[np.int64]] = {}
    for index, (name, group) in enumerate(values.items()):
        found[name] = np.empty(len(group), np.int64)
        found[name][best_first(group)[::-1]] = np.flatnonzero(owner == index) + 1
    return found


def best_first(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return units from the strongest to the weakest; of equal ones the first comes first."""
    return np.argsort(-values, kind="stable")
