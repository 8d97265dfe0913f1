"""The options of ``score`` and ``explain``, which look at the units of a trained model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from edgeprune.grouped_command import GroupedCommand
from edgeprune.option_types import names
from edgeprune.pipeline.settings import AGGREGATES, SAMPLERS
from edgeprune.pipeline.unit_settings import SPLITS, ExplainSettings, ScoreSettings, Subject

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

EXPLAIN_EXAMPLES: Final = """\b
Examples:
  edgeprune explain layer1.0.conv1:17
      of the dense model behind edgeprune-out, where compress put its bundle
  edgeprune explain blocks.3.mlp.fc1:200 slim/ --data images/ --split val
      of another bundle, with images of your own
  edgeprune explain layer4.1.conv2:5 resnet18 --weights mine.safetensors \\
      --data images/ --scores edgeprune-scores/
      of a model by name, with the scores that `edgeprune score` wrote
"""

MODEL: Final = click.Argument(["model"])
UNIT: Final = click.Argument(["unit"])
BUNDLE_OR_MODEL: Final = click.Argument(["model"], required=False, default="edgeprune-out")

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

EXPLAIN_OPTIONS: Final[Mapping[str, tuple[click.Option, ...]]] = {
    "Model and images": (
        *SUBJECT_OPTIONS,
        click.Option(
            ["--split"],
            metavar="NAME",
            default="test",
            show_default=True,
            help=f"Whose images are looked at: {', '.join(SPLITS)}.",
        ),
        click.Option(
            ["--images"],
            type=int,
            metavar="N",
            default=500,
            show_default=True,
            help="How many of them at most, in turns from each class.",
        ),
    ),
    "What to show": (
        click.Option(
            ["--top"],
            type=int,
            metavar="N",
            default=8,
            show_default=True,
            help="Images of each kind.",
        ),
        click.Option(
            ["--criterion"],
            metavar="NAME",
            default="taylor",
            show_default=True,
            help="What attributes an image's decision to the unit.",
        ),
        click.Option(
            ["--scores"],
            type=_FILE,
            metavar="DIR",
            help="A folder that `edgeprune score` wrote.  [default: the bundle's own]",
        ),
    ),
    "Run": (
        click.Option(
            ["--out"],
            type=_FILE,
            metavar="FILE",
            help="The page to write.  [default: GROUP-INDEX.html here]",
        ),
        click.Option(
            ["--batch-size"],
            type=int,
            metavar="N",
            default=16,
            show_default=True,
            help="Images at once; fewer take less memory.",
        ),
        AS_JSON,
        SEED,
    ),
}


class ScoreCommand(GroupedCommand):
    """``score``, its options under headings."""

    sections = SCORE_OPTIONS


class ExplainCommand(GroupedCommand):
    """``explain``, its options under headings."""

    sections = EXPLAIN_OPTIONS


def subject_of(asked: Mapping[str, Any]) -> Subject:
    """Return which model and images a command line asks for."""
    return Subject(**{name: asked[name] for name in _SUBJECT})


def score_settings(asked: Mapping[str, Any]) -> ScoreSettings:
    """Return what a command line asks ``score`` for."""
    own = ("criterion", "sampler", "per_class", "aggregate", "batch_size", "formats")
    return ScoreSettings(subject=subject_of(asked), **{name: asked[name] for name in own})


def explain_settings(asked: Mapping[str, Any]) -> ExplainSettings:
    """Return what a command line asks ``explain`` for."""
    own = ("unit", "criterion", "split", "images", "top", "batch_size", "scores")
    return ExplainSettings(subject=subject_of(asked), **{name: asked[name] for name in own})


def page_of(unit: str) -> Path:
    """Return the default name of a unit's page, without what a file's name may not hold."""
    return Path(re.sub(r"[^\w.-]+", "-", unit) + ".html")


def parameters(
    sections: Mapping[str, tuple[click.Option, ...]], *arguments: click.Argument
) -> list[click.Parameter]:
    """Return all parameters of a command."""
    return [*arguments, *(option for options in sections.values() for option in options)]
