"""How accuracy came back after the cut, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.report import formats
from edgeprune.report.document import Document, Documents
from edgeprune.report.plots import Point, Scale, Tick, line, scale_over, steps


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line with its meaning."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity over epochs; a series is a name, a path and its points."""

    title: str
    series: tuple[tuple[str, str, tuple[Point, ...]], ...]
    levels: tuple[Level, ...]
    best: float | None
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """The fifth section."""

    metric: Curve | None
    loss: Curve | None
    sentence: str


def recovery(documents: Documents) -> Recovery:
    """Draw the curves of a recovery; none where nothing was recovered."""
    seen = documents.bundle.at("recovery") or documents.record.at("recovery")
    history = seen.each("history")
    best = seen.number("best_epoch")
    dense, cut = seen.number("before", "dense"), seen.number("before", "cut")
    metric = _series(history, "val_metric")
    if cut is not None and metric and all(epoch > 0 for epoch, _ in metric):
        metric = [(0.0, cut), *metric]
    losses = [(n, s) for key, n in LOSSES if (s := _series(history, key))]
    levels = [(dense, "dense")] if dense is not None else []
    return Recovery(
        metric=_curve("Validation, by epoch", [("validation", metric)], levels, best, percent=True)
        if metric
        else None,
        loss=_curve("Loss, by epoch", losses, [], best, percent=False) if losses else None,
        sentence=_sentence(dense, cut, best, metric),
    )


LOSSES = (("train_loss", "training"), ("val_loss", "validation"))
Series = list[tuple[float, float]]


def _series(history: Sequence[Document], key: str) -> Series:
    pairs = ((entry.number("epoch"), entry.number(key)) for entry in history)
    return [(epoch, value) for epoch, value in pairs if epoch is not None and value is not None]


def _curve(
    title: str,
    series: list[tuple[str, Series]],
    levels: list[tuple[float, str]],
    best: float | None,
    *,
    percent: bool,
) -> Curve:
    epochs = [epoch for _, points in series for epoch, _ in points]
    values = [value for _, points in series for _, value in points]
    up = scale_over([*values, *(value for value, _ in levels)])
    across = Scale(low=min(epochs), high=max(epochs))
    drawn = []
    for name, points in series:
        places = tuple((across(epoch), up.down(value)) for epoch, value in points)
        drawn.append((name, line(places), places))
    return Curve(
        title=title,
        series=tuple(drawn),
        levels=tuple(Level(at=up.down(value), label=label) for value, label in levels),
        best=None if best is None or not across.low <= best <= across.high else across(best),
        across=tuple(
            Tick(at=across(epoch), label=f"{epoch:g}")
            for epoch in steps(across.low, across.high, 6)
            if epoch == int(epoch)
        ),
        up=tuple(
            Tick(at=up.down(v), label=formats.percent(v, 0 if up.high - up.low > 0.04 else 1))
            if percent
            else Tick(at=up.down(v), label=formats.significant(v, 2))
            for v in steps(up.low, up.high)
        ),
    )


def _sentence(dense: float | None, cut: float | None, best: float | None, metric: Series) -> str:
    reached = dict(metric).get(best) if best is not None else None
    parts = [
        (dense, "On the validation split the dense model reached {}."),
        (cut, "Straight after the cut, {} was left."),
        (reached, "The weights kept are those of epoch {epoch:g}, with {}."),
    ]
    return " ".join(
        text.format(formats.percent(value), epoch=best)
        for value, text in parts
        if value is not None
    )
