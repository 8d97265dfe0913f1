"""How many images of a split a runtime calls right."""

import numpy as np
from numpy.typing import NDArray

from edgeprune_exporters.images import LabelledImages
from edgeprune_exporters.parity import Array
from edgeprune_exporters.quantization.subject import Run

BATCH = 16  # images at a time: enough to be quick, few enough for any memory


def accuracy(run: Run, images: LabelledImages, fixed_batch: int | None = None) -> float:
    """Return the share of right calls, from 0 to 1.

    A call is the class with the largest logit where labels are classes (N,), and
    the sign of the logit of each finding where they are findings (N, K).
    """
    logits = [_padded(run, batch, fixed_batch) for batch in images.batches(fixed_batch or BATCH)]
    return right(np.concatenate(logits), images.labels)


def right(logits: Array, labels: NDArray[np.generic]) -> float:
    """Return the share of right calls among logits (N, K)."""
    calls = logits.argmax(1) if labels.ndim == 1 else (logits > 0).astype(labels.dtype)
    return float(np.mean(calls == labels))


def _padded(run: Run, batch: Array, fixed_batch: int | None) -> Array:
    size = fixed_batch or len(batch)
    return run(np.take(batch, range(size), axis=0, mode="wrap"))[: len(batch)]
