"""Writing what later candidates are held against, and saying what changes by it."""

from collections.abc import Iterator
from dataclasses import replace

from edgeprune.pipeline.gate_checks import decided_by, open_test, peak_of
from edgeprune.pipeline.gate_subjects import Job, tried
from edgeprune.pipeline.subjects import Opened
from edgeprune_benchmarks.baseline import Baseline, write_baseline
from edgeprune_benchmarks.formats import NOTE, PASSED, Finding
from edgeprune_benchmarks.gate_counts import count_findings


def write_update(job: Job, opened: Opened, counted: Baseline) -> Baseline:
    """Measure what the counts lack, write the baseline and return it.

    Raises:
        EdgepruneError: the candidate cannot be run; then nothing is written.
    """
    assert job.settings.baseline is not None  # noqa: S101 - settings without one are refused
    candidate = tried(opened, job)
    fresh = replace(counted, peak=peak_of(job, candidate))
    if job.settings.data is not None:
        test = open_test(job, candidate)
        fresh = replace(fresh, decided=decided_by(job, candidate, test))
    write_baseline(fresh, job.settings.baseline)
    return fresh


def changes(group: str, before: Baseline | None, fresh: Baseline) -> Iterator[Finding]:
    """Say what the baseline holds now that it did not hold before. before: None for a first."""

    def said(name: str, message: str) -> Finding:
        return Finding(name=name, group=group, status=NOTE, message=message)

    yield said("baseline", f"{'updated to' if before else 'written, of'} {fresh.artifact}")
    if before is not None:
        for each in count_findings(before, fresh, tolerances=fresh.tolerances):
            if each.status != PASSED or each.value != each.limit:
                yield said(each.name, each.message)
    yield said("peak memory", _peaks(before, fresh))
    if fresh.decided is not None:
        yield said("accuracy", f"decisions about {fresh.decided.images} test images")
    else:
        lost = before is not None and before.decided is not None
        yield said("accuracy", f"{'no longer' if lost else 'not'} in it: give --data PATH")


def _peaks(before: Baseline | None, fresh: Baseline) -> str:
    if fresh.peak is None:
        return "not told by this device"
    words = f"{fresh.peak.bytes:,} bytes"
    old = before.peak if before else None
    return f"{words}, {old.bytes:,} before" if old else words
