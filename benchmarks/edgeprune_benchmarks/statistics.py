"""From raw times to one claim: a ratio, its interval, and a verdict.

Blocks of dense and slim alternate, so each block has one of the other side next
to it in time. The ratio is the median, over these pairs, of slim's block median
over dense's: what slows both cancels inside the pair. The quotient of the two
overall medians would not do: on a crowded machine, where blocks come in a fast
and a slow kind, it put an artifact at 0.53 of its own time. Inferences in a block
are not independent either, so what is resampled is whole rounds, and pairs in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError

Blocks = Sequence[Sequence[Sequence[int]]]  # run → block → nanoseconds
Floats = NDArray[np.float64]
P99_LEAST: Final = 1000  # with fewer inferences the 99th percentile is one or two outliers


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latencies of one subject in milliseconds."""

    inferences: int
    median_ms: float  # median over blocks of the block's median
    p90_ms: float
    p99_ms: float | None  # None under 1,000 inferences


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Slim over dense: below 1 is faster. The interval holds the ratio with 95 %."""

    value: float
    low: float
    high: float
    verdict: str  # "faster", "slower" or "not distinguishable"


def latency(blocks: Blocks) -> Latency:
    """Summarise raw nanoseconds without removing any."""
    times = np.concatenate([np.asarray(block) for run in blocks for block in run]) / 1e6
    return Latency(
        inferences=len(times),
        median_ms=float(np.median(_block_medians(blocks))) / 1e6,
        p90_ms=float(np.percentile(times, 90)),
        p99_ms=float(np.percentile(times, 99)) if len(times) >= P99_LEAST else None,
    )


def latency_ratio(
    dense: Blocks,
    slim: Blocks,
    *,
    seed: int = 0,
    resamples: int = 2000,
    noise_floor: float = 0.0,
) -> Ratio:
    """Return the median ratio of paired blocks with its bootstrap interval.

    Both have the same rounds and blocks, measured in turns. ``noise_floor`` is
    the relative difference that this machine shows between equals.
    """
    a, b = _block_medians(dense), _block_medians(slim)
    if a.shape != b.shape:
        raise MeasureError(f"dense has {a.shape} runs and blocks, slim has {b.shape}")
    paired = b / a
    rounds, pairs = paired.shape
    rng = np.random.default_rng(seed)
    chosen = rng.integers(rounds, size=(resamples, rounds, 1))
    within = rng.integers(pairs, size=(resamples, rounds, pairs))
    ratios = paired[chosen, within]
    low, high = np.percentile(np.median(ratios, axis=(1, 2)), [2.5, 97.5])
    return Ratio(
        value=float(np.median(paired)),
        low=float(low),
        high=float(high),
        verdict=verdict(float(low), float(high), noise_floor),
    )


def verdict(low: float, high: float, noise_floor: float = 0.0) -> str:
    """Say what an interval of ratios shows against 1, give or take the noise floor."""
    if high < 1 - noise_floor:
        return "faster"
    if low > 1 + noise_floor:
        return "slower"
    return "not distinguishable"


def noise_floor(ratio: Ratio) -> float:
    """Return the largest difference that a measurement of equals could not exclude."""
    return max(ratio.high - 1, 1 - ratio.low, 0.0)


def _block_medians(blocks: Blocks) -> Floats:
    """Return the median of every block as (runs, blocks), in nanoseconds."""
    if 0 in {len(blocks), *map(len, blocks), *(len(block) for run in blocks for block in run)}:
        raise MeasureError("a run without times cannot be summarised")
    if len({len(run) for run in blocks}) > 1:
        raise MeasureError(f"runs have different numbers of blocks: {[len(run) for run in blocks]}")
    return np.array([[np.median(block) for block in run] for run in blocks])
