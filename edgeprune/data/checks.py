"""Whether a data set can carry a pruning run, asked before any time is spent."""

from __future__ import annotations

import numpy as np

from edgeprune.data.splits import ImageData, Labels, Split
from edgeprune.errors import DataError


def check_split(data: ImageData, per_class: int) -> None:
    """Raise a DataError unless every class can be scored, trained and measured.

    per_class: training images that are scored for each class.
    """
    for split in data.splits:
        if problem := label_problem(split.labels, data.classes, data.multi_label):
            raise DataError(f"{split.name}: {problem}")
        for name, count in zip(data.classes, class_counts(data, split), strict=True):
            if count == 0:
                raise DataError(
                    f"class '{name}' is empty in the {split.name} split: "
                    "add images of it or remove the class"
                )
    for name, count in zip(data.classes, class_counts(data, data.train), strict=True):
        if count < per_class:
            raise DataError(
                f"class '{name}' has {count} training images, fewer than the {per_class} "
                f"to score per class: add images or use --per-class {count}"
            )


def class_counts(data: ImageData, split: Split) -> tuple[int, ...]:
    """Count the images of each class; one image counts for each of its findings."""
    if data.multi_label:
        return tuple(int(count) for count in split.labels.sum(axis=0))
    return tuple(int(count) for count in np.bincount(split.labels, minlength=len(data.classes)))


def label_problem(labels: Labels, classes: tuple[str, ...], multi_label: bool) -> str | None:
    """Say which label lies outside the classes, or None."""
    if multi_label:
        if labels.ndim != 2 or labels.shape[1] != len(classes):
            return f"labels have shape {labels.shape}, not (N, {len(classes)})"
        outside = labels[(labels != 0) & (labels != 1)]
        allowed = "multi-label values are 0 or 1"
    else:
        if labels.ndim != 1:
            return f"labels have shape {labels.shape}, not (N,)"
        outside = labels[(labels < 0) | (labels >= len(classes))]
        allowed = f"the {len(classes)} classes are 0 to {len(classes) - 1}"
    if len(outside) == 0:
        return None
    return f"{len(outside)} labels lie outside the classes, such as {outside[0]:g}; {allowed}"
