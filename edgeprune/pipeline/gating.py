"""``gate``: whether a candidate is worse than what was agreed, in one job.

Counts and hashes are judged before anything runs, so that a damaged artifact is never
started. A check that cannot be made is inconclusive and does not stop the others.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from edgeprune.errors import BundleError, MeasureError, ModelError, UsageError
from edgeprune.pipeline.gate_checks import (
    accuracy_check,
    case,
    latency_check,
    peak_of,
)
from edgeprune.pipeline.gate_records import gate_record, is_record
from edgeprune.pipeline.gate_settings import GateSettings
from edgeprune.pipeline.gate_subjects import (
    Job,
    Tried,
    attempted,
    bundle_findings,
    check_pair,
    one_line,
    open_job,
    open_judged,
    tried,
)
from edgeprune.pipeline.gate_update import changes, write_update
from edgeprune.pipeline.subjects import Opened
from edgeprune.pipeline.timestamps import now
from edgeprune.progress import Reporter, Silent
from edgeprune_benchmarks.baseline import Baseline, Tolerances, baseline_of, read_baseline
from edgeprune_benchmarks.formats import INTEGRITY, NOTE, PASSED, Finding
from edgeprune_benchmarks.gate_counts import count_findings, memory_finding
from edgeprune_benchmarks.gate_report import GateReport, Timing, make_report

CANDIDATE: Final = "candidate"
AGAINST: Final = "baseline"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judged:
    """What came out of a gate."""

    findings: list[Finding]
    timing: Timing | None = None


def gate(settings: GateSettings, *, reporter: Reporter | None = None) -> GateReport:
    """Judge a candidate: a bundle, a file that a runtime loads, or a stored record.

    Raises:
        UsageError: there is nothing to judge by, or options that do not fit.
    """
    reporter = reporter or Silent()
    if is_record(settings.candidate):
        judged = _Judged(findings=gate_record(settings))
    elif settings.baseline is None and settings.against is None:
        raise UsageError("give what to judge by: --baseline FILE, --against BUNDLE|FILE, or both")
    else:
        judged = _gate_artifact(settings, reporter)
    return make_report(
        judged.findings,
        candidate=settings.candidate.name,
        created=now(),
        accept=settings.accept_inconclusive,
        timing=judged.timing,
    )


def _gate_artifact(settings: GateSettings, reporter: Reporter) -> _Judged:
    stored = None
    if settings.baseline is not None and not (settings.update and not settings.baseline.exists()):
        stored = _read(settings, reporter)
    _check_data(settings, stored)
    reporter.stage(f"Read {settings.candidate.name}")
    try:
        findings = list(bundle_findings(settings.candidate))
        if any(each.status == INTEGRITY for each in findings):
            return _Judged(findings=findings)
        candidate = open_judged(settings.candidate, settings, CANDIDATE)
        tolerances = settings.tolerances(stored.tolerances if stored else Tolerances())
        counted = baseline_of(candidate.subject, tolerances)
    except (BundleError, ModelError, MeasureError) as error:  # of files, nothing has run yet
        damaged = Finding(
            name="files",
            group=settings.candidate.name,
            status=INTEGRITY,
            message=one_line(error),
        )
        return _Judged(findings=[damaged])
    if settings.update:
        with ExitStack() as stack:
            job = open_job(settings, candidate, stack, reporter)
            fresh = write_update(job, candidate, counted)
        return _Judged(findings=list(changes(settings.candidate.name, stored, fresh)))
    if stored is not None:
        findings += count_findings(stored, counted, tolerances=tolerances, exact=settings.exact)
    if stored is None or _runs(settings, stored):
        ran = _run(settings, candidate, stored, tolerances, reporter)
        return _Judged(findings=findings + ran.findings, timing=ran.timing)
    return _Judged(findings=findings)


def _read(settings: GateSettings, reporter: Reporter) -> Baseline | None:
    """Read the baseline; one that cannot be read may be written over."""
    assert settings.baseline is not None  # noqa: S101 - as the caller asked
    try:
        return read_baseline(settings.baseline)
    except UsageError as error:
        if not settings.update:
            raise
        reporter.say(f"written anew: {error}")
        return None


def _check_data(settings: GateSettings, stored: Baseline | None) -> None:
    known = settings.update or settings.against or (stored and stored.decided)
    if settings.data is not None and not known:
        raise UsageError(
            "accuracy is compared image by image: write the baseline with --data as well "
            "(--update), or give --against"
        )


def _runs(settings: GateSettings, stored: Baseline) -> bool:
    """Say whether anything is to be judged that takes a run."""
    wanted = (settings.against, settings.data, stored.peak, stored.decided)
    return any(each is not None for each in wanted)


def _run(
    settings: GateSettings,
    opened: Opened,
    stored: Baseline | None,
    tolerances: Tolerances,
    reporter: Reporter,
) -> _Judged:
    """Make the checks that run artifacts."""
    with ExitStack() as stack:
        job = open_job(settings, opened, stack, reporter)
        candidate, problems = attempted("runs", CANDIDATE, lambda: tried(opened, job))
        if candidate is None:
            return _Judged(findings=problems)
        findings = [_runs_finding(candidate)]
        if stored is not None:
            findings += _memory(job, candidate, stored, tolerances)
        other, timing, timed = _timed(job, candidate)
        findings += timed
        findings += _accuracy(job, candidate, other, stored)
        return _Judged(findings=findings, timing=timing)


def _runs_finding(candidate: Tried) -> Finding:
    message = f"{candidate.opened.name} loads and gives {candidate.probe.classes} logits"
    return Finding(name="runs", group=CANDIDATE, status=PASSED, message=message)


def _memory(job: Job, candidate: Tried, stored: Baseline, tolerances: Tolerances) -> list[Finding]:
    def compared() -> Finding:
        return memory_finding(
            stored.peak,
            peak_of(job, candidate) if stored.peak else None,
            tolerance=tolerances.memory,
            cross_machine=job.settings.cross_machine,
            group=case(job, candidate),
        )

    finding, problems = attempted("peak memory", case(job, candidate), compared)
    return [finding] if finding else problems


def _timed(job: Job, candidate: Tried) -> tuple[Tried | None, Timing | None, list[Finding]]:
    """Open what the candidate is held against, and judge its time."""
    path, group = job.settings.against, case(job, candidate)
    if path is None:
        return None, None, []

    def opened() -> Tried:
        found = tried(open_judged(path, job.settings, AGAINST), job)
        check_pair(candidate, found)
        return found

    other, problems = attempted("latency", group, opened)
    if other is None:
        return None, None, problems
    judged, problems = attempted("latency", group, lambda: latency_check(job, candidate, other))
    if judged is None:
        return other, None, problems
    finding, timing = judged
    return other, timing, [finding]


def _accuracy(
    job: Job, candidate: Tried, other: Tried | None, stored: Baseline | None
) -> list[Finding]:
    if job.settings.data is not None:
        findings, problems = attempted(
            "accuracy", CANDIDATE, lambda: list(accuracy_check(job, candidate, other, stored))
        )
        return findings or problems
    if stored is not None and stored.decided is not None:
        message = "not judged, though the baseline could: give --data PATH"
        return [Finding(name="accuracy", group=CANDIDATE, status=NOTE, message=message)]
    return []
