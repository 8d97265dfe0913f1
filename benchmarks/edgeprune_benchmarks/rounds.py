"""One round: a fresh process for each subject, warmed up, then blocks in turns.

Processes start together; after that, while one works the other waits. They load in
turns, too: on the CPU that both are kept to, loading together would save nothing, and
load times would say nothing. Invariant: what was loaded is byte for byte what was
given.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Final, TypeVar

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.codec import decode
from edgeprune_benchmarks.hosts import Host
from edgeprune_benchmarks.machine import Conditions, Machine, conditions
from edgeprune_benchmarks.measurement import Measurement, MeasureSettings, Run, Subject
from edgeprune_benchmarks.metering import Meter
from edgeprune_benchmarks.process import Answer, RunnerProcess

RESTLESS: Final = 0.25  # share of runs; what a few drift by, blocks in turns cancel
WARM: Final = 10  # inferences that a warm-up takes at least


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A subject as a host has it: the artifact's path there, and its files' SHA-256."""

    subject: Subject
    path: str
    hashes: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a runtime said of an artifact it had loaded."""

    backend: str
    version: str
    files: Mapping[str, str]  # SHA-256 by name


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round showed, by ``dense`` and ``slim``."""

    runs: Mapping[str, Run]
    loaded: Mapping[str, Loaded]
    machine: Machine
    conditions: Conditions


T = TypeVar("T", Run, Loaded)


def place(host: Host, subject: Subject) -> Placed:
    """Bring an artifact to where it is measured.

    Raises ``MeasureError`` when it is not there, or not the one it was pinned as.
    """
    if not subject.artifact.is_file():
        raise MeasureError(f"{subject.name}: there is no file {subject.artifact}")
    hashes = subject.hashed()
    if subject.hashes is not None:
        check_files(subject.name, subject.hashes, hashes)
    folder = host.give(subject.folder, subject.files)
    return Placed(subject=subject, path=f"{folder}/{subject.artifact.name}", hashes=hashes)


def check_files(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise ``MeasureError`` for the first file whose SHA-256 is another than before."""
    for file, old in before.items():
        new = now.get(file)
        if new != old:
            became = f"and is {new} now" if new else "and now it is gone"
            raise MeasureError(
                f"{name}: {file} is not what it was: its SHA-256 was {old} {became}; "
                "measure again when it does not change any more"
            )


def load(
    runners: Mapping[str, RunnerProcess],
    placed: Mapping[str, Placed],
    settings: MeasureSettings,
    *,
    batch: int | None,
) -> dict[str, Answer]:
    """Load an artifact in each runner, and check that it is the one that was placed."""
    for runner in runners.values():
        runner.ask("state", settings.timeout)  # its own start is over then
    answers = {
        key: runner.ask("load", settings.timeout, **_how(placed[key], settings, batch))
        for key, runner in runners.items()
    }
    for key, answer in answers.items():
        files = _loaded(placed[key], answer).files
        known = {name: digest for name, digest in placed[key].hashes.items() if name in files}
        check_files(placed[key].subject.name, known, files)
    return answers


def run_round(
    host: Host,
    placed: Mapping[str, Placed],
    order: Sequence[str],
    images: str,
    settings: MeasureSettings,
) -> Round:
    """Start a fresh runner for each subject and let them take turns in the given order."""
    with ExitStack() as stack:
        first, second = dict.fromkeys(order)
        runners = {
            key: stack.enter_context(host.runner(placed[key].subject.name))
            for key in (first, second)
        }
        loaded = load(runners, placed, settings, batch=settings.batch)
        warm = {key: _warm_up(runner, images, settings) for key, runner in runners.items()}
        meters = {key: Meter(runner, settings) for key, runner in runners.items()}
        rest = meters[first].rest()
        before = [runner.ask("state", settings.timeout) for runner in runners.values()]
        blocks: dict[str, list[Answer]] = {key: [] for key in runners}
        for key in order:
            blocks[key].append(meters[key].block(partial(_block, runners[key], settings)))
        after = [runner.ask("state", settings.timeout) for runner in runners.values()]
        peaks = {key: runner.ask("memory", settings.timeout) for key, runner in runners.items()}
        info = runners[first].ask("info", settings.timeout)
    answers = {key: {**loaded[key], **warm[key], **peaks[key]} for key in runners}
    runs = {key: _run(placed[key], answers[key], blocks[key]) for key in runners}
    energies = {key: meter.energy(rest) for key, meter in meters.items()}
    return Round(
        runs={
            k: replace(run, energy=energies[k][0], energy_reason=energies[k][1])
            for k, run in runs.items()
        },
        loaded={key: _loaded(placed[key], answer) for key, answer in loaded.items()},
        machine=machine_of(info),
        conditions=_conditions(before, after),
    )


def _how(placed: Placed, settings: MeasureSettings, batch: int | None) -> dict[str, object]:
    return {
        "artifact": placed.path,
        "backend": placed.subject.backend,
        "threads": settings.threads,
        "cpus": settings.cpus,
        "precision": settings.precision,
        "batch": batch,
        "device": settings.device,
        "cuda_graph": settings.cuda_graph,
    }


def _warm_up(runner: RunnerProcess, images: str, settings: MeasureSettings) -> Answer:
    resting = WARM * settings.idle_seconds
    return runner.ask(
        "warmup",
        settings.timeout + settings.warmup_limit + 2 * resting,
        inputs=images,
        batch=settings.batch,
        seconds=settings.warmup_seconds,
        limit=settings.warmup_limit + resting,
        idle=settings.idle_seconds,
    )


def _block(runner: RunnerProcess, settings: MeasureSettings) -> Answer:
    seconds, inferences = settings.block_seconds, settings.block_inferences
    settle, idle = settings.settle_seconds, settings.idle_seconds
    return runner.ask(
        "block",
        settings.timeout + settle + max(seconds, inferences * idle),
        seconds=seconds,
        iterations=inferences,
        settle=settle,
        idle=idle,
    )


def _loaded(placed: Placed, answer: Answer) -> Loaded:
    return _understood(Loaded, answer, placed.subject.name)


def _run(placed: Placed, answers: Answer, blocks: Sequence[Answer]) -> Run:
    computed = [block["compute_ns"] for block in blocks if block.get("compute_ns") is not None]
    times = {
        "blocks_ns": [block.get("ns") for block in blocks],
        "compute_ns": computed if len(computed) == len(blocks) else None,
    }
    return _understood(Run, {**answers, **times}, placed.subject.name)


def _conditions(before: Sequence[Answer], after: Sequence[Answer]) -> Conditions:
    try:
        return conditions(before, after)
    except ValueError as error:
        raise _nonsense("", error) from error


def machine_of(info: Answer) -> Machine:
    """Read the machine from a runner's answer to ``info``."""
    try:
        return decode(Machine, info.get("machine"), at="machine")
    except ValueError as error:
        raise _nonsense("", error) from error


def measurement(subject: Subject, key: str, rounds: Sequence[Round]) -> Measurement:
    """Put all runs of one subject together."""
    loaded = rounds[0].loaded[key]
    return Measurement(
        name=subject.name,
        artifact=subject.artifact.name,
        bytes=sum(path.stat().st_size for path in subject.files),
        files=loaded.files,
        backend=loaded.backend,
        version=loaded.version,
        runs=tuple(each.runs[key] for each in rounds),
    )


def doubts(measured: Iterable[Measurement], settings: MeasureSettings) -> Iterator[str]:
    """Say where a runtime did not do what it was told, or never came to rest."""
    for subject in measured:
        restless = sum(not run.steady for run in subject.runs)
        if restless > RESTLESS * len(subject.runs):
            runs = f"{restless} of {len(subject.runs)} runs"
            yield f"{subject.name} was not steady after its warm-up in {runs}"
        types = {name for run in subject.runs for name in run.precision.split("+")}
        floats = types & {"f32", "f16", "bf16"}
        if floats - {settings.precision}:
            yield f"{subject.name} ran in {'+'.join(sorted(floats))}, not in {settings.precision}"
        threads = {run.threads for run in subject.runs if run.threads is not None}
        if threads - {settings.threads}:
            yield f"{subject.name} ran on {sorted(threads)} threads, not on {settings.threads}"
        devices = {run.device for run in subject.runs} - {settings.device}
        if devices and subject.backend != "tensorrt":  # an engine runs on the GPU it is for
            yield f"{subject.name} ran on {', '.join(sorted(devices))}, not on {settings.device}"


def _understood(kind: type[T], answer: Answer, name: str) -> T:
    """Pick the fields of a dataclass out of a runner's answer."""
    words = {each.name: answer[each.name] for each in fields(kind) if each.name in answer}
    try:
        return decode(kind, words, at=kind.__name__.lower())
    except ValueError as error:
        raise _nonsense(f" of {name}", error) from error


def _nonsense(whose: str, error: ValueError) -> MeasureError:
    return MeasureError(f"an answer of the device runner{whose} cannot be understood: {error}")
