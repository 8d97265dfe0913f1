"""From raw times to one claim: a ratio, its interval, and a verdict.

Blocks of dense and slim alternate, so each block has one of the other side next
to it in time. The ratio is the median, over these pairs, of slim's block median
over dense's: what slows both cancels inside the pair. The quotient of the two
overall medians would not do: on a crowded machine, where blocks come in a fast
and a slow kind, it put an artifact at 0.53 of its own time. Inferences in a block
are not independent either, so what is resampled is whole rounds, and pairs in them.

A process keeps its share of luck for life, so rounds are few and each counts as one
observation. A percentile bootstrap of so few is too narrow (T. Hesterberg, "What
teachers should know about the bootstrap", The American Statistician 69(4), 2015):
in simulation its 95 % intervals held the true ratio in 87 % of measurements of 4
rounds and in 92 % of 8. So they are widened to Student's t over the rounds, with
which it was 95 % and more, whatever the processes' luck was distributed like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from edgeprune.errors import MeasureError

Blocks = Sequence[Sequence[Sequence[int]]]  # run → block → nanoseconds
Floats = NDArray[np.float64]
P99_LEAST: Final = 1000  # with fewer inferences the 99th percentile is one or two outliers
TAILS: Final = (0.025, 0.975)  # of a two-sided interval of 95 %


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latencies of one subject in milliseconds; percentiles are over all inferences."""

    inferences: int
    median_ms: float  # median over blocks of the block's median
    p50_ms: float
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
        p50_ms=float(np.percentile(times, 50)),
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
    """Return the median ratio of paired blocks with its interval.

    Both have the same rounds and blocks, measured in turns. The interval is that of
    a bootstrap over rounds and pairs in them, or Student's t over the rounds' median
    log ratios where that reaches further. ``noise_floor`` is the relative difference
    that this machine shows between equals. Rounds, not blocks, narrow the interval;
    a single round cannot tell how much processes differ, and its interval is that of
    its blocks alone.
    """
    a, b = _block_medians(dense), _block_medians(slim)
    if a.shape != b.shape:
        raise MeasureError(f"dense has {a.shape} runs and blocks, slim has {b.shape}")
    paired = b / a
    intervals = [_resampled(paired, np.random.default_rng(seed), resamples)]
    if len(paired) > 1:
        intervals.append(_over_rounds(paired))
    low, high = min(each[0] for each in intervals), max(each[1] for each in intervals)
    return Ratio(
        value=float(np.median(paired)),
        low=low,
        high=high,
        verdict=verdict(low, high, noise_floor),
    )


def _resampled(paired: Floats, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
    """Bootstrap the median of pairs (rounds, pairs): rounds first, then pairs in each."""
    rounds, pairs = paired.shape
    chosen = rng.integers(rounds, size=(resamples, rounds, 1))
    within = rng.integers(pairs, size=(resamples, rounds, pairs))
    low, high = np.quantile(np.median(paired[chosen, within], axis=(1, 2)), TAILS)
    return float(low), float(high)


def _over_rounds(paired: Floats) -> tuple[float, float]:
    """Take each of two or more rounds as one observation of the log ratio."""
    logs = np.median(np.log(paired), axis=1)
    reach = student.ppf(TAILS, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    low, high = np.exp(logs.mean() + reach)
    return float(low), float(high)


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
