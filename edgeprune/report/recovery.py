"""How accuracy came back after the cut, epoch by epoch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprune.report import formats
from edgeprune.report.document import Document, Documents
from edgeprune.report.plots import Point, Scale, Tick, line, scale_over, steps

Series = list[tuple[float, float]]  # epoch and value
LOSSES: Final = (
    ("train_loss", "training, distillation included"),
    ("val_loss", "validation"),
)


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
    """Draw the curves of a recovery; none where nothing was recovered.

    A bundle whose dense model was trained on the spot knows what that one reached.
    """
    seen = documents.bundle.at("recovery") or documents.record.at("recovery")
    write = formats.score if documents.bundle.flag("data", "multi_label") else _percent
    history = seen.each("history")
    best = seen.number("best_epoch")
    dense = seen.number("before", "dense") or _reached(documents.bundle.at("training"))
    cut = seen.number("before", "cut")
    metric = _series(history, "val_metric")
    if cut is not None and metric and all(epoch > 0 for epoch, _ in metric):
        metric = [(0.0, cut), *metric]
    losses = [(n, s) for key, n in LOSSES if (s := _series(history, key))]
    levels = [(dense, "dense")] if dense is not None else []
    name = "Validation AUROC" if write is formats.score else "Validation accuracy"
    return Recovery(
        metric=_curve(f"{name} by epoch", [("slim", metric)], levels, best, write)
        if metric
        else None,
        loss=_curve("Loss by epoch", losses, [], best, _two_digits) if losses else None,
        sentence=_sentence(dense, best, metric, write),
    )


def _series(history: Sequence[Document], key: str) -> Series:
    pairs = ((entry.number("epoch"), entry.number(key)) for entry in history)
    return [(epoch, value) for epoch, value in pairs if epoch is not None and value is not None]


def _curve(
    title: str,
    series: list[tuple[str, Series]],
    levels: list[tuple[float, str]],
    best: float | None,
    write: Callable[[float], str],
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
        up=tuple(Tick(at=up.down(v), label=write(v)) for v in steps(up.low, up.high)),
    )


def _reached(training: Document) -> float | None:
    """Return the validation metric of the epoch that a training kept."""
    best = training.number("best_epoch")
    return None if best is None else dict(_series(training.each("history"), "val_metric")).get(best)


def _sentence(
    dense: float | None, best: float | None, metric: Series, write: Callable[[float], str]
) -> str:
    values = dict(metric)
    reached = None if best is None else values.get(best)
    parts = [
        (dense, "On validation images the dense model reached {}."),
        (values.get(0.0), "After the cut, before fine-tuning, the slim model reached {}."),
        (reached, f"The weights kept are those of epoch {best or 0:g}, with {{}}."),
    ]
    return " ".join(text.format(write(value)) for value, text in parts if value is not None)


def _percent(share: float) -> str:
    return formats.percent(share, 0 if math.isclose(100 * share, round(100 * share)) else 1)


def _two_digits(value: float) -> str:
    return formats.significant(value, 2)
