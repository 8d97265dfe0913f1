"""What every stage of one run may use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.data import ImageData, PreparedSplit, Preprocessing, Split, batches
from edgeprune.pipeline.settings import CompressSettings
from edgeprune.pipeline.workspace import Workspace
from edgeprune.progress import Reporter
from edgeprune.targets import Target

EVALUATION_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Context:
    """One run: what was asked, for what, with which images, stored where."""

    settings: CompressSettings
    target: Target
    data: ImageData
    preprocessing: Preprocessing
    train: PreparedSplit
    val: PreparedSplit
    work: Workspace
    reporter: Reporter

    @property
    def align(self) -> int:
        """Multiple on which widths end."""
        return self.target.align if self.settings.align is None else self.settings.align

    @property
    def formats(self) -> tuple[str, ...]:
        """Artifacts to write."""
        return self.settings.formats or self.target.formats

    @property
    def threads(self) -> int:
        """CPU threads of the runtime that is measured."""
        return self.settings.threads or self.target.threads

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """Return prepared images (N, C, H, W) of a split."""
        size = max(1, len(indices))
        chosen = batches(split, self.preprocessing, batch_size=size, indices=list(indices))
        return next(chosen)[0]

    def test_batches(self) -> Iterator[NDArray[np.float32]]:
        """Yield the test split in order, prepared, float32 (B, C, H, W)."""
        for images, _ in batches(
            self.data.test, self.preprocessing, batch_size=EVALUATION_BATCH
        ):
            yield images.numpy()

    def spread(self, split: Split, count: int) -> list[int]:
        """Choose positions of a split that take turns among the classes, by the seed."""
        rng = np.random.default_rng([self.settings.seed, len(split)])
        labels = split.labels
        if labels.ndim == 1:
            pools = [np.flatnonzero(labels == k) for k in range(len(self.data.classes))]
        else:
            pools = [np.flatnonzero(labels[:, k]) for k in range(labels.shape[1])]
            pools.append(np.flatnonzero(~labels.any(axis=1)))
        queues = [rng.permutation(pool).tolist() for pool in pools if len(pool)]
        chosen: list[int] = []
        while len(chosen) < min(count, len(split)) and any(queues):
            for queue in queues:
                item = queue.pop() if queue else None
                if item is not None and item not in chosen and len(chosen) < count:
                    chosen.append(item)
        return chosen


def probabilities(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Turn logits (N, K) into probabilities (N, K)."""
    return torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=1)
