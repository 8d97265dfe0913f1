"""A plan as a document: it can be reviewed, edited, signed, and applied again.

It lists what every channel group keeps, and for each removed unit its score,
its rank, the reason, and how it compares with what stays. Invariant: a document
that contradicts itself, or was made for another model, is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edgeprune.axes.groups import ChannelGroup
from edgeprune.errors import PlanError
from edgeprune.widths import Masks

FORMAT: Final = "edgeprune-plan"
VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class KeptUnit:
    """The weakest unit that stays, which those that go are held against."""

    group: str
    unit: int
    score: float
    rank: int


@dataclass(frozen=True, kw_only=True)
class RemovedUnit:
    """One unit that goes, and why it and not another.

    Attributes:
        unit: its index in the group.
        score: how much it carries.
        rank: its place in the order that decided; 1 goes first.
        most: the class that it mattered most to, if that is known.
        reason: why it goes, in words.
        margin: how much more the weakest unit kept of its group scores.
        ratio: its score as a share of that one's, if both are above 0.
        overtook: units of all groups that stay though they rank below it: those
            that widths, alignment and limits keep.
        per_class: its score for each class, in the order of the classes of
            ``made_from``; None for a class without images; empty where unknown.
    """

    unit: int
    score: float
    rank: int
    most: str | None
    reason: str
    margin: float | None = None
    ratio: float | None = None
    overtook: int | None = None
    per_class: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """What one channel group keeps, and why not a width that was asked for.

    Attributes:
        name: of the group.
        kind: of the group.
        size: units of the dense model.
        kept: those that stay.
        removed: those that go.
        weakest_kept: of those that stay, the one that would have gone next.
        note: why the width is not what was asked for, or None.
    """

    name: str
    kind: str
    size: int
    kept: tuple[int, ...]
    removed: tuple[RemovedUnit, ...]
    weakest_kept: KeptUnit | None = None
    note: str | None = None

    def mask(self) -> NDArray[np.bool_]:
        """Return which units stay, (size,) of bool.

        Raises:
            PlanError: none stays, or one that does not exist.
        """
        if not self.kept or not 0 <= min(self.kept) <= max(self.kept) < self.size:
            raise PlanError(
                f"the plan keeps {len(self.kept)} units of group '{self.name}'; keep at least "
                f"one, numbered from 0 to {self.size - 1}"
            )
        mask = np.zeros(self.size, np.bool_)
        mask[list(self.kept)] = True
        return mask


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Kept indices per channel group, and why every other unit goes.

    Attributes:
        groups: one entry per channel group, in the order of the graph.
        made_from: criterion, images scored, ranking, budget and alignment.
        dense: parameters and MACs of the dense model.
        predicted: parameters and MACs of the cut model.
        notes: what could not be done as asked.
        weakest_kept: of all units that stay, the one that ranks lowest.
    """

    groups: tuple[GroupPlan, ...]
    made_from: Mapping[str, Any]
    dense: Mapping[str, int]
    predicted: Mapping[str, int]
    notes: tuple[str, ...] = ()
    weakest_kept: KeptUnit | None = None

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
        planned = {group.name: group.size for group in self.groups}
        for name in sizes | planned:
            if sizes.get(name) != planned.get(name):
                raise PlanError(
                    f"the plan's group '{name}' has {planned.get(name, 'no')} units; this "
                    f"model's has {sizes.get(name, 'none')}: the plan belongs to another model"
                )
        return {group.name: group.mask() for group in self.groups}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "made_from": dict(self.made_from),
            "dense": dict(self.dense),
            "predicted": dict(self.predicted),
            "notes": list(self.notes),
            "weakest_kept": _written_kept(self.weakest_kept),
            "groups": [_written(group) for group in self.groups],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` returned.

        Raises:
            PlanError: it is not a plan, one of a newer version, or one that
                contradicts itself.
        """
        if document.get("format") != FORMAT or document.get("version") != VERSION:
            raise PlanError(
                f"this is {document.get('format')} version {document.get('version')}; "
                f"a plan is {FORMAT} version {VERSION}"
            )
        try:
            return cls(
                groups=tuple(_read_group(group) for group in document["groups"]),
                made_from=document["made_from"],
                dense=document["dense"],
                predicted=document["predicted"],
                notes=tuple(document["notes"]),
                weakest_kept=_read_kept(document.get("weakest_kept")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"the plan is damaged: {type(error).__name__} {error}") from error


def _written(group: GroupPlan) -> dict[str, Any]:
    return {
        "name": group.name,
        "kind": group.kind,
        "size": group.size,
        "note": group.note,
        "kept": list(group.kept),
        "weakest_kept": _written_kept(group.weakest_kept),
        "removed": [_written_unit(unit) for unit in group.removed],
    }


def _written_unit(unit: RemovedUnit) -> dict[str, Any]:
    return {**vars(unit), "per_class": list(unit.per_class)}


def _written_kept(unit: KeptUnit | None) -> dict[str, Any] | None:
    return None if unit is None else dict(vars(unit))


def _read_unit(document: Mapping[str, Any]) -> RemovedUnit:
    return RemovedUnit(**{**document, "per_class": tuple(document.get("per_class", ()))})


def _read_kept(document: Mapping[str, Any] | None) -> KeptUnit | None:
    return None if document is None else KeptUnit(**document)


def _read_group(document: Mapping[str, Any]) -> GroupPlan:
    group = GroupPlan(
        name=document["name"],
        kind=document["kind"],
        size=document["size"],
        kept=tuple(document["kept"]),
        removed=tuple(_read_unit(unit) for unit in document["removed"]),
        weakest_kept=_read_kept(document.get("weakest_kept")),
        note=document.get("note"),
    )
    gone = [unit.unit for unit in group.removed]
    if sorted([*group.kept, *gone]) != list(range(group.size)):
        raise PlanError(
            f"group '{group.name}' lists {len(group.kept)} units as kept and {len(gone)} as "
            f"removed; each of its {group.size} must be in exactly one of the two lists"
        )
    return group
