"""Every timm family with edgeprune and with Torch-Pruning, under the same limits.

Each family with each tool is a process of its own: one thread, the same seconds,
the same memory. Results are kept in a work folder as they come, so an
interrupted run goes on where it stopped. Needs a checkout that is installed with
``pip install -e '.[test,peers]'``.

    python benchmarks/peers/coverage.py --write
"""

import os
import shlex
import signal
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.files import write_text
from peers.coverage_journal import read
from peers.coverage_limits import ROOT, WORKERS, Limits, Task, run_all
from peers.coverage_report import Report
from peers.coverage_results import Result
from tests.edgeprune.families import FAMILIES

RESULTS: Final = ROOT / "benchmarks" / "RESULTS.md"
PAGE: Final = ROOT / "docs" / "coverage.md"
MARKS: Final = ("<!-- {}: written by benchmarks/peers/coverage.py -->", "<!-- end of {} -->")


@click.command()
@click.option("--families", default="", help="Names, separated by commas; default: all.")
@click.option("--tools", default=",".join(WORKERS), show_default=True)
@click.option("--limit", default=240.0, show_default=True, help="Seconds per process.")
@click.option("--memory", default=10.0, show_default=True, help="GiB of addresses per process.")
@click.option("--workers", default=3, show_default=True, help="Processes at a time.")
@click.option("--work", default="build/coverage", show_default=True, help="Folder of results.")
@click.option("--fresh", is_flag=True, help="Repeat what the work folder already holds.")
@click.option("--write", is_flag=True, help="Update RESULTS.md and docs/coverage.md.")
def main(  # noqa: PLR0917 - click passes options by name
    families: str,
    tools: str,
    limit: float,
    memory: float,
    workers: int,
    work: str,
    fresh: bool,
    write: bool,
) -> None:
    """Measure how many families can be pruned, and how."""
    names = _chosen(families, tuple(FAMILIES), "families")
    folder = Path(work).resolve()
    tasks = [
        Task(family=name, tool=tool, path=folder / tool / f"{name}.json")
        for name in names
        for tool in _chosen(tools, tuple(WORKERS), "tools")
    ]
    missing = [task for task in tasks if fresh or not _finished(task)]
    limits = Limits(seconds=limit, memory_gib=memory)
    _run(missing, limits, workers)
    report = _report(tasks, names, f"{limits.text()}, {workers} processes at a time")
    for text in (report.summary(), report.agreement(), "Not working:", report.failures()):
        click.echo(f"{text}\n")
    if write:
        _write(report)


def _chosen(given: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    wanted = tuple(name.strip() for name in given.split(",") if name.strip())
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise UsageError(
            f"--{what} {', '.join(unknown)}: not known; give some of {', '.join(known)}"
        )
    return wanted or known


def _finished(task: Task) -> bool:
    facts = read(task.path)
    return facts is not None and bool(facts.get("finished"))


def _run(tasks: list[Task], limits: Limits, workers: int) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the workers as Ctrl-C does
    # The largest first, so that none of them is left over for the end.
    order = sorted(tasks, key=lambda task: -_expected_seconds(task.family))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("families × tools", total=len(order))
        for task in run_all(order, limits, workers):
            result = Result(facts=read(task.path) or {})
            verdict = "works" if result.succeeds else result.first_error() or "fails"
            console.print(f"{task.tool:>13} {task.family:<26} {verdict}", highlight=False)
            progress.advance(bar)


def _expected_seconds(family: str) -> int:
    """Return a rank only: what is named for its size takes long, the rest is alike."""
    slow = ("deepseek_vit", "gemma4_vit", "qwen3_vit", "nasnet", "pnasnet", "mobilenetv5",
            "byoanet", "naflexvit", "inception_resnet_v2", "focalnet", "densenet")  # fmt: skip
    return len(slow) - slow.index(family) if family in slow else 0


def _report(tasks: list[Task], names: tuple[str, ...], limits: str) -> Report:
    found = {(task.tool, task.family): read(task.path) for task in tasks}
    ours, peer = (
        {name: Result(facts=f) for name in names if (f := found.get((tool, name))) is not None}
        for tool in WORKERS
    )
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "timm", "torch-pruning"))
    return Report(
        ours=ours,
        peer=peer,
        models={name: FAMILIES[name][0] for name in names},
        setting=f"{versions}; one thread each, {limits}; {os.cpu_count()} cores{_others(found)}",
    )


def _others(found: Mapping[tuple[str, str], dict[str, Any] | None]) -> str:
    """Name the families that were given other limits than most, with theirs."""
    by_limits: dict[str, set[str]] = {}
    for (_, family), facts in found.items():
        by_limits.setdefault((facts or {}).get("limits", ""), set()).add(family)
    usual = max(by_limits, key=lambda limits: len(by_limits[limits]))
    return "".join(
        f"; {', '.join(sorted(families))}: {limits}"
        for limits, families in sorted(by_limits.items())
        if limits != usual
    )


def _write(report: Report) -> None:
    command = shlex.join(["python", "benchmarks/peers/coverage.py", *_public(sys.argv[1:])])
    heading = f"`{command}`: {report.setting}.\n\n{report.summary()}\n\n{report.agreement()}"
    _replace(RESULTS, "coverage", f"## Coverage\n\n{heading}\n\n{report.table()}")
    _replace(PAGE, "coverage summary", f"{heading}")
    _replace(PAGE, "coverage failures", report.failures())
    _replace(PAGE, "coverage table", report.table())


def _public(arguments: list[str]) -> list[str]:
    """Drop the work folder: where it lies is no one else's concern."""
    kept: list[str] = []
    for position, argument in enumerate(arguments):
        value = position > 0 and arguments[position - 1] == "--work"
        if not value and argument.partition("=")[0] != "--work":
            kept.append(argument)
    return [argument for argument in kept if argument != "--fresh"]


def _replace(path: Path, name: str, text: str) -> None:
    """Put text between two marks, or with them at the end of the file."""
    begin, end = (mark.format(name) for mark in MARKS)
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    write_text(path, f"{before.rstrip()}\n\n{begin}\n{text}\n{end}{after}".lstrip())


if __name__ == "__main__":
    try:
        main()
    except EdgepruneError as error:
        raise SystemExit(f"error: {error}") from None
