"""What ``score`` and ``explain`` print: plain columns, which a pipe can search."""

from collections.abc import Iterator
from pathlib import Path

from edgeprune.analysis.explanation import Explanation
from edgeprune.columns import columns
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


def explanation_lines(found: Explanation, page: Path) -> Iterator[str]:
    """Yield what was found of a unit, and where the page is."""
    state = "" if found.decision is None else ", removed" if found.decision.removed else ", kept"
    yield f"{found.name} of {found.model}: {found.kind}, one of {found.size} units{state}"
    if found.decision is not None and found.decision.reason:
        yield f"reason: {found.decision.reason}"
    if (standing := found.standing) is not None:
        most = f", matters most to {standing.most}" if standing.most else ""
        yield (
            f"score: {standing.score:.3g} by {standing.criterion}, rank {standing.rank} of "
            f"{standing.units} units and {standing.rank_in_group} of {found.size} in its "
            f"group, 1 being the lowest{most}"
        )
    yield (
        f"without it alone: {found.changed} of {found.images} answers change, the mean loss by "
        f"{found.loss:+.3g} nats"
    )
    yield ""
    rows = [
        (
            each.name,
            str(each.images),
            f"{each.response:.3g}",
            f"{each.attribution:.3g}",
            f"{each.loss:+.3g}",
            str(each.changed),
        )
        for each in found.classes
    ]
    head = ("class", "images", "response", "attribution", "loss without", "answers changed")
    yield from columns(head, rows, left=1)
    yield ""
    yield f"written: {page}"
