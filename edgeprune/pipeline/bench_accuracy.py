"""What both artifacts get right, in the runtime and at the precision that is timed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.data import ImageData
from edgeprune.errors import MeasureError
from edgeprune.pipeline.bench_pair import Job, Pair, Side
from edgeprune.pipeline.bench_settings import BenchSettings
from edgeprune.pipeline.context import EVALUATION_BATCH
from edgeprune.pipeline.subject_images import (
    check_classes,
    labelled_test,
    open_images,
    preparation,
)
from edgeprune.progress import Reporter
from edgeprune_benchmarks.counts import artifact_counts
from edgeprune_benchmarks.harness import predict
from edgeprune_benchmarks.hosts import LocalHost
from edgeprune_benchmarks.metrics import (
    PairedDifference,
    classification_metrics,
    paired_difference,
)
from edgeprune_benchmarks.record import Counts, Evidence, read_record
from edgeprune_exporters import LabelledImages

RECORD: Final = "record.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class TestImages:
    """The test split as A and as B take it."""

    data: ImageData
    a: LabelledImages
    b: LabelledImages
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quality:
    """What is known of both beside their times, and where accuracies come from."""

    a: Evidence
    b: Evidence
    difference: PairedDifference | None
    source: str | None


def open_test(settings: BenchSettings, pair: Pair, reporter: Reporter) -> TestImages | None:
    """Open the images and prepare them for both, or None where none are given.

    Raises:
        DataError: images that are not the artifacts', or no test images.
    """
    if settings.data is None:
        return None
    data = open_images(
        settings.data, seed=pair.seed, skip_corrupt=settings.skip_corrupt, reporter=reporter
    )
    prepared, notes = [], []
    for side in (pair.a, pair.b):
        check_classes(data, side.opened, side.probe)
        how, note = preparation(side.opened, side.probe)
        prepared.append(labelled_test(data, how))
        notes += [note] if note else []
    a, b = prepared
    return TestImages(data=data, a=a, b=b, notes=tuple(dict.fromkeys(notes)))


def quality(job: Job, images: TestImages | None) -> Quality:
    """Predict the whole test split with both; without images, take what a bundle tells.

    Raises:
        MeasureError: an artifact that cannot be run, or gives nonsense.
    """
    pair = job.pair
    counts = _counts(pair)
    if images is None:
        return _told(pair, counts)
    job.reporter.stage("Predict the test images")
    before = _predicted(job, pair.a, images.a)
    after = before if pair.same else _predicted(job, pair.b, images.b)
    labels, classes = images.data.test.labels, images.data.classes
    a, b = (
        Evidence(metrics=classification_metrics(values, labels, classes), counts=count)
        for values, count in zip((before, after), counts, strict=True)
    )
    return Quality(
        a=a,
        b=b,
        difference=None if pair.same else paired_difference(before, after, labels, seed=pair.seed),
        source=f"measured here on the {len(labels)} test images of '{images.data.name}'",
    )


def _predicted(job: Job, side: Side, images: LabelledImages) -> NDArray[np.float32]:
    batch = side.probe.batch or EVALUATION_BATCH
    threads = _cores() if isinstance(job.host, LocalHost) else max(job.pair.threads)
    # Precision and runtime are those that are timed; the rest only decides how long it takes.
    timed = job.settings.measure(threads=threads, batch=batch, device=job.device)
    measure = replace(timed, cpus=None, cuda_graph=False, idle_seconds=0.0)
    count = -(-len(images) // EVALUATION_BATCH)
    with job.reporter.track(f"{side.opened.name}: test images", count) as advance:

        def counted() -> Iterator[NDArray[np.float32]]:
            for number, part in enumerate(images.batches(EVALUATION_BATCH), 1):
                yield part
                advance(number, "batches")

        return predict(side.opened.subject, counted(), measure, host=job.host, journal=job.journal)


def _told(pair: Pair, counts: list[Counts | None]) -> Quality:
    """Return what bundles say of their artifacts, where both say it of the same images."""
    a, b = pair.a.opened, pair.b.opened
    bare = Quality(
        a=Evidence(counts=counts[0]), b=Evidence(counts=counts[1]), difference=None, source=None
    )
    if a.metrics is None or b.metrics is None or a.manifest is None or b.manifest is None:
        return bare
    names = [each["data"]["name"] for each in (a.manifest, b.manifest)]
    if names[0] != names[1] or a.metrics.n != b.metrics.n:
        return bare
    return Quality(
        a=replace(bare.a, metrics=a.metrics),
        b=replace(bare.b, metrics=b.metrics),
        difference=_stored_difference(pair),
        source=(
            f"as measured when the bundle was made, on the {a.metrics.n} test images of "
            f"'{names[0]}'; give --data PATH to measure it now"
        ),
    )


def _stored_difference(pair: Pair) -> PairedDifference | None:
    """Return the paired difference that a bundle's record holds of these two artifacts."""
    a, b = pair.a.opened, pair.b.opened
    if b.bundle is None or a.bundle != b.bundle or not (b.bundle / RECORD).is_file():
        return None
    try:
        record = read_record(b.bundle / RECORD)
    except MeasureError:  # of another version: what it holds is not known
        return None
    same = (record.dense.metrics, record.slim.metrics) == (a.metrics, b.metrics)
    return record.difference if same else None


def _counts(pair: Pair) -> list[Counts | None]:
    """Return what bundles counted in both models, else what both files show.

    A file counts a batch normalisation that was folded as nothing, a model does not.
    """
    sides = (pair.a.opened, pair.b.opened)
    told = [side.counts for side in sides]
    return told if all(told) else [_counted(side.subject.artifact) for side in sides]


def _counted(path: Path) -> Counts | None:
    found = artifact_counts(path)
    if found.params is None or found.macs is None:
        return None
    return Counts(params=found.params, macs=found.macs)


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
