"""``bench``: two artifacts measured in turns, in every case that is asked for."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

from edgeprune.errors import UsageError
from edgeprune.files import write_text
from edgeprune.layer_listing import layer_lines
from edgeprune.pipeline.bench_accuracy import Quality, TestImages, open_test, quality
from edgeprune.pipeline.bench_pair import Job, open_pair
from edgeprune.pipeline.bench_settings import BenchSettings
from edgeprune.pipeline.checks import check_place
from edgeprune.pipeline.layering import compare_layers
from edgeprune.pipeline.storage import told_as_one_line
from edgeprune.pipeline.subject_images import Inputs, timed_inputs
from edgeprune.pipeline.timestamps import now
from edgeprune.pipeline.workspace import Workspace
from edgeprune.progress import Reporter, Silent
from edgeprune_benchmarks.bench_report import (
    FORMAT,
    SCHEMA_VERSION,
    BenchReport,
    read_report,
    write_report,
)
from edgeprune_benchmarks.formats import dashboard, junit
from edgeprune_benchmarks.formats_bench import bench_findings, bench_markdown, bench_points
from edgeprune_benchmarks.formats_rows import case_words
from edgeprune_benchmarks.harness import Comparison, compare
from edgeprune_benchmarks.hosts import open_host
from edgeprune_benchmarks.layers import LayerComparison
from edgeprune_benchmarks.machine import fingerprint
from edgeprune_benchmarks.measurement import MeasureSettings
from edgeprune_benchmarks.noise import NoiseFloor, measure_noise, store_floor, stored_floor
from edgeprune_benchmarks.record import Record, make_record

REPORT: Final = "bench.json"
JOURNAL: Final = "journal.jsonl"
SUITE: Final = "edgeprune bench"


def bench(
    settings: BenchSettings,
    *,
    out: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> BenchReport:
    """Measure two artifacts in turns, and write what was found to a new folder ``out``.

    Raises:
        EdgepruneError: what is asked for cannot be measured. What is complete stays
            in ``OUT.work`` for ``resume``.
    """
    reporter = reporter or Silent()
    if out is None:
        if resume:
            raise UsageError("--resume continues what --out has kept: give --out DIR")
        with _opened(settings, None, reporter) as job:
            return _measured(job)
    if resume and (out / REPORT).is_file():
        reporter.say(f"'{out}' is complete already")
        return read_report(out / REPORT)
    check_place(out)
    work = Workspace(out)
    work.check(resume=resume)
    with told_as_one_line(work.folder):
        with _opened(settings, work.folder / JOURNAL, reporter) as job:
            report = _kept(job, work)
        shutil.rmtree(work.folder)
    return report


def write_formats(report: BenchReport, folder: Path) -> None:
    """Write a report in every form there is, each file whole or not at all."""
    write_report(report, folder / REPORT)
    for name, text in (
        ("bench.md", markdown(report)),
        ("junit.xml", junit(bench_findings(report), suite=SUITE)),
        ("dashboard.json", dashboard(bench_points(report))),
    ):
        write_text(folder / name, text)


def markdown(report: BenchReport) -> str:
    """Return a report as Markdown, with its layers."""
    return bench_markdown(report, tuple(layer_lines(report.layers)) if report.layers else ())


@contextmanager
def _opened(settings: BenchSettings, journal: Path | None, reporter: Reporter) -> Iterator[Job]:
    """Open the pair where it is measured, before anything is written."""
    host, device = open_host(settings.device, reporter=reporter)
    with host:
        pair = open_pair(settings, host, device, reporter)
        yield Job(
            settings=settings,
            pair=pair,
            host=host,
            device=device,
            journal=journal,
            reporter=reporter,
        )


def _kept(job: Job, work: Workspace) -> BenchReport:
    with work.opened(json.loads(json.dumps(job.settings.identity))):
        report = work.stage(
            "report",
            lambda folder: write_formats(_measured(job), folder),
            lambda folder: read_report(folder / REPORT),
        )
        work.publish("report")
    return report


def _measured(job: Job) -> BenchReport:
    """Measure everything that is asked for."""
    settings, pair = job.settings, job.pair
    images = open_test(settings, pair, job.reporter)
    known = quality(job, images)
    created = now()
    records: list[Record] = []
    floors: list[NoiseFloor] = []
    layers: LayerComparison | None = None
    words = ""
    for threads in pair.threads:
        for batch in settings.batches:
            measure = settings.measure(threads=threads, batch=batch, device=job.device)
            inputs, words = timed_inputs(
                pair.a.opened,
                pair.a.probe,
                batch=batch,
                test=images.a if images else None,
                seed=pair.seed,
            )
            comparison, floor = _case(job, measure, inputs, created)
            floors += [floor] if floor else []
            records.append(_record(job, comparison, known, created))
            if settings.layers and layers is None:
                layers = _layers(job, measure, inputs)
    return BenchReport(
        format=FORMAT,
        schema_version=SCHEMA_VERSION,
        edgeprune=metadata.version("edgeprune"),
        created=created,
        a=pair.a.opened.name,
        b=pair.b.opened.name,
        inputs=words,
        accuracy_from=known.source,
        notes=_notes(job, images, records),
        records=tuple(records),
        noise=tuple(floors),
        layers=layers,
    )


def _case(
    job: Job, measure: MeasureSettings, inputs: Inputs, created: str
) -> tuple[Comparison, NoiseFloor | None]:
    """Measure one case: A against itself where that is asked for, and A against B."""
    pair, title = job.pair, case_words(measure)
    floor = None
    if job.settings.aa:
        job.reporter.stage(f"Measure A against itself, {title}")
        with job.reporter.track("A and itself in turns", measure.rounds) as advance:
            floor, equals = measure_noise(
                pair.a.opened.subject,
                inputs,
                measure,
                job.host,
                lambda done, total: advance(done, "rounds", total=total),
                journal=job.journal,
                created=created,
                seed=pair.seed,
            )
        store_floor(floor)
        if pair.same:
            return equals, floor
    job.reporter.stage(f"Measure A and B, {title}")
    with job.reporter.track("A and B in turns", measure.rounds) as advance:
        found = compare(
            pair.a.opened.subject,
            pair.b.opened.subject,
            inputs,
            measure,
            lambda done, total: advance(done, "rounds", total=total),
            host=job.host,
            journal=job.journal,
            say=job.reporter.say,
        )
    return found, floor


def _record(job: Job, comparison: Comparison, known: Quality, created: str) -> Record:
    # An artifact against itself is judged by nothing: it is what others are judged by.
    return make_record(
        comparison,
        created=created,
        dense=known.a,
        slim=known.b,
        difference=known.difference,
        noise_floor=None if job.pair.same else _floor(comparison),
        seed=job.pair.seed,
    )


def _floor(comparison: Comparison) -> float | None:
    """Return the larger noise floor of both runtimes in this case, or None if none is known."""
    settings, machine = comparison.settings, fingerprint(comparison.machine)
    found = [
        stored_floor(machine, backend, settings.threads, settings.batch, device=settings.device)
        for backend in {comparison.dense.backend, comparison.slim.backend}
    ]
    return max((floor.value for floor in found if floor), default=None)


def _layers(job: Job, measure: MeasureSettings, inputs: Inputs) -> LayerComparison:
    job.reporter.stage("Compare layer by layer")
    a, b = (side.opened.subject for side in (job.pair.a, job.pair.b))
    return compare_layers(a, b, inputs, measure, host=job.host, target=job.pair.target)


def _notes(job: Job, images: TestImages | None, records: list[Record]) -> tuple[str, ...]:
    notes = list(images.notes) if images else []
    if job.settings.layers and len(records) > 1:
        notes.append("layers were compared in the first case only")
    return tuple(notes)
