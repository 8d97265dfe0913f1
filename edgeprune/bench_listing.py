"""What ``bench`` prints: tables and sentences for people, or a form that tools read."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.columns import columns
from edgeprune.errors import UsageError
from edgeprune.layer_listing import layer_lines
from edgeprune.pipeline.benching import SUITE, markdown
from edgeprune.pipeline.layering import compare_trtexec
from edgeprune.targets import load_target
from edgeprune_benchmarks.bench_report import BenchReport
from edgeprune_benchmarks.codec import encode
from edgeprune_benchmarks.formats import dashboard, junit
from edgeprune_benchmarks.formats_bench import (
    SUMMARY_HEAD,
    bench_findings,
    bench_points,
    report_sentences,
    summary_rows,
)
from edgeprune_benchmarks.formats_rows import (
    Row,
    case_rows,
    case_sentences,
    case_title,
    pair_rows,
    pair_sentences,
)


def bench_text(report: BenchReport, form: str) -> str:
    """Return a report as text that tools read: json, markdown, junit or dashboard."""
    match form:
        case "json":
            return json.dumps(report.headline, indent=1, ensure_ascii=False)
        case "markdown":
            return markdown(report).rstrip()
        case "junit":
            return junit(bench_findings(report), suite=SUITE).rstrip()
        case "dashboard":
            return dashboard(bench_points(report)).rstrip()
        case _:
            raise ValueError(f"no form '{form}'")


def exported_text(asked: Mapping[str, Any], form: str) -> str:
    """Compare by layers what trtexec exported, as text: a table, or json.

    Raises:
        UsageError: another form, or a folder to keep measurements in.
        MeasureError: files that are not trtexec's, or not of these artifacts.
    """
    if form not in ("table", "json") or asked["out"] is not None:
        raise UsageError(
            "--trtexec only prints a table or JSON, for nothing is measured: leave out --out and "
            "other forms"
        )
    found = compare_trtexec(
        asked["a"],
        asked["b"],
        asked["trtexec"],
        batch=asked["batches"][0],
        target=load_target(asked["target"]) if asked["target"] else None,
    )
    if form == "json":
        return json.dumps(encode(found), indent=1, ensure_ascii=False)
    return "\n".join(layer_lines(found))


def print_bench(report: BenchReport, console: Console) -> None:
    """Print what is the same in all cases, each case, and what a reader must know."""
    first = report.records[0]
    said = [list(case_sentences(*case)) for case in report.cases]
    everywhere = [line for line in said[0] if all(line in lines for lines in said)]
    several = len(said) > 1
    _say(console, [f"A  {report.a}", f"B  {report.b}"])
    if several:
        _say(console, columns(SUMMARY_HEAD, summary_rows(report), left=1))
        console.print(_table(pair_rows(first)))
    for record, lines in zip(report.records, said, strict=True):
        _heading(console, case_title(record))
        console.print(_table((*(() if several else pair_rows(first)), *case_rows(record))))
        _say(console, [line for line in lines if line not in everywhere])
    _say(console, everywhere)
    _say(console, pair_sentences(first))
    _say(console, report_sentences(report))
    if report.layers is not None:
        _heading(console, "Layer by layer")
        _say(console, layer_lines(report.layers, console.width if console.is_terminal else None))


def _table(rows: Iterable[Row]) -> Table:
    table = Table()
    for name in ("", "A", "B", "B / A"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, (row.label, row.a, row.b, row.change)))
    return table


def _heading(console: Console, text: str) -> None:
    console.print(f"[bold]{escape(text)}[/]", highlight=False, soft_wrap=True)


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
