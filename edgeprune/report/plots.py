"""Geometry of the charts: the templates draw, nothing here writes markup.

Coordinates are per cent of the plot, from its upper left corner, so that a plot
stretches with the page while strokes and lettering keep their size.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear map of values onto 0 to 100."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Return where a value lies, in per cent."""
        span = self.high - self.low
        return round(100 * (value - self.low) / span, 2) if span else 50.0

    def down(self, value: float) -> float:
        """Return where a value lies from the top, in per cent."""
        return round(100 - self(value), 2)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A place on an axis and what stands there."""

    at: float
    label: str


def scale_over(values: Iterable[float], margin: float = 0.06) -> Scale:
    """Return a scale that holds all values with some room around them."""
    seen = list(values)
    low, high = min(seen), max(seen)
    room = margin * ((high - low) or abs(high) or 1.0)
    return Scale(low=low - room, high=high + room)


def steps(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return round numbers between low and high, about as many as wanted."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def line(points: Iterable[Point]) -> str:
    """Return the path through points."""
    return "M" + " L".join(f"{x:g} {y:g}" for x, y in points)


def outline(counts: Sequence[float], top: float) -> str:
    """Return the filled outline of a histogram that stands on the bottom edge."""
    width = 100 / len(counts)
    path = ["M0 100"]
    for index, height in enumerate(counts):
        path.append(f"V{100 - 100 * height / (top or 1):.2f}H{(index + 1) * width:.2f}")
    return "".join(path) + "V100Z"
