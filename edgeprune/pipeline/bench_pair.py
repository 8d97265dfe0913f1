"""The two artifacts that are compared: opened, built where they have to be, and tried.

Invariant: a pair that is returned runs where it will be measured, both take the same
images, and both tell the same number of classes apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgeprune.errors import MeasureError, UsageError
from edgeprune.pipeline.bench_settings import BenchSettings
from edgeprune.pipeline.probing import Probe, probe
from edgeprune.pipeline.subject_files import LOADS, RECIPE
from edgeprune.pipeline.subject_images import check_batch
from edgeprune.pipeline.subjects import Opened, is_bundle, open_subject
from edgeprune.progress import Reporter
from edgeprune.targets import Target, load_target
from edgeprune_benchmarks.hosts import Host

BUILD_SECONDS: Final = 3600.0  # TensorRT times kernels for minutes; on a small device, for many
CHECK_SECONDS: Final = 300.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the two, and what the runtime makes of it."""

    opened: Opened
    probe: Probe


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two artifacts and where they are measured; ``same`` if A is measured against itself."""

    a: Side
    b: Side
    same: bool
    target: Target | None
    threads: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One run of ``bench``: what was asked, of what, where, and where it is kept."""

    settings: BenchSettings
    pair: Pair
    host: Host
    device: str  # as the host calls it
    journal: Path | None
    reporter: Reporter


def open_pair(settings: BenchSettings, host: Host, device: str, reporter: Reporter) -> Pair:
    """Open what is compared, and try it.

    Raises:
        UsageError: there is nothing to compare, or two that cannot be.
        MeasureError: one that does not run there.
        BundleError, ModelError: as ``open_subject`` raises them.
    """
    target = load_target(settings.target) if settings.target else None
    opened = _distinct(_opened(settings, settings.runtime or _usual(settings, target)))
    threads = settings.threads or (_threads(opened[0], target),)
    measure = settings.measure(threads=threads[0], batch=1, device=device)
    names = list(dict.fromkeys(each.name for each in opened))
    reporter.stage(f"Load {' and '.join(names)} on {host.name}")
    sides: list[Side] = []
    for each in opened:
        if sides and each is sides[0].opened:
            sides.append(sides[0])
            continue
        build_engine(each, host, reporter)
        pinned = replace(each, subject=each.subject.pinned())
        sides.append(Side(opened=pinned, probe=probe(pinned, measure, host)))
    a, b = sides
    _check(a, b, settings)
    seeds = (settings.seed, a.opened.seed, b.opened.seed)
    return Pair(
        a=a,
        b=b,
        same=opened[0] is opened[1],
        target=target,
        threads=threads,
        seed=next((seed for seed in seeds if seed is not None), 0),
    )


def build_engine(opened: Opened, host: Host, reporter: Reporter) -> None:
    """Build a recipe's engine on the device, unless one is there that fits.

    Raises:
        MeasureError: it cannot be built there.
    """
    subject = opened.subject
    if subject.backend != "tensorrt" or not (subject.folder / RECIPE).is_file():
        return
    program = f"{host.give(subject.folder, subject.files)}/run.py"
    if host.call([host.python, program, "check"], CHECK_SECONDS).code == 0:
        return
    reporter.say(f"building the engine of {opened.name} on {host.name}: this takes minutes")
    ended = host.call([host.python, program, "build"], BUILD_SECONDS)
    if ended.code != 0:
        last = (ended.err.strip() or ended.out.strip()).splitlines()[-1:]
        why = last[0] if last else f"exit code {ended.code}"
        raise MeasureError(f"the engine of {opened.name} cannot be built on {host.name}: {why}")


def _opened(settings: BenchSettings, runtime: str | None) -> tuple[Opened, Opened]:
    paths = [path for path in (settings.a, settings.b) if path is not None]
    bundles = [is_bundle(path) for path in paths]

    def opened(path: Path, role: str = "slim") -> Opened:
        chooses = is_bundle(path) or not any(bundles)
        precision = settings.precision if chooses else None
        return open_subject(path, runtime=runtime, precision=precision, role=role)

    if settings.b is not None:
        return opened(settings.a), opened(settings.b)
    if settings.aa:
        if settings.layers:
            raise UsageError("--layers compares two artifacts: give a second one beside --aa")
        only = opened(settings.a)
        return only, only
    if bundles[0]:
        return opened(settings.a, "dense"), opened(settings.a)
    opened(settings.a)  # a mistake in its name comes first
    raise UsageError(
        f"'{settings.a}' is one file: give a second one to compare it with, or --aa to measure it "
        "against itself"
    )


def _usual(settings: BenchSettings, target: Target | None) -> str | None:
    """Return the target's runtime where it loads the files; a bundle knows its own."""
    paths = [path for path in (settings.a, settings.b) if path is not None]
    if target is None or any(path.suffix not in LOADS[target.runtime] for path in paths):
        return None
    return target.runtime


def _distinct(opened: tuple[Opened, Opened]) -> tuple[Opened, Opened]:
    """Give the two names that tell them apart, without any folder of this machine."""
    a, b = opened
    if a is b:
        return opened
    same = a.name == b.name
    named = [
        f"{each.name} ({letter})" if same else each.name for each, letter in ((a, "A"), (b, "B"))
    ]
    first, second = (
        replace(each, name=name, subject=replace(each.subject, name=name))
        for each, name in zip(opened, named, strict=True)
    )
    return first, second


def _threads(opened: Opened, target: Target | None) -> int:
    if target is not None:
        return target.threads
    return int((opened.manifest or {}).get("target", {}).get("threads", 1))


def _check(a: Side, b: Side, settings: BenchSettings) -> None:
    """Refuse two that no image or no label can be shared by.

    Raises:
        UsageError: they take other images, or tell other numbers of classes apart.
    """
    if problem := _difference(a, b):
        raise UsageError(f"{a.opened.name} and {b.opened.name} cannot be compared: {problem}")
    for side in (a, b):
        for batch in settings.batches:
            check_batch(side.opened, side.probe, batch)


def _difference(a: Side, b: Side) -> str | None:
    images = zip(a.probe.image, b.probe.image, strict=True)
    if any(None not in pair and pair[0] != pair[1] for pair in images):
        return f"A takes images of {_words(a.probe.image)}, B of {_words(b.probe.image)}"
    if a.probe.classes != b.probe.classes:
        return f"A tells {a.probe.classes} classes apart, B {b.probe.classes}"
    return None


def _words(shape: Sequence[int | None]) -> str:
    return " × ".join(str(size or "?") for size in shape)
