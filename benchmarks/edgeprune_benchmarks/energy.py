"""From readings of an energy counter to the energy of one inference.

A device's counters know neither processes nor models: they count whatever the
device uses, at rest too. So a rest is read beside the blocks, and what the device
would have used at rest is taken off. Invariant: where that leaves nothing that
stands out, there is a reason and no number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgeprune_benchmarks.codec import decode
from edgeprune_benchmarks.measurement import Energy
from edgeprune_benchmarks.process import Answer

LEAST_BLOCKS: Final = 1.0  # seconds: counters and sensors move in steps of up to 0.1 s
LEAST_REST: Final = 0.5  # seconds


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the device runner answers to ``energy``."""

    source: str | None  # "rapl", "nvml", "ina3221" or "tegrastats"
    joules: float | None  # since the runner was first asked
    at_ns: int  # by the device's monotonic clock
    reason: str | None  # why there are no joules; otherwise what they cover


def reading(answer: Answer) -> Reading:
    """Read the runner's answer; ``ValueError`` names a field that is not as it should be."""
    words = {key: value for key, value in answer.items() if key not in ("id", "ok")}
    return decode(Reading, words, at="energy")


def energy_of(
    rest: tuple[Reading, Reading], blocks: Sequence[tuple[Reading, Reading]], inferences: int
) -> tuple[Energy | None, str | None]:
    """Return the energy of these blocks, and what it covers or why there is none.

    Each pair is read before and after; ``rest`` is one in which nothing was asked of
    the device. ``inferences`` counts all that ran in the blocks, timed or not.
    """
    every = [each for pair in (rest, *blocks) for each in pair]
    reason = next((_silence(each) for each in every if each.joules is None), None)
    if reason is not None:
        return None, reason
    if len({each.source for each in every}) > 1:
        return None, "the energy counter changed during the measurement"
    grown = [_grown(*pair) for pair in blocks]
    used, seconds = sum(joules for joules, _ in grown), sum(time for _, time in grown)
    idle, rested = _grown(*rest)
    reason = _refusal(used, seconds, idle, rested, inferences)
    if reason is not None:
        return None, reason
    energy = Energy(
        joules=used,
        idle_watts=idle / rested,
        inferences=inferences,
        seconds=seconds,
        source=str(rest[0].source),
    )
    return energy, rest[0].reason


def _silence(missing: Reading) -> str:
    return missing.reason or "the energy counter gave no answer"


def _refusal(
    used: float, seconds: float, idle: float, rested: float, inferences: int
) -> str | None:
    """Say why no energy of an inference follows from these joules and seconds."""
    if inferences < 1:
        return "nothing ran while the energy was counted"
    if seconds < LEAST_BLOCKS or rested < LEAST_REST:
        seen = f"counted for {seconds:.2f} s, and {rested:.2f} s of rest"
        return f"{seen}; at least {LEAST_BLOCKS:g} s and {LEAST_REST:g} s are needed"
    if used < 0 or idle < 0:
        return "the energy counter went backwards"
    if used == 0:
        return f"the energy counter stood still for {seconds:.1f} s"
    if used / seconds <= idle / rested:
        powers = f"{used / seconds:.2f} W at work, {idle / rested:.2f} W at rest"
        return f"the device took no more power than at rest ({powers}): something else ran then"
    return None


def _grown(before: Reading, after: Reading) -> tuple[float, float]:
    """Return joules and seconds between two readings."""
    joules = (after.joules or 0.0) - (before.joules or 0.0)
    return joules, (after.at_ns - before.at_ns) / 1e9
