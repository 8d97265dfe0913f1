"""What a gate tells GitHub: annotations on a run, and a job summary.

Both are as GitHub's documentation of workflow commands has them. A step's summary may
hold 1 MiB; one byte more, and all of it is dropped. Invariant: the summary file is
never longer than that after a gate has written to it, unless it was before.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeprune_benchmarks.formats import (
    FAILING,
    INCONCLUSIVE,
    Finding,
    markdown_findings,
    markdown_text,
)
from edgeprune_benchmarks.gate_report import GateReport, worst_first

SUMMARY_BYTES: Final = 1024 * 1024
ANNOTATIONS: Final = 10  # of each level that a step may make


def markdown(report: GateReport) -> str:
    """Return the report as Markdown: the verdict, then a table, the worst first."""
    title = f"### edgeprune gate: {markdown_text(report.candidate)}"
    table = markdown_findings(worst_first(report.findings))
    return "\n\n".join([title, markdown_text(report.line), table])


def append_summary(path: Path, text: str, limit: int = SUMMARY_BYTES) -> None:
    """Append Markdown to a job summary, as many whole lines of it as there is room for."""
    present = path.stat().st_size if path.is_file() else 0
    with path.open("ab") as stream:
        stream.write(shortened(f"\n{text}" if present else text, limit - present).encode())


def shortened(text: str, room: int) -> str:
    """Return the text, or as many whole lines as take ``room`` bytes of UTF-8, and says so."""
    if len(text.encode()) <= room:
        return text
    lines = text.splitlines(keepends=True)
    room -= len(_notice(len(lines)).encode())
    kept = 0
    while kept < len(lines) and (room := room - len(lines[kept].encode())) >= 0:
        kept += 1
    return "".join(lines[:kept]) + _notice(len(lines) - kept) if kept else ""


def annotations(report: GateReport) -> Iterator[str]:
    """Yield workflow commands for what failed, and for what could not be judged."""
    failing = report.failing | FAILING
    errors = [each for each in worst_first(report.findings) if each.status in failing]
    warnings = [
        each for each in report.findings if each.status == INCONCLUSIVE and each not in errors
    ]
    for level, findings in (("error", errors), ("warning", warnings)):
        yield from (_annotation(level, each) for each in findings[:ANNOTATIONS])


def _annotation(level: str, finding: Finding) -> str:
    title = _escaped(f"{finding.name}, {finding.group}").replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{_escaped(finding.message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _notice(count: int) -> str:
    return f"\n{count} lines are left out: a job summary holds 1 MiB.\n"
