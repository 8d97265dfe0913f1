"""What scoring units costs: our criteria and those of peers, in one run.

Every method scores the same images of the same model. Seconds are measured in
turns: a plain forward and backward just before each method, so that what slows
both cancels in their ratio. Peak memory comes from a process of its own, in
which freed tensors leave at once. dl-backtrace needs another torch; give the
interpreter of an environment that has it:

    python benchmarks/peers/attribution_cost.py --backtrace-python ENV/bin/python --write
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
import torch

from edgeprune.errors import EdgepruneError
from edgeprune_benchmarks.statistics import Ratio, latency_ratio
from peers.attribution_cost_methods import BASELINE, METHODS, Scoring, Subject
from peers.attribution_cost_models import CASES, Case, chosen
from peers.attribution_cost_report import Cost, Peer, section, write_section

BACKTRACE: Final = Path(__file__).with_name("attribution_cost_backtrace.py")
ENVIRONMENT: Final = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # freed tensors leave the process at once
"""Of the process that measures memory only: it makes allocation slower."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured.

    Attributes:
        images: how many are scored.
        batch: how many at once.
        rounds: how often each method is timed.
        threads: of torch.
        device: where models run.
    """

    images: int
    batch: int
    rounds: int
    threads: int
    device: str


@click.command()
@click.option("--model", "models", multiple=True, default=tuple(CASES), show_default=True)
@click.option("--images", default=100, show_default=True)
@click.option("--batch", default=25, show_default=True, help="Images at once.")
@click.option("--rounds", default=5, show_default=True, help="How often each method is timed.")
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--method", "methods", multiple=True, default=tuple(METHODS), hidden=True)
@click.option("--backtrace-python", help="Interpreter that has dl-backtrace.")
@click.option("--backtrace-images", default=1, show_default=True, help="Images for dl-backtrace.")
@click.option("--backtrace-limit", default=600.0, show_default=True, help="Its seconds per model.")
@click.option("--only-memory", is_flag=True, hidden=True)
@click.option("--write", is_flag=True, help="Put the tables into benchmarks/RESULTS.md.")
def main(  # noqa: PLR0917 - click passes options by name
    models: tuple[str, ...],
    images: int,
    batch: int,
    rounds: int,
    threads: int,
    device: str,
    methods: tuple[str, ...],
    backtrace_python: str | None,
    backtrace_images: int,
    backtrace_limit: float,
    only_memory: bool,
    write: bool,
) -> None:
    """Measure what it costs to score images, in multiples of a plain forward and backward."""
    settings = Settings(images=images, batch=batch, rounds=rounds, threads=threads, device=device)
    torch.set_num_threads(threads)
    cases = [chosen(name) for name in models]
    if only_memory:
        click.echo(json.dumps(_memory(cases[0], methods, settings)))
        return
    costs: dict[str, list[Cost]] = {}
    peers: dict[str, Peer] = {}
    for case in cases:
        costs[case.name] = _costs(case, methods, settings)
        if backtrace_python is not None:
            peers[case.name] = _peer(
                case, Path(backtrace_python), backtrace_images, backtrace_limit, settings
            )
        click.echo(section({case.name: costs[case.name]}, peers, "", ""))
    text = section(costs, peers, _command(), _setting(settings))
    if write:
        write_section(text)
    click.echo(text)


def _costs(case: Case, methods: tuple[str, ...], settings: Settings) -> list[Cost]:
    """Time every method on one model, in turns."""
    images, labels = case.images(settings.images, settings.device)
    batches = list(zip(*(torch.split(x, settings.batch) for x in (images, labels)), strict=True))
    made, errors = _made(case, methods, settings, batches[0])
    baseline = made[BASELINE]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for _ in range(settings.rounds):
        for name, scoring in made.items():
            pair = (_seconds(baseline, batches), _seconds(scoring, batches))
            seconds[name].append(pair)
    memory = _memory_elsewhere(case, tuple(made), settings)
    found = [
        Cost(
            method=name, ratio=_ratio(seconds[name]), seconds=seconds[name], memory=memory.get(name)
        )
        for name in made
    ]
    return found + [Cost(method=name, error=error) for name, error in errors.items()]


def _made(
    case: Case,
    methods: tuple[str, ...],
    settings: Settings,
    batch: tuple[torch.Tensor, torch.Tensor],
) -> tuple[dict[str, Scoring], dict[str, str]]:
    """Make every method and run it once; return those that work, and why others do not."""
    subject = Subject(model=case.model(settings.device), images=batch[0])
    made: dict[str, Scoring] = {}
    errors: dict[str, str] = {}
    for name in dict.fromkeys((BASELINE, *methods)):
        try:
            scoring = METHODS[name].make(subject)
            scoring(*batch)
        except Exception as error:  # whatever a peer raises goes into the table
            if METHODS[name].whose in ("edgeprune", "torch"):
                raise
            errors[name] = f"{type(error).__name__}: {error}"
        else:
            made[name] = scoring
    return made, errors


def _seconds(scoring: Scoring, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    _wait(batches[0][0])
    start = time.perf_counter()
    for images, labels in batches:
        scoring(images, labels)
    _wait(batches[0][0])
    return time.perf_counter() - start


def _wait(images: torch.Tensor) -> None:
    """Wait for what was queued on an accelerator."""
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def _ratio(pairs: list[tuple[float, float]]) -> Ratio:
    dense, slim = zip(*pairs, strict=True)
    return latency_ratio(
        [[[round(one * 1e9)]] for one in dense], [[[round(one * 1e9)]] for one in slim]
    )


def _memory_elsewhere(
    case: Case, methods: tuple[str, ...], settings: Settings
) -> Mapping[str, float]:
    """Return each method's peak memory in MB, measured in a process of its own."""
    command = [sys.executable, __file__, "--only-memory", "--model", case.name]
    for name, value in vars(settings).items():
        command += [f"--{name}", str(value)]
    for name in methods:
        command += ["--method", name]
    found = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}
    )
    measured: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return measured


def _memory(case: Case, methods: tuple[str, ...], settings: Settings) -> dict[str, float]:
    """Return what one batch takes at its peak above what was held before it, in MB."""
    batch = case.images(settings.batch, settings.device)
    subject = Subject(model=case.model(settings.device), images=batch[0])
    found = {}
    for name in methods:
        scoring = METHODS[name].make(subject)
        scoring(*batch)
        before = _reset_peak(settings.device)
        scoring(*batch)
        found[name] = (_peak(settings.device) - before) / 1e6
    return found


def _reset_peak(device: str) -> int:
    """Start measuring the peak anew; return the bytes held now."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak(device: str) -> int:
    """Return the most bytes held since the peak was reset."""
    return (
        torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else _status("VmHWM")
    )


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _peer(case: Case, python: Path, images: int, limit: float, settings: Settings) -> Peer:
    """Run dl-backtrace in its own environment."""
    with case.stored(images, settings.rounds, settings.threads, settings.device) as folder:
        try:
            done = subprocess.run(
                [python, BACKTRACE, folder],
                check=False,
                capture_output=True,
                text=True,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            return Peer(images=images, error=f"not finished after {limit:g} s", versions={})
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.splitlines() or ["no output"])[-1]
        return Peer(images=images, error=reason, versions={})
    facts: dict[str, Any] = json.loads(lines[-1])
    if "error" in facts:
        return Peer(images=images, error=facts["error"], versions=facts["versions"])
    return Peer(images=images, ratio=_ratio(facts["seconds"]), versions=facts["versions"])


def _command() -> str:
    """Return the command without paths of this machine."""
    given = [
        "ENV/bin/python" if before == "--backtrace-python" else argument
        for before, argument in zip(sys.argv, sys.argv[1:], strict=False)
    ]
    return shlex.join(["python", "benchmarks/peers/attribution_cost.py", *given])


def _setting(settings: Settings) -> str:
    packages = ("torch", "timm", "captum", "zennit")
    where = (
        torch.cuda.get_device_name(settings.device)
        if settings.device.startswith("cuda")
        else f"{settings.threads} thread(s) on {platform.machine()}"
    )
    return f"{', '.join(f'{p} {version(p)}' for p in packages)}; {where}"


if __name__ == "__main__":
    try:
        main()
    except EdgepruneError as error:
        raise SystemExit(f"error: {error}") from None
