"""Why these units go and not others: each is held against the weakest that stays.

Invariant: what is said of a unit follows from scores, masks and ranks alone.
Scores are rounded to 6 significant digits, about as many as float32 has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from edgeprune.axes.groups import ChannelGroup
from edgeprune.plan_document import KeptUnit, RemovedUnit
from edgeprune.widths import Masks, Ranking, Search

ORDER: Final[Mapping[Ranking, str]] = {
    "global": "of all units",
    "cost": "of all units by score per cost",
    "group": "of its group",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What a search found.

    Attributes:
        search: with scores and ranking.
        masks: which units stay.
        ranks: the place of each unit in the order that decided; 1 goes first.
        staying: places of all units that stay, ascending; none where groups
            were not compared.
    """

    search: Search
    masks: Masks
    ranks: Mapping[str, NDArray[np.int64]]
    staying: NDArray[np.int64]

    @classmethod
    def of(cls, search: Search, masks: Masks) -> Self:
        """Rank all units."""
        ranks = search.ranks()
        compared = [] if search.ranking == "group" else list(ranks)
        staying = [np.empty(0, np.int64), *(ranks[name][masks[name]] for name in compared)]
        return cls(
            search=search, masks=masks, ranks=ranks, staying=np.sort(np.concatenate(staying))
        )

    def weakest(self, group: ChannelGroup) -> KeptUnit:
        """Return the unit that would have gone next from a group."""
        kept = np.flatnonzero(self.masks[group.name])
        unit = int(kept[self.ranks[group.name][kept].argmin()])
        score = rounded(float(self.search.scores[group.name][unit]))
        rank = int(self.ranks[group.name][unit])
        return KeptUnit(group=group.name, unit=unit, score=score, rank=rank)

    def weakest_of_all(self) -> KeptUnit | None:
        """Return the lowest-ranking unit that stays; None where groups were not compared."""
        if not len(self.staying):
            return None
        found = [self.weakest(group) for group in self.search.analysis.groups]
        return min(found, key=lambda unit: unit.rank)

    def removed(self, group: ChannelGroup) -> tuple[RemovedUnit, ...]:
        """Return each unit of a group that goes, and why."""
        scores, ranks = self.search.scores, self.ranks[group.name]
        most, per_class = scores.most_affected(group.name), scores.by_class(group.name)
        weakest = float(scores[group.name][self.weakest(group).unit])
        rivals = [group] if self.search.ranking == "group" else self.search.analysis.groups
        order = f"of {sum(rival.size for rival in rivals)} {ORDER[self.search.ranking]}"
        return tuple(
            RemovedUnit(
                unit=unit,
                score=rounded(score),
                rank=int(ranks[unit]),
                most=most[unit] if most else None,
                reason=f"rank {ranks[unit]} {order}; the weakest kept unit of its group scores "
                f"{weakest:.3g}",
                margin=rounded(weakest - score),
                ratio=rounded(score / weakest) if weakest > 0 and score >= 0 else None,
                overtook=int(np.searchsorted(self.staying, ranks[unit])),
                per_class=tuple(v if v is None else rounded(v) for v in per_class[unit]),
            )
            for unit, score in enumerate(scores[group.name].tolist())
            if not self.masks[group.name][unit]
        )


def rounded(value: float) -> float:
    """Return a number with 6 significant digits."""
    return float(f"{value:.6g}")
