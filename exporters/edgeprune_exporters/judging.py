"""How many calls on a labelled split are right, the artifact's and the model's own."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import ParityError
from edgeprune.progress import Reporter
from edgeprune_exporters.calls import Accuracy, agreement, share_right
from edgeprune_exporters.images import LabelledImages
from edgeprune_exporters.parity import Array

BATCH: Final = 32  # where any size will do


def predict(
    run: Callable[[Array], Array],
    split: LabelledImages,
    *,
    title: str,
    batch: int | None,
    reporter: Reporter,
) -> Array:
    """Return logits (N, K) of a whole split.

    Args:
        run: logits of images (B, C, H, W).
        split: the images.
        title: of the progress bar.
        batch: the only size that can be run, or None; the last batch is filled up to it.
        reporter: shows the progress.

    Raises:
        ParityError: the split holds other images than its labels are for.
    """
    size, parts = batch or BATCH, []
    done = 0
    with reporter.track(title, len(split)) as advance:
        for images in split.batches(size):
            short = size - len(images) if batch else 0
            filled = np.concatenate([images, images[-1:].repeat(short, 0)]) if short else images
            parts.append(run(filled)[: len(images)])
            done += len(images)
            advance(done, "images")
    if done != len(split):
        raise ParityError(f"the test split gave {done} images for {len(split)} labels")
    return np.concatenate(parts)


def accuracy_of(actual: Array, own: Array, labels: NDArray[Any]) -> Accuracy:
    """Compare an artifact's logits and the model's own (N, K) with labels (N,) or (N, K)."""
    multi_label = labels.ndim == 2
    return Accuracy(
        images=len(labels),
        artifact=share_right(actual, labels, multi_label=multi_label),
        model=share_right(own, labels, multi_label=multi_label),
        agreement=agreement(actual, own, multi_label=multi_label),
    )
