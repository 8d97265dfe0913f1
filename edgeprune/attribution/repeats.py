"""The same images several times over, each time under other gates."""

import torch

from edgeprune.attribution.criterion import Batch
from edgeprune.gates import GatedModel


def repeats(model: GatedModel, images: int, rows: int) -> int:
    """Return how often so many images fit into ``rows``; once at least, and for models that
    take one row of gates at a time or a fixed number of images.
    """
    free = model.by_sample and model.captured.dynamic_batch
    return max(1, rows // images) if free else 1


def repeated(batch: Batch, times: int) -> Batch:
    """Return all images ``times`` over, (times · N)."""
    return Batch(
        images=torch.cat([batch.images] * times),
        labels=torch.cat([batch.labels] * times),
        multi_label=batch.multi_label,
    )
