"""Everything measured about one pair of artifacts, as versioned JSON.

A record names files, never folders, hosts or users, and holds its one timestamp
in ``created``, so that the same measurement gives the same bytes but for it.
Invariant: a record is read back equal, or refused with the reason.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeprune.errors import MeasureError
from edgeprune.files import write_text
from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.machine import differences, fingerprint
from edgeprune_benchmarks.measurement import Comparison, Measurement
from edgeprune_benchmarks.metrics import Metrics, PairedDifference
from edgeprune_benchmarks.statistics import Latency, Ratio, latency, latency_ratio

SCHEMA_VERSION: Final = 2
CONDITIONS: Final = ("threads", "batch", "precision", "device", "cuda_graph", "idle_seconds")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Parameters and multiply-accumulates per image of a captured model."""

    params: int
    macs: int


@dataclass(frozen=True, kw_only=True)
class CutResult:
    """What was removed, and the proof that the rest equals the masked model."""

    max_rel: float
    ok: bool
    units_removed: int
    units_total: int


@dataclass(frozen=True, kw_only=True)
class Side:
    """Headline figures of one model; None where nothing was measured."""

    accuracy: float | None
    auroc: float | None
    params: int | None
    macs: int | None
    bytes: int
    latency_ms: float
    peak_memory_mb: float | None  # 10⁶ bytes


@dataclass(frozen=True, kw_only=True)
class Results:
    """The headline block, in the same shape in records, bundles and on stdout."""

    dense: Side
    slim: Side
    latency_ratio: Ratio
    cut: CutResult | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a model beside its times."""

    metrics: Metrics | None = None
    counts: Counts | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A whole measurement: headline, accuracy, times, raw samples and the machine."""

    schema_version: int
    created: str  # UTC, ISO 8601; the only field that differs between equal runs
    results: Results
    dense: Evidence
    slim: Evidence
    difference: PairedDifference | None
    dense_latency: Latency
    slim_latency: Latency
    noise_floor: float | None
    comparison: Comparison

    @property
    def tainted(self) -> tuple[str, ...]:
        """Reasons to doubt the measurement; empty is good."""
        return self.comparison.tainted


def make_record(
    comparison: Comparison,
    *,
    created: str,
    dense: Evidence | None = None,
    slim: Evidence | None = None,
    difference: PairedDifference | None = None,
    cut: CutResult | None = None,
    noise_floor: float | None = None,
    seed: int = 0,
) -> Record:
    """Put a comparison and what else is known together, and draw the conclusion."""
    before, after = dense or Evidence(), slim or Evidence()
    fast, slow = latency(comparison.slim.blocks), latency(comparison.dense.blocks)
    return Record(
        schema_version=SCHEMA_VERSION,
        created=created,
        results=Results(
            dense=_side(comparison.dense, slow, before),
            slim=_side(comparison.slim, fast, after),
            latency_ratio=latency_ratio(
                comparison.dense.blocks,
                comparison.slim.blocks,
                seed=seed,
                noise_floor=noise_floor or 0.0,
            ),
            cut=cut,
        ),
        dense=before,
        slim=after,
        difference=difference,
        dense_latency=slow,
        slim_latency=fast,
        noise_floor=noise_floor,
        comparison=comparison,
    )


def comparable(before: Record, now: Record) -> str | None:
    """Say why times of two records do not belong beside each other, or return None."""
    versions = before.schema_version, now.schema_version
    if len(set(versions)) > 1:
        return f"they have schema versions {versions[0]} and {versions[1]}"
    machines = before.comparison.machine, now.comparison.machine
    if fingerprint(machines[0]) != fingerprint(machines[1]):
        return f"they are of different machines ({'; '.join(differences(*machines))})"
    for name in CONDITIONS:
        then, later = (getattr(each.comparison.settings, name) for each in (before, now))
        if then != later:
            return f"they were measured with {name} {then} and {later}"
    runtimes = [
        f"{each.comparison.slim.backend} {each.comparison.slim.version}" for each in (before, now)
    ]
    if runtimes[0] != runtimes[1]:
        return f"they ran in {runtimes[0]} and {runtimes[1]}"
    return None


def write_record(record: Record, path: Path) -> None:
    """Write a record, whole or not at all."""
    write_text(path, json.dumps(encode(record), indent=1, allow_nan=False) + "\n")


def read_record(path: Path) -> Record:
    """Read a record; ``MeasureError`` says what is wrong with one that cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasureError(f"{path} cannot be read as a record: {error}") from error
    version = value.get("schema_version") if isinstance(value, Mapping) else None
    if version is None:
        raise MeasureError(f"{path} is not a record: it has no schema_version")
    if not isinstance(version, int):
        raise MeasureError(f"{path} is not a record: its schema_version {version!r} is no number")
    if version != SCHEMA_VERSION:
        advice = "upgrade edgeprune" if version > SCHEMA_VERSION else "measure again"
        reads = f"this edgeprune reads version {SCHEMA_VERSION}"
        raise MeasureError(f"{path} is a record of schema version {version}; {reads}: {advice}")
    try:
        return decode(Record, value)
    except ValueError as error:
        raise MeasureError(f"{path} is damaged: {error}") from error


def _side(measured: Measurement, times: Latency, known: Evidence) -> Side:
    peak = measured.peak_bytes
    return Side(
        accuracy=known.metrics.accuracy if known.metrics else None,
        auroc=known.metrics.auroc if known.metrics else None,
        params=known.counts.params if known.counts else None,
        macs=known.counts.macs if known.counts else None,
        bytes=measured.bytes,
        latency_ms=times.median_ms,
        peak_memory_mb=None if peak is None else peak / 1e6,
    )
