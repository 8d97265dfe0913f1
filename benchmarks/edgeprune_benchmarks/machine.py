"""What the machine was, and what it did beside our work.

Load averages say little here: they remember the training that ended a minute
ago and count our own runners. So counters are read before and after each round,
and what the runners themselves used is taken off. Shares are of all CPUs' time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprune_benchmarks.codec import decode
from edgeprune_benchmarks.process import Answer

STEAL_LIMIT: Final = 0.01  # a hypervisor that takes more than this stretches single inferences
OTHERS_LIMIT: Final = 0.10  # beyond this, neighbours share caches, memory and clock with us


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A device, without anything that names its owner, its host or its folders."""

    cpu: str
    flags: tuple[str, ...]
    cores: int
    governor: str | None
    cgroup_cpus: float | None
    memory_bytes: int | None
    system: str
    architecture: str
    python: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What went on during one round; None where the system does not tell."""

    steal: float | None  # share of CPU time that the hypervisor gave to others
    others: float | None  # share of CPU time that other processes used
    throttled: int  # events: CPU quota used up, or clock lowered for heat
    load: tuple[float, ...] | None  # over 1, 5 and 15 minutes, as the round ended
    mhz: tuple[float, ...] | None  # lowest and highest clock as the round ended
    celsius: float | None  # hottest sensor as the round ended


@dataclass(frozen=True, kw_only=True)
class _State:
    ticks: int | None
    busy_ticks: int | None
    steal_ticks: int | None
    tick_s: float | None
    process_s: float
    load: tuple[float, ...] | None
    throttled: int
    mhz: tuple[float, ...] | None
    celsius: float | None


def conditions(before: Sequence[Answer], after: Sequence[Answer]) -> Conditions:
    """Compare the states that all runners of a round saw at its start and at its end."""
    first = [_state(answer) for answer in before]
    last = [_state(answer) for answer in after]
    ours = sum(b.process_s - a.process_s for a, b in zip(first, last, strict=True))
    start, end = first[0], last[-1]
    total = (end.ticks or 0) - (start.ticks or 0)
    steal = others = None
    if total > 0:
        steal = ((end.steal_ticks or 0) - (start.steal_ticks or 0)) / total
        busy = (end.busy_ticks or 0) - (start.busy_ticks or 0)
        others = max(busy - ours / (end.tick_s or 1.0), 0.0) / total
    return Conditions(
        steal=steal,
        others=others,
        throttled=end.throttled - start.throttled,
        load=end.load,
        mhz=end.mhz,
        celsius=end.celsius,
    )


def taints(rounds: Sequence[Conditions]) -> tuple[str, ...]:
    """Say what makes measurements taken under these conditions doubtful, if anything."""
    steal = max((c.steal for c in rounds if c.steal is not None), default=0.0)
    others = max((c.others for c in rounds if c.others is not None), default=0.0)
    throttled = sum(c.throttled for c in rounds)
    reasons = []
    if steal > STEAL_LIMIT:
        reasons.append(f"the hypervisor took {steal:.1%} of the CPU time")
    if others > OTHERS_LIMIT:
        reasons.append(f"other processes used {others:.0%} of the CPU time")
    if throttled > 0:
        reasons.append(f"the CPU was throttled {throttled} times")
    return tuple(reasons)


def _state(answer: Answer) -> _State:
    words = {key: value for key, value in answer.items() if key not in ("id", "ok")}
    return decode(_State, words, at="state")
