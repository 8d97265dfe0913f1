"""How progress and results look, in a terminal and in a pipe."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from edgeprune.pipeline.results import CompressResults
from edgeprune.progress import Advance

INTERVAL: Final = 10.0  # seconds between lines of progress where no bar can be drawn


class RichReporter:
    """Draws stages as headings and long work as bars; without a terminal, as plain lines."""

    def __init__(self, console: Console, *, interval: float = INTERVAL) -> None:
        """Draw on a console. interval: seconds between plain lines."""
        self.console = console
        self.interval = interval

    def stage(self, title: str) -> None:
        """Print a heading."""
        self.console.print(f"[bold]▸ {escape(title)}[/]", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line below the heading."""
        self.console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)

    @contextmanager
    def track(self, title: str, total: int | None) -> Iterator[Advance]:
        """Show a bar that disappears when the work is done, or a line now and then."""
        if not self.console.is_terminal:
            yield self._lines(title, total)
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(escape(title), total=total, words="")

            def advance(done: int, words: str = "", *, total: int | None = None) -> None:
                progress.update(task, completed=done, total=total, words=escape(words))

            yield advance

    def _lines(self, title: str, whole: int | None) -> Advance:
        told = time.monotonic()

        def advance(done: int, words: str = "", *, total: int | None = None) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told < self.interval:
                return
            told = now
            of = total if total is not None else whole
            parts = (f"{title}: {done}", f"of {of}" if of else "", f"({words})" if words else "")
            self.say(" ".join(part for part in parts if part))

        return advance


def print_results(results: CompressResults, console: Console) -> None:
    """Print dense against slim, and what a reader must know beside it."""
    dense, slim = results.headline["dense"], results.headline["slim"]
    table = Table()
    for name in ("", "dense", "slim", "slim / dense"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for label, key, form in _ROWS:
        table.add_row(label, *_cells(dense[key], slim[key], form))
    ratio = results.headline["latency_ratio"]
    table.add_row("  95 % interval", "", "", f"{ratio['low']:.3f} to {ratio['high']:.3f}")
    table.add_row("  so slim is", "", "", ratio["verdict"])
    # Not as the table's own title, which would be broken to the table's width.
    console.print(f"[bold]{escape(results.title)}[/]", highlight=False, soft_wrap=True)
    console.print(table)
    for line in results.lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


_ROWS: Final = (
    ("test accuracy", "accuracy", "percent"),
    ("test AUROC", "auroc", "share"),
    ("MACs", "macs", "count"),
    ("parameters", "params", "count"),
    ("file size", "bytes", "bytes"),
    ("peak memory", "peak_memory_mb", "megabytes"),
    ("latency, median", "latency_ms", "milliseconds"),
)


def _cells(dense: float | None, slim: float | None, form: str) -> tuple[str, str, str]:
    if dense is None or slim is None:
        return _form(dense, form), _form(slim, form), ""
    match form:
        case "percent":
            change = f"{100 * (slim - dense):+.2f} points"
        case "share":
            change = f"{slim - dense:+.4f}"
        case _:
            change = f"{slim / dense:.3f}" if dense else ""
    return _form(dense, form), _form(slim, form), change


def _form(value: float | None, form: str) -> str:
    if value is None:
        return "not measured"
    written = {
        "percent": f"{100 * value:.2f} %",
        "share": f"{value:.4f}",
        "bytes": f"{value / 1e6:.2f} MB",
        "megabytes": f"{value:.0f} MB",
        "milliseconds": f"{value:.3g} ms",
        "count": quantity(value),
    }
    return written[form]


def quantity(value: float) -> str:
    """Write a number in three digits, as in ``11.7 M``."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {letter}"
    return f"{value:.0f}"
