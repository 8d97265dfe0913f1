"""The rule table: importing this package fills it.

One small function per operator or family of operators. An operator that has
none freezes what it touches.
"""

from edgeprune.axes.rules import (
    constants,
    contraction,
    normalisation,
    pointwise,
    reduction,
    shape,
    spatial,
)

__all__ = [
    "constants",
    "contraction",
    "normalisation",
    "pointwise",
    "reduction",
    "shape",
    "spatial",
]
