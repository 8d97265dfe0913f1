"""What a gate judges: opened, held against its own list of files, and tried."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from edgeprune.bundle import read_manifest
from edgeprune.data import ImageData
from edgeprune.errors import BundleError, EdgepruneError, UsageError
from edgeprune.files import sha256
from edgeprune.pipeline.bench_pair import build_engine
from edgeprune.pipeline.gate_settings import GateSettings
from edgeprune.pipeline.probing import Probe, probe
from edgeprune.pipeline.subject_images import check_batch
from edgeprune.pipeline.subjects import Opened, is_bundle, open_subject
from edgeprune.progress import Reporter
from edgeprune_benchmarks.formats import INCONCLUSIVE, INTEGRITY, PASSED, Finding
from edgeprune_benchmarks.hosts import Host, open_host
from edgeprune_benchmarks.measurement import MeasureSettings

T = TypeVar("T")
FOLDERS: Final = re.compile(
    r"(?<![\w.:/])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'\":]+)*[/\\](?=[^\s/\\'\":])"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """An artifact that runs where it is judged, and what the runtime makes of it."""

    opened: Opened
    probe: Probe


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """Where a gate measures, and how."""

    settings: GateSettings
    measure: MeasureSettings
    seed: int
    host: Host
    reporter: Reporter


def open_job(settings: GateSettings, opened: Opened, stack: ExitStack, reporter: Reporter) -> Job:
    """Open the host that is measured on, and settle what was left open.

    Raises:
        UsageError: there is no such device.
    """
    host, device = open_host(settings.device)
    known = int((opened.manifest or {}).get("target", {}).get("threads", 1))
    seeds = (settings.seed, opened.seed, 0)
    return Job(
        settings=settings,
        measure=settings.measure(threads=settings.threads or known, device=device),
        seed=next(seed for seed in seeds if seed is not None),
        host=stack.enter_context(host),
        reporter=reporter,
    )


def open_judged(path: Path, settings: GateSettings, name: str) -> Opened:
    """Open a bundle's slim artifact or a file, under the name that findings call it.

    Raises:
        UsageError, BundleError, ModelError: as ``open_subject`` raises them.
    """
    precision = settings.precision if is_bundle(path) else None
    opened = open_subject(path, runtime=settings.runtime, precision=precision)
    return replace(opened, subject=replace(opened.subject, name=name))


def bundle_findings(path: Path) -> Iterator[Finding]:
    """Hold every file of a bundle against its manifest; a file of its own has none."""
    if not is_bundle(path):
        return
    listed = read_manifest(path).get("files", ())
    problems = [f"{each['path']} {wrong}" for each in listed if (wrong := _wrong(path, each))]
    for problem in problems:
        yield Finding(name="manifest", group="bundle", status=INTEGRITY, message=problem)
    if not problems:
        message = f"all {len(listed)} files are what the bundle lists"
        yield Finding(name="manifest", group="bundle", status=PASSED, message=message)


def _wrong(folder: Path, listed: dict[str, str]) -> str | None:
    file = folder / listed["path"]
    if not file.is_file():
        return "is gone"
    return None if sha256(file) == listed["sha256"] else "is not the file that the bundle lists"


def tried(opened: Opened, job: Job) -> Tried:
    """Load an artifact where it will be measured, building its engine first where it has one.

    Raises:
        UsageError: it does not take the batch.
        MeasureError: it does not run there.
    """
    build_engine(opened, job.host, job.reporter)
    pinned = replace(opened, subject=opened.subject.pinned())
    found = Tried(opened=pinned, probe=probe(pinned, job.measure, job.host))
    check_batch(pinned, found.probe, job.measure.batch)
    return found


def check_pair(candidate: Tried, other: Tried) -> None:
    """Refuse two that do not take the same images, or tell other classes apart.

    Raises:
        UsageError: they cannot be compared.
    """
    images = zip(candidate.probe.image, other.probe.image, strict=True)
    if any(None not in pair and pair[0] != pair[1] for pair in images):
        raise UsageError(
            f"candidate and --against take other images: {candidate.probe.image} and "
            f"{other.probe.image} (channels, height, width)"
        )
    if candidate.probe.classes != other.probe.classes:
        raise UsageError(
            f"the candidate tells {candidate.probe.classes} classes apart, --against "
            f"{other.probe.classes}: they cannot be compared"
        )


def split_sha256(data: ImageData) -> str:
    """Hash which images are in the test split and how they are labelled; pixels are trusted."""
    head = json.dumps([data.classes, data.multi_label, data.test.ids])
    return hashlib.sha256(head.encode() + data.test.labels.tobytes()).hexdigest()


def attempted(
    name: str, group: str, make: Callable[[], T]
) -> tuple[T, list[Finding]] | tuple[None, list[Finding]]:
    """Return what was made and no finding, or None and why a check could not be made.

    A wrong option is no finding: it is raised.
    """
    try:
        return make(), []
    except UsageError:
        raise
    except EdgepruneError as error:
        status = INTEGRITY if isinstance(error, BundleError) else INCONCLUSIVE
        return None, [Finding(name=name, group=group, status=status, message=one_line(error))]


def one_line(error: Exception) -> str:
    """Return what an error says, in one line and without folders of this machine."""
    line = " | ".join(part.strip() for part in str(error).splitlines() if part.strip())
    return FOLDERS.sub("", line)
