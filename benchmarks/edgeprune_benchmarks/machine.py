"""What the machine was, and what it did beside our work.

Load averages say little here: they remember the training that ended a minute
ago and count our own runners. So counters are read before and after each round,
and what the runners themselves used is taken off. Shares are of all CPUs' time
unless said otherwise.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final

from edgeprune_benchmarks.codec import decode
from edgeprune_benchmarks.process import Answer

STEAL_LIMIT: Final = 0.01  # a hypervisor that takes more than this stretches single inferences
OTHERS_LIMIT: Final = 0.10  # beyond this, neighbours share caches, memory and clock with us
WAITED_LIMIT: Final = 0.01  # alone on its CPU, a runner waits for less than a fifth of this
SLOWED_LIMIT: Final = 0.01  # of a round, in which a GPU lowered its clock
CLOCK_FALL: Final = 0.10  # latency follows the clock, and this is far beyond its flutter
HEADROOM: Final = 2.0  # °C; sensors step by up to one, and then the kernel cools
SPEED: Final = (  # what decides how fast the same files run; versions are compared elsewhere
    *("cpu", "flags", "cores", "memory_bytes", "board", "gpu", "architecture"),
    *("power_mode", "governor"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A device, without anything that names its owner, its host or its folders.

    None stands for what the system does not tell.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    threads_per_core: int | None = None
    numa_nodes: int | None = None
    governor: str | None
    min_mhz: float | None = None  # what the CPU can do, not what it is set to
    max_mhz: float | None = None
    turbo: bool | None = None
    clocks: Mapping[str, str] = field(default_factory=dict)  # bounds that are set, by engine
    hypervisor: bool | None = None
    cgroup_cpus: float | None
    cgroup_memory_bytes: int | None = None
    memory_bytes: int | None
    board: str | None = None
    l4t: str | None = None  # release of Jetson Linux
    power_mode: str | None = None  # of a Jetson
    gpu: str | None = None
    gpu_memory_bytes: int | None = None
    gpu_driver: str | None = None
    system: str
    architecture: str
    python: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What went on during one round; None where the system does not tell."""

    steal: float | None  # share of CPU time that the hypervisor gave to others
    others: float | None  # share of CPU time that other processes used
    waited: float | None = None  # share of their own time that our runners were kept off the CPU
    throttled: int  # events: CPU quota used up, clock lowered for heat or current
    slowed: tuple[str, ...] = ()  # what held clocks down as the round began or ended
    load: tuple[float, ...] | None  # over 1, 5 and 15 minutes, as the round ended
    mhz: tuple[float, ...] | None  # fastest CPU in use, as the round began and as it ended
    celsius: float | None  # hottest sensor as the round ended
    headroom: float | None = None  # °C, at the least, to where the kernel slows something down
    power_modes: tuple[str, ...] = ()  # of a Jetson, as seen
    gpu_mhz: tuple[float, ...] | None = None  # as the round began and as it ended
    gpu_celsius: float | None = None
    gpu_capped: float | None = None  # share of the round that it spent at its power limit
    gpu_hot: float | None = None  # share of the round that it was slowed for heat


@dataclass(frozen=True, kw_only=True)
class _State:
    at_ns: int = 0
    ticks: int | None
    busy_ticks: int | None
    steal_ticks: int | None
    tick_s: float | None
    process_s: float
    waited_s: float | None = None
    load: tuple[float, ...] | None
    throttled: int
    slowed: tuple[str, ...] = ()
    mhz: tuple[float, ...] | None
    celsius: float | None
    headroom: float | None = None
    power_mode: str | None = None
    gpu_mhz: float | None = None
    gpu_celsius: float | None = None
    gpu_capped_ns: int | None = None
    gpu_hot_ns: int | None = None


def conditions(before: Sequence[Answer], after: Sequence[Answer]) -> Conditions:
    """Compare the states that all runners of a round saw at its start and at its end."""
    first = [_state(answer) for answer in before]
    last = [_state(answer) for answer in after]
    start, end = first[0], last[-1]
    steal, others = _shares(first, last)
    modes = [each.power_mode for each in (start, end) if each.power_mode is not None]
    room = [each.headroom for each in (start, end) if each.headroom is not None]
    clocks = [max(each.mhz) for each in (start, end) if each.mhz]
    gpu = [each.gpu_mhz for each in (start, end) if each.gpu_mhz is not None]
    elapsed = end.at_ns - start.at_ns
    return Conditions(
        steal=steal,
        others=others,
        waited=_waited(first, last),
        throttled=end.throttled - start.throttled,
        slowed=tuple(dict.fromkeys((*start.slowed, *end.slowed))),
        load=end.load,
        mhz=tuple(clocks) or None,
        celsius=end.celsius,
        headroom=min(room, default=None),
        power_modes=tuple(dict.fromkeys(modes)),
        gpu_mhz=tuple(gpu) or None,
        gpu_celsius=end.gpu_celsius,
        gpu_capped=_grown(start.gpu_capped_ns, end.gpu_capped_ns, elapsed),
        gpu_hot=_grown(start.gpu_hot_ns, end.gpu_hot_ns, elapsed),
    )


def taints(rounds: Sequence[Conditions]) -> tuple[str, ...]:
    """Say what makes measurements taken under these conditions doubtful, if anything."""
    return (*_crowded(rounds), *_throttled(rounds))


def limits(machine: Machine, rounds: Sequence[Conditions], threads: int) -> tuple[str, ...]:
    """Say how the way this machine is set up holds the measured threads back, if it does."""
    reasons = []
    if machine.cgroup_cpus is not None and machine.cgroup_cpus < threads:
        reasons.append(f"the cgroup grants {machine.cgroup_cpus:g} CPUs, for {threads} threads")
    clock = max((mhz for each in rounds for mhz in each.mhz or ()), default=None)
    # Of intel_pstate and amd-pstate, powersave is the usual governor and clocks as it should.
    slow = clock is not None and machine.max_mhz and clock < (1 - CLOCK_FALL) * machine.max_mhz
    if machine.governor == "powersave" and clock is not None and slow:
        bounds = f"{clock:.0f} of {machine.max_mhz:.0f} MHz"
        reasons.append(f"the governor 'powersave' kept the CPU at {bounds}")
    return tuple(reasons)


def fingerprint(machine: Machine) -> str:
    """Return 12 hexadecimal digits that machines of equal speed share.

    Memory counts in whole GiB, because kernels keep a little for themselves, each
    another little; versions of anything do not count.
    """
    parts = {name: getattr(machine, name) for name in SPEED}
    memory = machine.memory_bytes
    parts["memory_bytes"] = None if memory is None else round(memory / 2**30)
    text = json.dumps(parts, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(here: Machine, there: Machine) -> tuple[str, ...]:
    """Name what differs between two machines, and how, for messages: "cpu: A, not B"."""
    found = []
    for name in (each.name for each in fields(Machine)):
        one, other = getattr(here, name), getattr(there, name)
        if isinstance(one, Mapping):
            keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
            pairs = [(f"{name} of {key}", one.get(key), other.get(key)) for key in keys]
        else:
            pairs = [(name, one, other)] if one != other else []
        found += [f"{what}: {_said(mine)}, not {_said(theirs)}" for what, mine, theirs in pairs]
    return tuple(found)


def _crowded(rounds: Sequence[Conditions]) -> Iterator[str]:
    """Say who else wanted the CPUs."""
    steal = max((c.steal for c in rounds if c.steal is not None), default=0.0)
    others = max((c.others for c in rounds if c.others is not None), default=0.0)
    waited = max((c.waited for c in rounds if c.waited is not None), default=0.0)
    if steal > STEAL_LIMIT:
        yield f"the hypervisor took {steal:.1%} of the CPU time"
    if others > OTHERS_LIMIT:
        yield f"other processes used {others:.0%} of the CPU time"
    if waited > WAITED_LIMIT:
        yield f"the runners were kept waiting for a CPU for {waited:.1%} of their time"


def _throttled(rounds: Sequence[Conditions]) -> Iterator[str]:
    """Say what the clocks were held down by, or came near to."""
    events = sum(c.throttled for c in rounds)
    if events > 0:
        yield f"the CPU was throttled {events} times"
    for reason in dict.fromkeys(reason for c in rounds for reason in c.slowed):
        yield f"the device was slowed down: {reason}"
    for what, share in (
        ("at its power limit", max((c.gpu_capped or 0.0 for c in rounds), default=0.0)),
        ("slowed down for heat", max((c.gpu_hot or 0.0 for c in rounds), default=0.0)),
    ):
        if share > SLOWED_LIMIT:
            yield f"the GPU was {what} for {share:.0%} of a round"
    for engine, seen in (  # as rounds ended: before they began, there may have been a rest
        ("CPU", [c.mhz[-1] for c in rounds if c.mhz]),
        ("GPU", [c.gpu_mhz[-1] for c in rounds if c.gpu_mhz]),
    ):
        if seen and min(seen) < (1 - CLOCK_FALL) * max(seen):
            yield f"the {engine}'s clock was between {min(seen):.0f} and {max(seen):.0f} MHz"
    room = min((c.headroom for c in rounds if c.headroom is not None), default=HEADROOM)
    if room < HEADROOM:
        yield f"a sensor came within {max(room, 0):.1f} °C of where the kernel slows things down"
    modes = tuple(dict.fromkeys(mode for c in rounds for mode in c.power_modes))
    if len(modes) > 1:
        yield f"the power mode changed: {', then '.join(modes)}"


def _shares(first: Sequence[_State], last: Sequence[_State]) -> tuple[float | None, float | None]:
    """Return what of all CPU time the hypervisor took, and what other processes used."""
    start, end = first[0], last[-1]
    total = (end.ticks or 0) - (start.ticks or 0)
    if total <= 0:
        return None, None
    ours = sum(b.process_s - a.process_s for a, b in zip(first, last, strict=True))
    steal = ((end.steal_ticks or 0) - (start.steal_ticks or 0)) / total
    busy = (end.busy_ticks or 0) - (start.busy_ticks or 0)
    return steal, max(busy - ours / (end.tick_s or 1.0), 0.0) / total


def _waited(first: Sequence[_State], last: Sequence[_State]) -> float | None:
    """Return the share of the time in which the runners were ready that they had no CPU."""
    pairs = list(zip(first, last, strict=True))
    waits = [
        b.waited_s - a.waited_s
        for a, b in pairs
        if a.waited_s is not None and b.waited_s is not None
    ]
    if len(waits) < len(pairs):
        return None
    waited = max(sum(waits), 0.0)  # threads that ended took their share with them
    ready = waited + sum(b.process_s - a.process_s for a, b in pairs)
    return waited / ready if ready > 0 else None


def _grown(start: int | None, end: int | None, elapsed: int) -> float | None:
    """Return by how much of the elapsed time a counter of time has grown."""
    if start is None or end is None or elapsed <= 0:
        return None
    return (end - start) / elapsed


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value or "unknown")


def _state(answer: Answer) -> _State:
    words = {key: value for key, value in answer.items() if key not in ("id", "ok")}
    return decode(_State, words, at="state")
