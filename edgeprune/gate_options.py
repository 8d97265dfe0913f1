"""The options of ``gate``."""

from collections.abc import Mapping
from typing import Any, Final

import click

from edgeprune.grouped_command import GroupedCommand
from edgeprune.measure_options import (
    DEVICE,
    FILE,
    PRECISION,
    QUICK,
    ROUNDS,
    RUNTIME,
    SEED,
    SKIP_CORRUPT,
)
from edgeprune.pipeline.gate_settings import GateSettings

_OWN: Final = (
    *("candidate", "baseline", "update", "against", "data", "skip_corrupt", "runtime"),
    *("precision", "threads", "batch", "device", "max_slowdown", "max_drop", "max_class_drop"),
    *("max_growth", "memory_growth", "exact", "noise_floor", "aa", "rounds", "quick"),
    *("cross_machine", "seed"),
)


def percent(value: object) -> float:
    """Read a share as ``2%`` or ``2``, both 0.02; percentage points are read alike."""
    if isinstance(value, float):  # click converts defaults again
        return value
    try:
        return float(str(value).strip().removesuffix("%")) / 100
    except ValueError:
        raise click.BadParameter(f"'{value}' is no number of per cent, as 2%.") from None


CANDIDATE: Final = click.Argument(["candidate"], type=FILE)

GATE_EXAMPLES: Final = """\b
Examples:
  edgeprune gate slim/ --baseline gate.json --update --data images/
      write what later candidates are held against, and commit it
  edgeprune gate slim/ --baseline gate.json --data images/
      counts, sizes, memory and accuracy; runs anywhere, and needs no other artifact
  edgeprune gate slim/ --baseline gate.json --against main/ --junit gate.xml
      the speed as well: both are measured in turns, here and now
  edgeprune gate new.onnx --against old.onnx --max-slowdown 5% --quick
      speed only, of any two files
  edgeprune gate bench/bench.json
      judge what `edgeprune bench` has stored

\b
Exit codes; of several findings, the first in this order counts:
  5  integrity     files of a bundle are not those it lists, a file that cannot be read,
                   or, with --exact, not the baseline's
  4  accuracy      it fell by more than is allowed, and not by chance
  1  regression    counts, sizes or memory grew, or it is slower, as measured twice
  3  inconclusive  too noisy or too few images to tell, or it could not be measured
  0  passed
  2  usage         options that do not fit, or a baseline that cannot be read

\b
Time is judged only between two artifacts that are measured in turns in the same job.
In GitHub Actions, findings also become annotations and a job summary.
"""

GATE_OPTIONS: Final[Mapping[str, tuple[click.Option, ...]]] = {
    "What it is held against": (
        click.Option(
            ["--baseline"],
            type=FILE,
            metavar="FILE",
            help="Counts, hashes, memory and decisions, as --update writes them.",
        ),
        click.Option(
            ["--update"],
            is_flag=True,
            help="Write --baseline from CANDIDATE, say what changes, and judge nothing.",
        ),
        click.Option(
            ["--against"],
            type=FILE,
            metavar="BUNDLE|FILE",
            help="What CANDIDATE's time is measured against; for a record, an earlier one.",
        ),
        click.Option(
            ["--data"],
            metavar="PATH",
            help="Images whose test split accuracy is judged on: class folders, a .csv, a .npz, "
            "or phantoms.",
        ),
        SKIP_CORRUPT,
    ),
    "What is allowed": (
        click.Option(
            ["--max-slowdown"],
            type=percent,
            metavar="PERCENT",
            default="2%",
            show_default=True,
            help="Of the time of --against. Within the machine's noise floor nothing fails.",
        ),
        click.Option(
            ["--max-drop"],
            type=percent,
            metavar="POINTS",
            default="1",
            show_default=True,
            help="Of accuracy.",
        ),
        click.Option(
            ["--max-class-drop"],
            type=percent,
            metavar="POINTS",
            default="5",
            show_default=True,
            help="Of the sensitivity (and, with several findings per image, specificity) of each "
            "class.",
        ),
        click.Option(
            ["--max-growth"],
            type=percent,
            metavar="PERCENT",
            help="Of multiply-accumulates, parameters, bytes and operators.  [default: the "
            "baseline's, at first 1%]",
        ),
        click.Option(
            ["--memory-growth"],
            type=percent,
            metavar="PERCENT",
            help="Of peak memory.  [default: the baseline's, at first 5%]",
        ),
        click.Option(
            ["--exact"], is_flag=True, help="Fail unless every file is the baseline's, to the byte."
        ),
        click.Option(
            ["--inconclusive"],
            type=click.Choice(["fail", "pass"]),
            default="fail",
            show_default=True,
            help="Whether what cannot be told ends with exit code 3 or 0.",
        ),
        click.Option(
            ["--allow-cross-machine", "cross_machine"],
            is_flag=True,
            help="Compare peak memory with a baseline of another machine.",
        ),
    ),
    "Where and how": (
        RUNTIME,
        PRECISION,
        DEVICE,
        click.Option(
            ["--threads"], type=int, metavar="N", help="CPU threads.  [default: the bundle's, or 1]"
        ),
        click.Option(
            ["--batch"],
            type=int,
            metavar="N",
            default=1,
            show_default=True,
            help="Images at a time.",
        ),
        ROUNDS,
        QUICK,
        click.Option(
            ["--aa"],
            is_flag=True,
            help="Measure CANDIDATE against itself first: this machine's noise floor.",
        ),
        click.Option(
            ["--noise-floor"],
            type=percent,
            metavar="PERCENT",
            help="At least this much, beside what --aa or `bench --aa` measured here.",
        ),
    ),
    "Run": (
        click.Option(["--junit"], type=FILE, metavar="FILE", help="Write JUnit XML."),
        click.Option(["--markdown"], type=FILE, metavar="FILE", help="Write Markdown."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON."),
        SEED,
    ),
}


class GateCommand(GroupedCommand):
    """``gate``, its options under headings."""

    sections = GATE_OPTIONS


def gate_settings(asked: Mapping[str, Any]) -> GateSettings:
    """Return what a command line asks ``gate`` for."""
    accept = asked["inconclusive"] == "pass"
    return GateSettings(accept_inconclusive=accept, **{name: asked[name] for name in _OWN})
