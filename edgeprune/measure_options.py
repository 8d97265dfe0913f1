"""Options that ``bench`` and ``gate`` share."""

from pathlib import Path
from typing import Final

import click

from edgeprune.targets.target import PRECISIONS

RUNTIMES: Final = ("openvino", "onnxruntime", "tensorrt", "torch")
FILE: Final = click.Path(path_type=Path)

RUNTIME: Final = click.Option(
    ["--runtime"],
    metavar="NAME",
    help=f"To run in: {', '.join(RUNTIMES)}.  [default: what each is for]",
)
PRECISION: Final = click.Option(
    ["--precision"],
    metavar="NAME",
    help=f"Which artifact of a bundle: {', '.join(PRECISIONS)}.  [default: the target's]",
)
SKIP_CORRUPT: Final = click.Option(
    ["--skip-corrupt"],
    is_flag=True,
    help="Leave out images that cannot be read instead of stopping.",
)
DEVICE: Final = click.Option(
    ["--device"],
    metavar="DEVICE",
    default="cpu",
    show_default=True,
    help="cpu, cuda:0, or another machine as ssh://user@host[:port][/cuda:0].",
)
ROUNDS: Final = click.Option(
    ["--rounds"],
    type=int,
    metavar="N",
    help="Fresh processes of each; an even number. More see smaller differences.",
)
QUICK: Final = click.Option(["--quick"], is_flag=True, help="Measure less; intervals are wider.")
SEED: Final = click.Option(
    ["--seed"],
    type=int,
    metavar="N",
    help="Of everything random, and of splits that are not given.  [default: the bundle's, or 0]",
)
