"""Which units go: from scores and a budget to a plan.

Invariant: a plan never empties a group, its widths end on the multiples asked
for, and its predicted parameters and MACs are those of the cut model.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from edgeprune.attribution.scores import Scores
from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.axes.groups import ChannelGroup
from edgeprune.budget import Budget
from edgeprune.capture import Captured, trainable
from edgeprune.errors import PlanError, UsageError
from edgeprune.plan_document import FORMAT, VERSION, GroupPlan, Plan, RemovedUnit
from edgeprune.widths import Masks, Ranking, Search, alignment

ORDER: Final[Mapping[Ranking, str]] = {
    "global": "of all units",
    "cost": "of all units by score per cost",
    "group": "of its group",
}


def make_plan(
    dense: Captured,
    scores: Scores,
    budget: Budget,
    *,
    align: int = 1,
    ranking: Ranking = "cost",
) -> Plan:
    """Choose the units that go: the lowest scores first, until the budget is met.

    Args:
        dense: the model that was scored.
        scores: one number per unit and channel group.
        budget: what the cut model may cost.
        align: widths end on multiples of this (or stay whole); 1 for any width.
        ranking: ``cost`` compares scores per unit of what the budget counts
            (with a budget of units the same as ``global``), ``global`` compares
            scores as they are, ``group`` takes the same share from each group.

    Raises:
        PlanError: no plan meets the budget, or scores are not numbers.
        UsageError: an alignment or ranking that does not exist, or a floor for
            no group.
    """
    if align < 1 or ranking not in get_args(Ranking):
        raise UsageError(
            f"align {align}, ranking '{ranking}': align is 1 or more, "
            f"ranking one of {', '.join(get_args(Ranking))}"
        )
    analysis = analyse(dense)
    _check_groups(analysis)
    _check_scores(analysis, scores)
    _check_floors(analysis, budget)
    search = Search(
        analysis=analysis,
        names=trainable(dense.module),
        scores=scores,
        budget=budget,
        align=align,
        ranking=ranking,
    )
    return _document(search, search.masks(search.counts()))


def _check_groups(analysis: Analysis) -> None:
    if not analysis.groups:
        reasons = sorted({reason for axis in analysis.frozen for reason in axis.reasons})
        raise PlanError(
            f"nothing can be removed from this model: {'; '.join(reasons) or 'it has no channels'}"
        )


def _check_scores(analysis: Analysis, scores: Scores) -> None:
    for group in analysis.groups:
        values = scores.values.get(group.name)
        if values is None or tuple(values.shape) != (group.size,):
            seen = "none" if values is None else str(tuple(values.shape))
            raise PlanError(f"group '{group.name}' needs {group.size} scores; seen: {seen}")
        if not bool(values.isfinite().all()):
            raise PlanError(f"scores of group '{group.name}' are not all finite; score again")


def _check_floors(analysis: Analysis, budget: Budget) -> None:
    for pattern in budget.floors:
        if not any(fnmatchcase(group.name, pattern) for group in analysis.groups):
            names = ", ".join(group.name for group in analysis.groups[:3])
            raise UsageError(f"floor '{pattern}' matches no channel group; they are {names}, …")


def _document(search: Search, masks: Masks) -> Plan:
    analysis, budget = search.analysis, search.budget
    kept = analysis.kept(masks)
    ranks = search.ranks()
    return Plan(
        groups=tuple(_group_plan(search, g, masks[g.name], ranks[g.name]) for g in analysis.groups),
        made_from={
            "criterion": search.scores.criterion,
            "sampler": search.scores.sampler,
            "samples": list(search.scores.samples),
            "ranking": search.ranking,
            "budget": {budget.kind: budget.share, "floors": dict(budget.floors)},
            "align": search.align,
        },
        dense={
            "params": analysis.count_parameters(search.names),
            "macs": analysis.count_macs(),
        },
        predicted={
            "params": analysis.count_parameters(search.names, kept),
            "macs": analysis.count_macs(kept),
        },
        notes=tuple(_notes(search)),
    )


def _group_plan(
    search: Search, group: ChannelGroup, mask: NDArray[np.bool_], ranks: NDArray[np.int64]
) -> GroupPlan:
    scores = search.scores[group.name].numpy()
    most = search.scores.most_affected(group.name)
    rivals = [group] if search.ranking == "group" else search.analysis.groups
    total = sum(rival.size for rival in rivals)
    weakest = float(scores[mask].min())
    removed = tuple(
        RemovedUnit(
            unit=unit,
            score=float(f"{scores[unit]:.6g}"),
            rank=int(ranks[unit]),
            most=most[unit] if most else None,
            reason=f"rank {ranks[unit]} of {total} {ORDER[search.ranking]}; "
            f"the weakest kept unit of its group scores {weakest:.3g}",
        )
        for unit in np.flatnonzero(~mask).tolist()
    )
    return GroupPlan(
        name=group.name,
        kind=group.kind,
        size=group.size,
        kept=tuple(np.flatnonzero(mask).tolist()),
        removed=removed,
    )


def _notes(search: Search) -> Iterable[str]:
    for group in search.analysis.groups:
        multiple = alignment(group, search.align)
        if 1 < group.size <= multiple and multiple > 1:
            yield (
                f"group '{group.name}' stays whole: its {group.size} units are no more than one "
                f"multiple of {multiple}"
            )


__all__ = [
    "FORMAT",
    "VERSION",
    "Budget",
    "GroupPlan",
    "Masks",
    "Plan",
    "Ranking",
    "RemovedUnit",
    "alignment",
    "make_plan",
]
