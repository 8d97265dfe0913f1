"""How many units each channel group keeps at least and at most, by what was asked for.

Invariant: a pattern that matches nothing and limits that contradict each other
are refused, so whatever was asked for holds.
"""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from edgeprune.axes.groups import ChannelGroup
from edgeprune.budget import Budget
from edgeprune.errors import UsageError

SHOWN: Final = 3  # names in a hint
ROUNDING: Final = 9  # digits: 0.07 of 100 units are 7, not 7.000000000000001


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The fewest and the most units that a group may keep."""

    least: int
    most: int


class Asked(NamedTuple):
    """A share, and the pattern it was asked for by."""

    share: float
    pattern: str


def find_limits(
    groups: Sequence[ChannelGroup], budget: Budget, tensors: Collection[str]
) -> dict[str, Limit]:
    """Return the limits of every group, by its name.

    tensors: names of the model's parameters and buffers.

    Raises:
        UsageError: a pattern or kind that matches nothing, or limits that no
            width meets.
    """
    check_kinds(groups, budget.kinds)
    cut = [g for g in groups if not budget.kinds or g.kind in budget.kinds]
    floors = _highest(cut, budget.floors)
    ceilings = _lowest(cut, budget.ceilings)
    whole = _asked_whole(groups, budget, tensors)
    left_out = {g.name for g in groups} - {g.name for g in cut}
    limits = {}
    for group in groups:
        floor, ceiling = floors.get(group.name), ceilings.get(group.name)
        if problem := _contradiction(group.name, whole.get(group.name), floor, ceiling):
            raise UsageError(problem)
        if group.name in whole or group.name in left_out:
            limits[group.name] = Limit(least=group.size, most=group.size)
        else:
            limits[group.name] = _limit(group.size, floor, ceiling)
    return limits


def select(pattern: str, names: Collection[str], what: str, option: str) -> list[str]:
    """Return the names that a pattern matches.

    Args:
        pattern: as in a shell; ``*`` also crosses dots.
        names: to choose from.
        what: they are, as in ``channel group``.
        option: that gave the pattern.

    Raises:
        UsageError: it matches none; the nearest are named.
    """
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UsageError(f"{option} '{pattern}' matches no {what}{_near(pattern, names)}")
    return found


def check_kinds(groups: Iterable[ChannelGroup], kinds: Iterable[str]) -> None:
    """Refuse a kind that no group has.

    Raises:
        UsageError: the kinds there are.
    """
    known = list(dict.fromkeys(group.kind for group in groups))
    for kind in kinds:
        if kind not in known:
            raise UsageError(
                f"no channel group is of kind '{kind}': this model has {', '.join(known) or 'none'}"
            )


def _near(pattern: str, names: Collection[str]) -> str:
    """Hint at what a pattern may have meant."""
    plain = re.sub(r"[*?\[\]]", "", pattern).rstrip(".")
    # Also above the names themselves: 'layr4' is near 'layer4' and far from 'layer4.0.conv1'.
    candidates = dict.fromkeys(above for name in names for above in _and_above(name))
    near = difflib.get_close_matches(plain, candidates, n=SHOWN, cutoff=0.6)
    if near:
        meant = [name if name in names else f"{name}.*" for name in near]
        return f": did you mean {', '.join(meant)}?"
    more = ", …" if len(names) > SHOWN else ""
    return f"; they are {', '.join(list(names)[:SHOWN])}{more}" if names else ""


def _and_above(name: str) -> list[str]:
    """Return a dotted name and every module that it lies in."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts), 0, -1)]


def _asked_whole(
    groups: Sequence[ChannelGroup], budget: Budget, tensors: Collection[str]
) -> dict[str, str]:
    """Map the groups that are to stay whole to the option and pattern that says so."""
    whole: dict[str, str] = {}
    for pattern in budget.keep_groups:
        for name in select(pattern, [g.name for g in groups], "channel group", "keep-group"):
            whole.setdefault(name, f"keep-group '{pattern}'")
    above = dict.fromkeys(place for name in tensors for place in _and_above(name))
    for pattern in budget.freeze:
        places = set(select(pattern, above, "module or parameter", "freeze"))
        frozen = {name for name in tensors if places.intersection(_and_above(name))}
        for group in groups:
            if any(occurrence.parameter in frozen for occurrence in group.parameters):
                whole.setdefault(group.name, f"freeze '{pattern}'")
    return whole


def _highest(groups: Sequence[ChannelGroup], floors: Mapping[str, float]) -> dict[str, Asked]:
    found: dict[str, Asked] = {}
    for pattern, share in floors.items():
        for name in select(pattern, [g.name for g in groups], "channel group", "floor"):
            found[name] = max(found.get(name, Asked(0, "")), Asked(share, pattern))
    return found


def _lowest(groups: Sequence[ChannelGroup], ceilings: Mapping[str, float]) -> dict[str, Asked]:
    found: dict[str, Asked] = {}
    for pattern, share in ceilings.items():
        for name in select(pattern, [g.name for g in groups], "channel group", "ceiling"):
            found[name] = min(found.get(name, Asked(2, "")), Asked(share, pattern))
    return found


def _contradiction(
    name: str, whole: str | None, floor: Asked | None, ceiling: Asked | None
) -> str | None:
    """Say why no width of a group meets its limits, or None."""
    if ceiling is None:
        return None
    most = f"at most {ceiling.share:g} of its units (ceiling '{ceiling.pattern}')"
    if whole and ceiling.share < 1:
        return f"group '{name}' is to stay whole ({whole}) and to keep {most}: give one of the two"
    if floor and floor.share > ceiling.share:
        return (
            f"group '{name}' is to keep at least {floor.share:g} (floor '{floor.pattern}') and "
            f"{most}: give a floor that is no higher than the ceiling"
        )
    return None


def _limit(size: int, floor: Asked | None, ceiling: Asked | None) -> Limit:
    least = math.ceil(round(size * floor.share, ROUNDING)) if floor else 1
    most = math.floor(round(size * ceiling.share, ROUNDING)) if ceiling else size
    return Limit(least=max(1, least), most=max(1, least, most))
