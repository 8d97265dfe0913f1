"""The options of ``score`` and ``explain``, which look at the units of a trained model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from edgeprune.grouped_command import GroupedCommand
from edgeprune.option_types import names
from edgeprune.pipeline.settings import AGGREGATES, SAMPLERS
from edgeprune.pipeline.unit_settings import ScoreSettings, Subject

_FILE: Final = click.Path(path_type=Path)
_SUBJECT: Final = ("model", "data", "weights", "image_size", "output", "skip_corrupt", "seed")

SCORE_EXAMPLES: Final = """\b
Examples:
  edgeprune score edgeprune-out
      the dense model of a bundle that was made from phantoms
  edgeprune score resnet18 --weights mine.safetensors --data images/ --out scores/
      a model of your own, on ten training images of each class
  edgeprune score edgeprune-out --data images/ --criterion lrp --out lrp.csv
      by another criterion, and only the table
"""

MODEL: Final = click.Argument(["model"])

SUBJECT_OPTIONS: Final = (
    click.Option(
        ["--data"],
        metavar="PATH",
        help="The images: class folders, a .csv, a .npz, or phantoms; see `edgeprune compress "
        "--help`.  [default: for a bundle made from phantoms, those]",
    ),
    click.Option(
        ["--weights"],
        type=_FILE,
        metavar="FILE",
        help="Weights of a model by name: .safetensors, or a state dict (.pt, .pth).",
    ),
    click.Option(
        ["--image-size"],
        type=int,
        metavar="PIXELS",
        help="Edge of its input.  [default: the model's own]",
    ),
    click.Option(
        ["--output"],
        metavar="NAME|INDEX",
        help="Which of its outputs holds the logits, if it gives several.",
    ),
    click.Option(
        ["--skip-corrupt"],
        is_flag=True,
        help="Leave out images that cannot be read instead of stopping.",
    ),
)
SEED: Final = click.Option(
    ["--seed"],
    type=int,
    metavar="N",
    help="Of everything random, and of splits that are not given.  [default: the bundle's, or 0]",
)
AS_JSON: Final = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON.")

SCORE_OPTIONS: Final[Mapping[str, tuple[click.Option, ...]]] = {
    "Model and images": SUBJECT_OPTIONS,
    "How units are scored": (
        click.Option(
            ["--criterion"],
            metavar="NAME",
            default="taylor",
            show_default=True,
            help="What a score is, see below; settings go behind a colon, as lrp:rule=gamma.",
        ),
        click.Option(
            ["--sampler"],
            metavar="NAME",
            default="cluster",
            show_default=True,
            help=f"Which training images are looked at: {', '.join(SAMPLERS)}.",
        ),
        click.Option(
            ["--per-class"],
            type=int,
            metavar="N",
            default=10,
            show_default=True,
            help="How many of them per class.",
        ),
        click.Option(
            ["--aggregate"],
            metavar="NAME",
            default="absolute",
            show_default=True,
            help=f"How images are summed: {', '.join(AGGREGATES)}.",
        ),
        click.Option(
            ["--batch-size"],
            type=int,
            metavar="N",
            default=16,
            show_default=True,
            help="Images at once; fewer take less memory.",
        ),
    ),
    "Run": (
        click.Option(
            ["--out"],
            type=_FILE,
            metavar="DIR|FILE",
            default=Path("edgeprune-scores"),
            show_default=True,
            help="A new folder for the table, a page of plots and the stored scores; or a .csv or "
            ".parquet file for the table alone.",
        ),
        click.Option(
            ["--format", "formats"],
            type=names,
            metavar="NAMES",
            default="parquet",
            show_default=True,
            help="The table in the folder: parquet, csv, or both with a comma.",
        ),
        AS_JSON,
        SEED,
    ),
}


class ScoreCommand(GroupedCommand):
    """``score``, its options under headings."""

    sections = SCORE_OPTIONS


def subject_of(asked: Mapping[str, Any]) -> Subject:
    """Return which model and images a command line asks for."""
    return Subject(**{name: asked[name] for name in _SUBJECT})


def score_settings(asked: Mapping[str, Any]) -> ScoreSettings:
    """Return what a command line asks ``score`` for."""
    own = ("criterion", "sampler", "per_class", "aggregate", "batch_size", "formats")
    return ScoreSettings(subject=subject_of(asked), **{name: asked[name] for name in own})


def parameters(
    sections: Mapping[str, tuple[click.Option, ...]], *arguments: click.Argument
) -> list[click.Parameter]:
    """Return all parameters of a command."""
    return [*arguments, *(option for options in sections.values() for option in options)]
