"""A data set and a model so small that the whole of ``compress`` runs in seconds."""

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from edgeprune.budget import Budget
from edgeprune.pipeline import CompressResults, CompressSettings, compress
from edgeprune.progress import Advance

SIZES = {"train": 60, "val": 24, "test": 24}
MODEL = "test_resnet"


def write_archive(
    path: Path, *, findings: int = 0, classes: int = 3, label: int | None = None
) -> Path:
    """Write grey images of 24 pixels whose bright squares tell the classes or findings.

    findings: number of columns of a multi-label set; every fourth image has none.
    label: put in place of the first training label.
    """
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in SIZES.items():
        images = rng.integers(0, 60, (count, 24, 24)).astype(np.uint8)
        table = np.zeros((count, findings or classes), np.int64)
        for row in range(count):
            shown = [row % classes] if not findings else [row % 4, (row // 4) % 4]
            for which in shown:
                if which < table.shape[1]:
                    table[row, which] = 1
                    images[row, 8:14, 1 + 7 * which : 7 + 7 * which] = 230
        labels = table if findings else table.argmax(axis=1)[:, None]
        if label is not None and split == "train":
            labels[0] = label
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def settings(data: Path, **changes: object) -> CompressSettings:
    """Ask for two epochs of each training and as little measuring as there is."""
    asked: dict[str, object] = {
        "model": MODEL,
        "data": str(data),
        "image_size": 64,
        "dense_epochs": 2,
        "epochs": 2,
        "rounds": 2,
        "per_class": 4,
        "align": 4,
        "budget": Budget(macs=0.5),
    }
    return CompressSettings(**(asked | changes))  # type: ignore[arg-type]


def options(data: Path) -> list[str]:
    """Return the same as a command line."""
    words = f"--model {MODEL} --image-size 64 --dense-epochs 2 --epochs 2 --rounds 2 --per-class 4"
    return ["compress", *words.split(), "--align", "4", "--macs", "0.5", "--data", str(data)]


@cache
def finished() -> tuple[CompressResults, Path]:
    """Return one finished run and its data, made once per session; tests must not change it."""
    folder = Path(tempfile.mkdtemp(prefix="edgeprune-case-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = write_archive(folder / "squares.npz")
    return compress(settings(data), folder / "nested" / "slim", reporter=Log()), data


class Log:
    """Keeps what was said, and stops the run where it is told to."""

    def __init__(self, stop: str = "", after: int = 0) -> None:
        """Stop at the stage or bar whose title begins with ``stop``, after so many steps."""
        self.lines: list[str] = []
        self.steps: dict[str, int] = {}
        self.stop = stop
        self.after = after

    def stage(self, title: str) -> None:
        self.lines.append(title)
        if self.stop and title.startswith(self.stop):
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextlib.contextmanager
    def track(self, title: str, total: int | None) -> Iterator[Advance]:
        self.steps[title] = 0

        def advance(done: int, words: str = "", *, total: int | None = None) -> None:
            self.steps[title] += 1
            if self.stop and title.startswith(self.stop) and self.steps[title] > self.after:
                raise KeyboardInterrupt

        yield advance
