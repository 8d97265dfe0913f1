"""How progress and results look in a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from edgeprune.pipeline.results import CompressResults
from edgeprune.progress import Advance


class RichReporter:
    """Draws stages as headings and long work as bars; without a terminal, as plain lines."""

    def __init__(self, console: Console) -> None:
        """Draw on a console."""
        self.console = console

    def stage(self, title: str) -> None:
        """Print a heading."""
        self.console.print(f"[bold]▸ {escape(title)}[/]")

    def say(self, text: str) -> None:
        """Print a line below the heading."""
        self.console.print(f"  {escape(text)}", highlight=False)

    @contextmanager
    def track(self, title: str, total: int) -> Iterator[Advance]:
        """Show a bar that disappears when the work is done."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(escape(title), total=total, words="")
            yield lambda done, words: progress.update(task, completed=done, words=escape(words))


def print_results(results: CompressResults, console: Console) -> None:
    """Print dense against slim, and what a reader must know beside it."""
    dense, slim = results.headline["dense"], results.headline["slim"]
    table = Table(title=results.title, title_justify="left", title_style="bold")
    for name in ("", "dense", "slim", "slim / dense"):
        table.add_column(name, justify="left" if not name else "right")
    for label, key, form in _ROWS:
        table.add_row(label, *_cells(dense[key], slim[key], form))
    ratio = results.headline["latency_ratio"]
    table.add_row(
        "  95 % interval", "", "", f"{ratio['low']:.3f} to {ratio['high']:.3f}: {ratio['verdict']}"
    )
    console.print(table)
    for line in results.lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


_ROWS = (
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
    if form in ("percent", "share"):
        points = (slim - dense) * (100 if form == "percent" else 1)
        return _form(dense, form), _form(slim, form), f"{points:+.2f}" + (
            " points" if form == "percent" else ""
        )
    return _form(dense, form), _form(slim, form), f"{slim / dense:.3f}" if dense else ""


def _form(value: float | None, form: str) -> str:
    if value is None:
        return "not measured"
    match form:
        case "percent":
            return f"{100 * value:.2f} %"
        case "share":
            return f"{value:.4f}"
        case "bytes":
            return f"{value / 1e6:.2f} MB"
        case "megabytes":
            return f"{value:.0f} MB"
        case "milliseconds":
            return f"{value:.3g} ms"
        case _:
            return _count(value)


def _count(value: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {letter}"
    return f"{value:.0f}"

