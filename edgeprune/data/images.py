"""Reading image files, and finding the ones that cannot be read.

A sample is 8 bits wide here. Wider grey samples are scaled by the depth that the
whole data set uses, never per image, so that exposures stay comparable. A file is
checked by decoding all of it: nothing less finds a truncated one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from edgeprune.data.splits import Image, LazyImages
from edgeprune.errors import DataError

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
Progress = Callable[[int, int], None]

_GREY_MODES: Final = ("1", "L", "LA", "La")
_NAMED: Final = 5
# What Pillow's decoders raise on damaged files, beside OSError.
_BROKEN: Final = (OSError, SyntaxError, ValueError, EOFError, Pillow.DecompressionBombError)


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    """What decoding one file showed: its largest wide sample, or why it failed."""

    largest: int = 0
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class CheckedFiles:
    """The files that can be decoded, as positions in the list that was checked."""

    good: tuple[int, ...]
    bits: int
    notes: tuple[str, ...]


def open_images(paths: Sequence[Path], *, bits: int) -> LazyImages[Path]:
    """Give the files as images; a file that cannot be decoded raises a DataError when read."""
    return LazyImages(sources=paths, read=partial(read_image, bits=bits))


def read_image(path: Path, *, bits: int = 16) -> Image:
    """Decode one file to uint8 (H, W) or (H, W, 3).

    bits: depth of wide grey samples; 2**bits - 1 becomes 255. Raises DataError.
    """
    try:
        with Pillow.open(path) as image:
            if _is_wide(image):
                return _narrow(_wide_samples(image), bits)
            return np.asarray(image.convert("L" if image.mode in _GREY_MODES else "RGB"))
    except _BROKEN as error:
        raise DataError(f"image '{path}' cannot be read: {error}") from error


def check_files(
    paths: Sequence[Path], *, skip_corrupt: bool = False, progress: Progress | None = None
) -> CheckedFiles:
    """Decode every file once; raise a DataError that names the first that fail, or skip them."""
    checks: list[FileCheck] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for check in pool.map(_check_file, paths):
            checks.append(check)
            if progress is not None:
                progress(len(checks), len(paths))
    broken = [index for index, check in enumerate(checks) if check.problem is not None]
    notes: list[str] = []
    if broken:
        named = "; ".join(f"'{paths[i]}' ({checks[i].problem})" for i in broken[:_NAMED])
        more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        if not skip_corrupt:
            raise DataError(
                f"{len(broken)} of {len(paths)} images cannot be read: {named}{more}; "
                "repair or remove them, or skip corrupt images"
            )
        notes.append(f"{len(broken)} of {len(paths)} images could not be read and were skipped")
    wide = [check.largest for check in checks if check.largest]
    bits = _depth(max(wide, default=0))
    if wide:
        notes.append(f"{len(wide)} images have wide samples: {bits} bits were scaled to 8")
    good = tuple(index for index, check in enumerate(checks) if check.problem is None)
    return CheckedFiles(good=good, bits=bits, notes=tuple(notes))


def _check_file(path: Path) -> FileCheck:
    try:
        with Pillow.open(path) as image:
            if _is_wide(image):
                return FileCheck(largest=int(_wide_samples(image).max()))
            # A JPEG is decoded at an eighth of its size: every byte is still read.
            image.draft(None, (1, 1))
            image.load()
    except FileNotFoundError:
        return FileCheck(problem="no such file")
    except _BROKEN as error:
        return FileCheck(problem=str(error).replace(f" {str(path)!r}", ""))
    return FileCheck()


def _is_wide(image: Pillow.Image) -> bool:
    if image.mode == "F":
        raise ValueError("its samples are floating-point numbers: save it with 8 or 16 bits")
    return image.mode.startswith("I")


def _wide_samples(image: Pillow.Image) -> NDArray[np.int64]:
    samples = np.asarray(image).astype(np.int64)
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high > 0xFFFF:
        raise ValueError(f"its samples span {low} to {high}: save it with 8 or 16 bits")
    return samples


def _narrow(samples: NDArray[np.int64], bits: int) -> Image:
    full = 2**bits - 1
    scaled: NDArray[np.int64] = (np.minimum(samples, full) * 255 + full // 2) // full
    return scaled.astype(np.uint8)


def _depth(largest: int) -> int:
    """Guess the depth in use: scanners store 10, 12 or 14 bits in 16-bit files."""
    return next(bits for bits in (8, 10, 12, 14, 16) if largest < 2**bits)
