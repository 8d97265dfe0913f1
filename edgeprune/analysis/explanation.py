"""Everything that is known about one unit, before it is drawn or printed."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PICTURES: Final = ("pixels", "map", "mask")


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownImage:
    """An image, and what the unit makes of it.

    Attributes:
        id: of the image in its data set.
        label: its class or findings.
        response: of the unit, in units of its value.
        attribution: of the decision for the true class to the unit.
        pixels: as the model sees them, uint8 (H, W, C).
        map: where it drives the unit, (h, w) in -1 to 1.
        mask: where the finding is, bool (H, W), or None where the data do not know.
    """

    id: str
    label: str
    response: float
    attribution: float
    pixels: NDArray[np.uint8]
    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, kw_only=True)
class ClassResponse:
    """The images of one class; all but the counts are means over them.

    Attributes:
        name: the class.
        images: how many were looked at.
        response: of the unit.
        attribution: of the decision to the unit.
        loss: how much it rises without the unit, in nats.
        changed: images whose answer is another one without the unit.
    """

    name: str
    images: int
    response: float
    attribution: float
    loss: float
    changed: int


@dataclass(frozen=True, kw_only=True)
class Rival:
    """Another unit of the same group.

    Attributes:
        unit: its index.
        kept: whether the plan keeps it; None without a plan.
        score: None without scores.
        alike: correlation of both units' responses over the images; None where one of
            them never changes.
        most: the class whose images drive it most.
    """

    unit: int
    kept: bool | None
    score: float | None
    alike: float | None
    most: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the plan says of the unit.

    Attributes:
        removed: whether it goes.
        kept: units of its group that stay.
        rank: in the order in which units go, or None for one that stays.
        reason: why it goes; empty for one that stays.
    """

    removed: bool
    kept: int
    rank: int | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The unit's score among all others.

    Attributes:
        criterion: what the scores are by.
        score: larger for what matters more.
        rank: of ``units``, 1 for the lowest score.
        rank_in_group: likewise, of the group.
        units: in all groups.
        most: the class it matters most to, or None.
        per_class: its score for each class.
    """

    criterion: str
    score: float
    rank: int
    rank_in_group: int
    units: int
    most: str | None
    per_class: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What one unit responds to, and what the model has of it.

    Attributes:
        model: whose unit it is.
        group, kind, unit, size: the channel group and the unit's index in it.
        reader: the module or operator where its value was seen.
        averaged: whether a response is a mean absolute value instead of the largest value.
        where: how the heat maps came about.
        criterion: how the attributions came about.
        data, split: the images.
        images: how many were looked at.
        decision: of the plan, or None without one.
        standing: of the scores, or None without.
        loss, changed: what removing this unit alone does: the mean rise of the loss in
            nats, and the images whose answer changes.
        classes: by class.
        strongest: the images that drive it most; empty if none does.
        speaks_for, speaks_against: those whose decision for the true class it supports or
            opposes most.
        by_score: the nearest rivals by score.
        by_response: those that respond most alike.
    """

    model: str
    group: str
    kind: str
    unit: int
    size: int
    reader: str
    averaged: bool
    where: str
    criterion: str
    data: str
    split: str
    images: int
    decision: Decision | None
    standing: Standing | None
    loss: float
    changed: int
    classes: tuple[ClassResponse, ...]
    strongest: tuple[ShownImage, ...]
    speaks_for: tuple[ShownImage, ...]
    speaks_against: tuple[ShownImage, ...]
    by_score: tuple[Rival, ...]
    by_response: tuple[Rival, ...]

    @property
    def name(self) -> str:
        """``GROUP:INDEX``, as plans and scores name it."""
        return f"{self.group}:{self.unit}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, without the pictures."""
        return {"name": self.name} | _values(self)


def _values(value: object) -> dict[str, Any]:
    names = [field.name for field in fields(value)]  # type: ignore[arg-type] # a dataclass
    return {name: _value(getattr(value, name)) for name in names if name not in PICTURES}


def _value(value: object) -> object:
    if isinstance(value, tuple):
        return [_values(each) for each in value]
    if isinstance(value, Mapping):
        return dict(value)
    return _values(value) if hasattr(value, "__dataclass_fields__") else value
