"""What plan and scores say of a unit and of its rivals."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from edgeprune.analysis.explanation import Decision, Rival, Standing
from edgeprune.attribution.scores import Scores
from edgeprune.attribution.storage import load_scores
from edgeprune.axes import ChannelGroup
from edgeprune.errors import DataError, EdgepruneError, PlanError, UsageError
from edgeprune.pipeline.opening import Opened
from edgeprune.plan_document import GroupPlan, Plan

RIVALS: Final = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What is at hand beside the model.

    Attributes:
        plan: that cut it, or None.
        scores: of its units, or None.
        notes: what is missing and why.
    """

    plan: Plan | None
    scores: Scores | None
    notes: tuple[str, ...]


def find_unit(groups: Sequence[ChannelGroup], unit: str) -> tuple[ChannelGroup, int]:
    """Read ``GROUP:INDEX``.

    Raises:
        UsageError: it is none, or the model has no such group or unit.
    """
    group, _, index = unit.rpartition(":")
    names = {each.name: each for each in groups}
    if unit in names or not index.isdecimal():
        raise UsageError(
            f"'{unit}' names no unit: give GROUP:INDEX, as '{unit if unit in names else 'conv1'}:0'"
            "; `edgeprune inspect` lists the groups"
        )
    if group not in names:
        near = difflib.get_close_matches(group, names, n=1)
        hint = f"did you mean '{near[0]}:{index}'? " if near else ""
        raise UsageError(f"no channel group '{group}': {hint}`edgeprune inspect` lists the groups")
    found = names[group]
    if int(index) >= found.size:
        raise UsageError(
            f"group '{group}' has {found.size} units, numbered from 0 to {found.size - 1}; "
            f"there is no unit {index}"
        )
    return found, int(index)


def find_evidence(opened: Opened, groups: Sequence[ChannelGroup], scores: Path | None) -> Evidence:
    """Read the plan of the model's bundle, and scores that are given or lie beside it.

    Raises:
        PlanError: the plan is damaged, or of another model.
        DataError: the scores are damaged, or of another model.
    """
    if opened.dense.plan is not None:
        note = "a slim model: its units were numbered anew by the cut, and all are kept"
        found = None if scores is None else _read_scores(scores, groups)
        return Evidence(plan=None, scores=found, notes=(note,))
    plan = _read_plan(opened.bundle / "plan.json", groups) if opened.bundle else None
    if scores is not None:
        return Evidence(plan=plan, scores=_read_scores(scores, groups), notes=())
    advice = "give a folder that `edgeprune score` wrote by --scores"
    if opened.bundle is None:
        return Evidence(plan=plan, scores=None, notes=(f"there are no scores: {advice}",))
    try:
        beside = _read_scores(Path(f"{opened.bundle.resolve()}.work") / "scores", groups)
    except EdgepruneError as error:  # nobody asked for these, so it goes on without
        return Evidence(plan=plan, scores=None, notes=(f"without scores ({error}): {advice}",))
    return Evidence(plan=plan, scores=beside, notes=())


def decision(evidence: Evidence, group: str, unit: int) -> Decision | None:
    """Return what the plan says of a unit, or None without a plan."""
    planned = _planned(evidence, group)
    if planned is None:
        return None
    removed = {each.unit: each for each in planned.removed}.get(unit)
    return Decision(
        removed=removed is not None,
        kept=len(planned.kept),
        rank=removed.rank if removed else None,
        reason=removed.reason if removed else "",
    )


def standing(evidence: Evidence, group: str, unit: int) -> Standing | None:
    """Return how a unit scores among all others, or None without scores."""
    scores = evidence.scores
    if scores is None:
        return None
    (row,) = (row for row in scores.rows() if (row.group, row.unit) == (group, unit))
    names = scores.classes or tuple(str(index) for index in range(len(row.per_class)))
    return Standing(
        criterion=scores.criterion,
        score=row.score,
        rank=row.rank,
        rank_in_group=row.rank_in_group,
        units=sum(len(values) for values in scores.values.values()),
        most=row.most,
        per_class=dict(zip(names, row.per_class, strict=bool(row.per_class))),
    )


def alike(responses: Tensor, unit: int) -> list[float | None]:
    """Correlate the responses (N, size) of each unit with one; None where either is constant."""
    centred = responses.double() - responses.double().mean(0)
    norms = centred.norm(dim=0)
    product = centred.T @ centred[:, unit]
    scale = norms * norms[unit]
    return [
        float(p / s) if s > 0 else None
        for p, s in zip(product.tolist(), scale.tolist(), strict=True)
    ]


def rivals_by_score(
    evidence: Evidence,
    group: ChannelGroup,
    unit: int,
    similar: Sequence[float | None],
    most: Sequence[str],
) -> tuple[Rival, ...]:
    """Return the units on the other side of the plan's decision that score nearest to it.

    For one that goes the weakest that stay, for one that stays the strongest
    that go; without a plan those of the nearest scores. None without scores.
    """
    if evidence.scores is None:
        return ()
    values = evidence.scores[group.name].numpy()
    kept = _kept(evidence, group)
    others = [u for u in range(group.size) if u != unit]
    if kept is not None:
        others = [u for u in others if (u in kept) != (unit in kept)]
        toward = 1 if unit not in kept else -1
        others.sort(key=lambda u: toward * values[u])
    else:
        others.sort(key=lambda u: abs(values[u] - values[unit]))
    return tuple(_rival(evidence, group, u, similar, most) for u in others[:RIVALS])


def rivals_by_response(
    evidence: Evidence,
    group: ChannelGroup,
    unit: int,
    similar: Sequence[float | None],
    most: Sequence[str],
) -> tuple[Rival, ...]:
    """Return the units that respond most alike, of those that stay if there is a plan."""
    kept = _kept(evidence, group)
    others = [
        (value, u)
        for u, value in enumerate(similar)
        if u != unit and value is not None and (kept is None or u in kept)
    ]
    best = sorted(others, key=lambda pair: -pair[0])[:RIVALS]
    return tuple(_rival(evidence, group, u, similar, most) for _, u in best)


def _rival(
    evidence: Evidence,
    group: ChannelGroup,
    unit: int,
    similar: Sequence[float | None],
    most: Sequence[str],
) -> Rival:
    kept, scores = _kept(evidence, group), evidence.scores
    return Rival(
        unit=unit,
        kept=None if kept is None else unit in kept,
        score=None if scores is None else float(scores[group.name][unit]),
        alike=similar[unit],
        most=most[unit],
    )


def _planned(evidence: Evidence, group: str) -> GroupPlan | None:
    groups = evidence.plan.groups if evidence.plan else ()
    return next((each for each in groups if each.name == group), None)


def _kept(evidence: Evidence, group: ChannelGroup) -> frozenset[int] | None:
    planned = _planned(evidence, group.name)
    return None if planned is None else frozenset(planned.kept)


def _read_plan(path: Path, groups: Sequence[ChannelGroup]) -> Plan:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"'{path}' cannot be read: {error}") from None
    plan = Plan.from_dict(document)
    plan.masks(groups)
    return plan


def _read_scores(folder: Path, groups: Sequence[ChannelGroup]) -> Scores:
    if not (folder / "scores.json").is_file():
        raise DataError(f"'{folder.name}' holds no scores")
    scores = load_scores(folder)
    for group in groups:
        values = scores.values.get(group.name)
        if values is None or len(values) != group.size:
            raise DataError(
                f"the scores in '{folder.name}' are of another model: group '{group.name}' has "
                f"{group.size} units here"
            )
    return scores
