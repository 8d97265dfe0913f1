"""Reading image folders: train/ val/ test/ with class folders, or class folders alone.

An image belongs to the class whose folder it is under, however deep. Hidden files
and files that are no images are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgeprune.data.files import ListedFile, Listing
from edgeprune.data.images import SUFFIXES
from edgeprune.errors import DataError

_SPLIT_NAMES: Final = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def list_folder(root: Path) -> Listing:
    """List the images of a folder with their classes and splits. Raises DataError."""
    folders = _subfolders(root)
    named = [folder for folder in folders if folder.name.lower() in _SPLIT_NAMES]
    if not any(folder.name.lower() == "train" for folder in named):
        return _listing(root, {None: root}, ())
    splits: dict[str | None, Path] = {}
    for folder in named:
        split = _SPLIT_NAMES[folder.name.lower()]
        if split in splits:
            raise DataError(
                f"'{root}' has both {splits[split].name}/ and {folder.name}/: keep one of them"
            )
        splits[split] = folder
    others = [folder.name for folder in folders if folder not in named]
    ignored = (f"ignored beside train/: {', '.join(others)}",) if others else ()
    return _listing(root, splits, ignored)


def _listing(root: Path, splits: Mapping[str | None, Path], notes: tuple[str, ...]) -> Listing:
    classes = _classes(root, splits)
    files = []
    for split, base in splits.items():
        for number, name in enumerate(classes):
            images = _images(base / name)
            if not images:
                raise DataError(
                    f"class '{name}' is empty: '{base / name}' holds no image "
                    f"({' '.join(sorted(SUFFIXES))}); add some or remove the folder"
                )
            files += [
                ListedFile(
                    path=path, id=path.relative_to(root).as_posix(), label=number, split=split
                )
                for path in images
            ]
    if len(splits) < 3:
        notes += ("folders name no patients: images of one patient can be in two splits",)
    return Listing(
        name=root.resolve().name,
        classes=classes,
        multi_label=False,
        files=tuple(files),
        notes=notes,
    )


def _classes(root: Path, splits: Mapping[str | None, Path]) -> tuple[str, ...]:
    found = {base: {folder.name for folder in _subfolders(base)} for base in splits.values()}
    every = set[str]().union(*found.values())
    if len(every) < 2:
        raise DataError(
            f"'{root}' has {len(every)} class folders; put the images into one folder per "
            "class, under train/, val/ and test/ or alone"
        )
    for base, names in found.items():
        if missing := sorted(every - names):
            raise DataError(
                f"the splits of '{root}' have different classes: {base.name}/ "
                f"misses {', '.join(missing)}"
            )
    return tuple(sorted(every))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path.name))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(_hidden(part) for part in path.relative_to(folder).parts)
    )


def _hidden(name: str) -> bool:
    """Tell names that no user gave: dot files, and what macOS adds to an archive."""
    return name.startswith(".") or name == "__MACOSX"
