"""The last stage: what the artifacts do on the test split, and how fast dense and slim are."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError
from edgeprune.files import write_json
from edgeprune.pipeline.artifacts import (
    BACKENDS,
    WORDS,
    Exported,
    key_of,
    measured_as,
    measured_runtime,
)
from edgeprune.pipeline.context import EVALUATION_BATCH, Context, batch_of
from edgeprune.pipeline.cutting import CutModel
from edgeprune.pipeline.timestamps import now
from edgeprune.progress import Reporter
from edgeprune_benchmarks.codec import encode
from edgeprune_benchmarks.harness import (
    Comparison,
    MeasureSettings,
    Subject,
    compare,
    predict,
)
from edgeprune_benchmarks.machine import fingerprint
from edgeprune_benchmarks.metrics import Metrics, classification_metrics, paired_difference
from edgeprune_benchmarks.noise import stored_floor
from edgeprune_benchmarks.record import (
    Counts,
    CutResult,
    Evidence,
    Record,
    make_record,
    read_record,
    write_record,
)

STAGE: Final = "measurement"
TIMED_IMAGES: Final = 8


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured.

    Attributes:
        record: dense against slim in the target's runtime.
        metrics: what each artifact gets right on the test split, each in its
            own runtime, as JSON values by ``key_of``.
    """

    record: Record
    metrics: Mapping[str, Any]


def measure_stage(context: Context, exported: Exported, cut: CutModel) -> Measured:
    """Predict the test split with every artifact, then time dense and slim in turns."""
    runtime = measured_runtime(context)
    batch = batch_of(cut.model, 1)

    def make(folder: Path) -> None:
        whole = batch_of(cut.model, EVALUATION_BATCH)
        subjects = _subjects(exported)
        journal = context.work.checkpoint(STAGE)
        logits = {key: _predict(context, each, whole, journal) for key, each in subjects.items()}
        metrics = {
            key: classification_metrics(values, context.data.test.labels, context.data.classes)
            for key, values in logits.items()
        }
        write_json(folder / "metrics.json", {key: encode(each) for key, each in metrics.items()})
        pair = {}
        for name in ("dense", "slim"):
            key = key_of(exported.measured(name, measured_as(context, name)))
            pair[name] = Side(subject=subjects[key], logits=logits[key], metrics=metrics[key])
        settings = MeasureSettings(
            threads=context.threads, rounds=context.settings.rounds, batch=batch
        )
        comparison = _compare(context, pair, settings, journal)
        write_record(_record(context, pair, cut, comparison), folder / "record.json")

    def read(folder: Path) -> Measured:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return Measured(record=read_record(folder / "record.json"), metrics=metrics)

    threads = f"{context.threads} thread{'s' * (context.threads > 1)}"
    title = f"Measure in {WORDS[runtime]}, {threads}, batch {batch}"
    measured = context.stage(STAGE, title, make, read)
    for key, metrics in measured.metrics.items():
        context.reporter.say(f"{key}: {100 * metrics['accuracy']:.2f} % of the test calls right")
    return measured


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two models that are compared."""

    subject: Subject
    logits: NDArray[np.float32]
    metrics: Metrics


def _subjects(exported: Exported) -> dict[str, Subject]:
    """Return every artifact that a runtime here can load, as it is now, by its key."""
    runtimes = {form: runtime for runtime, form in BACKENDS.items()}
    return {
        key_of(each): Subject(
            name=each["model"],
            artifact=exported.file(each),
            backend=runtimes[each["format"]],
        ).pinned()
        for each in exported.artifacts
        if each["format"] in runtimes
    }


def _predict(context: Context, subject: Subject, batch: int, journal: Path) -> NDArray[np.float32]:
    settings = MeasureSettings(threads=_cores(), batch=batch)
    count = -(-len(context.data.test) // EVALUATION_BATCH)
    with context.reporter.track(f"{subject.name}: test images", count) as advance:

        def counted() -> Iterator[NDArray[np.float32]]:
            for number, part in enumerate(context.test_batches(), 1):
                yield part
                advance(number, "batches")

        return predict(subject, counted(), settings, journal=journal)


def _compare(
    context: Context, pair: Mapping[str, Side], settings: MeasureSettings, journal: Path
) -> Comparison:
    images = next(context.test_batches())
    # A model that takes only large batches may have fewer test images than one holds.
    count = max(settings.batch, min(TIMED_IMAGES, len(images)))
    inputs = np.resize(images, (count, *images.shape[1:]))
    with context.reporter.track("dense and slim in turns", settings.rounds) as advance:
        return compare(
            pair["dense"].subject,
            pair["slim"].subject,
            inputs,
            settings,
            lambda done, total: advance(done, "rounds"),
            journal=journal,
            say=context.reporter.say,
        )


def known_noise(comparison: Comparison, reporter: Reporter) -> float | None:
    """Return the machine's noise floor as a share, if anybody has measured it here."""
    settings = comparison.settings
    try:
        floor = stored_floor(
            fingerprint(comparison.machine),
            comparison.slim.backend,
            settings.threads,
            settings.batch,
            device=settings.device,
        )
    except MeasureError as error:  # not worth losing what the stages before have made
        reporter.say(str(error))
        return None
    return floor.value if floor else None


def _record(
    context: Context, pair: Mapping[str, Side], cut: CutModel, comparison: Comparison
) -> Record:
    seed = context.settings.seed
    evidence = {
        name: Evidence(
            metrics=pair[name].metrics,
            counts=Counts(params=counts["params"], macs=counts["macs"]),
        )
        for name, counts in (("dense", cut.plan.dense), ("slim", cut.plan.predicted))
    }
    return make_record(
        comparison,
        created=now(),
        dense=evidence["dense"],
        slim=evidence["slim"],
        difference=paired_difference(
            pair["dense"].logits, pair["slim"].logits, context.data.test.labels, seed=seed
        ),
        cut=CutResult(
            max_rel=cut.proof.max_rel,
            ok=cut.proof.ok,
            units_removed=cut.plan.units_removed,
            units_total=cut.plan.units_total,
        ),
        noise_floor=known_noise(comparison, context.reporter),
        seed=seed,
    )


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
