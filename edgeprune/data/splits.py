"""What a data set is, wherever it came from.

Images stay undecoded until they are asked for, so that a folder larger than the
memory can be used. Invariant: no value here holds an absolute path; an image is
known by its id, which is relative to the data set and the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[Any]
Source = TypeVar("Source")

SPLITS: Final = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class LazyImages(Sequence[Image], Generic[Source]):
    """Images that are read from their sources each time they are asked for."""

    sources: Sequence[Source]
    read: Callable[[Source], Image]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.sources)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> LazyImages[Source]: ...
    def __getitem__(self, index: int | slice) -> Image | LazyImages[Source]:
        """Read one image, uint8 (H, W) or (H, W, 3), or take a slice without reading."""
        if isinstance(index, slice):
            return replace(self, sources=self.sources[index])
        return self.read(self.sources[index])


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images of one purpose, with their labels.

    labels: int64 (N,), the class of each image; or float32 (N, K) of 0 and 1,
    the findings of each image.
    """

    name: str
    images: Sequence[Image]
    labels: Labels
    ids: tuple[str, ...]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.ids)

    def subset(self, indices: Iterable[int]) -> Split:
        """Take the images at these positions, in this order."""
        chosen = [int(index) for index in indices]
        return replace(
            self,
            images=LazyImages(sources=chosen, read=self.images.__getitem__),
            labels=self.labels[np.asarray(chosen, dtype=np.intp)],
            ids=tuple(self.ids[index] for index in chosen),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set in three splits.

    notes: what was decided for the user, one sentence each.
    bits: depth that wide grey samples are scaled by; 8 where none are wide.
    masks: for each id, bool (K, H, W), where each class shows in the image; only
    where that is known.
    """

    name: str
    classes: tuple[str, ...]
    multi_label: bool
    train: Split
    val: Split
    test: Split
    notes: tuple[str, ...] = ()
    masks: Mapping[str, NDArray[np.bool_]] | None = None
    bits: int = 8

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """The three splits, in the order train, val, test."""
        return self.train, self.val, self.test
