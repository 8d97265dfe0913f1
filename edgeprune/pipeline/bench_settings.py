"""What ``bench`` is asked to do, checked before any work begins."""

from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgeprune.errors import MeasureError, UsageError
from edgeprune.targets.target import PRECISIONS
from edgeprune_benchmarks.measurement import MeasureSettings


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What ``bench`` is asked to do.

    Attributes:
        a, b: bundles or files; the ratio is B's time over A's. Without b, A is a bundle
            whose dense model is compared with its slim one, or is measured against itself.
        data: images whose test split accuracy is measured on, or None.
        skip_corrupt: leave out images that cannot be read.
        runtime, precision: as ``open_subject`` takes them.
        threads, batches: one case for each pair; without threads, the bundle's or 1.
        device: as ``open_host`` takes it.
        cuda_graph: replay a captured graph, on a GPU.
        cpus: to run on; None leaves it to the runner.
        idle: seconds of rest before every inference.
        rounds: fresh processes of each; None for the usual number.
        quick: measure less.
        aa: measure A against itself first, and keep what that shows of the machine.
        layers: compare layer by layer as well.
        target: whose threads and roofline to take, and runtime where it loads the files, or None.
        seed: of whatever is random; None for the bundle's, else 0.
    """

    a: Path
    b: Path | None = None
    data: str | None = None
    skip_corrupt: bool = False
    runtime: str | None = None
    precision: str | None = None
    threads: tuple[int, ...] = ()
    batches: tuple[int, ...] = (1,)
    device: str = "cpu"
    cuda_graph: bool = False
    cpus: tuple[int, ...] | None = None
    idle: float = 0.0
    rounds: int | None = None
    quick: bool = False
    aa: bool = False
    layers: bool = False
    target: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing can be measured with."""
        for option, values in (("threads", self.threads or (1,)), ("batch", self.batches)):
            if not values or min(values) < 1 or len(set(values)) < len(values):
                given = ",".join(map(str, values))
                raise UsageError(f"--{option} '{given}': give different numbers from 1, as 1,2,4")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UsageError(
                f"no precision '{self.precision}': give one of {', '.join(PRECISIONS)}"
            )
        if self.cpus is not None and (not self.cpus or min(self.cpus) < 0):
            raise UsageError("--cpus takes numbers of processors from 0, as 2,3")
        if self.cpus and len(self.cpus) < max(self.threads or (1,)):
            raise UsageError(
                f"--cpus names {len(self.cpus)}, too few for {max(self.threads)} threads"
            )
        if self.idle < 0:
            raise UsageError(f"--idle {self.idle:g} is below 0: give seconds")
        self.measure(threads=1, batch=1, device="cuda:0" if self.cuda_graph else "cpu")

    @property
    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to continue the other, as JSON values.

        A device's address names a host and a user, which are nowhere stored.
        """
        asked = asdict(self)
        paths = {name: None if asked[name] is None else str(asked[name]) for name in "ab"}
        return asked | paths | {"device": sha256(self.device.encode()).hexdigest()[:12]}

    def measure(self, *, threads: int, batch: int, device: str) -> MeasureSettings:
        """Return how one case is measured.

        Raises:
            UsageError: what is asked for cannot be measured.
        """
        usual = MeasureSettings.quick() if self.quick else MeasureSettings()
        try:
            return replace(
                usual,
                threads=threads,
                batch=batch,
                device=device,
                cuda_graph=self.cuda_graph,
                cpus=self.cpus,
                idle_seconds=self.idle,
                rounds=usual.rounds if self.rounds is None else self.rounds,
            )
        except MeasureError as error:
            raise UsageError(str(error)) from None
