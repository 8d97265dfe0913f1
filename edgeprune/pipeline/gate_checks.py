"""The checks of a gate that run artifacts: memory, latency and accuracy."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeprune.data import ImageData
from edgeprune.errors import MeasureError
from edgeprune.pipeline.context import EVALUATION_BATCH
from edgeprune.pipeline.gate_subjects import Job, Tried, split_sha256
from edgeprune.pipeline.subject_images import (
    check_classes,
    labelled_test,
    open_images,
    preparation,
    timed_inputs,
)
from edgeprune.pipeline.timestamps import now
from edgeprune_benchmarks.baseline import Baseline, Decided, Peak
from edgeprune_benchmarks.formats import INCONCLUSIVE, PASSED, REGRESSION, Finding
from edgeprune_benchmarks.gate import LatencyCheck, check_latency
from edgeprune_benchmarks.gate_accuracy import accuracy_findings
from edgeprune_benchmarks.gate_memory import peak_memory
from edgeprune_benchmarks.gate_report import Timing
from edgeprune_benchmarks.harness import predict
from edgeprune_benchmarks.machine import fingerprint
from edgeprune_benchmarks.metrics import decisions
from edgeprune_benchmarks.noise import measure_noise, store_floor, stored_floor
from edgeprune_benchmarks.noninferiority import non_inferiority
from edgeprune_benchmarks.rounds import machine_of

STATUSES = {"pass": PASSED, "regression": REGRESSION, "inconclusive": INCONCLUSIVE}


@dataclass(frozen=True, kw_only=True, eq=False)
class TestSplit:
    """The test split that accuracy is judged on."""

    data: ImageData
    split: str


def case(job: Job, tried: Tried) -> str:
    """Name what is measured, as findings are grouped."""
    threads = job.measure.threads
    runtime = tried.opened.subject.backend
    return f"{runtime}, {threads} thread{'s' * (threads > 1)}, batch {job.measure.batch}"


def inputs_of(job: Job, tried: Tried) -> NDArray[np.float32]:
    """Return images to time with; which ones decides nothing, so none have to be read."""
    images, _ = timed_inputs(
        tried.opened, tried.probe, batch=job.measure.batch, test=None, seed=job.seed
    )
    return images


def peak_of(job: Job, tried: Tried) -> Peak | None:
    """Return the peak memory of the artifact, or None where the device does not tell."""
    return peak_memory(tried.opened.subject, inputs_of(job, tried), job.measure, job.host)


def latency_check(job: Job, candidate: Tried, other: Tried) -> tuple[Finding, Timing]:
    """Measure both in turns, and judge the candidate's time.

    Raises:
        MeasureError: one of them cannot be measured.
    """
    inputs = inputs_of(job, candidate)
    floor = _noise_floor(job, candidate, inputs)
    job.reporter.stage("Measure the candidate and what it is held against, in turns")
    with job.reporter.track("rounds", job.measure.rounds) as advance:
        check = check_latency(
            other.opened.subject,
            candidate.opened.subject,
            inputs,
            job.measure,
            allowed=job.settings.max_slowdown,
            noise_floor=floor,
            host=job.host,
            seed=job.seed,
            progress=lambda done, total: advance(done, total=total),
        )
    timing = Timing(
        limit=check.limit,
        first=check.first,
        second=check.second,
        noise_floor=floor,
        tainted=check.tainted,
    )
    return _latency_finding(job, check, floor, case(job, candidate)), timing


def open_test(job: Job, candidate: Tried) -> TestSplit:
    """Open the images whose test split accuracy is judged on.

    Raises:
        DataError: images that are not the artifact's, or no test images.
    """
    data = open_images(
        str(job.settings.data),
        seed=job.seed,
        skip_corrupt=job.settings.skip_corrupt,
        reporter=job.reporter,
    )
    check_classes(data, candidate.opened, candidate.probe)
    return TestSplit(data=data, split=split_sha256(data))


def decided_by(job: Job, tried: Tried, test: TestSplit) -> Decided:
    """Return what an artifact decides about every test image, in its own runtime.

    Raises:
        MeasureError: it cannot be run, or gives nonsense.
    """
    how, note = preparation(tried.opened, tried.probe)
    if note:
        job.reporter.say(note)
    images = labelled_test(test.data, how)
    batch = tried.probe.batch or EVALUATION_BATCH
    measure = replace(job.measure, threads=_cores(), batch=batch)
    name = tried.opened.subject.name
    with job.reporter.track(f"{name}: test images", -(-len(images) // batch)) as advance:

        def counted() -> Iterator[NDArray[np.float32]]:
            for number, part in enumerate(images.batches(EVALUATION_BATCH), 1):
                yield part
                advance(number, "batches")

        logits = predict(tried.opened.subject, counted(), measure, host=job.host)
    return Decided.of(
        decisions(logits, multi_label=test.data.multi_label),
        split=test.split,
        classes=test.data.classes,
        multi_label=test.data.multi_label,
    )


def accuracy_check(
    job: Job, candidate: Tried, other: Tried | None, baseline: Baseline | None
) -> Iterator[Finding]:
    """Judge accuracy image by image: by the baseline's decisions, else by the other artifact.

    Raises:
        DataError, MeasureError: it cannot be judged.
    """
    test = open_test(job, candidate)
    before = baseline.decided if baseline else None
    if before is not None and before.split != test.split:
        yield Finding(
            name="accuracy",
            group=test.data.name,
            status=INCONCLUSIVE,
            message=(
                f"the baseline was made on another test split, of {before.images} images; here "
                f"there are {len(test.data.test)}: give the same images, or update the baseline"
            ),
        )
        return
    if before is None:
        if other is None:
            raise MeasureError("what it is held against does not run: nothing to compare with")
        before = decided_by(job, other, test)
    found = non_inferiority(
        before.decisions(),
        decided_by(job, candidate, test).decisions(),
        test.data.test.labels,
        test.data.classes,
        margin=job.settings.max_drop,
        class_margin=job.settings.max_class_drop,
        seed=job.seed,
    )
    yield from accuracy_findings(found, test.data.name)


def _noise_floor(job: Job, candidate: Tried, inputs: NDArray[np.float32]) -> float:
    """Return the largest of what is known, given and measured of this machine's noise."""
    subject, measure = candidate.opened.subject, job.measure
    given = job.settings.noise_floor or 0.0
    if job.settings.aa:
        job.reporter.stage("Measure the candidate against itself: the noise of this machine")
        floor, _ = measure_noise(subject, inputs, measure, job.host, created=now(), seed=job.seed)
        store_floor(floor)
        job.reporter.say(f"equals differ by up to {floor.value:.1%} here")
    with job.host.runner(job.host.name) as runner:
        machine = fingerprint(machine_of(runner.ask("info", measure.timeout)))
    stored = stored_floor(
        machine, str(subject.backend), measure.threads, measure.batch, device=measure.device
    )
    return max(given, stored.value if stored else 0.0)


def _latency_finding(job: Job, check: LatencyCheck, floor: float, group: str) -> Finding:
    words = f"{check.reason} ({job.settings.max_slowdown:.1%} is allowed"
    if floor > job.settings.max_slowdown:
        words += f"; the noise floor of this machine is {floor:.1%}"
    tainted = check.comparisons[-1].tainted
    doubts = f"; while measuring, {'; '.join(tainted)}" if tainted else ""
    return Finding(
        name="latency",
        group=group,
        status=STATUSES[check.status],
        message=f"{words}){doubts}",
        value=(check.second or check.first).value,
        unit="ratio",
        limit=check.limit,
    )


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
