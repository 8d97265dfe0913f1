"""What this machine shows between equals, measured once and remembered.

An artifact is measured against itself, and whatever difference that could not
exclude is the machine's noise floor for that back end, device, number of threads
and batch. Measurements of equals differ among themselves, so several are kept, and
the largest of the last few counts: a bad one costs claims for a while, never makes
one. Invariant: floors are numbers about a kind of machine, told apart by its
fingerprint; no name, host or folder is kept.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError, StorageError
from edgeprune.files import write_json
from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.harness import compare
from edgeprune_benchmarks.hosts import Host
from edgeprune_benchmarks.machine import fingerprint
from edgeprune_benchmarks.measurement import Comparison, MeasureSettings, Subject
from edgeprune_benchmarks.statistics import Ratio, latency_ratio, noise_floor

FORMAT: Final = "edgeprune-noise"
SCHEMA_VERSION: Final = 1
KEPT: Final = 5  # floors of one kind
STATE: Final = "EDGEPRUNE_STATE"  # names the folder of the file, where it is set


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """The largest relative difference that a measurement of equals could not exclude.

    ``value`` 0.02 is 2 %. What it holds for: ``machine`` is a fingerprint.
    """

    value: float
    machine: str
    backend: str
    device: str
    threads: int
    batch: int
    rounds: int
    ratio: Ratio  # of the artifact to itself
    tainted: tuple[str, ...]
    created: str | None = None  # UTC, ISO 8601

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What a measurement has to have in common with it."""
        return self.machine, self.backend, self.device, self.threads, self.batch


def measure_noise(
    subject: Subject,
    inputs: NDArray[np.float32],
    settings: MeasureSettings,
    host: Host | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    journal: Path | None = None,
    created: str | None = None,
    seed: int = 0,
) -> tuple[NoiseFloor, Comparison]:
    """Measure an artifact against itself on images (N, C, H, W), as ``compare`` would two.

    Raises ``MeasureError`` as that does.
    """
    found = compare(subject, subject, inputs, settings, progress, host=host, journal=journal)
    ratio = latency_ratio(found.dense.blocks, found.slim.blocks, seed=seed)
    floor = NoiseFloor(
        value=noise_floor(ratio),
        machine=fingerprint(found.machine),
        backend=found.dense.backend,
        device=settings.device,
        threads=settings.threads,
        batch=settings.batch,
        rounds=settings.rounds,
        ratio=ratio,
        tainted=found.tainted,
        created=created,
    )
    return floor, found


def default_path() -> Path:
    """Return the file of this user's floors: below $EDGEPRUNE_STATE, or where the system says."""
    return Path(os.environ.get(STATE) or click.get_app_dir("edgeprune")) / "noise.json"


def store_floor(floor: NoiseFloor, path: Path | None = None) -> None:
    """Remember a floor, and forget all but the latest of its kind.

    Raises:
        MeasureError: the file is damaged, or of another version.
        StorageError: it cannot be written.
    """
    path = path or default_path()
    floors = _floors(path)
    same = [each for each in floors if each.key == floor.key]
    kept = [each for each in floors if each.key != floor.key] + [*same, floor][-KEPT:]
    document = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "floors": encode(kept)}
    try:
        write_json(path, document)
    except OSError as error:
        advice = f"point ${STATE} at a folder that can be written"
        raise StorageError(
            f"the noise floor cannot be kept in {path}: {error}: {advice}"
        ) from error


def stored_floor(
    machine: str,
    backend: str,
    threads: int,
    batch: int,
    path: Path | None = None,
    *,
    device: str = "cpu",
) -> NoiseFloor | None:
    """Return the largest of the remembered floors of this kind, or None where there is none.

    machine: its fingerprint. Raises ``MeasureError`` for a file that is damaged.
    """
    key = (machine, backend, device, threads, batch)
    same = [floor for floor in _floors(path or default_path()) if floor.key == key]
    return max(same, key=lambda floor: floor.value, default=None)


def _floors(path: Path) -> tuple[NoiseFloor, ...]:
    """Read the file; one that is not there holds nothing."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise _damaged(path, f"it is no file of format {FORMAT}")
    if document.get("schema_version") != SCHEMA_VERSION:
        version = document.get("schema_version")
        raise _damaged(path, f"its schema version is {version!r}, not {SCHEMA_VERSION}")
    try:
        return decode(_File, document, at="noise").floors
    except ValueError as error:
        raise _damaged(path, str(error)) from error


@dataclass(frozen=True, kw_only=True)
class _File:
    format: str
    schema_version: int
    floors: tuple[NoiseFloor, ...]


def _damaged(path: Path, why: str) -> MeasureError:
    return MeasureError(
        f"the noise floors in {path} cannot be read ({why}): delete the file, and measure the "
        "noise again where it is needed"
    )
