"""The commands that measure and judge: ``bench`` and ``gate``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console

from edgeprune.bench_options import (
    BENCH_EXAMPLES,
    BENCH_OPTIONS,
    A,
    B,
    BenchCommand,
    bench_settings,
    form_of,
)
from edgeprune.console import RichReporter
from edgeprune.errors import EdgepruneError
from edgeprune.failing import fail, one_line_on_interrupt
from edgeprune.gate_options import (
    CANDIDATE,
    GATE_EXAMPLES,
    GATE_OPTIONS,
    GateCommand,
    gate_settings,
)
from edgeprune.unit_options import parameters

UNJUDGED: Final = 3  # exit code of a gate that could not judge


@click.command(cls=BenchCommand, params=parameters(BENCH_OPTIONS, A, B), epilog=BENCH_EXAMPLES)
@click.pass_context
def bench(context: click.Context, /, **_options: object) -> None:
    """Measure B against A: latency, memory, energy and accuracy.

    Both are measured in turns, each in fresh processes of its own, so that whatever
    changes on the machine changes for both. Without B, A is a bundle, whose slim
    model is measured against its dense one.
    """
    asked = context.params
    settings, form = bench_settings(asked), form_of(asked)
    kept = "what is complete is kept; --resume continues" if asked["out"] else "nothing was kept"
    with one_line_on_interrupt(f"interrupted: {kept}"):
        from edgeprune.bench_listing import bench_text, exported_text, print_bench
        from edgeprune.pipeline import bench as run

        if asked["trtexec"]:
            click.echo(exported_text(asked, form))
            return
        reporter = RichReporter(Console(stderr=True))
        found = run(settings, out=asked["out"], resume=asked["resume"], reporter=reporter)
    if form == "table":
        print_bench(found, Console())
    else:
        click.echo(bench_text(found, form))


@click.command(cls=GateCommand, params=parameters(GATE_OPTIONS, CANDIDATE), epilog=GATE_EXAMPLES)
@click.pass_context
def gate(context: click.Context, /, **_options: object) -> int:
    """Decide whether CANDIDATE is worse than what was agreed.

    CANDIDATE is a bundle, an artifact (.onnx, .xml, .pt2, .plan), or what `bench` or
    `compress` stored. Counts, sizes, hashes and memory are held against a committed
    baseline, accuracy against its decisions image by image, and time against another
    artifact that is measured in turns with it.
    """
    asked = context.params
    settings = gate_settings(asked)
    with one_line_on_interrupt("interrupted: nothing was judged"), _never_a_regression():
        from edgeprune.gate_listing import gate_json, gate_lines, tell_github, write_reports
        from edgeprune.pipeline import gate as run

        found = run(settings, reporter=RichReporter(Console(stderr=True)))
        write_reports(found, junit_file=asked["junit"], markdown_file=asked["markdown"])
        click.echo(gate_json(found) if asked["as_json"] else "\n".join(gate_lines(found)))
        for line in tell_github(found, os.environ):
            click.echo(line, err=asked["as_json"])
    return found.exit_code


@contextmanager
def _never_a_regression() -> Iterator[None]:
    """Give an error that keeps a gate from judging the exit code for that, not that of failing."""
    try:
        yield
    except EdgepruneError as error:
        if error.exit_code != EdgepruneError.exit_code:
            raise
        fail(str(error), UNJUDGED)
