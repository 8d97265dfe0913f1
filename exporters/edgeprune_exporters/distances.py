"""How far two tensors of logits, or of values within a model, are apart.

A NaN, and an infinity, is infinitely far from anything.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

SAME: Final = 1e-4  # what rounding makes of equal values, relative to the largest
DIGITS: Final = 4  # of a measured number in a document: the rest is noise

Array = NDArray[np.float32]
Values = NDArray[np.float32] | NDArray[np.float64]


def difference(actual: Values, wanted: Values) -> NDArray[np.float64]:
    """Return the differences in absolute value."""
    found = np.abs(actual.astype(np.float64) - wanted)
    return np.nan_to_num(found, nan=np.inf, posinf=np.inf)


def distance(actual: Values, wanted: Values) -> tuple[float, float]:
    """Return the largest difference, and the same relative to the largest wanted value."""
    max_abs = float(difference(actual, wanted).max(initial=0.0))
    return max_abs, max_abs / max(float(np.abs(wanted).max(initial=0.0)), 1e-12)


def noise(actual: Values, wanted: Values) -> float | None:
    """Return the differences relative to what wanted values (N, …) differ from image to image."""
    spread = spread_of(wanted)
    return None if spread is None else root_mean_square(difference(actual, wanted)) / spread


def spread_of(values: Values) -> float | None:
    """Return what values (N, …) differ from their mean over N; None if by rounding alone."""
    spread = root_mean_square(values - values.mean(0))
    return spread if spread > SAME * float(np.abs(values).max(initial=0.0)) else None


def root_mean_square(values: Values) -> float:
    """Return the root of the mean of the squares."""
    return math.sqrt(float(np.square(values, dtype=np.float64).mean()))


def rounded(value: float | None) -> float | None:
    """Return a measured number for a document: in few digits, and null where infinite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")
