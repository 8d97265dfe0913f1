"""Which widths a channel group may have, so that those of its tensors end on multiples.

Kernels like widths that are multiples of 8, 16 or 32. Invariant: a width is such
a multiple, or the group says why it is not.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.axes.analysis import Analysis
from edgeprune.axes.groups import ChannelGroup, Occurrence
from edgeprune.limits import Limit

SHOWN: Final = 3  # names in a note
FIGURES: Final = re.compile(r"\d+|'[^']*'")  # in what else reasons of one kind differ


def alignment(group: ChannelGroup, align: int) -> int:
    """Return the multiple that a group's count must be of, so that widths are aligned.

    A head stands for head_dim positions at once, so a few heads may already be
    a multiple. Head dimensions are aligned by themselves: the product of query
    and key runs over them alone.
    """
    widths = [o for o in group.parameters if _is_width(group, o)]
    if group.kind == "head_dim" or not widths:
        return align
    needed = [align // np.gcd(align, o.positions) for o in widths]
    return int(np.lcm.reduce(np.array(needed, np.int64)))


def allowed_widths(group: ChannelGroup, limit: Limit, multiple: int) -> NDArray[np.int64]:
    """Return the widths that a group may have, narrowest first; at least one.

    They are the multiples within the limits, and the whole group. A group that
    is smaller than one multiple stays whole; where a ceiling forbids that, it
    keeps as many units as that allows.
    """
    widths = np.arange(multiple, group.size + 1, multiple, dtype=np.int64)
    widths = np.union1d(widths, [group.size])
    widths = widths[(widths >= limit.least) & (widths <= limit.most)]
    return widths if len(widths) else np.array([limit.most], np.int64)


def nearest(widths: NDArray[np.int64], wanted: int) -> int:
    """Return the width nearest to the one wanted; of two the wider."""
    above = min(int(np.searchsorted(widths, wanted)), len(widths) - 1)
    below = max(above - 1, 0)
    wide, narrow = int(widths[above]), int(widths[below])
    return narrow if wanted - narrow < wide - wanted else wide


def unaligned(
    analysis: Analysis,
    keep: Mapping[str, NDArray[np.bool_]],
    limits: Mapping[str, Limit],
    align: int,
) -> dict[str, str]:
    """Say of each group that could not be aligned why, by its name.

    Args:
        analysis: of the dense model.
        keep: which units stay, (size,) of bool by group.
        limits: of every group.
        align: what widths are to be multiples of.
    """
    if align == 1:
        return {}
    reasons = {}
    for group in analysis.groups:
        kept = int(keep[group.name].sum())
        reason = _reason(group, kept, limits[group.name], alignment(group, align))
        if reason:
            reasons[group.name] = reason
    return reasons | _beside_others(analysis, keep, align, reasons)


def summarised(reasons: Mapping[str, str]) -> Iterator[str]:
    """Put reasons of groups into a few sentences: one per kind of reason, by example."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        alike[FIGURES.sub("", reason)].append(name)
    for first, *others in alike.values():
        named = ", ".join(f"'{name}'" for name in others[:SHOWN])
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        also = f" (likewise {named}{more})" if others else ""
        yield f"group '{first}' {reasons[first]}{also}"


def _is_width(group: ChannelGroup, occurrence: Occurrence) -> bool:
    """Say whether units make up a width there: a number per head, as in a table, is none."""
    if group.kind != "heads" or occurrence.positions > 1:
        return True
    return all(o.positions == 1 for o in group.parameters)


def _reason(group: ChannelGroup, kept: int, limit: Limit, multiple: int) -> str | None:
    """Say why a group's own width is no multiple, or cannot be less than whole, or None."""
    small = group.size == multiple and limit.least < group.size  # a multiple, but never fewer
    if group.size == 1 or (kept % multiple == 0 and not small):
        return None
    if kept < group.size:
        return (
            f"ends on no multiple of {multiple}: its limits leave {kept} of its {group.size} units"
        )
    if group.size <= multiple:
        return f"stays whole: its {kept} units are no more than one multiple of {multiple}"
    return f"stays whole: its {kept} units are no multiple of {multiple}"


def _beside_others(
    analysis: Analysis,
    keep: Mapping[str, NDArray[np.bool_]],
    align: int,
    known: Mapping[str, str],
) -> dict[str, str]:
    """Find groups whose own width is a multiple, but not that of a tensor they share.

    In a concatenation with channels that are frozen, say.
    """
    members: dict[tuple[str, int], set[str]] = defaultdict(set)
    for group in analysis.groups:
        for occurrence in group.parameters:
            if _is_width(group, occurrence):
                members[occurrence.parameter, occurrence.dim].add(group.name)
    kept = analysis.kept(keep)
    reasons: dict[str, str] = {}
    for (parameter, dim), names in members.items():
        axis = analysis.parameters[parameter][dim]
        width = kept.count(axis) if axis.size > 1 else align
        if width % align and known.keys().isdisjoint(names):
            reason = (
                f"ends on a multiple itself: beside others, '{parameter}' is {width} wide, "
                f"which is no multiple of {align}"
            )
            reasons |= {name: reason for name in sorted(names) if name not in reasons}
    return reasons
