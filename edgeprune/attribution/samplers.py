"""Which images are scored: a few of each class, from the training split.

Invariant: the same model, split and seed choose the same images.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.attribution.clusters import medoids
from edgeprune.attribution.features import features_and_logits
from edgeprune.capture import Captured
from edgeprune.data import PreparedSplit, Split
from edgeprune.errors import DataError, UsageError

Sampler = Literal["cluster", "random", "confidence"]
Indices = NDArray[np.intp]

LOOKED_AT: Final = 2000  # images: what a network can look at in seconds, and plenty to choose from
NO_FINDING: Final = "no finding"


@dataclass(frozen=True, kw_only=True)
class SampleChoice:
    """The images to score.

    Attributes:
        sampler: how they were chosen.
        per_class: for each class, positions in the training split, in the order
            of choice. Under ``no finding`` in a multi-label split.
        indices: all positions, each once, class by class.
        ids: the ids of the images, in the order of ``indices``.
        hashes: SHA-256 of the pixels of each, as they are in the split: uint8, row
            by row, red, green and blue of a pixel side by side.
    """

    sampler: Sampler
    per_class: Mapping[str, tuple[int, ...]]
    indices: tuple[int, ...]
    ids: tuple[str, ...]
    hashes: tuple[str, ...]


def sample(
    dense: Captured | None,
    train: PreparedSplit,
    *,
    sampler: Sampler = "cluster",
    per_class: int = 10,
    classes: Sequence[str] = (),
    seed: int = 0,
    multi_label: bool = False,
    batch_size: int = 32,
) -> SampleChoice:
    """Choose ``per_class`` images of each class from the training split.

    ``random`` draws them. ``confidence`` takes those whose own class the model
    gives the highest probability. ``cluster`` takes, after k-means on the
    features that the last layer reads, the image nearest each of ``per_class``
    centres. The latter two look at 2000 images at most, drawn by the seed, the
    same number of each class. With several labels an image is chosen for each of
    its findings by itself, so it may serve several; as many images without any
    finding come on top, if there are that many.

    Args:
        dense: the model, for its confidence or features; ``random`` needs none.
        train: the training split; no other is accepted.
        sampler: one of the three.
        per_class: images of each class.
        classes: their names, in the order of the labels.
        seed: of every random choice.
        multi_label: whether labels are findings, float (N, K).
        batch_size: images in memory at a time.

    Raises:
        DataError: a class with fewer than ``per_class`` images, or without any.
        UsageError: another split, an unknown sampler, or no images asked for.
    """
    if problem := _problem(train, sampler, per_class):
        raise UsageError(problem)
    members = _members(train.split.labels, classes, multi_label)
    if problem := _shortage(members, per_class):
        raise DataError(problem)
    rng = np.random.default_rng(seed)
    if sampler == "random":
        chosen = {name: rng.permutation(found)[:per_class] for name, found in members.items()}
        return _choice(sampler, chosen, train.split)
    if dense is None:
        raise UsageError(f"sampler '{sampler}' looks at images with a captured model: use 'random'")
    share = max(per_class, LOOKED_AT // len(members))
    pool = {name: np.sort(rng.permutation(found)[:share]) for name, found in members.items()}
    looked_at = np.unique(np.concatenate(list(pool.values())))
    features, logits = features_and_logits(dense, train, looked_at.tolist(), batch_size=batch_size)
    chosen = {}
    for index, (name, found) in enumerate(pool.items()):
        rows = np.searchsorted(looked_at, found)
        if sampler == "cluster":
            best = medoids(features[rows], per_class, seed)
        else:
            own = index if name != NO_FINDING else None
            best = np.argsort(-_confidence(logits[rows], own, multi_label), kind="stable")
        chosen[name] = found[best[:per_class]]
    return _choice(sampler, chosen, train.split)


def _problem(train: PreparedSplit, sampler: str, per_class: int) -> str | None:
    if sampler not in get_args(Sampler):
        return f"unknown sampler '{sampler}'; there are {', '.join(get_args(Sampler))}"
    if per_class < 1:
        return f"{per_class} images per class score nothing: use 1 or more"
    if train.split.name != "train":
        return (
            f"samples come from the training split; the split given is '{train.split.name}', whose "
            "images must not take part in making the model"
        )
    return None


def _shortage(members: Mapping[str, Indices], per_class: int) -> str | None:
    """Say which class has too few images, or None; the healthy may be fewer."""
    counts = {name: len(found) for name, found in members.items() if name != NO_FINDING}
    if not counts:
        return "the training split has no labels, so there is no class to choose images of"
    name = min(counts, key=lambda each: counts[each])
    if counts[name] == 0:
        return f"class '{name}' has no training image: add images of it or remove the class"
    if counts[name] < per_class:
        return (
            f"class '{name}' has {counts[name]} training images, fewer than the {per_class} to "
            f"score per class: add images or use --per-class {counts[name]}"
        )
    return None


def _members(labels: NDArray[Any], classes: Sequence[str], multi_label: bool) -> dict[str, Indices]:
    """Return the positions of each class's images, and of those without finding."""
    count = labels.shape[1] if multi_label else max(len(classes), int(labels.max(initial=-1)) + 1)
    names = list(classes) or [str(index) for index in range(count)]
    if not multi_label:
        return {name: np.flatnonzero(labels == index) for index, name in enumerate(names)}
    members = {name: np.flatnonzero(labels[:, index]) for index, name in enumerate(names)}
    healthy = np.flatnonzero(~labels.astype(bool).any(axis=1))
    return members | ({NO_FINDING: healthy} if len(healthy) else {})


def _confidence(
    logits: NDArray[np.float32], index: int | None, multi_label: bool
) -> NDArray[np.float32]:
    """Return the probability of a class, or of no finding: that the likeliest one is absent."""
    values = torch.from_numpy(logits)
    if not multi_label:
        assigned = values.softmax(1)[:, index]
    else:
        present = values.sigmoid()
        assigned = present[:, index] if index is not None else 1 - present.amax(1)
    return np.asarray(assigned)


def _choice(sampler: Sampler, chosen: Mapping[str, Indices], train: Split) -> SampleChoice:
    indices = tuple(dict.fromkeys(int(i) for found in chosen.values() for i in found))
    return SampleChoice(
        sampler=sampler,
        per_class={name: tuple(found.tolist()) for name, found in chosen.items()},
        indices=indices,
        ids=tuple(train.ids[i] for i in indices),
        hashes=tuple(hashlib.sha256(train.images[i].tobytes()).hexdigest() for i in indices),
    )
