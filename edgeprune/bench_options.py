"""The options of ``bench``."""

from collections.abc import Mapping
from pathlib import Path
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
from edgeprune.pipeline.bench_settings import BenchSettings

FORMS: Final = ("table", "markdown", "json", "junit", "dashboard")
_OWN: Final = (
    *("a", "b", "data", "skip_corrupt", "runtime", "precision", "threads", "batches"),
    *("device", "cuda_graph", "cpus", "idle", "rounds", "quick", "aa", "layers", "target", "seed"),
)


def numbers(value: object) -> tuple[int, ...]:
    """Read whole numbers with commas between them."""
    if isinstance(value, tuple):  # click converts defaults again
        return value
    try:
        return tuple(int(each) for each in str(value).split(",") if each.strip())
    except ValueError:
        raise click.BadParameter(f"'{value}' is no list of whole numbers, as 1,2,4.") from None


def files(value: object) -> tuple[Path, ...]:
    """Read names of files with commas between them."""
    if isinstance(value, tuple):
        return value
    return tuple(Path(name.strip()) for name in str(value).split(",") if name.strip())


A: Final = click.Argument(["a"], type=FILE)
B: Final = click.Argument(["b"], type=FILE, required=False)

BENCH_EXAMPLES: Final = """\b
Examples:
  edgeprune bench edgeprune-out
      a bundle: its slim model against its dense one, in the runtime it was made for
  edgeprune bench old/ new/ --data images/ --threads 1,4 --batch 1,8 --out bench/
      two bundles in four cases, their accuracy on your test images, all of it kept
  edgeprune bench before.onnx after.onnx --runtime openvino
      any two files
  edgeprune bench edgeprune-out --aa
      how well this machine can tell: an artifact against itself; later runs use it
  edgeprune bench edgeprune-out --layers
      why it is not faster: where the work that was cut did not become time
  edgeprune bench dense/tensorrt slim/tensorrt --device ssh://me@jetson
      on another device, which needs Python, numpy and the runtime, but no edgeprune;
      engines are built there

\b
A and B are each one of:
  a folder         a bundle that `edgeprune compress` wrote, or a recipe for TensorRT
  .onnx .xml       for ONNX Runtime or OpenVINO
  .pt2 .plan       what torch.export.save wrote; an engine of TensorRT beside its recipe

\b
What comes out is B's time over A's, with an interval of 95 %: below 1, B is faster.
An interval that reaches 1, or the noise floor around it, is "not distinguishable".
"""

BENCH_OPTIONS: Final[Mapping[str, tuple[click.Option, ...]]] = {
    "What is measured": (
        RUNTIME,
        PRECISION,
        click.Option(
            ["--data"],
            metavar="PATH",
            help="Images whose test split accuracy is measured on: class folders, a .csv, a .npz, "
            "or phantoms.  [default: what a bundle's record says is shown]",
        ),
        SKIP_CORRUPT,
        click.Option(
            ["--layers"], is_flag=True, help="Compare layer by layer as well, in the first case."
        ),
        click.Option(
            ["--trtexec"],
            type=files,
            nargs=2,
            metavar="FILE,… FILE,…",
            help="Compare layer by layer what trtexec exported of A and of B (profile, layer info, "
            "times), where nothing else can time them; nothing is measured.",
        ),
        click.Option(
            ["--target"],
            metavar="NAME|FILE",
            help="Take threads and the roofline of --layers from this device, and its runtime "
            "where that loads the files.",
        ),
    ),
    "Where and how": (
        DEVICE,
        click.Option(
            ["--threads"],
            type=numbers,
            metavar="N,…",
            default="",
            help="CPU threads, one case each.  [default: the bundle's or target's, else 1]",
        ),
        click.Option(
            ["--batch", "batches"],
            type=numbers,
            metavar="N,…",
            default="1",
            show_default=True,
            help="Images at a time, one case each.",
        ),
        click.Option(
            ["--cpus"],
            type=numbers,
            metavar="N,…",
            help="Run on these processors only.  [default: the device chooses, and says which]",
        ),
        click.Option(
            ["--idle"],
            type=float,
            metavar="SECONDS",
            default=0.0,
            help="Rest before every inference, as between the patients of a clinic.",
        ),
        click.Option(
            ["--cuda-graph"], is_flag=True, help="Replay a captured graph, on a GPU with torch."
        ),
    ),
    "How much": (
        ROUNDS,
        QUICK,
        click.Option(
            ["--aa"],
            is_flag=True,
            help="Measure A against itself first, and keep it as this machine's noise floor.",
        ),
    ),
    "Run": (
        click.Option(
            ["--out"],
            type=FILE,
            metavar="DIR",
            help="A new folder: bench.json with all samples, bench.md, junit.xml, dashboard.json.",
        ),
        click.Option(["--resume"], is_flag=True, help="Continue what was interrupted in --out."),
        click.Option(
            ["--format", "form"],
            type=click.Choice(FORMS),
            default="table",
            show_default=True,
            help="What is printed; dashboard is customSmallerIsBetter.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="The same as --format json."),
        SEED,
    ),
}


class BenchCommand(GroupedCommand):
    """``bench``, its options under headings."""

    sections = BENCH_OPTIONS


def bench_settings(asked: Mapping[str, Any]) -> BenchSettings:
    """Return what a command line asks ``bench`` for."""
    return BenchSettings(**{name: asked[name] for name in _OWN})


def form_of(asked: Mapping[str, Any]) -> str:
    """Return the form in which a command line wants the results."""
    return "json" if asked["as_json"] else str(asked["form"])
