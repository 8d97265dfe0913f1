"""How many units each channel group keeps.

Units are ranked, and as many of the worst go as the budget asks for, rounded
to widths that the target's kernels like. Invariant: a smaller budget never
keeps a unit that a larger one gives up, and no group is left empty.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeprune.alignment import alignment, allowed_widths, nearest
from edgeprune.attribution.scores import Scores, best_first, ranks
from edgeprune.axes.analysis import Analysis
from edgeprune.axes.groups import ChannelGroup
from edgeprune.budget import Budget
from edgeprune.errors import PlanError
from edgeprune.limits import Limit
from edgeprune.prices import unit_costs

Ranking = Literal["global", "group", "cost"]
Masks = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Search:
    """Finds how many units each group keeps.

    Attributes:
        analysis: the axes of the dense model.
        names: its trainable parameters.
        scores: what decides within a group.
        budget: what may be left.
        limits: the fewest and the most units of each group.
        align: what widths are multiples of.
        ranking: what decides between groups.
    """

    analysis: Analysis
    names: frozenset[str]
    scores: Scores
    budget: Budget
    limits: Mapping[str, Limit]
    align: int
    ranking: Ranking

    def cost(self, masks: Masks) -> float:
        """Return what the budget counts, for what is kept."""
        match self.budget.kind:
            case "macs":
                return self.analysis.count_macs(self.analysis.kept(masks))
            case "params":
                return self.analysis.count_parameters(self.names, self.analysis.kept(masks))
            case _:
                kinds = self.budget.kinds
                counted = [g for g in self.analysis.groups if not kinds or g.kind in kinds]
                return float(sum(masks[group.name].sum() for group in counted))

    def masks(self, counts: Mapping[str, int]) -> Masks:
        """Keep the best units of each group."""
        masks: Masks = {}
        for group in self.analysis.groups:
            mask = np.zeros(group.size, np.bool_)
            mask[self.order(group)[: counts[group.name]]] = True
            masks[group.name] = mask
        return masks

    def order(self, group: ChannelGroup) -> NDArray[np.int64]:
        """Return a group's units, best first; of equal ones the first."""
        return best_first(self.scores[group.name].numpy())

    def counts(self) -> dict[str, int]:
        """Return how many units each group keeps: as many as the budget allows.

        Raises:
            PlanError: even the smallest widths cost more.
        """
        groups = self.analysis.groups
        owner = self._levelled() if self.ranking == "group" else self.owners()

        def at(step: int) -> dict[str, int]:
            gone = np.bincount(owner[:step], minlength=len(groups)).tolist()
            pairs = zip(groups, gone, self.widths, strict=True)
            if self.ranking == "group":
                return {g.name: int(widths[-1 - n]) for g, n, widths in pairs}
            return {g.name: nearest(widths, g.size - n) for g, n, widths in pairs}

        return self._least_step(len(owner), at)

    @cached_property
    def widths(self) -> tuple[NDArray[np.int64], ...]:
        """The widths that each group may have, narrowest first."""
        return tuple(
            allowed_widths(group, self.limits[group.name], alignment(group, self.align))
            for group in self.analysis.groups
        )

    def _least_step(self, steps: int, at: Callable[[int], dict[str, int]]) -> dict[str, int]:
        """Find the first step that meets the budget; costs fall from step to step."""
        full = self.cost(self.masks({g.name: g.size for g in self.analysis.groups}))
        target = self.budget.share * full
        least = self.cost(self.masks(at(steps)))
        if least > target:
            raise PlanError(
                f"{self.budget.kind} {self.budget.share:g} cannot be reached: with every group as "
                f"narrow as its limits and align {self.align} allow, {least / full:.3f} of the "
                f"dense model is left; ask for at least {np.ceil(1000 * least / full) / 1000:g}, "
                "lower the alignment, or let more groups be cut"
            )
        low, high = -1, steps  # cost(low) > target >= cost(high)
        while high - low > 1:
            middle = (low + high) // 2
            if self.cost(self.masks(at(middle))) <= target:
                high = middle
            else:
                low = middle
        return at(high)

    def owners(self) -> NDArray[np.int64]:
        """Return the index of the group of every unit, worst unit first."""
        groups = self.analysis.groups
        found = np.empty(sum(group.size for group in groups), np.int64)
        for index, ranks_of_group in enumerate(ranks(self.compared()).values()):
            found[ranks_of_group - 1] = index
        return found

    def compared(self) -> dict[str, NDArray[np.float64]]:
        """Return by group what units of all groups are compared by.

        That is the score, or under ``cost`` the score per price. A score below 0
        says that a unit does harm, so that the dearest goes first: it is
        multiplied by its price.
        """
        values = {group.name: self.scores[group.name].numpy() for group in self.analysis.groups}
        return {
            name: np.where(value < 0, value * price, value / price)
            for (name, value), price in zip(values.items(), self._prices(), strict=True)
        }

    def _levelled(self) -> NDArray[np.int64]:
        """Return which group steps to its next width, in the order that keeps shares alike.

        Groups of equal size take their steps one after the other, so that the
        budget is met as nearly as one step of one group allows.
        """
        steps = [
            (1 - (wide + narrow) / (2 * group.size), index)
            for index, (group, widths) in enumerate(
                zip(self.analysis.groups, self.widths, strict=True)
            )
            for wide, narrow in itertools.pairwise(widths[::-1].tolist())
        ]
        return np.array([index for _, index in sorted(steps)], np.int64)

    def ranks(self) -> dict[str, NDArray[np.int64]]:
        """Return the rank of every unit in the order that decided: 1 goes first."""
        if self.ranking != "group":
            return ranks(self.compared())
        scores = {group.name: self.scores[group.name].numpy() for group in self.analysis.groups}
        return {name: ranks({name: values})[name] for name, values in scores.items()}

    def _prices(self) -> list[float]:
        """Return what one unit of each group costs in the dense model, above 0."""
        if self.ranking != "cost" or self.budget.kind == "keep":
            return [1.0] * len(self.analysis.groups)
        costs = unit_costs(self.analysis, self.names)
        return [
            max(float(getattr(costs[group.name], self.budget.kind)), 1e-9)
            for group in self.analysis.groups
        ]
