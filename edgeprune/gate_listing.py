"""What ``gate`` prints and writes: a line per check, a verdict, and what other tools read."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeprune.columns import columns
from edgeprune.errors import StorageError
from edgeprune.files import write_text
from edgeprune_benchmarks.codec import encode
from edgeprune_benchmarks.formats import junit
from edgeprune_benchmarks.gate_github import annotations, append_summary, markdown
from edgeprune_benchmarks.gate_report import GateReport


def gate_lines(report: GateReport) -> Iterator[str]:
    """Yield one line per check, then the verdict."""
    rows = [(f.status, f.name, f.group, " ".join(f.message.split())) for f in report.findings]
    yield from columns(("result", "check", "of", "why"), rows, left=4)
    yield ""
    yield report.line


def gate_json(report: GateReport) -> str:
    """Return the report as JSON."""
    return json.dumps(encode(report), indent=1, ensure_ascii=False, allow_nan=False)


def write_reports(
    report: GateReport, *, junit_file: Path | None, markdown_file: Path | None
) -> None:
    """Write the files that were asked for.

    Raises:
        StorageError: one cannot be written.
    """
    suite = f"edgeprune gate {report.candidate}"
    try:
        if junit_file is not None:
            write_text(junit_file, junit(report.findings, suite=suite, failing=report.failing))
        if markdown_file is not None:
            write_text(markdown_file, markdown(report))
    except OSError as error:
        raise StorageError(f"'{error.filename}' cannot be written: {error.strerror}") from None


def tell_github(report: GateReport, environment: Mapping[str, str]) -> Iterator[str]:
    """Append to the job's summary where there is one, and yield annotations for its log.

    Raises:
        StorageError: the summary cannot be written.
    """
    if summary := environment.get("GITHUB_STEP_SUMMARY"):
        try:
            append_summary(Path(summary), markdown(report))
        except OSError as error:
            raise StorageError(f"the job summary cannot be written: {error.strerror}") from None
    if environment.get("GITHUB_ACTIONS") == "true":
        yield from annotations(report)
