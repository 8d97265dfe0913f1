"""Batches of prepared images.

Every random choice is drawn per image from the seed and the epoch before the
first batch, so a run that is resumed at an epoch sees the same images again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.data.preprocessing import Preprocessing, fit, normalize
from edgeprune.data.splits import Image, Split
from edgeprune.errors import UsageError

# Limits of the augmentation: degrees, share of the edge, share of the size.
_ROTATION, _SHIFT, _ZOOM = 8.0, 0.06, 0.08


class PreparedSplit:
    """A split whose images are resized once and then kept in memory, up to a limit.

    They are kept as uint8 before they are standardised, which takes a quarter of the
    room and gives the same batches. limit: bytes; images beyond it are prepared anew.
    """

    def __init__(self, split: Split, how: Preprocessing, *, limit: int = 2**30) -> None:
        """Remember what to prepare; nothing is read yet."""
        self.split = split
        self.how = how
        self._room = limit // (math.prod(how.size) * how.channels)
        self._kept: dict[int, Image] = {}

    def __len__(self) -> int:
        """Count the images."""
        return len(self.split)

    def __getitem__(self, index: int) -> Image:
        """Give one image as uint8 (H, W, C). Raises DataError when it cannot be decoded."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image = fit(self.split.images[index], self.how)
        if len(self._kept) < self._room:
            self._kept[index] = image
        return image


def batches(
    split: Split | PreparedSplit,
    how: Preprocessing,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    augment: bool = False,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images float32 (B, C, H, W) with labels int64 (B,) or float32 (B, K).

    indices: positions in the split, all of them when None. Shuffled, a last batch of
    one image is left out: BatchNorm cannot train on it. Raises UsageError, DataError.
    """
    prepared = split if isinstance(split, PreparedSplit) else PreparedSplit(split, how, limit=0)
    if prepared.how != how:
        raise UsageError("the split was prepared with other preprocessing than the batches ask for")
    if batch_size < 1:
        raise UsageError(f"a batch size of {batch_size} is too small: use 1 or more")
    return _batches(
        prepared,
        batch_size=batch_size,
        shuffle=shuffle,
        entropy=(seed, epoch),
        augment=augment,
        indices=indices,
    )


def _batches(
    prepared: PreparedSplit,
    *,
    batch_size: int,
    shuffle: bool,
    entropy: tuple[int, int],
    augment: bool,
    indices: Sequence[int] | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng(entropy)
    order = np.asarray(range(len(prepared)) if indices is None else indices, dtype=np.intp)
    if shuffle:
        order = rng.permutation(order)
    moves = torch.from_numpy(_moves(rng, len(order))) if augment else None
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        if shuffle and start > 0 and len(chosen) == 1 < batch_size:
            return
        pixels = np.stack([prepared[int(index)] for index in chosen])
        images = torch.from_numpy(normalize(pixels, prepared.how))
        if moves is not None:
            images = _moved(images, moves[start : start + batch_size])
        yield images, torch.from_numpy(prepared.split.labels[chosen])


def _moves(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Draw a flip, rotation, zoom and shift per image: affine matrices (count, 2, 3)."""
    angle = np.deg2rad(rng.uniform(-_ROTATION, _ROTATION, count))
    zoom = np.exp(rng.uniform(-_ZOOM, _ZOOM, count))
    flip = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    # affine_grid counts in half edges, so a share of the edge is twice that.
    shift = rng.uniform(-2 * _SHIFT, 2 * _SHIFT, (2, count))
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    rows = [[flip * cos, -flip * sin, shift[0]], [sin, cos, shift[1]]]
    return np.asarray(rows, dtype=np.float32).transpose(2, 0, 1)


def _moved(images: Tensor, moves: Tensor) -> Tensor:
    grid = F.affine_grid(moves, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
