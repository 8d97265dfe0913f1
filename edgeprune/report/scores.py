"""The page that shows scores: every layer, and the units of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.attribution.scores import LayerScore, Scores
from edgeprune.report import formats
from edgeprune.report.page import render
from edgeprune.report.plots import Scale, Tick, line

POINTS: Final = 160  # of a curve: as many as can be told apart on a page
ENDS: Final = 8  # units listed at either end
CLASSES: Final = 12  # drawn by group; of more the largest


@dataclass(frozen=True, kw_only=True)
class ClassBar:
    """A class, and what one of its images adds to a layer, against the other classes."""

    name: str
    width: float
    share: str


@dataclass(frozen=True, kw_only=True)
class GroupPlot:
    """One channel group.

    ``width`` is the length of the layer's bar in per cent; ``area`` and ``curve``
    are paths over the sorted scores, ``zero`` and ``median`` places from the top.
    """

    name: str
    kind: str
    size: int
    total: str
    mean: str
    share: str
    width: float
    area: str
    curve: str
    zero: float
    median: float
    up: tuple[Tick, ...]
    classes: tuple[ClassBar, ...]


@dataclass(frozen=True, kw_only=True)
class RankedUnit:
    """A unit at either end of the order."""

    name: str
    score: str
    most: str


@dataclass(frozen=True, kw_only=True)
class ScorePage:
    """Everything the template shows."""

    model: str
    facts: tuple[tuple[str, str], ...]
    looked_at: str
    groups: tuple[GroupPlot, ...]
    lowest: tuple[RankedUnit, ...]
    highest: tuple[RankedUnit, ...]
    units: int


def score_page(scores: Scores, *, model: str, facts: Sequence[tuple[str, str]] = ()) -> str:
    """Draw scores as one HTML page that opens offline.

    facts: how the scores came about, as names and values.
    """
    layers = scores.layers
    whole = sum(abs(layer.total) for layer in layers)
    largest = max((abs(layer.total) for layer in layers), default=0.0)
    lowest, highest = _ends(scores)
    page = ScorePage(
        model=model,
        facts=tuple(facts),
        looked_at=formats.count(len(scores.samples)) if scores.samples else "",
        groups=tuple(_plot(scores, layer, whole, largest) for layer in layers),
        lowest=lowest,
        highest=highest,
        units=sum(layer.size for layer in layers),
    )
    return render("scores.html", page=page)


def _plot(scores: Scores, layer: LayerScore, whole: float, largest: float) -> GroupPlot:
    values = np.sort(scores[layer.group].numpy())[::-1]
    scale = Scale(low=min(0.0, float(values[-1])), high=max(0.0, float(values[0])))
    curve = _curve(values, scale)
    zero = scale.down(0.0)
    ticks = {scale.high, 0.0, scale.low}
    return GroupPlot(
        name=layer.group,
        kind=layer.kind,
        size=layer.size,
        total=formats.small(layer.total),
        mean=formats.small(layer.mean),
        share=formats.percent(layer.total / whole) if whole else "",
        width=round(100 * abs(layer.total) / largest, 2) if largest else 0.0,
        area=f"M0 {zero:g} L{curve[1:]} L100 {zero:g}Z",
        curve=curve,
        zero=zero,
        median=scale.down(float(np.median(values))),
        up=tuple(Tick(at=scale.down(v), label=formats.small(v)) for v in sorted(ticks)),
        classes=_classes(scores, layer),
    )


def _curve(values: NDArray[np.float64], scale: Scale) -> str:
    """Return the path over sorted values, as steps of one unit or thinned out."""
    picked = np.unique(np.linspace(0, len(values) - 1, POINTS).round().astype(int))
    step = 100 / len(values)
    points = []
    for index in picked.tolist():
        height = scale.down(float(values[index]))
        points += [(round(index * step, 2), height), (round((index + 1) * step, 2), height)]
    return line(points)


def _classes(scores: Scores, layer: LayerScore) -> tuple[ClassBar, ...]:
    """Return what an image of each class adds to a layer, as shares of all classes."""
    counts = scores.counts or (1,) * len(layer.per_class)
    names = scores.classes or tuple(str(index) for index in range(len(layer.per_class)))
    each = [
        (name, abs(total) / count)
        for name, total, count in zip(names, layer.per_class, counts, strict=True)
        if total is not None
    ]
    whole = sum(value for _, value in each)
    if not whole:
        return ()
    largest = max(value for _, value in each)
    shown = sorted(each, key=lambda pair: -pair[1])[:CLASSES]
    return tuple(
        ClassBar(
            name=name,
            width=round(100 * value / largest, 2),
            share=formats.percent(value / whole, 0),
        )
        for name, value in each
        if (name, value) in shown
    )


def _ends(scores: Scores) -> tuple[tuple[RankedUnit, ...], tuple[RankedUnit, ...]]:
    """Return the units of the lowest and of the highest scores, outermost first."""
    rows = sorted(scores.rows(), key=lambda row: row.rank)
    units = [
        RankedUnit(
            name=f"{row.group}:{row.unit}", score=formats.small(row.score), most=row.most or ""
        )
        for row in rows
    ]
    count = min(ENDS, len(units) // 2)
    return tuple(units[:count]), tuple(units[::-1][:count])
