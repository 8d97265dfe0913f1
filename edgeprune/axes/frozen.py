"""Which dimensions of parameters cannot shrink, and what stands in the way.

Kernels, tokens and space are no channels by their nature and are not listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.axes.columns import Axes, Axis, occupied
from edgeprune.axes.forest import Forest


@dataclass(frozen=True, kw_only=True)
class FrozenAxis:
    """A dimension of a parameter that cannot, or not wholly, shrink.

    Attributes:
        parameter: name of the parameter or buffer.
        dim: the dimension.
        size: its number of positions.
        stuck: how many of them cannot go; ``size`` when the whole dimension is frozen.
        reasons: what stands in the way, as operators with their modules, sorted.
    """

    parameter: str
    dim: int
    size: int
    stuck: int
    reasons: tuple[str, ...]


def find_frozen(
    units: Forest, first: Mapping[str, Axes], resolved: Mapping[str, Axes]
) -> tuple[FrozenAxis, ...]:
    """List what is frozen, from the axes that parameters began with and what is left of them."""
    pairs = [
        (name, dim, known, left)
        for name, axes in resolved.items()
        for dim, (known, left) in enumerate(zip(first[name], axes, strict=True))
    ]
    found = (_frozen(units, *pair) for pair in pairs)
    return tuple(axis for axis in found if axis is not None)


def _frozen(units: Forest, name: str, dim: int, known: Axis, left: Axis) -> FrozenAxis | None:
    stuck = left.size - int(np.count_nonzero(occupied(left)))
    reasons = units.reasons_of(known) if stuck else frozenset()
    if not reasons:
        return None
    return FrozenAxis(
        parameter=name, dim=dim, size=left.size, stuck=stuck, reasons=tuple(sorted(reasons))
    )
