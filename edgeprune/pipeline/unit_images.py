"""Which images a unit is looked at with, and what is known about them."""

import numpy as np
from numpy.typing import NDArray

from edgeprune.data import ImageData, PreparedSplit
from edgeprune.data.preprocessing import fit
from edgeprune.data.splits import Labels


def members(labels: Labels, classes: int) -> NDArray[np.bool_]:
    """Return which images are of which class, bool (N, K)."""
    if labels.ndim == 2:
        return labels.astype(bool)
    found: NDArray[np.bool_] = labels[:, None] == np.arange(classes)
    return found


def spread(labels: Labels, count: int, seed: int) -> list[int]:
    """Choose positions of ``count`` images that take turns among the classes, in order.

    An image with several findings takes the turn of the rarest.
    """
    rng = np.random.default_rng([seed, len(labels)])
    kinds = _rarest(labels) if labels.ndim == 2 else labels
    order = rng.permutation(len(labels))
    turns = np.empty(len(labels), np.int64)
    for kind in np.unique(kinds):
        own = order[kinds[order] == kind]
        turns[own] = np.arange(len(own))
    first = order[np.argsort(turns[order], kind="stable")][:count]
    return sorted(first.tolist())


def mask_of(data: ImageData, split: PreparedSplit, position: int) -> NDArray[np.bool_] | None:
    """Return where an image's finding is, bool (H, W) as the model sees it, if that is known."""
    known = (data.masks or {}).get(split.split.ids[position])
    if known is None:
        return None
    own = members(split.split.labels[position : position + 1], len(known))[0]
    whole = np.asarray(known[own].any(0))
    if not whole.any():
        return None
    # As an image, so that it is resized and cropped like the one it belongs to.
    return fit(np.where(whole, np.uint8(255), np.uint8(0)), split.how)[..., 0] > 127


def _rarest(labels: Labels) -> NDArray[np.int64]:
    """Return the rarest finding of each image, -1 where there is none."""
    present = labels.astype(bool)
    rarity = np.where(present, present.sum(0), np.inf).argmin(1)
    return np.where(present.any(1), rarity, -1)
