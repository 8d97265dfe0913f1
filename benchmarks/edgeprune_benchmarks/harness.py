"""Dense against slim, in turns, each in processes of its own.

Each round starts one fresh runner per subject. Both are warmed up, then blocks
of inferences alternate as A B B A, so that whatever drifts on the machine drifts
for both. Invariant: while one subject is timed, the other's process waits; and a
measurement that was interrupted ends as if it had not been, apart from the times.
"""

import base64
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.codec import decode
from edgeprune_benchmarks.hosts import Host, LocalHost
from edgeprune_benchmarks.journal import Journal, Say, key_of, silent
from edgeprune_benchmarks.machine import fingerprint, limits, taints
from edgeprune_benchmarks.measurement import Comparison, Measurement, MeasureSettings, Subject
from edgeprune_benchmarks.process import RunnerProcess
from edgeprune_benchmarks.rounds import (
    Placed,
    Round,
    check_files,
    doubts,
    load,
    machine_of,
    measurement,
    place,
    run_round,
)

__all__ = ["Comparison", "MeasureSettings", "Measurement", "Subject", "compare", "predict"]

Images = NDArray[np.float32]
Outputs = NDArray[np.float32]
Progress = Callable[[int, int], None]
PREDICT_IMAGES: Final = 64  # that cross to the runner at a time, and share one time-out
INPUTS: Final = "inputs.npy"
OUTPUTS: Final = "outputs.npy"


def compare(
    dense: Subject,
    slim: Subject,
    inputs: Images,
    settings: MeasureSettings,
    progress: Progress | None = None,
    *,
    host: Host | None = None,
    journal: Path | None = None,
    say: Say = silent,
) -> Comparison:
    """Measure both subjects in turns on images (N, C, H, W), N at least one batch.

    Rounds that ``journal`` has of the same files, images, settings and machine are
    not run again; ``say`` hears how many.

    Raises ``MeasureError`` when an artifact cannot be loaded, or changes, or its
    runner dies, hangs or answers nonsense.
    """
    _check_images(inputs, settings.batch)
    with ExitStack() as stack:
        there = host or stack.enter_context(LocalHost())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeprune-")))
        placed = {"dense": place(there, dense), "slim": place(there, slim)}
        job = _Job(host=there, placed=placed, settings=settings, folder=folder)
        log = _journal(journal, job, _digest(inputs), say)
        rounds = []
        for each in _rounds(job, _give(job, inputs), log, say):
            rounds.append(each)
            if progress is not None:
                progress(len(rounds), settings.rounds)
    measured = {"dense": measurement(dense, "dense", rounds)}
    measured["slim"] = measurement(slim, "slim", rounds)
    seen = tuple(each.conditions for each in rounds)
    return Comparison(
        settings=settings,
        dense=measured["dense"],
        slim=measured["slim"],
        order=tuple(block_order(number, settings.blocks) for number in range(settings.rounds)),
        machine=rounds[0].machine,
        conditions=seen,
        tainted=(
            *taints(seen),
            *limits(rounds[0].machine, seen, settings.threads),
            *doubts(measured.values(), settings),
        ),
    )


def block_order(number: int, blocks: int) -> tuple[str, ...]:
    """Return who runs when in a round: A B B A …, and every other round B A A B …."""
    pair = ("dense", "slim") if number % 2 == 0 else ("slim", "dense")
    return tuple(name for k in range(blocks) for name in (pair if k % 2 == 0 else pair[::-1]))


def predict(
    subject: Subject,
    inputs: Images | Iterable[Images],
    settings: MeasureSettings,
    *,
    host: Host | None = None,
    journal: Path | None = None,
    say: Say = silent,
) -> Outputs:
    """Run images (N, C, H, W), or an iterator of such batches, through the artifact.

    Returns its outputs (N, K) in order, from the runtime and at the precision
    that are measured. Outputs that ``journal`` has are not computed again.
    Raises ``MeasureError`` as ``compare`` does.
    """
    with ExitStack() as stack:
        there = host or stack.enter_context(LocalHost())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeprune-")))
        placed = {"predicted": place(there, subject)}
        job = _Job(host=there, placed=placed, settings=settings, folder=folder)
        log = _journal(journal, job, "", say)
        runner: RunnerProcess | None = None
        outputs = f"{there.scratch()}/{OUTPUTS}"
        results = []
        for part in _parts(inputs):
            digest = _digest(part)
            if (stored := _unpacked(log.get(digest))) is not None:
                results.append(stored)
                continue
            if runner is None:
                runner = stack.enter_context(there.runner(subject.name))
                load({"predicted": runner}, placed, settings, batch=None)
            results.append(_predicted(job, runner, part, outputs))
            log.put(digest, _packed(results[-1]))
    if not results:
        raise MeasureError(f"{subject.name}: there are no images to predict")
    return np.concatenate(results)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is measured where, and a folder here for what passes between."""

    host: Host
    placed: Mapping[str, Placed]
    settings: MeasureSettings
    folder: Path


def _rounds(job: _Job, images: str, log: Journal, say: Say) -> Iterator[Round]:
    """Yield rounds, stored ones or run now, and hold each one's files against the first's."""
    count = job.settings.rounds
    known = {number: found for number in range(count) if (found := _known(log, number))}
    if known:
        say(f"{len(known)} of {count} rounds are from the earlier run")
    first: Round | None = None
    for number in range(count):
        found = known.get(number)
        if found is None:
            order = block_order(number, job.settings.blocks)
            found = run_round(job.host, job.placed, order, images, job.settings)
            log.put(f"round {number}", found)
        first = first or found
        for key, each in job.placed.items():
            check_files(each.subject.name, first.loaded[key].files, found.loaded[key].files)
        yield found


def _known(log: Journal, number: int) -> Round | None:
    stored = log.get(f"round {number}")
    try:
        return None if stored is None else decode(Round, stored, at="round")
    except ValueError:
        return None  # of an edgeprune that stored other fields: measured again


def _journal(path: Path | None, job: _Job, inputs: str, say: Say) -> Journal:
    """Open a journal under everything that decides what would be measured now."""
    if path is None:
        return Journal(None, "")
    with job.host.runner(job.host.name) as runner:
        machine = machine_of(runner.ask("info", job.settings.timeout))
    content = {
        "subjects": {key: [each.subject.backend, each.hashes] for key, each in job.placed.items()},
        "settings": replace(job.settings, timeout=MeasureSettings.timeout),  # decides nothing
        "inputs": inputs,
        "machine": [fingerprint(machine), machine.versions],
    }
    return Journal(path, key_of(content), say)


def _predicted(job: _Job, runner: RunnerProcess, images: Images, there: str) -> Outputs:
    words = {"inputs": _give(job, images), "outputs": there, "batch": job.settings.batch}
    runner.ask("predict", job.settings.timeout, **words)
    here = job.folder / OUTPUTS
    job.host.fetch(there, here)
    return np.asarray(np.load(here, allow_pickle=False), np.float32)


def _packed(outputs: Outputs) -> dict[str, object]:
    data = base64.b64encode(np.ascontiguousarray(outputs, "<f4").tobytes()).decode()
    return {"shape": list(outputs.shape), "float32": data}


def _unpacked(stored: Any) -> Outputs | None:  # noqa: ANN401  a JSON value
    try:
        values = np.frombuffer(base64.b64decode(stored["float32"]), "<f4")
        return values.reshape(stored["shape"]).astype(np.float32)
    except (KeyError, TypeError, ValueError):
        return None  # not stored, or by an edgeprune that stored something else


def _parts(inputs: Images | Iterable[Images]) -> Iterator[Images]:
    """Yield images in portions that a file holds comfortably."""
    for images in [inputs] if isinstance(inputs, np.ndarray) else inputs:
        _check_images(images)
        yield from (
            images[at : at + PREDICT_IMAGES] for at in range(0, len(images), PREDICT_IMAGES)
        )


def _give(job: _Job, images: Images) -> str:
    """Bring images to the host, where they do not outlive the measurement."""
    path = job.folder / INPUTS
    np.save(path, np.ascontiguousarray(images, dtype=np.float32))
    return f"{job.host.give(job.folder, [path], keep=False)}/{INPUTS}"


def _digest(images: Images) -> str:
    data = np.ascontiguousarray(images, dtype="<f4")
    return hashlib.sha256(repr(data.shape).encode() + data.tobytes()).hexdigest()


def _check_images(images: Images, batch: int = 1) -> None:
    if images.ndim != 4 or not len(images):
        raise MeasureError(f"images have shape {images.shape}; (N, C, H, W) with N ≥ 1 is wanted")
    if len(images) < batch:
        few = f"there are {len(images)} images, too few for one batch of {batch}"
        raise MeasureError(f"{few}: give more images, or use a smaller batch")
