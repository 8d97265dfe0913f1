"""What can be wrong in a phantom's chest.

Each finding takes chests and gives the attenuation that it adds, (B, H, W). Where
that is 0 the image stays as it was, so its support is the finding's mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from edgeprune.data.phantoms.anatomy import Chest, Field, bump, heart_shadow, ramp, uniform

Finding: TypeAlias = Callable[[np.random.Generator, Chest], Field]

# What is fainter is lost in the grain: it belongs neither in the image nor in the mask.
_FAINTEST: Final = 0.01


def nodule(rng: np.random.Generator, chest: Chest) -> Field:
    """A small round opacity anywhere in one lung."""
    return _round(rng, chest, (0.11, 0.18), (0.24, 0.42))


def mass(rng: np.random.Generator, chest: Chest) -> Field:
    """A large round opacity anywhere in one lung."""
    return _round(rng, chest, (0.22, 0.32), (0.22, 0.36))


def consolidation(rng: np.random.Generator, chest: Chest) -> Field:
    """A patch of filled air spaces with a ragged outline."""
    return _patch(rng, chest, (0.28, 0.42), (0.17, 0.32))


def infiltration(rng: np.random.Generator, chest: Chest) -> Field:
    """A wide, faint and uneven haze."""
    return _patch(rng, chest, (0.32, 0.50), (0.08, 0.20))


def effusion(rng: np.random.Generator, chest: Chest) -> Field:
    """Fluid over one diaphragm, rising towards the chest wall."""
    count = len(chest.u)
    outward = chest.side * chest.u - 0.35
    level = uniform(rng, 0.02, 0.22, count) + 0.45 * np.maximum(outward, 0)
    filled = ramp(chest.depth + level, 0.05) * chest.lungs * (chest.side * chest.u > 0)
    return _visible(uniform(rng, 0.16, 0.30, count) * filled)


def cardiomegaly(rng: np.random.Generator, chest: Chest) -> Field:
    """A heart wider than it should be."""
    wider = chest.heart + uniform(rng, 0.07, 0.20, len(chest.u))
    grown = heart_shadow(chest.u, chest.v, wider) - heart_shadow(chest.u, chest.v, chest.heart)
    return _visible(0.20 * np.maximum(grown, 0) * chest.lungs)


def pneumothorax(rng: np.random.Generator, chest: Chest) -> Field:
    """Air along the upper chest wall, darker than lung, behind a thin pleural line."""
    count = len(chest.u)
    across, along = chest.side * chest.u - 0.36, chest.v - 0.05
    extent = uniform(rng, 0.70, 0.92, count)
    outside = (across / 0.34) ** 2 + (along / 0.86) ** 2 - extent
    upper = chest.lungs * (chest.side * chest.u > 0) * ramp(0.2 - chest.v, 0.2)
    line = uniform(rng, 0.12, 0.22, count) * bump((outside / 0.14) ** 2)
    return _visible(upper * (line - uniform(rng, 0.08, 0.18, count) * ramp(outside, 0.1)))


def fibrosis(rng: np.random.Generator, chest: Chest) -> Field:
    """A fine net of lines in both bases."""
    count = len(chest.u)
    net = np.zeros_like(chest.u)
    for lean in (-0.9, 0.9):
        turns = (chest.u + lean * chest.v) * uniform(rng, 4.5, 6.5, count)
        net += bump((2 * np.abs(turns - np.floor(turns) - 0.5) / 0.6) ** 2)
    where = chest.lungs * ramp(chest.v - uniform(rng, 0.05, 0.25, count), 0.15)
    return _visible(uniform(rng, 0.04, 0.13, count) * net * where)


def _visible(added: Field) -> Field:
    return np.where(np.abs(added) < _FAINTEST, 0.0, added)


def _place(rng: np.random.Generator, chest: Chest) -> tuple[Field, Field]:
    """Give the coordinates relative to a random spot in the chosen lung."""
    count = len(chest.u)
    x, y = uniform(rng, 0.28, 0.58, count), uniform(rng, -0.50, 0.38, count)
    return chest.side * chest.u - x, chest.v - y


def _round(
    rng: np.random.Generator,
    chest: Chest,
    radius: tuple[float, float],
    contrast: tuple[float, float],
) -> Field:
    x, y = _place(rng, chest)
    stretch = uniform(rng, 0.8, 1.25, len(x))
    squared = ((x * stretch) ** 2 + (y / stretch) ** 2) / uniform(rng, *radius, len(x)) ** 2
    # Sharper than a bump: a nodule is dense up to its edge.
    return _visible(uniform(rng, *contrast, len(x)) * np.sqrt(bump(squared)))


def _patch(
    rng: np.random.Generator,
    chest: Chest,
    radius: tuple[float, float],
    contrast: tuple[float, float],
) -> Field:
    x, y = _place(rng, chest)
    count = len(x)
    filled = np.zeros_like(x)
    reach = uniform(rng, *radius, count)
    for _ in range(5):
        dx, dy = (
            x - 0.6 * reach * uniform(rng, -1, 1, count),
            y - reach * uniform(rng, -1, 1, count),
        )
        filled += bump((dx**2 + dy**2) / (reach * uniform(rng, 0.45, 0.85, count)) ** 2)
    ragged = np.minimum(filled, 1) * chest.lungs * (chest.side * chest.u > 0)
    return _visible(uniform(rng, *contrast, count) * ragged)
