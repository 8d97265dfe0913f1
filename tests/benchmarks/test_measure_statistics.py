from collections.abc import Callable

import numpy as np
import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.statistics import (
    Blocks,
    Ratio,
    latency,
    latency_ratio,
    noise_floor,
    verdict,
)

MS = 1_000_000


def simulated(
    seed: int, *, ratio: float, rounds: int = 5, blocks: int = 8
) -> tuple[Blocks, Blocks]:
    """Draw times whose blocks wander together, whose processes differ and whose tails are long."""
    rng = np.random.default_rng(seed)
    found: tuple[list[list[list[int]]], list[list[list[int]]]] = ([], [])
    for _ in range(rounds):
        drift = np.exp(np.cumsum(rng.normal(0, 0.01, 2 * blocks)))
        for side, factor in enumerate((1.0, ratio)):
            process = factor * np.exp(rng.normal(0, 0.005))
            levels = process * drift[side::2] * np.exp(rng.normal(0, 0.01, blocks))
            tails = 1 + 0.02 * rng.standard_gamma(1, (blocks, 30))
            found[side].append((MS * levels[:, None] * tails).astype(int).tolist())
    return found


def test_equals_are_not_distinguished_in_at_least_93_of_100() -> None:
    verdicts = [
        latency_ratio(*simulated(seed, ratio=1.0), resamples=500).verdict for seed in range(100)
    ]
    assert verdicts.count("not distinguishable") >= 93


@pytest.mark.parametrize(("ratio", "expected"), [(0.8, "faster"), (1.2, "slower")])
def test_a_planted_change_of_20_per_cent_is_found(ratio: float, expected: str) -> None:
    found = [latency_ratio(*simulated(seed, ratio=ratio), resamples=500) for seed in range(30)]
    assert [each.verdict for each in found] == [expected] * 30
    assert sum(each.low <= ratio <= each.high for each in found) >= 27


LUCK: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "spread": lambda rng, rounds: rng.normal(0, 1, (rounds, 2)),
    "of two kinds": lambda rng, rounds: rng.choice([-1.0, 1.0], (rounds, 2)),
    "one-sided": lambda rng, rounds: rng.standard_exponential((rounds, 2)),
    "rare": lambda rng, rounds: 3.0 * (rng.random((rounds, 2)) < 0.1),
}


def crowded(rng: np.random.Generator, luck: str, offset: float, rounds: int) -> Blocks:
    """Draw the log times of both sides, (2, rounds, 8), as one sees them on a bad day.

    Each process is off by ``offset`` for life; within a round the machine drifts, wanders
    (an AR(1) process) and is now and then slowed by a neighbour for some blocks.
    """
    slots = 16
    level = rng.normal(0, 0.03, (rounds, 1)) * np.linspace(0, 1, slots)
    wander, slowed = np.zeros(rounds), rng.random(rounds) < 0.3
    for k in range(slots):
        wander = 0.7 * wander + rng.normal(0, 0.006, rounds)
        slowed = np.where(rng.random(rounds) < 0.2, rng.random(rounds) < 0.3, slowed)
        level[:, k] += wander + np.log(1.8) * slowed + np.abs(rng.normal(0, 0.004, rounds))
    turns = level.reshape(rounds, slots // 2, 2)
    turns[:, 1::2] = turns[:, 1::2, ::-1]  # A B, B A, A B, …
    own = offset * LUCK[luck](rng, rounds)
    return (np.moveaxis(turns, 2, 0) + own.T[:, :, None]).tolist()


@pytest.mark.parametrize("rounds", [4, 6, 8])
@pytest.mark.parametrize("luck", LUCK)
def test_the_interval_holds_the_true_ratio_in_at_least_93_of_100(luck: str, rounds: int) -> None:
    held, draws = 0, 600
    rng = np.random.default_rng(rounds)
    for number in range(draws):
        logs = np.array(crowded(rng, luck, (0.01, 0.02)[number % 2], rounds))
        dense, slim = MS * np.exp(logs[..., None])
        found = latency_ratio(dense.tolist(), (0.9 * slim).tolist(), resamples=100)
        held += found.low <= 0.9 <= found.high
    assert held >= 0.93 * draws


def test_the_ratio_of_a_hand_worked_table() -> None:
    dense = [[[10, 10, 90], [20]], [[10], [100]]]
    slim = [[[5, 5, 5], [12]], [[7], [80]]]
    assert latency_ratio(dense, slim).value == pytest.approx(0.65)  # of 0.5, 0.6, 0.7, 0.8


def test_neighbours_that_slow_both_sides_at_times_do_not_move_the_ratio() -> None:
    rng = np.random.default_rng(0)
    crowd = np.where(rng.random((6, 8)) < 0.5, 2.0, 1.0)
    dense = [[[int(MS * level)] * 5 for level in run] for run in crowd]
    slim = [[[int(0.8 * MS * level)] * 5 for level in run] for run in crowd]
    found = latency_ratio(dense, slim)
    assert (found.low, found.value, found.high) == pytest.approx((0.8, 0.8, 0.8))


def test_rounds_narrow_the_interval_and_blocks_do_not() -> None:
    def width(**how: int) -> float:
        found = [latency_ratio(*simulated(seed, ratio=1.0, **how)) for seed in range(20)]
        return float(np.mean([each.high - each.low for each in found]))

    few = width(rounds=8, blocks=4)
    assert width(rounds=32, blocks=4) < 0.6 * few
    assert width(rounds=8, blocks=16) > 0.6 * few


def test_the_interval_is_the_same_for_the_same_seed_only() -> None:
    dense, slim = simulated(0, ratio=0.9, rounds=1)  # the interval is the bootstrap's alone
    again = latency_ratio(dense, slim, seed=1, resamples=99)
    assert again == latency_ratio(dense, slim, seed=1, resamples=99)
    assert again != latency_ratio(dense, slim, seed=2, resamples=99)


def test_inferences_of_one_block_do_not_count_as_independent() -> None:
    dense, slim = simulated(0, ratio=1.0, blocks=4)
    longer = [[[ns for ns in block for _ in range(50)] for block in run] for run in slim]
    plain, repeated = latency_ratio(dense, slim), latency_ratio(dense, longer)
    assert repeated.high - repeated.low == pytest.approx(plain.high - plain.low, rel=0.02)


def test_processes_that_differ_widen_the_interval() -> None:
    def flat(levels: list[int]) -> Blocks:
        return [[[level * MS + k for k in range(5)]] * 4 for level in levels]

    alike = latency_ratio(flat([100, 100, 100]), flat([100, 100, 100]))
    apart = latency_ratio(flat([100, 100, 100]), flat([100, 90, 110]))
    assert alike.high - alike.low < 1e-6
    assert apart.low < 0.95
    assert apart.high > 1.05


def test_latency_of_a_hand_worked_table() -> None:
    blocks = [[[1 * MS, 2 * MS, 9 * MS], [3 * MS]], [[4 * MS, 4 * MS], [10 * MS]]]
    found = latency(blocks)
    assert found.inferences == 7
    assert found.median_ms == 3.5  # of the blocks' medians 2, 3, 4, 10
    assert found.p50_ms == 4.0  # of all seven inferences
    assert found.p90_ms == pytest.approx(9.4)  # 9 + 0.4 · (10 − 9), nothing removed


def test_p99_is_withheld_under_a_thousand_inferences() -> None:
    assert latency([[[MS] * 999]]).p99_ms is None
    assert latency([[[MS] * 1000]]).p99_ms == 1.0


@pytest.mark.parametrize(
    ("low", "high", "floor", "expected"),
    [
        (0.5, 0.99, 0.0, "faster"),
        (0.5, 1.0, 0.0, "not distinguishable"),
        (1.01, 1.2, 0.0, "slower"),
        (0.9, 1.1, 0.0, "not distinguishable"),
        (0.95, 0.97, 0.05, "not distinguishable"),
        (0.90, 0.94, 0.05, "faster"),
        (1.02, 1.04, 0.05, "not distinguishable"),
        (1.06, 1.09, 0.05, "slower"),
    ],
)
def test_the_verdict_weighs_the_interval_against_the_noise_floor(
    low: float, high: float, floor: float, expected: str
) -> None:
    assert verdict(low, high, floor) == expected


def test_the_noise_floor_is_what_equals_could_not_exclude() -> None:
    def between(low: float, high: float) -> float:
        return noise_floor(Ratio(value=1.0, low=low, high=high, verdict="not distinguishable"))

    assert between(0.97, 1.01) == pytest.approx(0.03)
    assert between(0.99, 1.04) == pytest.approx(0.04)


def test_a_ratio_under_the_noise_floor_is_not_claimed() -> None:
    dense, slim = simulated(0, ratio=0.9)
    assert latency_ratio(dense, slim).verdict == "faster"
    assert latency_ratio(dense, slim, noise_floor=0.2).verdict == "not distinguishable"


@pytest.mark.parametrize(
    ("dense", "slim", "message"),
    [
        ([], [], "without times"),
        ([[[1]]], [[[]]], "without times"),
        ([[[1], [1]], [[1]]], [[[1], [1]], [[1]]], r"different numbers of blocks: \[2, 1\]"),
        ([[[1], [1]]], [[[1]]], r"dense has \(1, 2\) runs and blocks, slim has \(1, 1\)"),
    ],
)
def test_times_that_do_not_match_are_refused(dense: Blocks, slim: Blocks, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        latency_ratio(dense, slim)
