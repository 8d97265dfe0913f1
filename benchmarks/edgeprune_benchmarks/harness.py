"""Dense against slim, in turns, each in processes of its own.

Each round starts one fresh runner per subject. Both are warmed up, then blocks
of inferences alternate as A B B A, so that whatever drifts on the machine drifts
for both. Invariant: while one subject is timed, the other's process waits.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.codec import decode
from edgeprune_benchmarks.machine import Conditions, Machine, conditions, taints
from edgeprune_benchmarks.measurement import Comparison, Measurement, MeasureSettings, Run, Subject
from edgeprune_benchmarks.process import Answer, RunnerProcess

__all__ = ["Comparison", "MeasureSettings", "Measurement", "Subject", "compare", "predict"]

Images = NDArray[np.float32]
Progress = Callable[[int, int], None]
PREDICT_IMAGES = 64  # that cross to the runner at a time, and share one time-out


def compare(
    dense: Subject,
    slim: Subject,
    inputs: Images,
    settings: MeasureSettings,
    progress: Progress | None = None,
) -> Comparison:
    """Measure both subjects in turns on images (N, C, H, W), N at least one batch.

    Raises ``MeasureError`` when an artifact cannot be loaded, or its runner dies,
    hangs or answers nonsense.
    """
    _check_images(inputs)
    for subject in (dense, slim):
        _check_subject(subject)
    subjects = {"dense": dense, "slim": slim}
    rounds = []
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        images = _store(inputs, Path(folder) / "inputs.npy")
        for number in range(settings.rounds):
            rounds.append(_round(subjects, number, images, settings))
            if progress is not None:
                progress(number + 1, settings.rounds)
    measured = {key: _measurement(subjects[key], key, rounds) for key in subjects}
    seen = tuple(each.conditions for each in rounds)
    return Comparison(
        settings=settings,
        dense=measured["dense"],
        slim=measured["slim"],
        order=tuple(block_order(number, settings.blocks) for number in range(settings.rounds)),
        machine=rounds[0].machine,
        conditions=seen,
        tainted=(*taints(seen), *_doubts(measured.values(), settings)),
    )


def block_order(number: int, blocks: int) -> tuple[str, ...]:
    """Return who runs when in a round: A B B A …, and every other round B A A B …."""
    pair = ("dense", "slim") if number % 2 == 0 else ("slim", "dense")
    return tuple(name for k in range(blocks) for name in (pair if k % 2 == 0 else pair[::-1]))


def predict(
    subject: Subject, inputs: Images | Iterable[Images], settings: MeasureSettings
) -> NDArray[np.float32]:
    """Run images (N, C, H, W), or an iterator of such batches, through the artifact.

    Returns its outputs (N, K) in order, from the runtime and at the precision
    that are measured. Raises ``MeasureError`` as ``compare`` does.
    """
    _check_subject(subject)
    results = []
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder, _start(subject) as runner:
        _load(runner, subject, settings, batch=None)
        target = Path(folder) / "outputs.npy"
        for part in _parts(inputs):
            stored = _store(part, Path(folder) / "inputs.npy")
            words = {"inputs": stored, "outputs": str(target), "batch": settings.batch}
            runner.ask("predict", settings.timeout, **words)
            results.append(np.load(target, allow_pickle=False))
    if not results:
        raise MeasureError(f"{subject.name}: there are no images to predict")
    return np.concatenate(results)


@dataclass(frozen=True, kw_only=True)
class _Round:
    runs: dict[str, Run]
    loaded: dict[str, Answer]
    machine: Machine
    conditions: Conditions


def _round(
    subjects: Mapping[str, Subject], number: int, images: str, settings: MeasureSettings
) -> _Round:
    """Start a fresh runner for each subject and let them take turns."""
    order = block_order(number, settings.blocks)
    with ExitStack() as stack:
        runners = {key: stack.enter_context(_start(subjects[key])) for key in order[:2]}
        loaded = {
            key: _load(runner, subjects[key], settings, batch=settings.batch)
            for key, runner in runners.items()
        }
        warm = {key: _warm_up(runner, images, settings) for key, runner in runners.items()}
        before = [runner.ask("state", settings.timeout) for runner in runners.values()]
        blocks: dict[str, list[Sequence[int]]] = {key: [] for key in runners}
        for key in order:
            blocks[key].append(_block(runners[key], settings))
        after = [runner.ask("state", settings.timeout) for runner in runners.values()]
        peaks = {key: runner.ask("memory", settings.timeout) for key, runner in runners.items()}
        info = runners["dense"].ask("info", settings.timeout)
    try:
        return _Round(
            runs={k: _run({**loaded[k], **warm[k], **peaks[k]}, blocks[k]) for k in runners},
            loaded=loaded,
            machine=decode(Machine, info.get("machine"), at="machine"),
            conditions=conditions(before, after),
        )
    except ValueError as error:
        raise MeasureError(f"a device runner's answer cannot be understood: {error}") from error


def _start(subject: Subject) -> RunnerProcess:
    return RunnerProcess(subject.name)


def _load(
    runner: RunnerProcess, subject: Subject, settings: MeasureSettings, *, batch: int | None
) -> Answer:
    return runner.ask(
        "load",
        settings.timeout,
        artifact=str(subject.artifact.resolve()),
        backend=subject.backend,
        threads=settings.threads,
        cpus=settings.cpus,
        precision=settings.precision,
        batch=batch,
    )


def _warm_up(runner: RunnerProcess, images: str, settings: MeasureSettings) -> Answer:
    return runner.ask(
        "warmup",
        settings.timeout + settings.warmup_limit,
        inputs=images,
        batch=settings.batch,
        seconds=settings.warmup_seconds,
        limit=settings.warmup_limit,
    )


def _block(runner: RunnerProcess, settings: MeasureSettings) -> Sequence[int]:
    seconds, inferences = settings.block_seconds, settings.block_inferences
    timeout = settings.timeout + seconds
    times = runner.ask("block", timeout, seconds=seconds, iterations=inferences).get("ns")
    return list(times or ())


def _run(answers: Answer, blocks: Sequence[Sequence[int]]) -> Run:
    words = {each.name: answers[each.name] for each in fields(Run) if each.name in answers}
    return decode(Run, {**words, "blocks_ns": blocks}, at="run")


def _measurement(subject: Subject, key: str, rounds: Sequence[_Round]) -> Measurement:
    return Measurement(
        name=subject.name,
        artifact=subject.artifact.name,
        bytes=sum(path.stat().st_size for path in subject.files),
        files=subject.hashed(),
        backend=str(rounds[0].loaded[key].get("backend")),
        version=str(rounds[0].loaded[key].get("version")),
        runs=tuple(each.runs[key] for each in rounds),
    )


def _doubts(measured: Iterable[Measurement], settings: MeasureSettings) -> Iterator[str]:
    """Say where a runtime did not do what it was told, or never came to rest."""
    for subject in measured:
        restless = sum(not run.steady for run in subject.runs)
        if restless:
            runs = f"{restless} of {len(subject.runs)} runs"
            yield f"{subject.name} was not steady after its warm-up in {runs}"
        types = {name for run in subject.runs for name in run.precision.split("+")}
        floats = types & {"f32", "f16", "bf16"}
        if floats - {settings.precision}:
            yield f"{subject.name} ran in {'+'.join(sorted(floats))}, not in {settings.precision}"
        threads = {run.threads for run in subject.runs}
        if threads != {settings.threads}:
            yield f"{subject.name} ran on {sorted(threads)} threads, not on {settings.threads}"


def _parts(inputs: Images | Iterable[Images]) -> Iterator[Images]:
    """Yield images in portions that a file holds comfortably."""
    for images in [inputs] if isinstance(inputs, np.ndarray) else inputs:
        _check_images(images)
        yield from (
            images[at : at + PREDICT_IMAGES] for at in range(0, len(images), PREDICT_IMAGES)
        )


def _store(images: Images, path: Path) -> str:
    np.save(path, np.ascontiguousarray(images, dtype=np.float32))
    return str(path)


def _check_images(images: Images) -> None:
    if images.ndim != 4 or not len(images):
        raise MeasureError(f"images have shape {images.shape}; (N, C, H, W) with N ≥ 1 is wanted")


def _check_subject(subject: Subject) -> None:
    if not subject.artifact.is_file():
        raise MeasureError(f"{subject.name}: there is no file {subject.artifact}")
