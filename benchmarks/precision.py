"""What precision adds to pruning: dense and slim at fp32, fp16 and int8, in one run.

For each bundle that ``compress`` wrote: the dense model and the slim one are
exported at each precision, judged on the test split as they will be timed, and
all of them timed in turns at batch 1. Every row is compared with dense fp32.
Artifacts and accuracy are kept in the work folder, so that times can be taken
again, on a quiet machine, without them being made again.

    python benchmarks/precision.py --case slim-resnet50/ mednist.npz --write
"""

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from edgeprune.console import RichReporter
from edgeprune.errors import EdgepruneError
from edgeprune_benchmarks.measurement import MeasureSettings, Subject
from edgeprune_benchmarks.statistics import Ratio, latency_ratio
from precision_artifacts import FORMATS, Made, prepare
from precision_case import Case, open_case
from precision_turns import Entry, Timed, Turns, take_turns
from results_file import write_section

TIMED_IMAGES: Final = 8
HEAD: Final = (
    "| artifact | layers run in | latency, ms | times faster [95 %] | accuracy | points [95 %] "
    "| other calls | MB | kept at a higher precision |\n|---|---|---|---|---|---|---|---|---|"
)
EXPLAINED: Final = """\
All artifacts of a table are timed in turns in one run, in fresh processes each round, at batch 1.
*Times faster* is against dense fp32, with a 95 % interval over rounds. *Layers run in* is what
the runtime reports of the kernels of layers with weights: OpenVINO widens the weights of an fp16
file when it loads them. Accuracy is that of the artifact itself on the test split, *points* its
difference from dense fp32 on the same images, and *other calls* the share of images that the two
call differently."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One artifact against dense fp32."""

    made: Made
    timed: Timed
    ratio: Ratio

    def markdown(self) -> str:
        """Return the row of the table."""
        made, ratio = self.made, self.ratio
        faster = f"{1 / ratio.value:.2f} [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"
        points = f"{made.points:+.2f} [{made.low:+.2f}, {made.high:+.2f}]"
        cells = (
            made.variant.name,
            self.timed.runs_in,
            f"{self.timed.median_ms:.2f}",
            faster,
            f"{100 * made.accuracy:.2f} %",
            points,
            f"{100 * made.disagreement:.2f} %",
            f"{made.size / 1e6:.1f}",
            "; ".join(f"{count} {kind}" for kind, count in made.kept.items()) or "none",
        )
        return f"| {' | '.join(cells)} |"


@click.command()
@click.option(
    "--case",
    "cases",
    nargs=2,
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="A bundle, and the data it was made from; may be given several times.",
)
@click.option(
    "--runtime", "runtimes", multiple=True, default=tuple(FORMATS), type=click.Choice(list(FORMATS))
)
@click.option("--max-drop", default=1.0, show_default=True, help="Points that int8 may cost.")
@click.option("--rounds", default=4, show_default=True, help="Fresh processes of each artifact.")
@click.option("--threads", default=1, show_default=True)
@click.option("--work", default=Path("build/precision"), show_default=True, type=Path)
@click.option("--prepare-only", is_flag=True, help="Only make and judge what the folder lacks.")
@click.option("--write", is_flag=True, help="Update benchmarks/RESULTS.md.")
def main(  # noqa: PLR0917 - click passes options by name
    cases: tuple[tuple[Path, Path], ...],
    runtimes: tuple[str, ...],
    max_drop: float,
    rounds: int,
    threads: int,
    work: Path,
    prepare_only: bool,
    write: bool,
) -> None:
    """Measure latency and accuracy of dense and slim at each precision."""
    reporter = RichReporter(Console(stderr=True))
    settings = MeasureSettings(
        threads=threads, rounds=rounds, blocks=6, block_seconds=0.15, warmup_seconds=0.25
    )
    parts = []
    for bundle, data in cases:
        case = open_case(bundle, data, reporter)
        for runtime in runtimes:
            place = work / bundle.name / runtime
            made = prepare(case, runtime, place, max_drop=max_drop, reporter=reporter)
            if prepare_only:
                continue
            reporter.stage(f"{case.name}: {len(made)} artifacts in turns in {runtime}")
            images = next(case.test.batches(TIMED_IMAGES))
            turns = take_turns(_entries(made, place, runtime), images, settings, reporter)
            parts.append(table(case.name, runtime, slim_words(case), made, turns))
            click.echo(parts[-1])
    if write and parts:
        write_section("precision", section(parts, max_drop, settings))


def _entries(made: Sequence[Made], place: Path, runtime: str) -> list[Entry]:
    """Return what is timed, in the order of the table."""
    return [
        Entry(
            subject=Subject(name=each.variant.name, artifact=place / each.file, backend=runtime),
            arithmetic=each.variant.arithmetic,
        )
        for each in made
    ]


def slim_words(case: Case) -> str:
    """Say how slim was made."""
    return f"Slim: `compress {case.options}`, which left {case.macs:.3f} of the MACs."


def table(name: str, runtime: str, slim: str, made: Sequence[Made], turns: Turns) -> str:
    """Return heading, table, notes and doubts; the first artifact is what others are held against.

    slim: how it was made, as a sentence.
    """
    first = turns.timed[0]
    rows = [
        Row(made=each, timed=timed, ratio=latency_ratio(first.blocks, timed.blocks))
        for each, timed in zip(made, turns.timed, strict=True)
    ]
    return "\n\n".join(
        (
            f"### {name}, {runtime} {first.version}",
            slim,
            "\n".join((HEAD, *(row.markdown() for row in rows))),
            *notes(made),
            *([f"Doubts: {'; '.join(turns.doubts)}."] if turns.doubts else []),
        )
    )


def notes(made: Sequence[Made]) -> Iterator[str]:
    """Give each note of the exports once, as a list, with the artifacts that it is of."""
    said: dict[str, dict[str, None]] = {}
    for each in made:
        file = f"{each.variant.model} {each.variant.precision}"
        for note in each.notes:
            said.setdefault(note, {})[file] = None
    if said:
        yield "\n".join(f"- {', '.join(files)}: {note}" for note, files in said.items())


def section(parts: Iterable[str], max_drop: float, settings: MeasureSettings) -> str:
    """Return the whole section of the results."""
    command = (
        "python benchmarks/precision.py --case BUNDLE DATA … "
        f"--max-drop {max_drop:g} --rounds {settings.rounds} --threads {settings.threads} --write"
    )
    threads = f"{settings.threads} thread{'s' * (settings.threads != 1)}"
    setting = f"`{command}`, {threads} on {platform.machine()}."
    return "\n\n".join(("## Precision", setting, EXPLAINED, *parts))


if __name__ == "__main__":
    try:
        main()
    except EdgepruneError as error:
        raise SystemExit(f"error: {error}") from None
