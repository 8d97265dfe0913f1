"""A chest as a field of attenuation, before any finding is put into it.

Units: the image spans -1 to 1 in both directions, attenuation is 0 for air and
about 1 for bone. Shapes are piecewise polynomials rather than exponentials and
sines: they use only operations that IEEE 754 rounds exactly, so a seed gives the
same bytes on every machine, and they end, so the mask of a finding is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Chest:
    """A batch of chests. Fields are (B, H, W), or (B, 1, 1) for a number per image.

    u, v: body coordinates, to the left and down. lungs: 1 inside, 0 outside. depth:
    how far below the diaphragm, negative in the lungs. side: which lung findings that
    take one take, -1 or 1. heart: its half width.
    """

    u: Field
    v: Field
    lungs: Field
    depth: Field
    attenuation: Field
    side: Field
    heart: Field

    def take(self, rows: NDArray[np.intp]) -> Chest:
        """Take some of the chests."""
        return Chest(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def uniform(rng: np.random.Generator, low: float, high: float, count: int) -> Field:
    """Draw a number per image, (count, 1, 1)."""
    return rng.uniform(low, high, (count, 1, 1))


def bump(squared: Field) -> Field:
    """Fall smoothly from 1 at a squared radius of 0 to 0 at 1 and beyond."""
    rest = np.maximum(1 - squared, 0)
    return rest * rest


def ramp(distance: Field, width: float) -> Field:
    """Rise smoothly from 0 at -width to 1 at +width."""
    share = np.clip(distance / (2 * width) + 0.5, 0, 1)
    return share * share * (3 - 2 * share)


def make_chests(rng: np.random.Generator, count: int, size: int) -> Chest:
    """Draw chests that differ in pose, build, bones and vessels."""
    u, v = _posed(rng, count, size)
    lungs, depth = _lungs(rng, u, v)
    heart = uniform(rng, 0.24, 0.33, count)
    body = ramp(1 - (u / 0.95) ** 4 - (np.maximum(-v - 0.2, 0) / 0.95) ** 4, 0.15)
    attenuation = 0.60 * body - uniform(rng, 0.34, 0.42, count) * lungs
    attenuation += 0.20 * heart_shadow(u, v, heart)
    attenuation += uniform(rng, 0.10, 0.18, count) * bump((u / 0.17) ** 2)
    attenuation += body * _bones(rng, u, v) + lungs * _vessels(rng, u, v)
    attenuation += _distractors(rng, u, v, lungs)
    side = rng.choice([-1.0, 1.0], (count, 1, 1))
    return Chest(
        u=u, v=v, lungs=lungs, depth=depth, attenuation=attenuation, side=side, heart=heart
    )


def heart_shadow(u: Field, v: Field, half_width: Field) -> Field:
    """Give the heart's outline, 1 inside, for a half width per image."""
    across, along = u - 0.10 + 0.25 * (v - 0.3), v - 0.30
    return ramp(1 - (across / half_width) ** 2 - (along / 0.36) ** 2, 0.25)


def _posed(rng: np.random.Generator, count: int, size: int) -> tuple[Field, Field]:
    axis = (np.arange(size) + 0.5) * (2 / size) - 1
    x, y = axis[None, None, :], axis[None, :, None]
    angle = uniform(rng, -0.12, 0.12, count)
    zoom = uniform(rng, 0.92, 1.14, count)
    x, y = x - uniform(rng, -0.08, 0.08, count), y - uniform(rng, -0.08, 0.08, count)
    return zoom * (x - angle * y), zoom * (y + angle * x)


def _lungs(rng: np.random.Generator, u: Field, v: Field) -> tuple[Field, Field]:
    """Two fields under their apices and above their domes."""
    count = len(u)
    lungs, depth = np.zeros_like(u), np.zeros_like(u)
    width = uniform(rng, 0.28, 0.33, count)
    for side in (-1.0, 1.0):
        across = (side * u - 0.44) / (width * (1 + 0.22 * v))
        inside = 1 - across**2 - (np.abs(v + 0.05) / 0.84) ** 3
        base = uniform(rng, 0.52, 0.62, count)
        below = v - base + 0.10 * (1 - (across - 0.2) ** 2)
        lungs += ramp(np.minimum(inside, -4 * below), 0.16)
        depth = np.where(side * u > 0, below, depth)
    return lungs, depth


def _bones(rng: np.random.Generator, u: Field, v: Field) -> Field:
    """Posterior and anterior ribs, and the clavicles."""
    count = len(u)
    away = np.abs(u)
    bones = np.zeros_like(u)
    for slope, low, high in ((0.35, 0.05, 0.10), (-0.55, 0.02, 0.06)):
        level = v + slope * (away - 0.5) ** 2 - slope * away
        turns = level * uniform(rng, 3.4, 4.2, count) + uniform(rng, 0, 1, count)
        wave = 2 * np.abs(turns - np.floor(turns) - 0.5)
        bones += uniform(rng, low, high, count) * bump((wave / 0.55) ** 2)
    collar = v + uniform(rng, 0.60, 0.72, count) + uniform(rng, 0.05, 0.25, count) * away
    bones += uniform(rng, 0.05, 0.10, count) * bump((collar / 0.06) ** 2)
    return np.asarray(bones * (away > 0.1))


def _vessels(rng: np.random.Generator, u: Field, v: Field) -> Field:
    """Branches that leave each hilum, bend and thin out; some cross, some end in a dot."""
    count = len(u)
    vessels = np.zeros_like(u)
    for side in (-1.0, 1.0):
        x, y = side * u - 0.18, v - uniform(rng, -0.05, 0.10, count)
        for fan in (-0.9, -0.45, 0.05, 0.5, 0.95):
            tilt = fan + uniform(rng, -0.22, 0.22, count)
            along = (x + tilt * y) / (1 + tilt * tilt)
            across = y - tilt * x + uniform(rng, -0.5, 0.5, count) * along * along
            share = np.clip(along / uniform(rng, 0.35, 0.60, count), 0, 1)
            width = 0.055 - 0.035 * share
            strength = uniform(rng, 0.06, 0.14, count) * (1 - share * share)
            vessels += np.where(along > 0, strength, 0) * bump((across / width) ** 2)
    return vessels


def _distractors(rng: np.random.Generator, u: Field, v: Field, lungs: Field) -> Field:
    """What is normal and looks like a finding: vessels end-on, nipples, soft tissue."""
    count = len(u)
    shadows = np.zeros_like(u)
    for _ in range(4):
        x = rng.choice([-1.0, 1.0], (count, 1, 1)) * uniform(rng, 0.20, 0.50, count)
        y = uniform(rng, -0.35, 0.35, count)
        squared = ((u - x) ** 2 + (v - y) ** 2) / uniform(rng, 0.05, 0.07, count) ** 2
        shadows += uniform(rng, 0.0, 0.16, count) * bump(squared) * lungs
    height, apart = uniform(rng, 0.32, 0.46, count), uniform(rng, 0.42, 0.54, count)
    squared = ((np.abs(u) - apart) ** 2 + (v - height) ** 2) / 0.09**2
    shadows += np.maximum(uniform(rng, -0.15, 0.15, count), 0) * bump(squared)
    breast = ((np.abs(u) - 0.45) / 0.55) ** 2 + ((v - 0.45) / 0.5) ** 2
    return np.asarray(shadows + uniform(rng, 0.0, 0.10, count) * bump(breast))
