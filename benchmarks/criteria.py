"""Accuracy without recovery, by criterion: what is lost as units go that count least.

Networks are trained in the run. Every criterion scores the same images, and
units go under global, per-group and per-cost ranking, 10 to 90 % of them;
Torch-Pruning's own criteria are pruned by itself in the same run. Each case of
network, data and seed is a process of one thread. Results are kept in a work
folder as they come, so an interrupted run goes on where it stopped. Needs a
checkout that is installed with ``pip install -e '.[test,peers]'``.

    python benchmarks/criteria.py --write
"""

import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from criteria_cases import Case, Places, chosen_cases
from criteria_report import Report
from criteria_results import read_results
from criteria_rows import NAMES, PEERS
from criteria_worker import Job, work
from edgeprune.errors import EdgepruneError, MeasureError, UsageError
from results_file import write_section

ROOT: Final = Path(__file__).parents[1]


@click.command()
@click.option("--models", default="", help="Names, separated by commas; default: all.")
@click.option("--data", default="", help="Likewise. With --models: every pair of the two.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option(
    "--criteria", default="", help="Names of rows, separated by semicolons; default: all."
)
@click.option("--rates", default="10,20,30,40,50,60,70,80,90", show_default=True, help="Percent.")
@click.option("--images", default=192, show_default=True, help="For the test, at most.")
@click.option("--data-dir", default=str(ROOT.parent / "shared" / "data"), help="Files of images.")
@click.option("--work", default="build/criteria", show_default=True, help="Folder of results.")
@click.option("--workers", default=4, show_default=True, help="Processes at a time.")
@click.option("--time-limit", default=0.0, help="Minutes; no criterion is begun later. 0: none.")
@click.option("--train-only", is_flag=True, help="Only train what the work folder lacks.")
@click.option("--fresh", is_flag=True, help="Repeat all but the training.")
@click.option("--write", is_flag=True, help="Update benchmarks/RESULTS.md.")
def main(  # noqa: PLR0917 - click passes options by name
    models: str,
    data: str,
    seeds: str,
    criteria: str,
    rates: str,
    images: int,
    data_dir: str,
    work: str,
    workers: int,
    time_limit: float,
    train_only: bool,
    fresh: bool,
    write: bool,
) -> None:
    """Compare criteria on networks that are trained in the run."""
    if train_only and write:
        raise UsageError("--train-only measures nothing that --write could write: give one of them")
    places = Places(data=Path(data_dir), work=Path(work).resolve())
    jobs = [
        Job(
            case=case,
            places=places,
            rows=() if train_only else _rows(criteria, case),
            rates=tuple(percent / 100 for percent in _whole(rates)),
            images=images,
            deadline=time.time() + 60 * time_limit if time_limit else float("inf"),
        )
        for case in chosen_cases(_names(models), _names(data), _whole(seeds))
        if _present(case, places)
    ]
    if not jobs:
        raise UsageError("no case is left: give other --models or --data, or --data-dir")
    if fresh:
        _forget(jobs)
    if missing := _run(jobs, workers):
        click.echo(f"{missing} rows are missing", err=True)
    if not train_only:
        _show(Report(results=read_results(jobs), setting=_setting(images, workers)), write)


def _show(report: Report, write: bool) -> None:
    click.echo(report.text())
    if write:
        _write(report)


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())


def _whole(given: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in _names(given))
    except ValueError:
        raise UsageError(f"'{given}': give whole numbers, separated by commas") from None


def _present(case: Case, places: Places) -> bool:
    """Say whether the files of a case are there; say which one is not."""
    reason = places.lacks(case)
    if reason is not None:
        click.echo(f"{case.name} is left out: {reason} (--data-dir)", err=True)
    return reason is None


def _forget(jobs: Sequence[Job]) -> None:
    """Remove results, but not trained networks."""
    for job in jobs:
        for path in job.places.of(job.case).glob("*.json"):
            path.unlink()


def _rows(given: str, case: Case) -> tuple[str, ...]:
    known = (*NAMES, *PEERS)
    wanted = tuple(name.strip() for name in given.split(";") if name.strip()) or known
    if unknown := sorted(set(wanted) - set(known)):
        raise UsageError(
            f"--criteria {'; '.join(unknown)}: not known; there are {'; '.join(known)}"
        )
    return tuple(name for name in wanted if name in PEERS or NAMES[name].suits(case))


def _run(jobs: Sequence[Job], workers: int) -> int:
    """Do all jobs, several at a time; return how many rows are missing in the end."""
    missing, started = 0, time.monotonic()
    # Fresh processes: what one case leaves in memory is not the next one's concern.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    )
    with pool:
        futures = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                missing += future.result()
            except BrokenProcessPool:
                raise MeasureError(
                    "a process was ended from outside, mostly for want of memory: what is done is "
                    "kept, run again with fewer --workers"
                ) from None
            except EdgepruneError as error:
                missing += len(futures[future].rows)
                click.echo(f"{futures[future].case.name}: {error}", err=True)
    click.echo(f"{(time.monotonic() - started) / 60:.1f} minutes", err=True)
    return missing


def _setting(images: int, workers: int) -> str:
    packages = ("torch", "timm", "captum", "torch-pruning")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{versions}; at most {images} test images, {workers} processes of one thread, "
        f"{os.cpu_count()} cores"
    )


def _write(report: Report) -> None:
    """Put the section between its marks, or at the end."""
    command = shlex.join(["python", "benchmarks/criteria.py", *_public(sys.argv[1:])])
    text = f"## Criteria\n\n`{command}`: {report.setting}.\n\n{report.text()}"
    write_section("criteria", text)


def _public(arguments: Sequence[str]) -> list[str]:
    """Drop folders: where they lie is no one else's concern."""
    hidden = ("--work", "--data-dir")
    pairs = zip(["", *arguments], arguments, strict=False)
    return [
        argument
        for before, argument in pairs
        if before not in hidden and argument.partition("=")[0] not in (*hidden, "--fresh")
    ]


if __name__ == "__main__":
    try:
        main()
    except EdgepruneError as error:
        raise SystemExit(f"error: {error}") from None
