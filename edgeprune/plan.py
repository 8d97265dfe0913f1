"""Which units go: from scores and a budget to a plan.

Invariant: a plan never empties a group, its widths end on the multiples asked
for, and its predicted parameters and MACs are those of the cut model.
"""

from typing import Any, Final, get_args

import numpy as np

from edgeprune.alignment import alignment, summarised, unaligned
from edgeprune.attribution.scores import Scores
from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.budget import Budget
from edgeprune.capture import Captured, trainable
from edgeprune.errors import PlanError, UsageError
from edgeprune.evidence import Evidence
from edgeprune.limits import find_limits
from edgeprune.obstacles import obstacles
from edgeprune.plan_document import FORMAT, VERSION, GroupPlan, KeptUnit, Plan, RemovedUnit
from edgeprune.widths import Masks, Ranking, Search

REASONS_SHOWN: Final = 3


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
        budget: what the cut model may cost, and where that may be saved.
        align: widths end on multiples of this; 1 for any width. A group that
            cannot be aligned says why in its entry, and the plan's notes sum up.
        ranking: ``cost`` compares scores per unit of what the budget counts
            (with a budget of units the same as ``global``), ``global`` compares
            scores as they are, ``group`` takes the same share from each group.

    Raises:
        PlanError: no plan meets the budget, or scores are not numbers.
        UsageError: an alignment or ranking that does not exist, a pattern of the
            budget that matches nothing, or limits that contradict each other.
    """
    if align < 1 or ranking not in get_args(Ranking):
        raise UsageError(
            f"align {align}, ranking '{ranking}': align is 1 or more, "
            f"ranking one of {', '.join(get_args(Ranking))}"
        )
    analysis, names = analyse(dense), trainable(dense.module)
    _check_groups(analysis, names)
    _check_scores(analysis, scores)
    search = Search(
        analysis=analysis,
        names=names,
        scores=scores,
        budget=budget,
        limits=find_limits(analysis.groups, budget, tuple(analysis.parameters)),
        align=align,
        ranking=ranking,
    )
    return _document(search, search.masks(search.counts()))


def _check_groups(analysis: Analysis, names: frozenset[str]) -> None:
    if analysis.groups:
        return
    found = obstacles(analysis, names)
    first, rest = found[:REASONS_SHOWN], found[REASONS_SHOWN:]
    reasons = "; ".join(each.reason for each in first) or "it has no channels"
    more = f"; and {len(rest)} more, see `edgeprune inspect`" if rest else ""
    raise PlanError(f"nothing can be removed from this model: {reasons}{more}")


def _check_scores(analysis: Analysis, scores: Scores) -> None:
    for group in analysis.groups:
        values = scores.values.get(group.name)
        if values is None or tuple(values.shape) != (group.size,):
            seen = "none" if values is None else str(tuple(values.shape))
            raise PlanError(f"group '{group.name}' needs {group.size} scores; seen: {seen}")
        if not bool(values.isfinite().all()):
            raise PlanError(f"scores of group '{group.name}' are not all finite; score again")


def _document(search: Search, masks: Masks) -> Plan:
    analysis = search.analysis
    kept = analysis.kept(masks)
    evidence = Evidence.of(search, masks)
    notes = unaligned(analysis, masks, search.limits, search.align)
    return Plan(
        groups=tuple(
            GroupPlan(
                name=group.name,
                kind=group.kind,
                size=group.size,
                kept=tuple(np.flatnonzero(masks[group.name]).tolist()),
                removed=evidence.removed(group),
                weakest_kept=evidence.weakest(group),
                note=notes.get(group.name),
            )
            for group in analysis.groups
        ),
        made_from=_made_from(search),
        dense={
            "params": analysis.count_parameters(search.names),
            "macs": analysis.count_macs(),
        },
        predicted={
            "params": analysis.count_parameters(search.names, kept),
            "macs": analysis.count_macs(kept),
        },
        notes=tuple(summarised(notes)),
        weakest_kept=evidence.weakest_of_all(),
    )


def _made_from(search: Search) -> dict[str, Any]:
    scores = search.scores
    return {
        "criterion": scores.criterion,
        "aggregate": scores.aggregate,
        "classes": list(scores.classes),
        "counts": list(scores.counts),
        "sampler": scores.sampler,
        "samples": list(scores.samples),
        "sha256": list(scores.hashes),
        "ranking": search.ranking,
        "budget": search.budget.to_dict(),
        "align": search.align,
    }


__all__ = [
    "FORMAT",
    "VERSION",
    "Budget",
    "GroupPlan",
    "KeptUnit",
    "Masks",
    "Plan",
    "Ranking",
    "RemovedUnit",
    "alignment",
    "make_plan",
]
