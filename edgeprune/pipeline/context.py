"""What every stage of one run may use."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.capture import Captured
from edgeprune.data import ImageData, PreparedSplit, Preprocessing, Split, batches
from edgeprune.pipeline.settings import CompressSettings
from edgeprune.pipeline.workspace import Workspace
from edgeprune.progress import Reporter
from edgeprune.targets import Target

T = TypeVar("T")

EVALUATION_BATCH: Final = 64


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

    def stage(
        self, name: str, title: str, make: Callable[[Path], None], read: Callable[[Path], T]
    ) -> T:
        """Announce a stage, and make it unless an earlier run did."""
        done = " (from the earlier run)" if self.work.has(name) else ""
        self.reporter.stage(f"{title}{done}")
        return self.work.stage(name, make, read)

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """Return prepared images (N, C, H, W) of a split."""
        size = max(1, len(indices))
        chosen = batches(split, self.preprocessing, batch_size=size, indices=list(indices))
        return next(chosen)[0]

    def test_batches(self) -> Iterator[NDArray[np.float32]]:
        """Yield the test split in order, prepared, float32 (B, C, H, W)."""
        for images, _ in batches(self.data.test, self.preprocessing, batch_size=EVALUATION_BATCH):
            yield images.numpy()

    def spread(self, split: Split, count: int) -> list[int]:
        """Choose positions of a split that take turns among the classes, by the seed."""
        return spread(split, count, len(self.data.classes), self.settings.seed)


def spread(split: Split, count: int, classes: int, seed: int) -> list[int]:
    """Choose positions of a split that take turns among the classes, by the seed."""
    rng = np.random.default_rng([seed, len(split)])
    labels = split.labels
    if labels.ndim == 1:
        pools = [np.flatnonzero(labels == k) for k in range(classes)]
    else:
        pools = [np.flatnonzero(labels[:, k]) for k in range(labels.shape[1])]
        pools.append(np.flatnonzero(~labels.any(axis=1)))
    queues = [rng.permutation(pool).tolist() for pool in pools if len(pool)]
    chosen: dict[int, None] = {}  # in order, each once
    while len(chosen) < min(count, len(split)):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.setdefault(queue.pop())
    return list(chosen)


def logits_of(model: Captured, images: Tensor) -> Tensor:
    """Return the logits (N, K) of images (N, C, H, W), whatever batch the model takes."""
    size = len(images) if model.dynamic_batch else len(model.sample)
    parts = []
    with torch.no_grad():
        for start in range(0, len(images), size):
            rows = torch.arange(start, start + size) % len(images)  # a part batch is filled up
            parts.append(model.module(images[rows]))
    return torch.cat(parts)[: len(images)]


def batch_of(model: Captured, images: int) -> int:
    """Return the batch a model is run with: the one asked for, or the only one it takes."""
    return images if model.dynamic_batch else len(model.sample)


def probabilities(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Turn logits (N, K) into probabilities (N, K)."""
    return torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=1)
