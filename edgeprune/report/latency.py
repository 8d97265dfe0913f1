"""How long an inference takes: every raw time, and what the machine did meanwhile."""

import statistics
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.report import formats
from edgeprune.report.circumstances import how_measured, machine_facts
from edgeprune.report.document import Document, Documents
from edgeprune.report.plots import Point, Scale, Tick, outline, steps

Times = NDArray[np.float64]
SIDES: Final = ("dense", "slim")
BINS: Final = 120
TAILS: Final = 5  # how often the way from median to p90 fits in beyond the median


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """All times of one model; places are in per cent of the axis."""

    name: str
    path: str
    median_at: float
    p90_at: float
    text: str
    beyond: str


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """The seventh section; ``turns`` holds block medians in the order they were taken."""

    distributions: tuple[Distribution, ...]
    across: tuple[Tick, ...]
    turns: tuple[tuple[str, tuple[Point, ...]], ...]
    rounds: tuple[float, ...]
    up: tuple[Tick, ...]
    doubts: tuple[str, ...]
    how: tuple[tuple[str, str], ...]
    machine: tuple[tuple[str, str], ...]


def latencies(documents: Documents) -> Latencies:
    """Turn raw samples into two histograms on one axis and a chart of the turns."""
    comparison = documents.record.at("comparison")
    times = {side: _times(comparison, side) for side in SIDES}
    measured = {side: found for side, found in times.items() if found.size}
    low = min((float(found.min()) for found in measured.values()), default=0.0)
    high = max((_end(found) for found in measured.values()), default=1.0)
    axis = Scale(low=max(0.0, low - 0.04 * (high - low)), high=high)
    turns, rounds, top = _turns(comparison)
    return Latencies(
        distributions=tuple(
            _distribution(documents.record, side, found, axis) for side, found in measured.items()
        ),
        across=tuple(
            Tick(at=axis(value), label=f"{value:g}{formats.THIN}ms")
            for value in steps(axis.low, axis.high, 5)
        ),
        turns=turns,
        rounds=rounds,
        up=tuple(
            Tick(at=Scale(low=0, high=top).down(value), label=f"{value:g}")
            for value in steps(0, top)
        ),
        doubts=comparison.texts("tainted"),
        how=how_measured(documents.record),
        machine=machine_facts(comparison),
    )


def _blocks(comparison: Document, side: str) -> list[list[list[float]]]:
    """Return milliseconds as run → block → inference."""
    return [
        [
            [ns / 1e6 for time in block.each() if (ns := time.number()) is not None]
            for block in run.each("blocks_ns")
        ]
        for run in comparison.each(side, "runs")
    ]


def _times(comparison: Document, side: str) -> Times:
    blocks = _blocks(comparison, side)
    return np.array([time for run in blocks for block in run for time in block], np.float64)


def _end(times: Times) -> float:
    """Return where the axis ends: at the slowest, one interruption would flatten all the rest."""
    median, p90 = np.percentile(times, [50, 90])
    return float(min(median + TAILS * (p90 - median), times.max()))


def _distribution(record: Document, name: str, times: Times, axis: Scale) -> Distribution:
    """Draw a histogram; its median is the record's own, which weighs every block alike."""
    counts, _ = np.histogram(times, BINS, (axis.low, axis.high))
    summary = record.at(f"{name}_latency")
    median = summary.number("median_ms") or float(np.median(times))
    p90 = summary.number("p90_ms") or float(np.percentile(times, 90))
    beyond = int((times > axis.high).sum())
    return Distribution(
        name=name,
        path=outline([float(n) for n in counts], float(counts.max())),
        median_at=axis(median),
        p90_at=min(axis(p90), 100.0),
        text=f"median {formats.milliseconds(median)}, p90 {formats.milliseconds(p90)}, "
        f"{formats.count(len(times))} inferences",
        beyond=f"{formats.count(beyond)} slower ones, up to "
        f"{formats.milliseconds(float(times.max()))}, lie beyond the edge"
        if beyond
        else "",
    )


def _turns(
    comparison: Document,
) -> tuple[tuple[tuple[str, tuple[Point, ...]], ...], tuple[float, ...], float]:
    """Return the block medians in order of time, where rounds begin, and the axis' end in ms."""
    blocks = {side: _blocks(comparison, side) for side in SIDES}
    taken: list[tuple[str, float]] = []
    starts = []
    for number, order in enumerate(comparison.each("order")):
        starts.append(len(taken))
        queues = {s: iter(runs[number]) for s, runs in blocks.items() if number < len(runs)}
        for side in order.texts():
            block = next(queues.get(side, iter(())), [])
            if block:
                taken.append((side, statistics.median(block)))
    top = 1.15 * max((value for _, value in taken), default=1.0)
    up, across = Scale(low=0, high=top), Scale(low=-0.5, high=len(taken) - 0.5)
    points: dict[str, list[Point]] = {side: [] for side in SIDES}
    for index, (side, value) in enumerate(taken):
        points[side].append((across(index), up.down(value)))
    drawn = tuple((side, tuple(found)) for side, found in points.items() if found)
    return drawn, tuple(across(start - 0.5) for start in starts[1:]), top
