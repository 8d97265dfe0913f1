"""What ``score`` and ``explain`` print: plain columns, which a pipe can search."""

from collections.abc import Iterator, Sequence

from edgeprune.pipeline.scoring_run import ScoreResults


def score_lines(results: ScoreResults) -> Iterator[str]:
    """Yield the scores of layers, and where those of units are."""
    summary = results.to_dict()
    images = f" on {summary['samples']} images" if summary["samples"] else ""
    yield f"{results.model}: {summary['units']} units by {summary['criterion']}{images}"
    yield ""
    whole = sum(abs(group["sum"]) for group in summary["groups"]) or 1.0
    rows = [
        (
            group["name"],
            group["kind"],
            str(group["size"]),
            f"{100 * group['sum'] / whole:.1f} %",
            *(f"{group[key]:.3g}" for key in ("mean", "lowest", "highest")),
        )
        for group in summary["groups"]
    ]
    head = ("group", "kind", "units", "share", "mean", "lowest", "highest")
    yield from columns(head, rows, left=2)
    yield ""
    for path in results.files:
        yield f"written: {path}"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """Yield a table; its first ``left`` columns begin, the others end, below each other."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
