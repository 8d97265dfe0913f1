"""Hold what int8 costs in accuracy, by leaving the most sensitive layers in float.

How sensitive a layer is: how far the logits move, relative to their size, when no
layer but it is quantised. Layers are reverted from the most sensitive on, first
in doubling numbers and then by halving what is too many, each time quantised and
judged anew. Invariant: what is returned was itself judged, and holds the limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Generic, TypeVar

import numpy as np

from edgeprune.errors import ExportError
from edgeprune.progress import Advance
from edgeprune_exporters.artifact import Kept
from edgeprune_exporters.images import LabelledImages
from edgeprune_exporters.job import Job
from edgeprune_exporters.parity import Array
from edgeprune_exporters.quantization.accuracy import accuracy
from edgeprune_exporters.quantization.layers import Layer
from edgeprune_exporters.quantization.subject import Quantized, Run, Subject

RANKED_ON: Final = 32  # calibration images: errors of logits are steady long before accuracies

M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A layer, and the error of the logits when it alone is quantised."""

    layer: Layer
    error: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried(Generic[M]):
    """A quantised graph, and the points of accuracy that it loses."""

    graph: M
    points: float


@dataclass(frozen=True, eq=False)
class Trial(Generic[M]):
    """One graph, quantised in part again and again, and judged on validation images."""

    subject: Subject[M]
    job: Job
    images: LabelledImages
    advance: Advance

    @cached_property
    def reference(self) -> float:
        """The accuracy of the model itself."""
        return self._accuracy(self.job.model.logits)

    def judge(self, graph: M) -> Tried[M]:
        """Measure what a quantised graph loses."""
        found = self._accuracy(self.subject.load(graph))
        return Tried(graph=graph, points=100 * (self.reference - found))

    def revert(self, ranked: Sequence[Ranked]) -> Tried[M]:
        """Quantise all but these layers, and judge."""
        self.advance(0, f"{len(ranked)} layers in float")
        return self.judge(self.subject.quantize([each.layer.name for each in ranked]))

    def _accuracy(self, run: Run) -> float:
        return accuracy(run, self.images, self.job.fixed_batch)


def quantize_within(subject: Subject[M], job: Job) -> Quantized[M]:
    """Quantise, and where a largest drop is asked for, hold it.

    Raises:
        ExportError: nothing can be quantised, there are no images to judge on, or the
            drop is larger even with a single layer quantised.
    """
    limit, images = job.options.max_drop, job.images.validation
    if limit is not None and images is None:
        raise ExportError("--max-drop needs validation images: give --data PATH with some")
    with job.reporter.track("int8", None) as advance:
        graph = subject.quantize()
        if not subject.layers(graph):
            raise ExportError(
                "no layer of the model can be quantised to int8: use --precision fp16"
            )
        if images is None:
            return Quantized(graph=graph)
        trial = Trial(subject, job, images, advance)
        whole = trial.judge(graph)
        if limit is None or whole.points <= limit:
            return Quantized(graph=graph, notes=(_drop(whole.points, len(images)),))
        ranked = rank(subject, job, advance)
        held, count = _search(trial, ranked, limit, whole.points)
    return Quantized(
        graph=held.graph,
        kept=_kept(subject, held.graph, ranked[:count]),
        notes=(
            _drop(held.points, len(images)),
            f"with every layer in int8 it loses {whole.points:.2f} points, more than "
            f"--max-drop {limit:g}: the {count} most sensitive layers stay in float",
        ),
    )


def rank(subject: Subject[M], job: Job, advance: Advance) -> tuple[Ranked, ...]:
    """Return the layers with the most sensitive first; ties keep the order of the graph."""
    draft = subject.draft()
    layers = subject.layers(draft)
    images = _few(job)
    wanted = job.model.logits(images)
    ranked = []
    for done, layer in enumerate(layers):
        advance(done, layer.name, total=len(layers))
        found = subject.load(subject.alone(draft, layer))(images)
        ranked.append(Ranked(layer=layer, error=relative_rms(found, wanted)))
    return tuple(sorted(ranked, key=lambda each: -each.error))


def relative_rms(found: Array, wanted: Array) -> float:
    """Return the root mean square of the difference over that of what is wanted."""
    difference = found.astype(np.float64) - wanted
    return float(np.sqrt(np.mean(difference**2) / max(float(np.mean(wanted**2.0)), 1e-24)))


def _search(
    trial: Trial[M], ranked: Sequence[Ranked], limit: float, worst: float
) -> tuple[Tried[M], int]:
    """Find how few of the most sensitive layers have to be reverted, at least one staying int8."""
    most = len(ranked) - 1
    too_few, count = 0, 1
    while (tried := trial.revert(ranked[: min(count, most)])).points > limit:
        if count >= most:
            raise ExportError(
                f"int8 loses {worst:.2f} points of accuracy on the validation images, and still "
                f"{tried.points:.2f} with {most} of {len(ranked)} layers in float: raise "
                f"--max-drop {limit:g}, or use --precision fp16"
            )
        too_few, count = count, 2 * count
    held, count = tried, min(count, most)
    while count - too_few > 1:
        middle = (count + too_few) // 2
        tried = trial.revert(ranked[:middle])
        if tried.points <= limit:
            held, count = tried, middle
        else:
            too_few = middle
    return held, count


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
    assert job.images.calibration is not None  # noqa: S101 - refused before
    count = job.fixed_batch or min(RANKED_ON, len(job.images.calibration))
    pool = job.images.calibration[:count].detach().cpu().float().numpy()
    return np.take(pool, range(count), axis=0, mode="wrap")


def _drop(points: float, count: int) -> str:
    how = f"gains {-points:.2f} points" if points < 0 else f"loses {points:.2f} points"
    return f"int8 {how} of accuracy on {count} validation images"
