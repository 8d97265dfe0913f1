"""What is measured, how, and what came out, as values.

Times are raw nanoseconds, one per inference, and nothing is thrown away.
Invariant: no path, host or user name enters a ``Comparison``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final, Self

from edgeprune.errors import MeasureError
from edgeprune.files import sha256
from edgeprune_benchmarks.device_runner import RunnerError, artifact_files
from edgeprune_benchmarks.machine import Conditions, Machine

LEAST: Final = {
    **{"threads": 1, "batch": 1, "rounds": 2, "blocks": 1, "block_inferences": 1},
    **{"block_seconds": 0, "idle_seconds": 0, "settle_seconds": 0},
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An artifact to measure; the back end follows from the file's suffix unless given.

    ``hashes`` are SHA-256 by file name, as ``pinned`` finds them: when an artifact
    is measured several times, they say that it is still the same.
    """

    name: str
    artifact: Path
    backend: str | None = None
    hashes: Mapping[str, str] | None = None

    @property
    def folder(self) -> Path:
        """Where the files lie; their names are relative to it."""
        return self.artifact.parent

    @property
    def files(self) -> tuple[Path, ...]:
        """The file that is loaded, and those that its runtime loads with it.

        Raises ``MeasureError`` where one of them is missing.
        """
        try:
            return tuple(artifact_files(self.artifact))
        except (RunnerError, OSError) as error:
            raise MeasureError(f"{self.name}: {error}") from error

    def hashed(self) -> dict[str, str]:
        """Return the SHA-256 of every file as it is now, by name."""
        return {path.relative_to(self.folder).as_posix(): sha256(path) for path in self.files}

    def pinned(self) -> Self:
        """Return the subject with its files' present hashes, which every load then checks."""
        return replace(self, hashes=self.hashed())


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How much to measure, and under which conditions.

    A process keeps the memory layout it happened to get, and equal processes differ
    by a per cent or two for life. So many short rounds say more than a few long ones.
    Rounds are even in number so that each subject starts first equally often, in case
    that layout depends on it.
    """

    threads: int = 1
    batch: int = 1
    precision: str = "f32"
    device: str = "cpu"  # or "cuda:0"
    cuda_graph: bool = False
    cpus: tuple[int, ...] | None = None  # None: the runner picks, and reports which
    rounds: int = 6  # fresh processes of each subject
    blocks: int = 8  # of each subject in a round
    block_seconds: float = 0.25  # working and idle together
    block_inferences: int = 5  # at least, however long they take
    settle_seconds: float = 0.03  # of a block, before its times count
    idle_seconds: float = 0.0  # before every inference, as between the patients of a clinic
    warmup_seconds: float = 0.5  # of one warm-up block; two in a row have to agree
    warmup_limit: float = 10.0
    timeout: float = 120.0  # seconds for any command, on top of what it is asked to run

    def __post_init__(self) -> None:
        """Refuse settings that measure nothing."""
        for name, low in LEAST.items():
            if getattr(self, name) < low:
                raise MeasureError(f"{name} is {getattr(self, name)}; at least {low} is needed")
        if self.rounds % 2:
            even = "each subject has to start first equally often"
            raise MeasureError(f"rounds is {self.rounds}; an even number is needed: {even}")
        if self.warmup_seconds <= 0 or self.timeout <= 0:
            raise MeasureError("seconds to warm up and to wait must be positive")
        if not re.fullmatch(r"cpu|cuda:\d+", self.device):
            raise MeasureError(f"device is {self.device!r}; cpu or cuda:0 (or 1, 2, …) is wanted")
        if self.cuda_graph and self.device == "cpu":
            raise MeasureError("a CUDA graph needs a device such as cuda:0, not cpu")

    @classmethod
    def quick(cls, *, threads: int = 1, batch: int = 1) -> "MeasureSettings":
        """Return settings that finish a small model in 10 to 15 seconds."""
        return cls(
            threads=threads,
            batch=batch,
            rounds=8,
            blocks=4,
            block_seconds=0.05,
            settle_seconds=0.015,
            warmup_seconds=0.05,
            warmup_limit=0.15,
        )


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What the blocks of one process took, and what the device takes when it rests."""

    joules: float
    idle_watts: float
    inferences: int
    seconds: float
    source: str  # as "rapl"

    @property
    def joules_per_inference(self) -> float:
        """Energy of one inference above that of the resting device."""
        return (self.joules - self.idle_watts * self.seconds) / self.inferences


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one process of one subject showed."""

    import_ns: int
    load_ns: int
    first_ns: int  # the first inference, before any warm-up
    steady: bool  # whether the warm-up ended because two blocks agreed
    warmup_ns: tuple[float, ...]  # medians of the warm-up blocks
    blocks_ns: tuple[tuple[int, ...], ...]  # raw, block by block
    compute_ns: tuple[tuple[int, ...], ...] | None = None  # by CUDA's own events
    peak_bytes: int | None
    peak_reason: str | None
    gpu_bytes: int | None = None
    gpu_reason: str | None = None
    precision: str
    device: str = "cpu"
    threads: int | None  # None: the runtime has none to tell
    spinning: bool | None = None  # whether the runtime's threads wait by spinning
    cpus: tuple[int, ...] | None
    properties: Mapping[str, str] = field(default_factory=dict)  # read back from the runtime
    energy: Energy | None = None
    energy_reason: str | None = None  # why there is none, or what it covers


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """All runs of one subject."""

    name: str
    artifact: str  # file name
    bytes: int  # of all its files together
    files: Mapping[str, str]  # SHA-256 by name, as the runner loaded them
    backend: str
    version: str
    runs: tuple[Run, ...]

    @property
    def blocks(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Nanoseconds as run → block → inference."""
        return tuple(run.blocks_ns for run in self.runs)

    @property
    def peak_bytes(self) -> int | None:
        """The largest peak of any run, or None where the system does not tell."""
        return max((n for run in self.runs if (n := run.peak_bytes) is not None), default=None)

    @property
    def gpu_bytes(self) -> int | None:
        """The most GPU memory of any run, or None where nothing tells."""
        return max((n for run in self.runs if (n := run.gpu_bytes) is not None), default=None)

    @property
    def load_ms(self) -> float:
        """Median time to load the artifact, its files in the page cache, the import left out."""
        return median(run.load_ns for run in self.runs) / 1e6

    @property
    def first_ms(self) -> float:
        """Median time of a process's first inference."""
        return median(run.first_ns for run in self.runs) / 1e6

    @property
    def joules(self) -> float | None:
        """Median energy of one inference above rest, or None where it cannot be read."""
        known = [run.energy.joules_per_inference for run in self.runs if run.energy is not None]
        return median(known) if known else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two subjects measured in turns."""

    settings: MeasureSettings
    dense: Measurement
    slim: Measurement
    order: tuple[tuple[str, ...], ...]  # "dense" or "slim" for every block of every round
    machine: Machine
    conditions: tuple[Conditions, ...]  # one per round
    tainted: tuple[str, ...] = ()  # reasons to doubt it; empty is good
