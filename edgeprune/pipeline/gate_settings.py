"""What ``gate`` is asked to do, checked before any work begins."""

from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.errors import MeasureError, UsageError
from edgeprune_benchmarks.baseline import Tolerances
from edgeprune_benchmarks.measurement import MeasureSettings


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What ``gate`` is asked to do.

    Attributes:
        candidate: a bundle, a file, or a stored record.
        baseline: the committed file, or None.
        update: write the baseline instead of judging by it.
        against: what the candidate's time is held against: a bundle or a file.
        data: images whose test split accuracy is judged on, or None.
        skip_corrupt: leave out images that cannot be read.
        runtime, precision: as ``open_subject`` takes them.
        threads: None for the bundle's, else 1.
        batch: images at a time.
        device: as ``open_host`` takes it.
        max_slowdown: that is allowed, as a share of the baseline's time.
        max_drop, max_class_drop: of accuracy and of a class, as shares.
        max_growth, memory_growth: as shares; None for what the baseline says.
        exact: any changed file is a failure.
        accept_inconclusive: what cannot be told does not fail.
        noise_floor: of this machine, as a share, if it is known.
        aa: measure the noise floor now, and remember it.
        rounds: fresh processes of each; None for the usual number.
        quick: measure less.
        cross_machine: compare memory with that of another machine.
        seed: of whatever is random; None for the bundle's, else 0.
    """

    candidate: Path
    baseline: Path | None = None
    update: bool = False
    against: Path | None = None
    data: str | None = None
    skip_corrupt: bool = False
    runtime: str | None = None
    precision: str | None = None
    threads: int | None = None
    batch: int = 1
    device: str = "cpu"
    max_slowdown: float = 0.02
    max_drop: float = 0.01
    max_class_drop: float = 0.05
    max_growth: float | None = None
    memory_growth: float | None = None
    exact: bool = False
    accept_inconclusive: bool = False
    noise_floor: float | None = None
    aa: bool = False
    rounds: int | None = None
    quick: bool = False
    cross_machine: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be judged."""
        if self.update and self.baseline is None:
            raise UsageError("--update writes a baseline: say where with --baseline FILE")
        if self.exact and self.baseline is None:
            raise UsageError("--exact compares hashes with a baseline: give --baseline FILE")
        for option in ("max_slowdown", "max_growth", "memory_growth", "noise_floor"):
            value = getattr(self, option)
            if value is not None and not value >= 0:
                name = option.replace("_", "-")
                raise UsageError(f"--{name} is {100 * value:g} %: give 0 or more")
        for option in ("max_drop", "max_class_drop"):
            value = getattr(self, option)
            if not 0 < value < 1:
                name = option.replace("_", "-")
                raise UsageError(
                    f"--{name} is {100 * value:g} points: give more than 0 and less than 100"
                )
        self.measure(threads=self.threads or 1, device="cpu")

    def measure(self, *, threads: int, device: str) -> MeasureSettings:
        """Return how artifacts are measured.

        Raises:
            UsageError: what is asked for cannot be measured.
        """
        usual = MeasureSettings.quick() if self.quick else MeasureSettings()
        try:
            return replace(
                usual,
                threads=threads,
                batch=self.batch,
                device=device,
                rounds=usual.rounds if self.rounds is None else self.rounds,
            )
        except MeasureError as error:
            raise UsageError(str(error)) from None

    def tolerances(self, stored: Tolerances) -> Tolerances:
        """Return what may grow by how much: as asked for, else as stored."""
        growth, memory = self.max_growth, self.memory_growth
        return Tolerances(
            growth=stored.growth if growth is None else growth,
            memory=stored.memory if memory is None else memory,
        )
