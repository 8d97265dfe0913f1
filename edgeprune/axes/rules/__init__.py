"""The rule table: importing this package fills it.

One small function per operator or family of operators. An operator that has
none freezes what it touches.
"""

from edgeprune.axes.rules import (
    attention,
    constants,
    contraction,
    einsum,
    lookup,
    normalisation,
    pieces,
    pointwise,
    products,
    recurrent,
    reduction,
    repetition,
    shape,
    spatial,
)

__all__ = [
    "attention",
    "constants",
    "contraction",
    "einsum",
    "lookup",
    "normalisation",
    "pieces",
    "pointwise",
    "products",
    "recurrent",
    "reduction",
    "repetition",
    "shape",
    "spatial",
]
