"""Is it right, and is it right on the same images as before?

Accuracy is measured on what an artifact puts out, logits of shape (N, K). With
one label per image, the largest logit counts. With several, each finding is
called where its logit is above 0 (a probability above one half), and accuracy is
the mean over findings of the share of images called correctly: an image with
one finding wrong out of fourteen is not all wrong. What cannot be computed is
None, never 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from edgeprune.errors import MeasureError

Logits = NDArray[np.floating]
Labels = NDArray[np.generic]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """One class or finding against the rest; ``n`` images have it."""

    name: str
    n: int
    sensitivity: float | None
    auroc: float | None
    average_precision: float | None


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How right an artifact is; macro means run over the classes that have a value."""

    n: int
    multi_label: bool
    accuracy: float
    auroc: float | None
    average_precision: float | None
    per_class: tuple[ClassMetrics, ...]


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Slim minus dense on the same images, with a 95 % interval over images."""

    accuracy: float
    low: float
    high: float
    disagreement: float  # share of calls on which the two differ
    only_dense_right: int  # calls
    only_slim_right: int
    p_value: float | None  # McNemar's exact test; None when one image makes several calls


def classification_metrics(logits: Logits, labels: Labels, classes: Sequence[str]) -> Metrics:
    """Compare logits (N, K) with labels: (N,) class numbers, or (N, K) of 0 and 1."""
    truth = _truth(logits, labels, len(classes))
    calls = _calls(logits, multi_label=labels.ndim == 2)
    scores = logits if labels.ndim == 2 else softmax(logits.astype(np.float64), axis=1)
    columns = zip(classes, truth.T, calls.T, scores.T, strict=True)
    per_class = tuple(_class_metrics(*column) for column in columns)
    return Metrics(
        n=len(truth),
        multi_label=labels.ndim == 2,
        accuracy=float(_right(logits, labels).mean()),
        auroc=_mean([each.auroc for each in per_class]),
        average_precision=_mean([each.average_precision for each in per_class]),
        per_class=per_class,
    )


def decisions(logits: Logits, *, multi_label: bool) -> NDArray[np.int64]:
    """Return what is decided per image, as (N, 1) class numbers or (N, K) of 0 and 1.

    Raises ``MeasureError`` for outputs that are not finite, of which nothing follows.
    """
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise MeasureError(f"outputs of {bad} of {len(logits)} images are not finite")
    chosen = logits > 0 if multi_label else logits.argmax(axis=1)[:, None]
    return chosen.astype(np.int64)


def paired_difference(
    dense: Logits, slim: Logits, labels: Labels, *, seed: int = 0, resamples: int = 2000
) -> PairedDifference:
    """Compare two artifacts image by image on the same labels."""
    for logits in (dense, slim):
        _truth(logits, labels, dense.shape[-1])
    multi_label = labels.ndim == 2
    before, after = _right(dense, labels), _right(slim, labels)
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    gain = (after.astype(np.float64) - before).mean(axis=1)
    rng = np.random.default_rng(seed)
    means = [rng.choice(gain, len(gain)).mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    differ = decisions(dense, multi_label=multi_label) != decisions(slim, multi_label=multi_label)
    return PairedDifference(
        accuracy=float(gain.mean()),
        low=float(low),
        high=float(high),
        disagreement=float(differ.mean()),
        only_dense_right=lost,
        only_slim_right=won,
        p_value=None if multi_label else _mcnemar(lost, won),
    )


def _mcnemar(lost: int, won: int) -> float:
    """Return how often a fair coin would part the discordant images at least so unevenly."""
    return float(binomtest(lost, lost + won, 0.5).pvalue) if lost + won else 1.0


def _class_metrics(name: str, truth: Bools, calls: Bools, scores: Floats) -> ClassMetrics:
    both = bool(truth.any() and not truth.all())
    return ClassMetrics(
        name=name,
        n=int(truth.sum()),
        sensitivity=float(calls[truth].mean()) if truth.any() else None,
        auroc=float(roc_auc_score(truth, scores)) if both else None,
        average_precision=float(average_precision_score(truth, scores)) if truth.any() else None,
    )


def _calls(logits: Logits, *, multi_label: bool) -> Bools:
    """Return which classes are called, as (N, K)."""
    chosen = decisions(logits, multi_label=multi_label)
    return chosen.astype(bool) if multi_label else chosen == np.arange(logits.shape[1])


def _right(logits: Logits, labels: Labels) -> Bools:
    """Return which decisions are right, as (N, 1) or (N, K)."""
    decided = decisions(logits, multi_label=labels.ndim == 2)
    return np.asarray(decided == (labels if labels.ndim == 2 else labels[:, None]))


def _truth(logits: Logits, labels: Labels, classes: int) -> Bools:
    """Return which classes are true, as (N, K); refuse what does not fit together."""
    if not len(labels):
        raise MeasureError("there are no test images to measure accuracy on")
    wanted = (len(labels), classes)
    if logits.shape != wanted:
        raise MeasureError(f"outputs have shape {logits.shape}; {wanted} was expected")
    if labels.ndim == 2:
        if labels.shape != wanted or not np.isin(labels, (0, 1)).all():
            raise MeasureError(
                f"labels {labels.shape} are not 0 or 1 for each of {classes} findings"
            )
        return labels.astype(bool)
    numbers = np.arange(classes)
    strangers = np.setdiff1d(labels, numbers).tolist()
    if strangers:
        raise MeasureError(f"labels outside 0 … {classes - 1}: {strangers}")
    return np.asarray(labels[:, None] == numbers)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
