"""Reading .npz archives in the layout of MedMNIST.

Keys: {train,val,test}_images, uint8 (N, H, W) or (N, H, W, 3), and
{train,val,test}_labels, (N,) or (N, 1) class numbers, or (N, K) of 0 and 1 for K > 1
findings; "classes", the names, is optional. Nothing in the file is unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from edgeprune.data.checks import label_problem
from edgeprune.data.splits import SPLITS, Image, ImageData, Labels, Split
from edgeprune.errors import DataError


def load_archive(path: Path) -> ImageData:
    """Read all splits of an .npz file into memory. Raises DataError."""
    arrays = _read(path)
    images = {name: _images(path, f"{name}_images", arrays) for name in SPLITS}
    labels = {name: _labels(path, f"{name}_labels", arrays) for name in SPLITS}
    shapes = {value.shape[1:] for value in labels.values()}
    if len(shapes) > 1:
        raise DataError(f"'{path}': labels have another number of columns in each split")
    multi_label = shapes != {()}
    classes = _classes(path, arrays, labels, multi_label)
    for name in SPLITS:
        if len(images[name]) != len(labels[name]):
            raise DataError(
                f"'{path}': {name} has {len(images[name])} images but {len(labels[name])} labels"
            )
        if problem := label_problem(labels[name], classes, multi_label):
            raise DataError(f"'{path}', {name}_labels: {problem}")
    splits = {name: _split(name, images[name], labels[name], multi_label) for name in SPLITS}
    return ImageData(
        name=path.name,
        classes=classes,
        multi_label=multi_label,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    wanted = [f"{name}_{what}" for name in SPLITS for what in ("images", "labels")]
    try:
        # numpy leaves a file open that it opened and could not read.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise DataError(f"'{path}' holds one bare array; save it with numpy.savez")
            found = {key: archive[key] for key in archive if key in (*wanted, "classes")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"'{path}' is not a readable .npz archive of plain arrays") from error
    if missing := [key for key in wanted if key not in found]:
        has = ", ".join(archive) or "no key"
        raise DataError(f"'{path}' misses {', '.join(missing)}; it has {has}")
    return found


def _images(path: Path, key: str, arrays: Mapping[str, NDArray[Any]]) -> Image:
    images = arrays[key]
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.dtype != np.uint8:
        raise DataError(f"'{path}': {key} holds {images.dtype}; save it as uint8, 0 to 255")
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)) or not images.size:
        raise DataError(
            f"'{path}': {key} has shape {images.shape}; images are (N, H, W) or (N, H, W, 3)"
        )
    return images


def _labels(path: Path, key: str, arrays: Mapping[str, NDArray[Any]]) -> Labels:
    labels = arrays[key]
    if labels.dtype.kind not in "iub":
        raise DataError(f"'{path}': {key} holds {labels.dtype}; labels are whole numbers")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or labels.shape[1:] == (0,):
        raise DataError(f"'{path}': {key} has shape {labels.shape}; labels are (N, 1) or (N, K)")
    return labels.astype(np.int64)


def _classes(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    labels: Mapping[str, Labels],
    multi_label: bool,
) -> tuple[str, ...]:
    if "classes" in arrays:
        classes = tuple(str(name) for name in arrays["classes"].ravel())
        if repeated := sorted({name for name in classes if classes.count(name) > 1}):
            raise DataError(f"'{path}': classes names {', '.join(repeated)} more than once")
        return classes
    train = labels["train"]
    count = (
        train.shape[1] if multi_label else 1 + max(int(value.max()) for value in labels.values())
    )
    return tuple(str(number) for number in range(count))


def _split(name: str, images: Image, labels: Labels, multi_label: bool) -> Split:
    return Split(
        name=name,
        images=tuple(images),
        labels=labels.astype(np.float32) if multi_label else labels,
        ids=tuple(f"{name}/{index:06d}" for index in range(len(labels))),
    )
