"""What is measured, how, and what came out, as values.

Times are raw nanoseconds, one per inference, and nothing is thrown away.
Invariant: no path, host or user name enters a ``Comparison``.
"""

from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.machine import Conditions, Machine


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An artifact to measure; the back end follows from the file's suffix unless given."""

    name: str
    artifact: Path
    backend: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The file that is loaded and the ones beside it that hold its weights."""
        path = self.artifact
        beside = (path.with_suffix(".bin"),) if path.suffix == ".xml" else ()
        return (path, *(p for p in (*beside, path.with_name(path.name + ".data")) if p.is_file()))


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
    cpus: tuple[int, ...] | None = None  # None: the runner picks, and reports which
    rounds: int = 6  # fresh processes of each subject
    blocks: int = 8  # of each subject in a round
    block_seconds: float = 0.25
    block_inferences: int = 5  # at least, however long they take
    warmup_seconds: float = 0.5  # of one warm-up block; two in a row have to agree
    warmup_limit: float = 10.0
    timeout: float = 120.0  # seconds for any command, on top of what it is asked to run

    def __post_init__(self) -> None:
        """Refuse settings that measure nothing."""
        least = {"threads": 1, "batch": 1, "rounds": 2, "blocks": 1, "block_inferences": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise MeasureError(f"{name} is {getattr(self, name)}; at least {low} is needed")
        if self.rounds % 2:
            even = "each subject has to start first equally often"
            raise MeasureError(f"rounds is {self.rounds}; an even number is needed: {even}")
        if self.block_seconds < 0 or self.warmup_seconds <= 0 or self.timeout <= 0:
            raise MeasureError("seconds to measure, to warm up and to wait must be positive")

    @classmethod
    def quick(cls, *, threads: int = 1, batch: int = 1) -> "MeasureSettings":
        """Return settings that finish a small model in 10 to 15 seconds."""
        return cls(
            threads=threads,
            batch=batch,
            rounds=4,
            blocks=5,
            block_seconds=0.1,
            warmup_seconds=0.15,
            warmup_limit=3.0,
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one process of one subject showed."""

    import_ns: int
    load_ns: int
    first_ns: int  # the first inference, before any warm-up
    steady: bool  # whether the warm-up ended because two blocks agreed
    warmup_ns: tuple[float, ...]  # medians of the warm-up blocks
    blocks_ns: tuple[tuple[int, ...], ...]  # raw, block by block
    peak_bytes: int | None
    peak_reason: str | None
    precision: str
    threads: int
    cpus: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """All runs of one subject."""

    name: str
    artifact: str  # file name
    bytes: int  # of all its files together
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
        return max(
            (run.peak_bytes for run in self.runs if run.peak_bytes is not None), default=None
        )


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
