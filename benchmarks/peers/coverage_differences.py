"""Why two tools keep different shares of parameters at the same ratio.

The cause is measured: parameter by parameter, by the shapes that both leave.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from peers.coverage_results import Result

AGREEMENT: Final = 0.02
SHOWN: Final = 2
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Parameters of one kind that the tools leave in different shapes.

    Attributes:
        pattern: their names, with numbers as ``*``.
        values: how many values we keep more than the peer does.
        dense: the shape of the one that differs most.
        ours: what we leave of it.
        peer: what the peer leaves of it.
        frozen: why we cannot cut it further, if something is in the way.
    """

    pattern: str
    values: int
    dense: Sequence[int]
    ours: Sequence[int]
    peer: Sequence[int]
    frozen: str | None

    def text(self) -> str:
        """Return the cause as a phrase."""
        ours, peer, dense = (_times(shape) for shape in (self.ours, self.peer, self.dense))
        why = f" ({self.frozen})" if self.frozen and self.values > 0 else ""
        return f"`{self.pattern}` {dense} → {ours} here{why}, {peer} there"


def relative_difference(ours: Result, peer: Result) -> float | None:
    """Return how much more of the parameters we keep, relative to the peer's, or None."""
    if ours.share is None or peer.share is None or not peer.succeeds:
        return None
    return ours.share / peer.share - 1


def causes(ours: Result, peer: Result) -> list[Cause]:
    """List what differs, most values first."""
    dense: Shapes = ours.facts.get("dense_shapes", {})
    mine: Shapes = ours.facts.get("shapes", {})
    theirs: Shapes = peer.facts.get("shapes", {})
    frozen = ours.facts.get("frozen", {})
    found: dict[str, list[str]] = {}
    for name in dense:
        if name in theirs and list(mine[name]) != list(theirs[name]):
            found.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    result = []
    for pattern, names in found.items():
        gap = {name: prod(mine[name]) - prod(theirs[name]) for name in names}
        most = max(names, key=lambda name: abs(gap[name]))
        reasons = frozen.get(most, ())
        result.append(
            Cause(
                pattern=pattern,
                values=sum(gap.values()),
                dense=dense[most],
                ours=mine[most],
                peer=theirs[most],
                frozen=reasons[0] if reasons else None,
            )
        )
    return sorted(result, key=lambda cause: -abs(cause.values))


def explanation(ours: Result, peer: Result) -> str:
    """Return the largest causes as one sentence, with the share of the gap they make up."""
    gap = sum(cause.values for cause in causes(ours, peer))
    shown = causes(ours, peer)[:SHOWN]
    parts = [f"{cause.values / gap:.0%} from {cause.text()}" for cause in shown if gap]
    return "; ".join(parts)


def _times(shape: Sequence[int]) -> str:
    return "×".join(str(size) for size in shape)
