"""Is the candidate slower than its baseline, by more than is allowed?

Both are measured in turns in one job on one machine; no figure of another day takes
part. Of the ratio of the candidate's time to the baseline's, with its 95 % interval:

- all of it above 1 plus the allowed slow-down, and above 1 plus the machine's noise
  floor: measured once more in fresh processes. Above them again, it is a regression;
  otherwise inconclusive, for the two contradict each other.
- the ratio within what is allowed, and all of the interval within twice as much: pass.
- anything else is inconclusive. The measurement is too coarse, or the noise floor hides
  what it shows: more rounds, a quieter machine, or more that is allowed would decide.

A measurement that is too coarse is taken as long again, once, and all its rounds count.
Looking twice makes an interval miss more often than it says, though by less than twice
as often; a regression still takes two that miss.

A crowded or throttled machine does not decide by itself. Blocks alternate, so what
slows one side slows the other, and what does not cancel widens the interval; hosted
runners are never quiet. Invariant: no regression rests on one measurement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import UsageError
from edgeprune_benchmarks.harness import Progress, compare
from edgeprune_benchmarks.hosts import Host
from edgeprune_benchmarks.measurement import Comparison, MeasureSettings, Subject
from edgeprune_benchmarks.statistics import Ratio, latency_ratio

LatencyStatus = Literal["pass", "regression", "inconclusive"]
ALLOWED: Final = 0.02  # slow-down, as a share of the baseline's time
LOOKS: Final = 2  # at one measurement, before it stays too coarse


@dataclass(frozen=True, kw_only=True)
class LatencyCheck:
    """What was decided, and on which measurements.

    Attributes:
        status: as the module says.
        limit: ratio of candidate to baseline above which it is a regression.
        first: ratio of the candidate's time to the baseline's.
        second: of the confirming measurement, where the first asked for one.
        reason: one sentence for people.
        comparisons: the measurements, with raw samples and the machine's state.
    """

    status: LatencyStatus
    limit: float
    first: Ratio
    second: Ratio | None
    reason: str
    comparisons: tuple[Comparison, ...]

    @property
    def tainted(self) -> tuple[str, ...]:
        """Reasons to doubt the measurements, each once."""
        return tuple(dict.fromkeys(r for each in self.comparisons for r in each.tainted))


def check_latency(
    baseline: Subject,
    candidate: Subject,
    inputs: NDArray[np.float32],
    settings: MeasureSettings,
    *,
    allowed: float = ALLOWED,
    noise_floor: float = 0.0,
    host: Host | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyCheck:
    """Measure candidate and baseline in turns on images (N, C, H, W), and decide.

    allowed: slow-down as a share, 0.02 for 2 %. noise_floor: difference that this
    machine shows between equals, as a share.

    Raises ``UsageError`` for shares below 0, and ``MeasureError`` as ``compare`` does.
    """
    if not (allowed >= 0 and noise_floor >= 0):
        raise UsageError("the allowed slow-down and the noise floor must not be below 0")
    comparisons: list[Comparison] = []

    def measured() -> Ratio:
        taken: list[Comparison] = []
        while True:
            taken.append(
                compare(baseline, candidate, inputs, settings, progress=progress, host=host)
            )
            comparisons.append(taken[-1])
            ratio = ratio_of(*taken, seed=seed + len(comparisons), noise_floor=noise_floor)
            if len(taken) == LOOKS or not _coarse(ratio, allowed, noise_floor):
                return ratio

    first = measured()
    second = measured() if first.low > limit_of(allowed, noise_floor) else None
    status, reason = decide(first, second, allowed=allowed, noise_floor=noise_floor)
    return LatencyCheck(
        status=status,
        limit=limit_of(allowed, noise_floor),
        first=first,
        second=second,
        reason=reason,
        comparisons=tuple(comparisons),
    )


def ratio_of(*comparisons: Comparison, seed: int = 0, noise_floor: float = 0.0) -> Ratio:
    """Return the ratio of slim, the candidate, to dense, the baseline, over all rounds."""
    dense, slim = (
        [run for each in comparisons for run in side(each).blocks]
        for side in (attrgetter("dense"), attrgetter("slim"))
    )
    return latency_ratio(dense, slim, seed=seed, noise_floor=noise_floor)


def limit_of(allowed: float, noise_floor: float) -> float:
    """Return the ratio above which a candidate is slower than is allowed, beyond noise."""
    return 1 + max(allowed, noise_floor)


def decide(
    first: Ratio, second: Ratio | None, *, allowed: float, noise_floor: float
) -> tuple[LatencyStatus, str]:
    """Return what one or two measurements show, and why.

    Without a confirming second one, there is no regression.
    """
    limit = limit_of(allowed, noise_floor)
    seen, most = _words([first, *([second] if second else [])]), f"{limit:.3f}"
    if first.low > limit:
        if second is None:
            return "inconclusive", f"{seen}: above {most}, but measured once only"
        if second.low > limit:
            return "regression", f"{seen}: above {most} both times"
        return "inconclusive", f"{seen}: above {most} the first time only; measure again"
    if _passes(first, allowed):
        return "pass", f"{seen}: more than {max(first.high - 1, 0):.1%} slower is excluded"
    if first.low > 1 + allowed:
        return "inconclusive", f"{seen}: hidden by this machine's noise floor of {noise_floor:.1%}"
    advice = "give more rounds, or a quieter machine"
    return "inconclusive", f"{seen}: too coarse to tell {allowed:.1%}; {advice}"


def _passes(ratio: Ratio, allowed: float) -> bool:
    return ratio.value <= 1 + allowed and ratio.high <= 1 + 2 * allowed


def _coarse(ratio: Ratio, allowed: float, noise_floor: float) -> bool:
    """Say whether more rounds may decide what these leave open."""
    decided = ratio.low > limit_of(allowed, noise_floor) or _passes(ratio, allowed)
    hidden = ratio.low > 1 + allowed  # by the noise floor, which no rounds change
    return not (decided or hidden)


def _words(ratios: Sequence[Ratio]) -> str:
    parts = [f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" for each in ratios]
    return f"{', then '.join(parts)} of the baseline's time"
