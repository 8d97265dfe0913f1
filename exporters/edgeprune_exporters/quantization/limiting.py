"""Hold what int8 costs in accuracy, by leaving the most sensitive layers in float.

How sensitive a layer is: how far the logits move, relative to their size, when no
layer but it is quantised. Layers are reverted from the most sensitive on, first
in doubling numbers and then by halving what is too many, each time quantised and
judged anew. Invariant: what is returned was itself judged, and holds the limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np

from edgeprune.errors import ExportError
from edgeprune_exporters.artifact import Kept
from edgeprune_exporters.calls import share_right
from edgeprune_exporters.images import LabelledImages
from edgeprune_exporters.job import Job
from edgeprune_exporters.judging import predict
from edgeprune_exporters.parity import Array
from edgeprune_exporters.quantization.calibrating import calibration_images
from edgeprune_exporters.quantization.layers import Layer
from edgeprune_exporters.quantization.subject import Quantized, Subject

TOLD_ON: Final = 32  # calibration images: errors of logits are steady long before accuracies

M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A layer, and the error of the logits when it alone is quantised."""

    layer: Layer
    error: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried(Generic[M]):
    """A graph quantised but for the ``count`` most sensitive layers, and the points it loses."""

    graph: M
    count: int
    points: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial(Generic[M]):
    """One graph, quantised in part again and again, and judged on validation images."""

    subject: Subject[M]
    job: Job
    images: LabelledImages
    own: float

    def judge(self, graph: M, count: int = 0) -> Tried[M]:
        """Measure what a graph loses that has so many layers in float."""
        logits = predict(
            self.subject.load(graph),
            self.images,
            title=f"int8 but for {count} layers: validation images",
            batch=self.job.fixed_batch,
            reporter=self.job.reporter,
        )
        points = 100 * (self.own - _right(logits, self.images))
        return Tried(graph=graph, count=count, points=points)

    def revert(self, ranked: Sequence[Ranked], count: int) -> Tried[M]:
        """Quantise all but the first so many layers, and judge."""
        keep = [each.layer.name for each in ranked[:count]]
        with self.job.reporter.track(f"int8 but for {count} layers", None):
            graph = self.subject.quantize(keep)
        return self.judge(graph, count)


def quantize_within(subjects: Sequence[Subject[M]], job: Job) -> Quantized[M]:
    """Quantise the way that suits the model best, and where a largest drop is asked for, hold it.

    Args:
        subjects: the same graph, to be quantised in different ways.
        job: what it is part of.

    Raises:
        ExportError: nothing can be quantised, there are no images to judge on, or the
            drop is larger even with a single layer quantised.
    """
    limit, images, own = job.options.max_drop, job.images.validation, job.validation_logits
    if limit is not None and images is None:
        raise ExportError("--max-drop needs validation images: give --data PATH with some")
    subject, graph = _nearest(subjects, job)
    if images is None or own is None:
        return Quantized(graph=graph)
    trial = Trial(subject=subject, job=job, images=images, own=_right(own, images))
    whole = trial.judge(graph)
    if limit is None or whole.points <= limit:
        return Quantized(graph=graph, notes=(_drop(whole.points, len(images)),))
    ranked = rank(subject, job)
    held = _search(trial, ranked, limit, whole)
    kept = _kept(subject, held.graph, ranked[: held.count])
    reverted = (
        f"with every layer in int8 it loses {whole.points:.2f} points, more than --max-drop "
        f"{limit:g}: layers that stay in float, the most sensitive ones: {len(kept)}"
    )
    notes = (_drop(held.points, len(images)), reverted)
    return Quantized(graph=held.graph, kept=kept, notes=notes)


def _nearest(subjects: Sequence[Subject[M]], job: Job) -> tuple[Subject[M], M]:
    """Quantise each, and return the one whose logits are the nearest on calibration images."""
    images = _few(job)
    wanted = job.model.logits(images)
    found = []
    with job.reporter.track("int8: ranges on calibration images", len(subjects)) as advance:
        for done, subject in enumerate(subjects, 1):
            graph = subject.quantize()
            if not subject.layers(graph):
                raise ExportError(
                    "no layer of the model can be quantised to int8: use --precision fp16"
                )
            error = relative_rms(subject.load(graph)(images), wanted)
            found.append((error, subject, graph))
            advance(done)
    _, subject, graph = min(found, key=lambda each: each[0])
    return subject, graph


def rank(subject: Subject[M], job: Job) -> tuple[Ranked, ...]:
    """Return the layers with the most sensitive first; ties keep the order of the graph."""
    ranked = []
    with job.reporter.track("int8: sensitivity of layers", None) as advance:
        draft = subject.draft()
        layers = subject.layers(draft)
        images = _few(job)
        wanted = job.model.logits(images)
        for done, layer in enumerate(layers):
            advance(done, layer.name, total=len(layers))
            found = subject.load(subject.alone(draft, layer))(images)
            ranked.append(Ranked(layer=layer, error=relative_rms(found, wanted)))
    return tuple(sorted(ranked, key=lambda each: -each.error))


def relative_rms(found: Array, wanted: Array) -> float:
    """Return the root mean square of the difference over that of what is wanted."""
    difference = found.astype(np.float64) - wanted
    return float(np.sqrt(np.mean(difference**2) / max(float(np.mean(wanted**2.0)), 1e-24)))


def _search(trial: Trial[M], ranked: Sequence[Ranked], limit: float, whole: Tried[M]) -> Tried[M]:
    """Find how few of the most sensitive layers have to be reverted, at least one staying int8."""
    most = len(ranked) - 1
    too_few, held = whole.count, trial.revert(ranked, min(1, most))
    while held.points > limit:
        if held.count == most:
            raise ExportError(
                f"int8 loses {whole.points:.2f} points of accuracy on the validation images, and "
                f"still {held.points:.2f} with {most} of {len(ranked)} layers in float: raise "
                f"--max-drop {limit:g}, or use --precision fp16"
            )
        too_few, held = held.count, trial.revert(ranked, min(2 * held.count, most))
    while held.count - too_few > 1:
        tried = trial.revert(ranked, (held.count + too_few) // 2)
        if tried.points <= limit:
            held = tried
        else:
            too_few = tried.count
    return held


def _kept(subject: Subject[M], graph: M, reverted: Sequence[Ranked]) -> tuple[Kept, ...]:
    still = {layer.name for layer in subject.layers(graph)}
    return tuple(
        Kept(
            name=each.layer.name,
            operator=each.layer.operator,
            precision="fp32",
            reason=f"alone in int8 it moves the logits by {each.error:.1e} relative (RMS)",
        )
        for each in reverted
        if each.layer.name not in still
    )


def _few(job: Job) -> Array:
    """Return some calibration images, as many as a fixed batch takes."""
    pool = calibration_images(job.images, TOLD_ON)
    return np.take(pool, range(job.fixed_batch or len(pool)), axis=0, mode="wrap")


def _right(logits: Array, images: LabelledImages) -> float:
    return share_right(logits, images.labels, multi_label=images.labels.ndim == 2)


def _drop(points: float, count: int) -> str:
    how = f"gains {-points:.2f} points" if points < 0 else f"loses {points:.2f} points"
    return f"int8 {how} of accuracy on {count} validation images"
