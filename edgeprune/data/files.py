"""From a list of labelled files to a data set.

Folders and tables both end here: what they list is decoded once, divided where the
user gave no division, and numbered by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgeprune.data.division import divide
from edgeprune.data.images import Progress, check_files, open_images
from edgeprune.data.splits import SPLITS, ImageData, Labels, Split
from edgeprune.errors import DataError

SHARES: Final = {"train": 0.70, "val": 0.15, "test": 0.15}


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """One image as a folder or a table lists it.

    label: a class, or one 0 or 1 per class. split: None where the user left it open.
    group: what stays together, such as a patient.
    """

    path: Path
    id: str
    label: int | tuple[int, ...]
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All files of a data set, before any is read."""

    name: str
    classes: tuple[str, ...]
    multi_label: bool
    files: tuple[ListedFile, ...]
    notes: tuple[str, ...] = ()


def load_files(
    listing: Listing, *, seed: int, skip_corrupt: bool, progress: Progress | None
) -> ImageData:
    """Check every file, divide what is undivided, and give the three splits. Raises DataError."""
    checked = check_files(
        [file.path for file in listing.files], skip_corrupt=skip_corrupt, progress=progress
    )
    files = [listing.files[index] for index in checked.good]
    if not files:
        raise DataError(f"'{listing.name}' has no readable image")
    names, division = _divided(files, listing, seed)
    splits = {
        name: _split(
            name,
            [file for file, its in zip(files, names, strict=True) if its == name],
            listing.multi_label,
            checked.bits,
        )
        for name in SPLITS
    }
    return ImageData(
        name=listing.name,
        classes=listing.classes,
        multi_label=listing.multi_label,
        notes=(*listing.notes, *checked.notes, *division),
        bits=checked.bits,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
    )


def _split(name: str, files: Sequence[ListedFile], multi_label: bool, bits: int) -> Split:
    if not files:
        raise DataError(f"the {name} split is empty: give it images, or leave the splits out")
    return Split(
        name=name,
        images=open_images([file.path for file in files], bits=bits),
        labels=_labels(files, multi_label),
        ids=tuple(file.id for file in files),
    )


def _labels(files: Sequence[ListedFile], multi_label: bool) -> Labels:
    return np.array([file.label for file in files], dtype=np.float32 if multi_label else np.int64)


def _divided(
    files: Sequence[ListedFile], listing: Listing, seed: int
) -> tuple[list[str], tuple[str, ...]]:
    """Name the split of each file, and say in notes what had to be decided."""
    given = {file.split for file in files}
    if given >= set(SPLITS):
        return [file.split or "" for file in files], ()
    if given == {None}:
        note = f"no splits given: {_percent()} by seed {seed}"
        return _dealt(files, listing, SHARES, seed), (note,)
    if "train" not in given or len(given) == 1:
        found = " and ".join(sorted(str(name) for name in given))
        raise DataError(
            f"'{listing.name}' has only the split {found}: give train, val and "
            "test, or no splits to have the images divided"
        )
    train = [file for file in files if file.split == "train"]
    shares = {"train": 1 - SHARES["val"], "val": SHARES["val"]}
    dealt = iter(_dealt(train, listing, shares, seed))
    names = [next(dealt) if file.split == "train" else "test" for file in files]
    note = f"no val split: {SHARES['val']:.0%} of train, by seed {seed}"
    if "test" in given:
        return names, (note,)
    # Testing on what also chose the best epoch would flatter the model: val cannot be both.
    return names, (f"no test split: val is used for testing; {note}",)


def _dealt(
    files: Sequence[ListedFile], listing: Listing, shares: dict[str, float], seed: int
) -> list[str]:
    labels = _labels(files, listing.multi_label)
    groups = [file.id if file.group is None else f"\0{file.group}" for file in files]
    names = [""] * len(files)
    for name, indices in zip(
        shares, divide(labels, groups, tuple(shares.values()), seed=seed), strict=True
    ):
        for index in indices:
            names[index] = name
    return names


def _percent() -> str:
    return ", ".join(f"{share:.0%} {name}" for name, share in SHARES.items())
