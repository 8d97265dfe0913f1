"""Whether an artifact has grown: what is counted against a committed baseline.

Counts do not depend on the machine, so they are always judged. Peak memory does: it is
judged only on the kind of machine, the back end and the settings that it was first
seen with. What shrank is worth a note, for the baseline should follow it.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from edgeprune_benchmarks.baseline import Baseline, Peak, Tolerances
from edgeprune_benchmarks.formats import INCONCLUSIVE, INTEGRITY, NOTE, PASSED, REGRESSION, Finding

SAME: Final = ("backend", "device", "threads", "batch")  # of two peaks that can be compared
SHOWN: Final = 6  # changed types of operators


def count_findings(
    before: Baseline, now: Baseline, *, tolerances: Tolerances, exact: bool = False
) -> Iterator[Finding]:
    """Compare counts, sizes and hashes. exact: any change of a file is a failure."""
    old, new = before.counts, now.counts
    changes = _changed_types(old.operators, new.operators)
    pairs = {
        ("MACs", ""): (old.macs, new.macs, ""),
        ("parameters", ""): (old.params, new.params, ""),
        ("file size", "bytes"): (before.bytes, now.bytes, ""),
        ("operators", ""): (_total(old.operators), _total(new.operators), changes),
    }
    for (name, unit), (was, is_, more) in pairs.items():
        if was is None or is_ is None:
            yield _uncounted(now, name, lost=was is not None)
        else:
            yield _judged((name, now.artifact, unit), was, is_, tolerances.growth, more)
    yield _hashes(before, now, exact=exact)


def memory_finding(
    before: Peak | None, now: Peak | None, *, tolerance: float, cross_machine: bool, group: str
) -> Finding:
    """Compare peak memory, where the two can be compared."""

    def note(message: str) -> Finding:
        return Finding(name="peak memory", group=group, status=NOTE, message=message)

    if before is None:
        return note("not in the baseline: --update adds it")
    if now is None:
        return Finding(
            name="peak memory",
            group=group,
            status=INCONCLUSIVE,
            message="this device does not tell the peak memory of a process",
        )
    for name in SAME:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            return note(f"not compared: {name} is {new} here, and {old} in the baseline")
    if before.machine != now.machine and not cross_machine:
        return note(
            f"not compared: the baseline was seen on another machine ({before.cpu}), and memory "
            "depends on it; --allow-cross-machine compares all the same"
        )
    more = ""
    if before.version != now.version:
        more = f"the runtime went from {before.version} to {now.version}"
    what = ("peak memory", group, "bytes")
    return _judged(what, before.bytes, now.bytes, tolerance, more, noise=tolerance)


def _total(operators: Mapping[str, int]) -> int | None:
    return sum(operators.values()) or None


def _uncounted(now: Baseline, name: str, *, lost: bool) -> Finding:
    why = now.counts.reason or "the baseline does not have them"
    status = INCONCLUSIVE if lost else NOTE
    return Finding(name=name, group=now.artifact, status=status, message=f"not counted: {why}")


def _judged(
    what: tuple[str, str, str],
    old: int,
    new: int,
    tolerance: float,
    more: str,
    *,
    noise: float = 0.0,
) -> Finding:
    """Compare a count. noise: share by which it differs from run to run."""
    name, group, unit = what
    limit = old * (1 + tolerance)
    shrank = new < old * (1 - noise)
    words = f"{new:,}{f' {unit}' if unit else ''}"
    if new == old:
        words += ", as before"
    else:
        words += f", {old:,} before ({(new - old) / max(old, 1):+.2%}"
        words += f"; {100 * tolerance:g} % more is allowed)" if new > old else ")"
    if shrank:
        words += ": improved, update the baseline"
    return Finding(
        name=name,
        group=group,
        status=REGRESSION if new > limit else NOTE if shrank else PASSED,
        message=f"{words}; {more}" if more else words,
        value=new,
        unit=unit,
        limit=limit,
    )


def _changed_types(old: Mapping[str, int], new: Mapping[str, int]) -> str:
    changes = [
        f"{name} {old.get(name, 0)} → {new.get(name, 0)}"
        for name in sorted({*old, *new})
        if old.get(name, 0) != new.get(name, 0)
    ]
    rest = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return ", ".join(changes[:SHOWN]) + rest


def _hashes(before: Baseline, now: Baseline, *, exact: bool) -> Finding:
    changed = sorted(
        name
        for name in {*before.files, *now.files}
        if before.files.get(name) != now.files.get(name)
    )
    if not changed:
        status, message = PASSED, f"{len(now.files)} files, byte for byte those of the baseline"
    elif exact:
        status, message = INTEGRITY, f"not those of the baseline: {', '.join(changed)}"
    else:
        status, message = NOTE, f"not those of the baseline: {', '.join(changed)}"
    return Finding(name="files", group=now.artifact, status=status, message=message)
