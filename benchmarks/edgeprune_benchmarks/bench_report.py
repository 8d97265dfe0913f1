"""What ``bench`` found of two artifacts, case by case, as versioned JSON.

A case is a number of threads and a batch size. A stands where a record says dense,
B where it says slim. Invariant: a report is read back equal, or refused with the
reason; its one timestamp is in ``created``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from edgeprune.errors import MeasureError
from edgeprune.files import write_text
from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.layers import LayerComparison
from edgeprune_benchmarks.noise import NoiseFloor
from edgeprune_benchmarks.record import Record

FORMAT: Final = "edgeprune-bench"
SUMMARY: Final = "edgeprune-bench-summary"  # what cannot be read back
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """A whole run of ``bench``.

    Attributes:
        format, schema_version: ``FORMAT`` and ``SCHEMA_VERSION``.
        edgeprune: version that made it.
        created: UTC, ISO 8601.
        a, b: what the two are called; equal where one was measured against itself.
        inputs: what the images were that were timed.
        accuracy_from: where accuracies come from, or None where there are none.
        notes: what a reader should know, one sentence each.
        records: one per case, in the order in which they were measured.
        noise: what A showed against itself, one per case, where that was measured.
        layers: both layer by layer in the first case, where that was asked for.
    """

    format: str
    schema_version: int
    edgeprune: str
    created: str
    a: str
    b: str
    inputs: str
    accuracy_from: str | None
    notes: tuple[str, ...]
    records: tuple[Record, ...]
    noise: tuple[NoiseFloor, ...] = ()
    layers: LayerComparison | None = None

    @property
    def cases(self) -> tuple[tuple[Record, NoiseFloor | None], ...]:
        """Each record with what A showed against itself in the same case."""
        return tuple(zip(self.records, self.noise or (None,) * len(self.records), strict=True))

    @property
    def headline(self) -> dict[str, Any]:
        """Everything but raw samples and the machine, as JSON values."""
        own = {"a": self.a, "b": self.b, "accuracy_from": self.accuracy_from}
        cases = [_case(record) for record in self.records]
        more = {"inputs": self.inputs, "notes": list(self.notes), "noise": encode(self.noise)}
        if self.layers is not None:
            more["layers"] = encode(self.layers)
        return {"format": SUMMARY, "created": self.created, **own, "cases": cases, **more}


def write_report(report: BenchReport, path: Path) -> None:
    """Write a report, whole or not at all."""
    write_text(path, json.dumps(encode(report), indent=1, allow_nan=False) + "\n")


def read_report(path: Path) -> BenchReport:
    """Read a report; ``MeasureError`` says what is wrong with one that cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasureError(f"{path} cannot be read as a report of bench: {error}") from error
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        raise MeasureError(f"{path} is not a report of bench: its format is not {FORMAT}")
    if (version := value.get("schema_version")) != SCHEMA_VERSION:
        reads = f"this edgeprune reads version {SCHEMA_VERSION}"
        raise MeasureError(f"{path} is a report of version {version}; {reads}: measure again")
    try:
        return decode(BenchReport, value, at="report")
    except ValueError as error:
        raise MeasureError(f"{path} is damaged: {error}") from error


def _case(record: Record) -> dict[str, Any]:
    comparison = record.comparison
    sides = {"dense": comparison.dense, "slim": comparison.slim}
    times = {"dense": record.dense_latency, "slim": record.slim_latency}
    details = {
        name: {
            "artifact": side.artifact,
            "files": encode(side.files),
            "backend": side.backend,
            "version": side.version,
            "precision": sorted({run.precision for run in side.runs}),
            "threads": sorted({run.threads for run in side.runs if run.threads is not None}),
            "latency": encode(times[name]),
            "load_ms": side.load_ms,
            "first_ms": side.first_ms,
            "gpu_bytes": side.gpu_bytes,
            "joules": side.joules,
        }
        for name, side in sides.items()
    }
    return {
        "threads": comparison.settings.threads,
        "batch": comparison.settings.batch,
        "device": comparison.settings.device,
        "results": cast(dict[str, Any], encode(record.results)),
        "details": details,
        "difference": encode(record.difference),
        "noise_floor": record.noise_floor,
        "tainted": list(record.tainted),
    }
