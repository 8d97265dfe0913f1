"""A report of ``bench`` as Markdown, as findings, and as points of a dashboard."""

from collections.abc import Iterator, Sequence

from edgeprune_benchmarks.bench_report import BenchReport
from edgeprune_benchmarks.formats import (
    INCONCLUSIVE,
    PASSED,
    Finding,
    Point,
    markdown_table,
    markdown_text,
)
from edgeprune_benchmarks.formats_rows import (
    Row,
    case_rows,
    case_sentences,
    case_title,
    interval,
    milliseconds,
    pair_rows,
    pair_sentences,
    versions,
)
from edgeprune_benchmarks.record import Record

SUMMARY_HEAD = ("case", "A", "B", "B / A", "95 % interval", "B is")


def summary_rows(report: BenchReport) -> tuple[tuple[str, ...], ...]:
    """Return one line per case: medians, ratio, interval, verdict; as ``SUMMARY_HEAD``."""
    return tuple(
        (
            case_title(record),
            milliseconds(record.dense_latency.median_ms),
            milliseconds(record.slim_latency.median_ms),
            f"{record.results.latency_ratio.value:.3f}",
            interval(record, "–"),
            record.results.latency_ratio.verdict,
        )
        for record in report.records
    )


def report_sentences(report: BenchReport) -> Iterator[str]:
    """Yield what holds for all cases."""
    machine = report.records[0].comparison.machine
    yield f"machine: {machine.cpu}, {machine.cores} cores, {machine.system}"
    yield f"runtime: {versions(report.records[0])}"
    yield f"timed on {report.inputs}"
    if report.accuracy_from is not None:
        yield f"accuracy: {report.accuracy_from}"
    yield from report.notes


def bench_markdown(report: BenchReport, more: Sequence[str] = ()) -> str:
    """Return the report as Markdown. more: lines of text that end it, as they are."""
    blocks = [f"## {markdown_text(report.a)} (A) against {markdown_text(report.b)} (B)"]
    blocks.append(markdown_table(SUMMARY_HEAD, summary_rows(report)))
    blocks.append(_table(pair_rows(report.records[0])))
    blocks.append(_listed(pair_sentences(report.records[0])))
    for record, noise in report.cases:
        blocks.append(f"### {markdown_text(case_title(record))}")
        blocks.append(_table(case_rows(record)))
        blocks.append(_listed(case_sentences(record, noise)))
    blocks.append(_listed(report_sentences(report)))
    if more:
        blocks.append("\n".join(["```text", *more, "```"]))
    return "\n".join(block if block.endswith("\n") else f"{block}\n" for block in blocks if block)


def bench_findings(report: BenchReport) -> tuple[Finding, ...]:
    """Return what was measured as findings: nothing was held against a limit, so none fails."""
    first = report.records[0]
    shared = (_plain(row, "both") for row in pair_rows(first))
    return (*shared, *(finding for record in report.records for finding in _findings(record)))


def bench_points(report: BenchReport) -> tuple[Point, ...]:
    """Return what a dashboard draws from run to run."""
    return tuple(point for record in report.records for point in _points(report, record))


def _findings(record: Record) -> Iterator[Finding]:
    ratio = record.results.latency_ratio
    group = f"{record.comparison.slim.backend}, {case_title(record)}"
    message = f"B takes {ratio.value:.3f} of A's time [{interval(record)}]: {ratio.verdict}"
    doubts = "; ".join(record.tainted)
    yield Finding(
        name="latency ratio",
        group=group,
        status=INCONCLUSIVE if doubts else PASSED,
        message=f"{message}; tainted: {doubts}" if doubts else message,
        value=ratio.value,
        seconds=_seconds(record),
    )
    for row in case_rows(record):
        if not row.label.startswith("  ") and row.label != "latency, median":
            yield _plain(row, group)


def _plain(row: Row, group: str) -> Finding:
    change = f" ({row.change})" if row.change else ""
    words = f"A {row.a}, B {row.b}{change}"
    return Finding(name=row.label, group=group, status=PASSED, message=words)


def _seconds(record: Record) -> float:
    """Return how long the inferences took that were timed."""
    sides = (record.comparison.dense, record.comparison.slim)
    return sum(sum(block) for side in sides for run in side.blocks for block in run) / 1e9


def _points(report: BenchReport, record: Record) -> Iterator[Point]:
    case = case_title(record)
    ratio, results = record.results.latency_ratio, record.results
    why = "\n".join((f"B is {ratio.verdict}", *(f"tainted: {each}" for each in record.tainted)))
    yield Point(
        name=f"latency ratio B / A, {case}",
        unit="ratio",
        value=ratio.value,
        range=interval(record),
        extra=why,
    )
    sides = (
        ("A", report.a, results.dense, record.dense_latency, record.comparison.dense),
        ("B", report.b, results.slim, record.slim_latency, record.comparison.slim),
    )
    for letter, name, side, times, measured in sides:
        extra = f"{name}\n{measured.backend} {measured.version}\n{record.comparison.machine.cpu}"
        figures: dict[str, tuple[float | None, str]] = {
            "latency, median": (times.median_ms, "ms"),
            "latency, p90": (times.p90_ms, "ms"),
            "load": (measured.load_ms, "ms"),
            "first inference": (measured.first_ms, "ms"),
            "peak memory": (side.peak_memory_mb, "MB"),
            "file size": (side.bytes / 1e6, "MB"),
            "energy per inference": (measured.joules, "J"),
        }
        for metric, (value, unit) in figures.items():
            if value is not None:
                label = f"{letter}: {metric}, {case}"
                yield Point(name=label, unit=unit, value=value, extra=extra)


def _table(rows: Sequence[Row]) -> str:
    cells = [(row.label.strip(), row.a, row.b, row.change) for row in rows]
    return markdown_table(("", "A", "B", "B / A"), cells)


def _listed(lines: Iterator[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)
