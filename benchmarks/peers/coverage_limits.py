"""Processes that are ended when they take too long or too much."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, Final

from edgeprune.files import write_json
from peers.coverage_journal import read

WORKERS: Final[Mapping[str, str]] = {
    "edgeprune": "peers.coverage_edgeprune",
    "torch-pruning": "peers.coverage_torch_pruning",
}
ROOT: Final = Path(__file__).parents[2]
MEMORY: Final = "COVERAGE_MEMORY_GIB"
ENVIRONMENT: Final[Mapping[str, str]] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TIMM_FUSED_ATTN": "0",  # the peer's recipe; ours would take either
    "MALLOC_MMAP_THRESHOLD_": "131072",  # freed tensors leave the process at once
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One family with one tool, and where its journal goes."""

    family: str
    tool: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What every process may take: seconds, and GiB of address space."""

    seconds: float
    memory_gib: float

    def text(self) -> str:
        """Return both with their units."""
        return f"{self.seconds:g} s, {self.memory_gib:g} GiB"


def limit_memory() -> None:
    """Let allocations beyond the limit of this worker fail, as on a smaller machine."""
    limit = int(float(os.environ.get(MEMORY, "0")) * 2**30)
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run_all(tasks: list[Task], limits: Limits, workers: int) -> Iterator[Task]:
    """Run every task in a process of its own, several at a time; yield each as it ends.

    When the caller stops early, what still runs is ended and will be run again.
    """
    runner = _Runner(limits=limits)
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(runner.run, task): task for task in tasks}
        try:
            yield from _as_they_end(waiting)
        finally:
            runner.stop()


def _as_they_end(waiting: dict[Future[None], Task]) -> Iterator[Task]:
    pending = set(waiting)
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
            yield waiting[future]


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """Starts processes, and knows which of them to end when everything stops."""

    limits: Limits
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    stopping: Event = field(default_factory=Event)

    def stop(self) -> None:
        """End what runs, and let nothing start any more."""
        self.stopping.set()
        for process in tuple(self.running):
            _end(process)

    def run(self, task: Task) -> None:
        """Run one task to its end or its limit, and complete its journal."""
        if self.stopping.is_set():
            return
        task.path.unlink(missing_ok=True)
        _log(task).parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with _log(task).open("wb") as stream:
            process = _start(task, self.limits, stream)
            self.running.add(process)
            ended = _wait(process, self.limits.seconds)
            self.running.discard(process)
        if not self.stopping.is_set():
            _conclude(task, self.limits, ended, time.monotonic() - started)


def _start(task: Task, limits: Limits, output: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", WORKERS[task.tool], task.family, str(task.path)],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, MEMORY: str(limits.memory_gib)},
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[bytes], seconds: float) -> str | None:
    """Return why a process ended before its work did, or None."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"not done after {seconds:g} s"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}" if code else None


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _conclude(task: Task, limits: Limits, ended: str | None, seconds: float) -> None:
    """Complete the journal of a worker, dead or not."""
    facts: dict[str, Any] = read(task.path) or {"stages": {}, "finished": False}
    facts |= {"family": task.family, "tool": task.tool, "wall_seconds": round(seconds, 1)}
    facts["limits"] = limits.text()
    if not facts["finished"]:
        stage = facts.get("running") or "worker"
        why = f"{ended or 'ended without a result'}{_last_words(task)}"
        facts["stages"][stage] = {"seconds": round(seconds, 1), "error": why}
        facts |= {"finished": True, "ended": why}
    write_json(task.path, facts)


def _last_words(task: Task) -> str:
    """Return the last line that a worker printed, where an error's message stands."""
    lines = _log(task).read_text(encoding="utf-8", errors="replace").split("\n")
    words = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f" ({words[:120]})" if words else ""


def _log(task: Task) -> Path:
    return task.path.with_suffix(".log")
