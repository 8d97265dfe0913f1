"""Which units go: from scores and a budget to a document that can be reviewed.

A plan lists what every channel group keeps, and for each removed unit its
score, its rank and the reason. Widths end on multiples that the target's
kernels like. Invariant: a plan never empties a group, and its predicted
parameters and MACs are those of the cut model.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from edgeprune.attribution.scores import Scores
from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.axes.groups import ChannelGroup
from edgeprune.capture import Captured, trainable
from edgeprune.errors import PlanError, UsageError

FORMAT: Final = "edgeprune-plan"
VERSION: Final = 1

Ranking = Literal["global", "group", "cost"]
Masks = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the cut model may cost, as a share of the dense model; exactly one is given.

    Attributes:
        keep: share of units.
        macs: share of multiply-accumulates.
        params: share of parameters.
        floors: least share of units to keep, by pattern of group names.
    """

    keep: float | None = None
    macs: float | None = None
    params: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse no budget, several, and shares outside (0, 1]."""
        given = {k: v for k in ("keep", "macs", "params") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            names = ", ".join(f"{k} {v:g}" for k, v in given.items()) or "none"
            raise UsageError(f"give exactly one budget of keep, macs and params; seen: {names}")
        for name, share in (given | dict(self.floors)).items():
            if not 0 < share <= 1:
                raise UsageError(
                    f"{name} {share:g} is not a share: give a number above 0 and at most 1, "
                    "as 0.5 for half of the dense model"
                )

    @property
    def kind(self) -> str:
        """Which of the three is given."""
        return next(k for k in ("keep", "macs", "params") if getattr(self, k) is not None)

    @property
    def share(self) -> float:
        """The share that is given."""
        return float(getattr(self, self.kind))


@dataclass(frozen=True, kw_only=True)
class RemovedUnit:
    """One unit that goes: its index in the group, and why it and not another."""

    unit: int
    score: float
    rank: int
    most: str | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """What one channel group keeps."""

    name: str
    kind: str
    size: int
    kept: tuple[int, ...]
    removed: tuple[RemovedUnit, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Kept indices per channel group, and why every other unit goes.

    Attributes:
        groups: one entry per channel group, in the order of the graph.
        made_from: criterion, ranking, budget and alignment.
        dense: parameters and MACs of the dense model.
        predicted: parameters and MACs of the cut model.
        notes: what could not be done as asked.
    """

    groups: tuple[GroupPlan, ...]
    made_from: Mapping[str, Any]
    dense: Mapping[str, int]
    predicted: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def units_total(self) -> int:
        """Number of units in all groups."""
        return sum(group.size for group in self.groups)

    @property
    def units_removed(self) -> int:
        """Number of units that go."""
        return sum(len(group.removed) for group in self.groups)

    def masks(self, groups: Iterable[ChannelGroup]) -> Masks:
        """Return for each group which units stay, (size,) of bool.

        Raises:
            PlanError: the plan was made for a model with other groups.
        """
        sizes = {group.name: group.size for group in groups}
        masks: Masks = {}
        for group in self.groups:
            if sizes.get(group.name) != group.size:
                raise PlanError(
                    f"the plan's group '{group.name}' has {group.size} units; this model's has "
                    f"{sizes.get(group.name, 'none')}: the plan belongs to another model"
                )
            mask = np.zeros(group.size, np.bool_)
            mask[list(group.kept)] = True
            if not mask.any():
                raise PlanError(
                    f"the plan keeps nothing of group '{group.name}'; keep at least one"
                )
            masks[group.name] = mask
        return masks

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "made_from": dict(self.made_from),
            "dense": dict(self.dense),
            "predicted": dict(self.predicted),
            "notes": list(self.notes),
            "groups": [
                {
                    "name": g.name,
                    "kind": g.kind,
                    "size": g.size,
                    "kept": list(g.kept),
                    "removed": [vars(unit) for unit in g.removed],
                }
                for g in self.groups
            ],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` returned.

        Raises:
            PlanError: it is not a plan, or one of a newer version.
        """
        if document.get("format") != FORMAT or document.get("version") != VERSION:
            raise PlanError(
                f"this is {document.get('format')} version {document.get('version')}; "
                f"a plan is {FORMAT} version {VERSION}"
            )
        return cls(
            groups=tuple(
                GroupPlan(
                    name=g["name"],
                    kind=g["kind"],
                    size=g["size"],
                    kept=tuple(g["kept"]),
                    removed=tuple(RemovedUnit(**unit) for unit in g["removed"]),
                )
                for g in document["groups"]
            ),
            made_from=document["made_from"],
            dense=document["dense"],
            predicted=document["predicted"],
            notes=tuple(document["notes"]),
        )


def make_plan(
    dense: Captured,
    scores: Scores,
    budget: Budget,
    *,
    align: int = 1,
    ranking: Ranking = "global",
) -> Plan:
    """Choose the units that go: the lowest scores first, until the budget is met.

    Args:
        dense: the model that was scored.
        scores: one number per unit and channel group.
        budget: what the cut model may cost.
        align: widths end on multiples of this (or stay whole); 1 for any width.
        ranking: ``global`` compares all units with each other, ``group`` takes
            the same share from each group, ``cost`` compares scores per unit of
            what the budget counts.

    Raises:
        PlanError: no plan meets the budget, or scores are not numbers.
        UsageError: an alignment or ranking that does not exist.
    """
    if align < 1 or ranking not in get_args(Ranking):
        raise UsageError(
            f"align {align}, ranking '{ranking}': align is 1 or more, "
            f"ranking one of {', '.join(get_args(Ranking))}"
        )
    analysis = analyse(dense)
    _check_scores(analysis, scores)
    search = _Search(
        analysis=analysis, names=trainable(dense.module), scores=scores, budget=budget, align=align
    )
    counts = search.counts(ranking)
    return _document(search, counts, ranking)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Finds how many units each group keeps."""

    analysis: Analysis
    names: frozenset[str]
    scores: Scores
    budget: Budget
    align: int

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

    def counts(self, ranking: Ranking) -> dict[str, int]:
        """Return how many units each group keeps: as many as the budget allows."""
        groups = self.analysis.groups
        if ranking == "group":
            steps = 1000

            def at(step: int) -> dict[str, int]:
                return {g.name: self.width(g, round(g.size * (1 - step / steps))) for g in groups}
        else:
            owner, size = self.ranked(ranking)
            steps = len(owner)

            def at(step: int) -> dict[str, int]:
                gone = np.bincount(owner[:step], minlength=len(groups))
                return {g.name: self.width(g, int(size[i] - gone[i])) for i, g in enumerate(groups)}

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

    def ranked(self, ranking: Ranking) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the owning group of every unit, worst unit first, and all group sizes."""
        groups = self.analysis.groups
        price = self._prices() if ranking == "cost" else np.ones(len(groups))
        owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
        values = np.concatenate(
            [self.scores[g.name].numpy() / price[i] for i, g in enumerate(groups)]
        )
        return owner[np.argsort(values, kind="stable")], np.array([g.size for g in groups])

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
        least = max(1, *(self._floor(group)))
        if group.size <= max(multiple, least):
            return group.size
        lower = max(-(-least // multiple) * multiple, multiple)
        nearest = int(wanted / multiple + 0.5) * multiple
        if wanted > group.size - group.size % multiple and wanted == group.size:
            return group.size
        return min(max(nearest, lower), group.size)

    def _floor(self, group: ChannelGroup) -> list[int]:
        floors = self.budget.floors.items()
        return [
            int(np.ceil(s * group.size)) for p, s in floors if fnmatch.fnmatch(group.name, p)
        ] or [1]


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


def _check_scores(analysis: Analysis, scores: Scores) -> None:
    for group in analysis.groups:
        values = scores.values.get(group.name)
        if values is None or tuple(values.shape) != (group.size,):
            seen = "none" if values is None else str(tuple(values.shape))
            raise PlanError(f"group '{group.name}' needs {group.size} scores; seen: {seen}")
        if not bool(values.isfinite().all()):
            raise PlanError(f"scores of group '{group.name}' are not all finite; score again")


def _document(search: _Search, counts: Mapping[str, int], ranking: Ranking) -> Plan:
    analysis = search.analysis
    masks = search.masks(counts)
    kept = analysis.kept(masks)
    owner, _ = search.ranked("global" if ranking == "group" else ranking)
    ranks = _ranks(search, owner)
    budget = search.budget
    return Plan(
        groups=tuple(
            _group_plan(search, g, masks[g.name], ranks, ranking) for g in analysis.groups
        ),
        made_from={
            "criterion": search.scores.criterion,
            "sampler": search.scores.sampler,
            "samples": list(search.scores.samples),
            "ranking": ranking,
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


def _ranks(search: _Search, owner: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the rank of every unit in the order that decided: 1 goes first."""
    places: dict[str, NDArray[np.int64]] = {}
    for index, group in enumerate(search.analysis.groups):
        ranks = np.empty(group.size, np.int64)
        ranks[search.order(group)[::-1]] = np.flatnonzero(owner == index) + 1
        places[group.name] = ranks
    return places


def _group_plan(
    search: _Search,
    group: ChannelGroup,
    mask: NDArray[np.bool_],
    ranks: Mapping[str, NDArray[np.int64]],
    ranking: Ranking,
) -> GroupPlan:
    scores = search.scores[group.name].numpy()
    most = search.scores.most_affected(group.name)
    weakest = float(scores[mask].min())
    order = {
        "global": "of all units",
        "cost": "of all units by score per cost",
        "group": "of its group",
    }
    total = group.size if ranking == "group" else sum(g.size for g in search.analysis.groups)
    place = ranks[group.name]
    if ranking == "group":
        place = np.argsort(search.order(group)[::-1]) + 1
    removed = tuple(
        RemovedUnit(
            unit=int(unit),
            score=float(f"{scores[unit]:.6g}"),
            rank=int(place[unit]),
            most=most[unit] if most else None,
            reason=f"rank {place[unit]} of {total} {order[ranking]}; "
            f"the weakest kept unit of its group scores {weakest:.3g}",
        )
        for unit in np.flatnonzero(~mask)
    )
    return GroupPlan(
        name=group.name,
        kind=group.kind,
        size=group.size,
        kept=tuple(np.flatnonzero(mask).tolist()),
        removed=removed,
    )


def _notes(search: _Search) -> Iterable[str]:
    for group in search.analysis.groups:
        multiple = alignment(group, search.align)
        if 1 < group.size <= multiple and multiple > 1:
            yield (
                f"group '{group.name}' stays whole: its {group.size} units are no more than one "
                f"multiple of {multiple}"
            )
