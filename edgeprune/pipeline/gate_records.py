"""Judging what ``compress`` or ``bench`` has stored, without running anything.

A record holds one measurement of two artifacts in turns, A (or dense) and B (or slim),
and B is the candidate. Nothing can be measured again, so a record alone never shows a
slower artifact to be a regression: that is inconclusive.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from edgeprune.errors import MeasureError, UsageError
from edgeprune.pipeline.gate_settings import GateSettings
from edgeprune.pipeline.subject_files import RECIPE
from edgeprune_benchmarks.bench_report import FORMAT as BENCH
from edgeprune_benchmarks.bench_report import read_report
from edgeprune_benchmarks.formats import (
    ACCURACY,
    INCONCLUSIVE,
    NOTE,
    PASSED,
    REGRESSION,
    Finding,
)
from edgeprune_benchmarks.gate import decide, limit_of
from edgeprune_benchmarks.record import Record, comparable, read_record

STATUSES: Final = {"pass": PASSED, "regression": REGRESSION, "inconclusive": INCONCLUSIVE}
GROWTH: Final = 0.01
COUNTED: Final = (
    ("MACs", "macs", ""),
    ("parameters", "params", ""),
    ("file size", "bytes", "bytes"),
)
LIVE: Final = ("baseline", "update", "exact", "data", "aa", "runtime", "precision", "rounds")


def is_record(path: Path) -> bool:
    """Say whether a path is a stored record, not an artifact."""
    return path.suffix == ".json" and path.name != RECIPE


def gate_record(settings: GateSettings) -> list[Finding]:
    """Judge every record in a file; with --against, by an earlier one as well.

    Raises:
        UsageError: options that need an artifact, a file that cannot be read, or two
            records that do not belong beside each other.
    """
    for option in LIVE:
        if getattr(settings, option):
            name = option.replace("_", "-")
            raise UsageError(f"'{settings.candidate}' is a stored record: leave out --{name}")
    records = _records(settings.candidate)
    findings = [each for record in records for each in _findings(record, settings)]
    if settings.against is not None:
        findings += _against(records, _records(settings.against), settings)
    return findings


def _records(path: Path) -> tuple[Record, ...]:
    """Read a record, or the records of a report of ``bench``."""
    if not is_record(path):
        raise UsageError(f"'{path}' is no stored record: a record is compared with a record")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        bench = isinstance(value, Mapping) and value.get("format") == BENCH
        return read_report(path).records if bench else (read_record(path),)
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path}' cannot be read as a record: {error}") from None
    except MeasureError as error:
        raise UsageError(str(error)) from None


def _findings(record: Record, settings: GateSettings) -> Iterator[Finding]:
    group = _group(record)
    floor = max(settings.noise_floor or 0.0, record.noise_floor or 0.0)
    allowed, ratio = settings.max_slowdown, record.results.latency_ratio
    status, reason = decide(ratio, None, allowed=allowed, noise_floor=floor)
    doubts = f"; while measuring, {'; '.join(record.tainted)}" if record.tainted else ""
    yield Finding(
        name="latency",
        group=group,
        status=STATUSES[status],
        message=f"{reason}{doubts}",
        value=ratio.value,
        unit="ratio",
        limit=limit_of(allowed, floor),
    )
    difference = record.difference
    if difference is None:
        message = "the record holds no accuracy of both on the same images"
        yield Finding(name="accuracy", group=group, status=NOTE, message=message)
        return
    bound = -settings.max_drop
    fell = difference.accuracy < bound and difference.high < 0
    yield Finding(
        name="accuracy",
        group=group,
        status=PASSED if difference.low >= bound else ACCURACY if fell else INCONCLUSIVE,
        message=(
            f"{100 * difference.accuracy:+.2f} points [{100 * difference.low:+.2f}, "
            f"{100 * difference.high:+.2f}]; a fall of {100 * settings.max_drop:g} is allowed"
        ),
        value=difference.accuracy,
        unit="share",
        limit=bound,
    )


def _against(
    now: tuple[Record, ...], before: tuple[Record, ...], settings: GateSettings
) -> Iterator[Finding]:
    """Compare what does not depend on the day: counts and sizes; times are not."""
    if len(now) != len(before):
        raise UsageError(f"one file has {len(now)} records, the other {len(before)}")
    growth = GROWTH if settings.max_growth is None else settings.max_growth
    for new, old in zip(now, before, strict=True):
        problem = comparable(old, new)
        if problem is not None and not settings.cross_machine:
            raise UsageError(
                f"the two records do not belong beside each other: {problem}; "
                "--allow-cross-machine compares their counts all the same"
            )
        for name, field, unit in COUNTED:
            was, is_ = (getattr(each.results.slim, field) for each in (old, new))
            if was is not None and is_ is not None:
                yield _grown((name, _group(new), unit), was, is_, growth)
        message = "times of two records are of two days: measure both with --against in one job"
        yield Finding(name="latency of both", group=_group(new), status=NOTE, message=message)


def _grown(what: tuple[str, str, str], was: int, now: int, growth: float) -> Finding:
    name, group, unit = what
    limit = was * (1 + growth)
    return Finding(
        name=name,
        group=group,
        status=REGRESSION if now > limit else PASSED,
        message=f"{now:,}, {was:,} before; {100 * growth:g} % of growth is allowed",
        value=now,
        unit=unit,
        limit=limit,
    )


def _group(record: Record) -> str:
    settings = record.comparison.settings
    slim = record.comparison.slim
    threads = f"{settings.threads} thread{'s' * (settings.threads > 1)}"
    return f"{slim.name}, {slim.backend}, {threads}, batch {settings.batch}"
