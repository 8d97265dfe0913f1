"""The images of a data set, each for its purpose in an export."""

import math
from collections.abc import Iterator, Sequence
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.attribution.samplers import Sampler, sample
from edgeprune.capture import Captured
from edgeprune.data import ImageData, PreparedSplit, Preprocessing, Split, batches
from edgeprune.pipeline.context import spread
from edgeprune.pipeline.export_settings import CALIBRATION_IMAGES
from edgeprune_exporters import Images, LabelledImages

PARITY_IMAGES: Final = 12  # one batch of each usual size, no image twice


def export_images(
    data: ImageData,
    how: Preprocessing,
    *,
    seed: int,
    calibration: int = CALIBRATION_IMAGES,
    sampler: Sampler = "random",
    model: Captured | None = None,
) -> Images:
    """Choose images from the splits; none of the test split takes part in a decision.

    Args:
        data: the data set.
        how: how its images are prepared.
        seed: of every choice.
        calibration: how many training images to calibrate on, spread over the classes.
        sampler: how these are chosen; all but ``random`` look at them with the model.
        model: the model.

    Raises:
        DataError: an image that cannot be decoded, or a class without training images.
        UsageError: a sampler that needs a captured model where there is none.
    """
    train = PreparedSplit(data.train, how)
    chosen = sample(
        model,
        train,
        sampler=sampler,
        per_class=_per_class(data, calibration),
        classes=data.classes,
        seed=seed,
        multi_label=data.multi_label,
    )
    return Images(
        parity=_images(data.test, how, spread(data.test, PARITY_IMAGES, len(data.classes), seed)),
        calibration=_images(train, how, _mixed(chosen.indices, calibration, seed)),
        validation=labelled(data.val, how),
        test=labelled(data.test, how),
    )


def labelled(split: Split, how: Preprocessing) -> LabelledImages:
    """Return a split as exporters take it: read anew each time, and kept as long as it is small."""
    prepared = PreparedSplit(split, how)

    def parts(size: int) -> Iterator[NDArray[np.float32]]:
        for images, _ in batches(prepared, how, batch_size=size):
            yield images.numpy()

    return LabelledImages(labels=split.labels, batches=parts)


def _per_class(data: ImageData, count: int) -> int:
    """Return how many of each class come to ``count``, as far as the rarest reaches."""
    labels, classes = data.train.labels, len(data.classes)
    found = np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(axis=0)
    return max(1, min(math.ceil(count / classes), int(found.min())))


def _mixed(indices: Sequence[int], count: int, seed: int) -> list[int]:
    """Return at most so many of the images, in an order that does not go class by class."""
    return cast(list[int], np.random.default_rng(seed).permutation(indices)[:count].tolist())


def _images(split: Split | PreparedSplit, how: Preprocessing, indices: list[int]) -> Tensor:
    parts = batches(split, how, batch_size=64, indices=indices)
    return torch.cat([images for images, _ in parts])
