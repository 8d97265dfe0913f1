"""Is it still as right as before, give or take a margin?

Two artifacts decide on the same images, so each image is its own control, and what
counts is how many were lost and how many won. A fall is excluded when the lower
one-sided 95 % bound of the difference stays above minus the margin: that is shown,
where a difference that is merely not significant shows nothing. Few images exclude
little, even if not one of them changed, and then the answer is that they are few.

The bounds of a share of images are those of T. Tango's score test ("Equivalence test
and confidence interval for the difference in proportions for the paired-sample
design", Statistics in Medicine 17, 1998): a bootstrap of images none of which changed
has no width. Where an image makes several calls, images are resampled, and an image
of a kind that was not seen is allowed for all the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, bootstrap, norm

from edgeprune.errors import MeasureError, UsageError

Decisions = NDArray[np.integer]
Shares = NDArray[np.float64]

LEVEL: Final = 0.95
Z: Final = float(norm.ppf(LEVEL))
RESAMPLES: Final = 2000
AT_ONCE: Final = 100  # resamples in memory
RANKS: Final = ("regression", "inconclusive", "pass")


@dataclass(frozen=True, kw_only=True)
class Bound:
    """How one measure changed, and what is known of it with 95 % on either side.

    Attributes:
        name: a class, or "all".
        measure: "accuracy", "sensitivity" or "specificity": the share of right calls on
            all images, on those of the class, or on those that are not.
        n: images.
        before, after: shares; None without images.
        difference: after minus before.
        low, high: its one-sided bounds.
        margin: the fall that is allowed, as a share.
        lost, won: images that got worse and better.
        p_value: of the exact sign test on these, McNemar's where an image makes one call.
        status: "pass" when the margin is kept, "regression" when the fall exceeds it and
            is not chance, otherwise "inconclusive".
        needed: images that would probably have decided, were they like these.
    """

    name: str
    measure: str
    n: int
    before: float | None
    after: float | None
    difference: float
    low: float
    high: float
    margin: float
    lost: int
    won: int
    p_value: float
    status: str
    needed: int | None

    @property
    def reason(self) -> str:
        """Say in one sentence what is known."""
        whose = self.measure if self.name == "all" else f"{self.measure} of {self.name}"
        if self.before is None or self.after is None:
            return f"{whose}: the test split has no image to tell it by"
        seen = (
            f"{whose}: {self.before:.2%} before, {self.after:.2%} after on {self.n} images "
            f"({self.lost} lost, {self.won} won)"
        )
        allowed = f"{100 * self.margin:g} points"
        if self.status == "pass":
            return f"{seen}; a fall of more than {allowed} is excluded"
        if self.status == "regression":
            return f"{seen}; more than {allowed} lower, and not by chance"
        advice = "" if self.needed is None else f"; about {self.needed} images would decide"
        return f"{seen}; they cannot exclude a fall of {-100 * self.low:.1f} points{advice}"


@dataclass(frozen=True, kw_only=True)
class NonInferiority:
    """What is known of accuracy as a whole, and of each class."""

    overall: Bound
    per_class: tuple[Bound, ...]

    @property
    def status(self) -> str:
        """The worst of all."""
        return min((each.status for each in (self.overall, *self.per_class)), key=RANKS.index)


def non_inferiority(
    before: Decisions,
    after: Decisions,
    labels: NDArray[np.generic],
    classes: Sequence[str],
    *,
    margin: float,
    class_margin: float,
    seed: int = 0,
) -> NonInferiority:
    """Compare what two artifacts decided (``metrics.decisions``) about the same images.

    Decisions are (N, 1) class numbers with labels (N,), or (N, K) of 0 and 1 with
    labels (N, K). Of each class the sensitivity is bounded, by ``class_margin``. With
    one label per image that leaves nothing out, for what is called one class wrongly is
    lost to another; with several, specificity is bounded as well. Classes are not
    corrected for being many: that would make a fall easier to miss.

    Raises ``UsageError`` for a margin that is not between 0 and 1, ``MeasureError`` for
    decisions that do not fit the labels.
    """
    for share in (margin, class_margin):
        if not 0 < share < 1:
            raise UsageError(f"a margin of {100 * share:g} points: give one above 0 and below 100")
    truth = labels if labels.ndim == 2 else labels[:, None]
    _check(before, after, truth, labels.ndim == 2, classes)
    right = np.stack([before == truth, after == truth])  # (2, N, 1 or K)
    overall = _bound("all", "accuracy", right.mean(axis=2), margin, seed)
    bounds: list[Bound] = []
    for number, name in enumerate(classes):
        several = labels.ndim == 2
        own = right[:, :, number if several else 0].astype(np.float64)
        has = truth[:, number] == 1 if several else truth[:, 0] == number
        bounds.append(_bound(name, "sensitivity", own[:, has], class_margin, seed))
        if several:
            bounds.append(_bound(name, "specificity", own[:, ~has], class_margin, seed))
    return NonInferiority(overall=overall, per_class=tuple(bounds))


def least_images(margin: float) -> int:
    """Return how many images it takes to exclude a fall by the margin if none is lost."""
    return math.ceil(Z**2 * (1 / margin - 1))


def _bound(name: str, measure: str, right: Shares, margin: float, seed: int) -> Bound:
    """Bound the change of a mean. right: share of each image's calls, before and after, (2, n)."""
    gains = right[1] - right[0]
    n, lost, won = len(gains), int((gains < 0).sum()), int((gains > 0).sum())
    difference = float(gains.mean()) if n else 0.0
    low, high = _interval(gains, lost, won, seed)
    return Bound(
        name=name,
        measure=measure,
        n=n,
        before=float(right[0].mean()) if n else None,
        after=float(right[1].mean()) if n else None,
        difference=difference,
        low=low,
        high=high,
        margin=margin,
        lost=lost,
        won=won,
        p_value=float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0,
        status=_status(difference, low, high, margin),
        needed=_needed(difference, float((gains**2).mean()) if n else 0.0, margin),
    )


def _status(difference: float, low: float, high: float, margin: float) -> str:
    if low >= -margin:
        return "pass"
    return "regression" if difference < -margin and high < 0 else "inconclusive"


def _interval(gains: Shares, lost: int, won: int, seed: int) -> tuple[float, float]:
    if np.isin(gains, (-1.0, 0.0, 1.0)).all() and len(gains):
        return -_tango(len(gains), won=lost, lost=won), _tango(len(gains), won=won, lost=lost)
    if len(gains) < 2:  # nothing to resample
        return -1.0, 1.0
    found = bootstrap(
        (gains,),
        np.mean,
        confidence_level=2 * LEVEL - 1,  # 95 % on either side
        n_resamples=RESAMPLES,
        batch=AT_ONCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    unseen = _tango(len(gains), won=0, lost=0)
    return min(float(found.low), -unseen), max(float(found.high), unseen)


def _tango(n: int, *, won: int, lost: int) -> float:
    """Return the upper bound of the share won minus the share lost, by the score test."""

    def score(difference: float) -> float:
        # q is the likeliest share lost, were this the true difference.
        b = -won - lost + (2 * n - won + lost) * difference
        c = -lost * difference * (1 - difference)
        q = (math.sqrt(b * b - 8 * n * c) - b) / (4 * n)
        variance = n * (2 * q + difference * (1 - difference))
        return (won - lost - n * difference) / math.sqrt(variance) + Z

    if won == n:
        return 1.0
    observed = (won - lost) / n
    return float(brentq(score, max(observed, -1 + 1e-9) + 1e-9, 1 - 1e-12))


def _needed(difference: float, square: float, margin: float) -> int | None:
    """Return how many images like these would decide, by Wald's interval. square: mean gain²."""
    spread = Z**2 * (square - difference**2)
    if difference > -margin:
        return max(least_images(margin), math.ceil(spread / (margin + difference) ** 2))
    return math.ceil(spread / difference**2) if difference < -margin else None


def _check(
    before: Decisions,
    after: Decisions,
    truth: NDArray[np.generic],
    several: bool,
    classes: Sequence[str],
) -> None:
    if not len(truth):
        raise MeasureError("there are no test images to compare accuracy on")
    wanted = (len(truth), len(classes) if several else 1)
    for decided in (before, after, truth):
        if decided.shape != wanted:
            raise MeasureError(f"decisions or labels have shape {decided.shape}, not {wanted}")
