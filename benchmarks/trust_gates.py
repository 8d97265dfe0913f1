"""How often the latency gate cries wolf, and how often it sees the wolf.

Gates are those of ``edgeprune gate``: an interleaved measurement, and a second in
fresh processes before anything is called a regression. OpenVINO and ONNX Runtime
take turns. Invariant: every finished gate is on disk, so a run that was ended
goes on where it stopped.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scipy.stats import binomtest

from edgeprune.progress import Advance
from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.gate import LatencyCheck, check_latency
from edgeprune_benchmarks.hosts import LocalHost
from edgeprune_benchmarks.measurement import MeasureSettings
from edgeprune_benchmarks.statistics import Ratio
from trust_case import PLANTED, RUNTIMES, Case

KINDS: Final = {
    "quiet": "dense against itself, machine quiet",
    "busy": "dense against itself, another core kept busy",
    "planted": "5 % slow-down planted",
    "planted-busy": "5 % slow-down planted, another core kept busy",
}
SLOWED_RUNNER: Final = Path(__file__).with_name("trust_slowed_runner.py")
ALLOWED: Final = (0.02, 0.05)  # slow-downs that a gate may allow; it is run at the first


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One gate; ``second`` is there where the first measurement asked for it."""

    runtime: str
    status: str
    first: Ratio
    second: Ratio | None
    seconds: float
    tainted: tuple[str, ...]

    def alarm(self, allowed: float, noise_floor: float) -> bool:
        """Say whether a gate that allows so much would have failed on these measurements."""
        limit = 1 + max(allowed, noise_floor)
        return self.first.low > limit and self.second is not None and self.second.low > limit


def run_gates(
    kind: str,
    count: int,
    case: Case,
    settings: MeasureSettings,
    *,
    noise_floor: float,
    journal: Path,
    advance: Advance,
) -> tuple[Outcome, ...]:
    """Run gates of one kind until there are so many, counting those in the journal."""
    done = list(_read(journal))
    with _busy(kind.endswith("busy"), settings), LocalHost(runner=SLOWED_RUNNER) as host:
        while len(done) < count:
            runtime = tuple(RUNTIMES)[len(done) % len(RUNTIMES)]
            candidate = PLANTED if kind.startswith("planted") else "model"
            start = time.monotonic()
            check = check_latency(
                case.subject(runtime),
                case.subject(runtime, candidate),
                case.images,
                settings,
                allowed=ALLOWED[0],
                noise_floor=noise_floor,
                host=host,
                seed=len(done),
            )
            done.append(_outcome(runtime, check, time.monotonic() - start))
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(encode(done[-1])) + "\n")
            advance(len(done), "gates")
    return tuple(done[:count])


def row(kind: str, outcomes: Sequence[Outcome], noise_floor: float) -> str:
    """Return the table's row of one kind of gate."""
    count = len(outcomes)
    shares = []
    for allowed in ALLOWED:
        alarms = sum(each.alarm(allowed, noise_floor) for each in outcomes)
        exact = binomtest(alarms, count).proportion_ci()
        interval = f"{100 * exact.low:.1f}, {100 * exact.high:.1f}"
        shares.append(f"{alarms}: {100 * alarms / count:g} % [{interval}]")
    widths = sorted((each.first.high - each.first.low) / 2 for each in outcomes)
    ratios = sorted(each.first.value for each in outcomes)
    inconclusive = sum(each.status == "inconclusive" for each in outcomes)
    seconds = sorted(each.seconds for each in outcomes)
    middle = count // 2
    return (
        f"| {KINDS[kind]} | {count} | {shares[0]} | {shares[1]} | {inconclusive} | "
        f"{ratios[middle]:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) | "
        f"{100 * widths[middle]:.1f} % | {seconds[middle]:.0f} |"
    )


def _outcome(runtime: str, check: LatencyCheck, seconds: float) -> Outcome:
    reasons = {reason for each in check.comparisons for reason in each.tainted}
    return Outcome(
        runtime=runtime,
        status=check.status,
        first=check.first,
        second=check.second,
        seconds=seconds,
        tainted=tuple(sorted(reasons)),
    )


def _read(journal: Path) -> Iterator[Outcome]:
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            yield decode(Outcome, json.loads(line))


@contextmanager
def _busy(wanted: bool, settings: MeasureSettings) -> Iterator[None]:
    """Keep one core busy that the measurement is not pinned to."""
    if not wanted:
        yield
        return
    ours = set(settings.cpus or ())
    other = min(set(os.sched_getaffinity(0)) - ours)
    spin = f"import os\nos.sched_setaffinity(0, [{other}])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()
