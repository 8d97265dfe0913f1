"""How many units each channel group keeps.

Units are ranked, and as many of the worst go as the budget asks for, rounded
to widths that the target's kernels like. Invariant: a smaller budget never
keeps a unit that a larger one gives up, and no group is left empty.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeprune.attribution.scores import Scores
from edgeprune.axes.analysis import Analysis
from edgeprune.axes.groups import ChannelGroup
from edgeprune.budget import Budget
from edgeprune.errors import PlanError

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
        align: what widths are multiples of.
        ranking: what decides between groups.
    """

    analysis: Analysis
    names: frozenset[str]
    scores: Scores
    budget: Budget
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
                return float(sum(mask.sum() for mask in masks.values()))

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
        return np.argsort(-self.scores[group.name].numpy(), kind="stable")

    def counts(self) -> dict[str, int]:
        """Return how many units each group keeps: as many as the budget allows.

        Raises:
            PlanError: even the smallest widths cost more.
        """
        groups = self.analysis.groups
        levels = [self.levels(group) for group in groups]
        owner = self._levelled(levels) if self.ranking == "group" else self.owners()

        def at(step: int) -> dict[str, int]:
            gone = np.bincount(owner[:step], minlength=len(groups)).tolist()
            if self.ranking == "group":
                return {g.name: w[n] for g, w, n in zip(groups, levels, gone, strict=True)}
            return {g.name: self.width(g, g.size - n) for g, n in zip(groups, gone, strict=True)}

        steps = len(owner)
        return self._least_step(steps, at)

    def _least_step(self, steps: int, at: Callable[[int], dict[str, int]]) -> dict[str, int]:
        """Find the first step that meets the budget; costs fall from step to step."""
        full = self.cost(self.masks({g.name: g.size for g in self.analysis.groups}))
        target = self.budget.share * full
        least = self.cost(self.masks(at(steps)))
        if least > target:
            raise PlanError(
                f"{self.budget.kind} {self.budget.share:g} cannot be reached: with every group at "
                f"its floor and align {self.align}, {least / full:.3f} of the dense model is left; "
                f"ask for at least {np.ceil(1000 * least / full) / 1000:g} or lower the alignment"
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
        price = self._prices() if self.ranking == "cost" else np.ones(len(groups))
        owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
        values = [self.scores[g.name].numpy() / p for g, p in zip(groups, price, strict=True)]
        return owner[np.argsort(np.concatenate(values), kind="stable")]

    def _levelled(self, levels: list[list[int]]) -> NDArray[np.int64]:
        """Return which group steps to its next width, in the order that keeps shares alike.

        Groups of equal size take their steps one after the other, so that the
        budget is met as nearly as one step of one group allows.
        """
        steps = [
            (1 - (wide + narrow) / (2 * group.size), index)
            for index, (group, widths) in enumerate(zip(self.analysis.groups, levels, strict=True))
            for wide, narrow in itertools.pairwise(widths)
        ]
        return np.array([index for _, index in sorted(steps)], np.int64)

    def levels(self, group: ChannelGroup) -> list[int]:
        """Return the widths that a group may have, widest first."""
        return sorted({self.width(group, wanted) for wanted in range(group.size + 1)}, reverse=True)

    def ranks(self) -> dict[str, NDArray[np.int64]]:
        """Return the rank of every unit in the order that decided: 1 goes first."""
        owner = None if self.ranking == "group" else self.owners()
        ranks: dict[str, NDArray[np.int64]] = {}
        for index, group in enumerate(self.analysis.groups):
            places = np.arange(group.size) if owner is None else np.flatnonzero(owner == index)
            ranks[group.name] = np.empty(group.size, np.int64)
            ranks[group.name][self.order(group)[::-1]] = places + 1
        return ranks

    def _prices(self) -> NDArray[np.float64]:
        """Return what one unit of each group costs in the dense model."""
        whole = {g.name: g.size for g in self.analysis.groups}
        full = self.cost(self.masks(whole))
        prices = [
            full - self.cost(self.masks(whole | {g.name: g.size - 1})) if g.size > 1 else full
            for g in self.analysis.groups
        ]
        return np.maximum(np.array(prices, np.float64), 1e-9)

    def width(self, group: ChannelGroup, wanted: int) -> int:
        """Return the nearest width that the alignment and the floors allow."""
        multiple = alignment(group, self.align)
        if wanted == group.size or group.size <= multiple:
            return group.size
        least = max(1, self._floor(group))
        lower = -(-least // multiple) * multiple
        nearest = int(wanted / multiple + 0.5) * multiple
        return min(max(nearest, lower), group.size)

    def _floor(self, group: ChannelGroup) -> int:
        shares = (
            share
            for pattern, share in self.budget.floors.items()
            if fnmatchcase(group.name, pattern)
        )
        return int(np.ceil(group.size * max(shares, default=0)))


def alignment(group: ChannelGroup, align: int) -> int:
    """Return the multiple that a group's count must be of, so that widths are aligned.

    A head stands for head_dim positions at once, so a few heads may already be
    a multiple. Head dimensions are aligned by themselves: the product of query
    and key runs over them alone.
    """
    if group.kind == "head_dim" or not group.parameters:
        return align
    needed = [align // np.gcd(align, o.positions) for o in group.parameters]
    return int(np.lcm.reduce(np.array(needed, np.int64)))
