"""Any number of artifacts timed in one run, each in processes of its own.

What the harness does for two: a round starts one fresh process per artifact and
warms each up; then blocks go round in turns, every other time backwards, so that
whatever drifts on the machine drifts for all. The artifact that starts changes
from round to round. Invariant: while one is timed, the processes of the others wait.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError
from edgeprune.progress import Reporter
from edgeprune_benchmarks.codec import decode
from edgeprune_benchmarks.machine import Conditions, Machine, conditions, taints
from edgeprune_benchmarks.measurement import MeasureSettings, Subject
from edgeprune_benchmarks.process import Answer, RunnerProcess

Images = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An artifact, and what its runtime is asked to compute floats in, as ``f32``."""

    subject: Subject
    arithmetic: str


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What one artifact showed.

    Attributes:
        blocks: nanoseconds as round → block → inference.
        runs_in: types that its layers with weights really ran in, as ``f32`` or
            ``i8+u8``; each one that any of its processes reported.
        version: of the runtime.
        restless: processes that had not come to rest when their warm-up ended.
    """

    blocks: tuple[tuple[tuple[int, ...], ...], ...]
    runs_in: str
    version: str
    restless: int

    @property
    def median_ms(self) -> float:
        """Median over blocks of the block's median, in milliseconds."""
        return float(np.median([np.median(block) for run in self.blocks for block in run])) / 1e6


@dataclass(frozen=True, kw_only=True)
class Turns:
    """All artifacts in the order they were given, where they ran, and reasons for doubt."""

    timed: tuple[Timed, ...]
    machine: Machine
    doubts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One process of one artifact."""

    blocks: tuple[tuple[int, ...], ...]
    loaded: Answer
    steady: bool


def take_turns(
    entries: Sequence[Entry], images: Images, settings: MeasureSettings, reporter: Reporter
) -> Turns:
    """Time every entry on images (N, C, H, W), N at least one batch.

    The precision in the settings is left aside: every entry has its own.

    Raises:
        MeasureError: an artifact cannot be loaded, ran on other threads than it was
            told to, or its runner dies, hangs or answers nonsense.
    """
    rounds: list[list[_Run]] = []
    seen: list[tuple[Conditions, Machine]] = []
    with (
        tempfile.TemporaryDirectory(prefix="edgeprune-") as folder,
        reporter.track("artifacts in turns", settings.rounds) as advance,
    ):
        stored = Path(folder) / "inputs.npy"
        np.save(stored, np.ascontiguousarray(images, dtype=np.float32))
        for number in range(settings.rounds):
            runs, where = _round(entries, number, str(stored), settings)
            rounds.append(runs)
            seen.append(where)
            advance(number + 1, "rounds")
    timed = tuple(_timed(runs) for runs in zip(*rounds, strict=True))
    return Turns(
        timed=timed,
        machine=seen[0][1],
        doubts=(*taints([each for each, _ in seen]), *_restless(entries, timed, settings.rounds)),
    )


def turn_order(count: int, number: int, blocks: int) -> tuple[int, ...]:
    """Return whose block is when in a round: each once per turn, every other turn backwards."""
    turn = tuple((number + k) % count for k in range(count))
    return tuple(who for k in range(blocks) for who in (turn if k % 2 == 0 else turn[::-1]))


def _round(
    entries: Sequence[Entry], number: int, images: str, settings: MeasureSettings
) -> tuple[list[_Run], tuple[Conditions, Machine]]:
    """Start a fresh process for each entry and let them take turns."""
    with ExitStack() as stack:
        runners = [stack.enter_context(RunnerProcess(each.subject.name)) for each in entries]
        loaded = [
            _load(runner, each, settings) for runner, each in zip(runners, entries, strict=True)
        ]
        steady = [_warm_up(runner, images, settings) for runner in runners]
        before = [runner.ask("state", settings.timeout) for runner in runners]
        blocks: list[list[tuple[int, ...]]] = [[] for _ in entries]
        for who in turn_order(len(entries), number, settings.blocks):
            blocks[who].append(_block(runners[who], settings))
        after = [runner.ask("state", settings.timeout) for runner in runners]
        info = runners[0].ask("info", settings.timeout)
    runs = [
        _Run(blocks=tuple(times), loaded=answer, steady=rest)
        for times, answer, rest in zip(blocks, loaded, steady, strict=True)
    ]
    try:
        machine = decode(Machine, info.get("machine"), at="machine")
        return runs, (conditions(before, after), machine)
    except ValueError as error:
        raise MeasureError(f"a device runner's answer cannot be understood: {error}") from error


def _load(runner: RunnerProcess, entry: Entry, settings: MeasureSettings) -> Answer:
    answer = runner.ask(
        "load",
        settings.timeout,
        artifact=str(entry.subject.artifact.resolve()),
        backend=entry.subject.backend,
        threads=settings.threads,
        cpus=settings.cpus,
        precision=entry.arithmetic,
        batch=settings.batch,
    )
    if answer.get("threads") != settings.threads:
        raise MeasureError(
            f"{entry.subject.name} runs on {answer.get('threads')} threads, not on "
            f"{settings.threads} as it was told"
        )
    return answer


def _warm_up(runner: RunnerProcess, images: str, settings: MeasureSettings) -> bool:
    answer = runner.ask(
        "warmup",
        settings.timeout + settings.warmup_limit,
        inputs=images,
        batch=settings.batch,
        seconds=settings.warmup_seconds,
        limit=settings.warmup_limit,
    )
    return bool(answer.get("steady"))


def _block(runner: RunnerProcess, settings: MeasureSettings) -> tuple[int, ...]:
    seconds, inferences = settings.block_seconds, settings.block_inferences
    timeout = settings.timeout + seconds
    answer = runner.ask("block", timeout, seconds=seconds, iterations=inferences)
    return tuple(answer.get("ns") or ())


def _timed(runs: Sequence[_Run]) -> Timed:
    types = {name for run in runs for name in str(run.loaded.get("precision")).split("+")}
    return Timed(
        blocks=tuple(run.blocks for run in runs),
        runs_in="+".join(sorted(types)),
        version=str(runs[0].loaded.get("version")).split("-")[0],
        restless=sum(not run.steady for run in runs),
    )


def _restless(entries: Sequence[Entry], timed: Sequence[Timed], rounds: int) -> Iterator[str]:
    for entry, each in zip(entries, timed, strict=True):
        if each.restless:
            name = entry.subject.name
            yield f"{name} was not steady after its warm-up in {each.restless} of {rounds} runs"
