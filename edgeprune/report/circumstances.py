"""Under which circumstances times were taken: how, on which machine, and what else was read."""

import statistics
from collections.abc import Callable, Iterator
from typing import Final

from edgeprune.report import formats
from edgeprune.report.document import Document

Fact = tuple[str, str]
SIDES: Final = ("dense", "slim")


def how_measured(record: Document) -> tuple[Fact, ...]:
    """Return how the two models were measured, and what was read beside their times."""
    comparison = record.at("comparison")
    if not comparison:
        return ()
    return (*_how(comparison), *_beside(comparison), _noise(record))


def machine_facts(comparison: Document) -> tuple[Fact, ...]:
    """Return what the machine is, and what it did beside our work."""
    return (*_machine(comparison.at("machine")), *_state(comparison))


def _how(comparison: Document) -> Iterator[Fact]:
    settings = comparison.at("settings")
    runtime, version = (comparison.text("slim", key) for key in ("backend", "version"))
    if runtime:
        yield "Runtime", f"{runtime} {version or ''}".strip()
    runs = comparison.each("slim", "runs")
    for key, label in (("precision", "Precision that ran"), ("device", "Device that ran")):
        if found := {run.text(key) or "" for run in runs} - {"", "cpu"}:
            yield label, ", ".join(sorted(found))
    for key, label in (("batch", "Batch"), ("threads", "Threads")):
        if (value := settings.number(key)) is not None:
            yield label, formats.count(value)
    if idle := settings.number("idle_seconds"):
        yield "Idle before every inference", f"{idle:g}{formats.THIN}s"
    rounds, blocks = settings.number("rounds"), settings.number("blocks")
    if rounds is not None and blocks is not None:
        yield (
            "Turns",
            f"{formats.count(rounds)} rounds of fresh processes, "
            f"{formats.count(blocks)} blocks of each model in a round, alternating",
        )


def _beside(comparison: Document) -> Iterator[Fact]:
    """Yield what a process takes before it is in its stride, and what it takes but time."""
    for label, key in (("Time to load", "load_ns"), ("First inference", "first_ns")):
        yield label, _both(comparison, _numbered(key), _milliseconds)
    if any(run.number("gpu_bytes") is not None for run in _runs(comparison)):
        yield "GPU memory", _both(comparison, _numbered("gpu_bytes"), formats.size)
    energy = _both(comparison, _joules, formats.joules)
    reason = "; ".join(
        sorted({run.text("energy_reason") or "" for run in _runs(comparison)} - {""})
    )
    if reason:
        energy += f": {reason}" if energy == formats.ABSENT else f" ({reason})"
    yield "Energy of an inference", energy


def _noise(record: Document) -> Fact:
    floor = record.number("noise_floor")
    if floor is None:
        return "Noise floor", f"{formats.ABSENT}: edgeprune bench --aa finds it"
    return "Noise floor", f"{formats.percent(floor)}, found between equal models on this machine"


def _both(
    comparison: Document,
    of: Callable[[Document], float | None],
    show: Callable[[float], str],
) -> str:
    """Write the medians over both models' runs."""
    parts = []
    for side in SIDES:
        found = [value for run in comparison.each(side, "runs") if (value := of(run)) is not None]
        if found:
            parts.append(f"{side} {show(statistics.median(found))}")
    return ", ".join(parts) or formats.ABSENT


def _runs(comparison: Document) -> Iterator[Document]:
    for side in SIDES:
        yield from comparison.each(side, "runs")


def _numbered(key: str) -> Callable[[Document], float | None]:
    return lambda run: run.number(key)


def _milliseconds(nanoseconds: float) -> str:
    return formats.milliseconds(nanoseconds / 1e6)


def _joules(run: Document) -> float | None:
    """Return what an inference takes above rest, as the record's own type computes it."""
    energy = run.at("energy")
    joules, watts, seconds, inferences = (
        energy.number(key) for key in ("joules", "idle_watts", "seconds", "inferences")
    )
    if joules is None or watts is None or seconds is None or not inferences:
        return None
    return (joules - watts * seconds) / inferences


def _machine(machine: Document) -> Iterator[Fact]:
    cpu, cores = machine.text("cpu"), machine.number("cores")
    if cpu:
        yield "Processor", cpu + (f", {formats.count(cores)} cores" if cores else "")
    for key, label in (("board", "Board"), ("gpu", "GPU"), ("power_mode", "Power mode")):
        if text := machine.text(key):
            yield label, text
    if (memory := machine.number("memory_bytes")) is not None:
        yield "Memory", formats.size(memory)
    if system := machine.text("system"):
        yield "System", f"{system} {machine.text('architecture') or ''}".strip()
    if (quota := machine.number("cgroup_cpus")) is not None:
        yield "CPU quota", f"{quota:g} CPUs"


def _state(comparison: Document) -> Iterator[Fact]:
    machine, rounds = comparison.at("machine"), comparison.each("conditions")
    for label, text in (
        ("Clock governor", machine.text("governor")),
        ("Time taken by the hypervisor", _largest(rounds, "steal")),
        ("Other processes' share", _largest(rounds, "others")),
    ):
        yield label, text or formats.ABSENT
    throttled = [n for each in rounds if (n := each.number("throttled")) is not None]
    yield "Throttling", f"{formats.count(sum(throttled))} events" if throttled else formats.ABSENT
    celsius = [t for each in rounds if (t := each.number("celsius")) is not None]
    if celsius:
        yield "Hottest sensor", f"{max(celsius):.0f}{formats.THIN}°C"


def _largest(rounds: tuple[Document, ...], key: str) -> str | None:
    seen = [share for each in rounds if (share := each.number(key)) is not None]
    return f"at most {formats.percent(max(seen))} in a round" if seen else None
