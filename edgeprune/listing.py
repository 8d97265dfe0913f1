"""What ``inspect`` prints: plain columns, which a pipe can search and a narrow terminal hold."""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

import click

from edgeprune.console import quantity
from edgeprune.pipeline.inspecting import Inspected
from edgeprune.target_listing import estimate_lines

GAP: Final = "  "
LEAST_WIDTH: Final = 24  # of the last column; a narrower terminal breaks lines itself
NUMBERS: Final = frozenset({"groups", "units", "parameters", "stuck", "tensors"})


def print_inspection(inspected: Inspected) -> None:
    """Print what was found to stdout."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines(inspected, width):
        click.echo(line)


def lines(inspected: Inspected, width: int | None = None) -> Iterator[str]:
    """Yield the listing. width: of the terminal; None for lines of any length."""
    yield from _head(inspected, width)
    if inspected.found.groups:
        yield ""
        yield from _table(("kind", "groups", "units"), _kinds(inspected), width)
        yield ""
        yield from _table(
            ("group", "kind", "units", "parameters", "read by"), _groups(inspected), width
        )
        yield from _wrapped(
            "parameters: what goes with one of the group's units while all others stay, times its "
            "units; a weight between two groups counts for both",
            width,
        )
    if inspected.found.obstacles:
        yield ""
        yield from _table(
            ("tensors", "parameters", "stuck", "frozen by"), _frozen(inspected), width
        )
        yield from _wrapped(
            "parameters: in tensors with a dimension that cannot, or not wholly, shrink; stuck: in "
            "those of which no dimension can",
            width,
        )
    if inspected.estimate is not None:
        yield ""
        yield from estimate_lines(inspected.estimate, width)


def _head(inspected: Inspected, width: int | None) -> Iterator[str]:
    found, seconds = inspected.found, inspected.seconds
    shape = " × ".join(map(str, inspected.input))
    yield click.style(
        f"{inspected.model}: {quantity(found.params)} parameters, {quantity(found.macs)} MACs per "
        f"image of {shape}",
        bold=True,
    )
    yield f"weights: {inspected.weights}"
    capture, analysis = seconds["capture"], seconds["analysis"]
    taken = "" if capture is None else f"capture {capture:.2f}, "
    yield f"seconds: {taken}analysis {analysis:.2f}"
    for note in found.notes:
        yield from _wrapped(f"note: {note}", width)
    if not found.groups:
        yield "nothing can be cut: no channel group"
        return
    yield (
        f"can be cut: {_percent(found.share)} of the parameters "
        f"({quantity(found.cuttable)}) are in tensors that can shrink"
    )


def _percent(share: float) -> str:
    """Write a share so that only a whole one reads as 100 %."""
    return f"{100 * share:.1f} %" if share == 1 else f"{min(100 * share, 99.9):.1f} %"


def _kinds(inspected: Inspected) -> list[tuple[str, ...]]:
    return [
        (kind, str(total["groups"]), str(total["units"]))
        for kind, total in inspected.found.kinds.items()
    ]


def _groups(inspected: Inspected) -> list[tuple[str, ...]]:
    return [
        (group.name, group.kind, str(group.size), quantity(group.params), _first(group.readers))
        for group in inspected.found.groups
        if group.name in inspected.listed
    ]


def _first(readers: Sequence[str]) -> str:
    if not readers:
        return ""
    more = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
    return f"{readers[0] or 'the model itself'}{more}"


def _frozen(inspected: Inspected) -> list[tuple[str, ...]]:
    return [
        (str(len(each.tensors)), quantity(each.params), quantity(each.stuck), each.reason)
        for each in inspected.found.obstacles
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Yield aligned columns; the last one wraps within the width."""
    sizes = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    margin = sum(sizes) + len(GAP) * len(sizes)
    first = GAP.join((*_padded(head, head, sizes), head[-1]))
    yield click.style(first, bold=True)
    for row in rows:
        left = GAP.join(_padded(head, row, sizes)) + GAP
        last = _pieces(row[-1], width, margin)
        if head[-1] in NUMBERS:
            last = [last[0].rjust(len(head[-1]))]
        yield (left + last[0]).rstrip()
        yield from (" " * margin + piece for piece in last[1:])


def _padded(head: Sequence[str], row: Sequence[str], sizes: Sequence[int]) -> list[str]:
    return [
        cell.rjust(size) if name in NUMBERS else cell.ljust(size)
        for name, cell, size in zip(head, row, sizes, strict=False)
    ]


def _pieces(text: str, width: int | None, margin: int) -> list[str]:
    if width is None:
        return [text]
    return textwrap.wrap(text, max(width - margin, LEAST_WIDTH)) or [""]


def _wrapped(text: str, width: int | None) -> list[str]:
    return _pieces(text, width, 0)
