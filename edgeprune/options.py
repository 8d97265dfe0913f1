"""The options of ``compress``: in groups, with the defaults of the settings themselves."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

import click

from edgeprune.budget import COUNTED, Budget
from edgeprune.config import read_config
from edgeprune.grouped_command import GroupedCommand
from edgeprune.option_types import alignment, names, pattern_share
from edgeprune.pipeline.settings import (
    AGGREGATES,
    DEFAULT_MACS,
    FROM_SCRATCH,
    NEW_HEAD,
    RANKINGS,
    RECOVERY,
    SAMPLERS,
    Amount,
    CompressSettings,
)
from edgeprune.recovery.settings import TrainSettings
from edgeprune.targets.target import PRECISIONS

DEFAULTS: Final = CompressSettings()


def settings_of(context: click.Context) -> CompressSettings:
    """Return the settings that a command line asks for.

    A budget on the command line replaces one of the configuration file.
    """
    options = {name: context.params[name] for name in _SETTINGS if name in context.params}
    options["formats"] = tuple(filter(None, (context.params["formats"] or "").split(",")))
    options["budget"] = _budget(context)
    return CompressSettings(**{k: v for k, v in options.items() if v is not None})


def _budget(context: click.Context) -> Budget:
    asked = context.params
    typed = {k for k in COUNTED if context.get_parameter_source(k) is _COMMAND_LINE}
    shares = {k: v for k in COUNTED if (v := asked[k]) is not None and (not typed or k in typed)}
    return Budget(
        **(shares or {"macs": DEFAULT_MACS}),
        floors=dict(asked["floor"]),
        ceilings=dict(asked["ceiling"]),
        keep_groups=asked["keep_group"],
        freeze=asked["freeze"],
        kinds=asked["kinds"] or (),
    )


def _epochs(amount: Amount) -> str:
    return f"{amount.least} to {amount.most}"


_SETTINGS: Final = tuple(field.name for field in fields(CompressSettings))
_COMMAND_LINE: Final = click.core.ParameterSource.COMMANDLINE
_FILE: Final = click.Path(path_type=Path)


def _option(
    name: str,
    help_: str,
    *,
    metavar: str | None = None,
    kind: Callable[[str], object] | click.Path | None = None,
    several: bool = False,
) -> click.Option:
    """Return an option; its default is that of the settings, if they have one."""
    default = getattr(DEFAULTS, name, None)
    default = None if default == () else default
    return click.Option(
        [f"--{name.replace('_', '-')}"],
        help=help_,
        metavar=metavar,
        type=kind,
        is_flag=metavar is None,
        multiple=several,
        default=default,
        show_default=metavar is not None,
    )


OPTIONS: Final[Mapping[str, tuple[click.Option, ...]]] = {
    "Model and images": (
        _option(
            "model",
            "A timm name, or the function that builds your own network: module:function or "
            "file.py:function.",
            metavar="NAME",
        ),
        _option(
            "weights",
            "Its weights: .safetensors, or a state dict (.pt, .pth) that holds no code. "
            "Without them the model is trained on the spot.",
            metavar="FILE",
            kind=_FILE,
        ),
        _option("pretrained", "Fetch timm's own weights, then train the new head on the spot."),
        _option(
            "output",
            "Which output holds the logits, if the model gives several: a name, an index, or a "
            "path as heads.0.",
            metavar="NAME|INDEX",
        ),
        _option(
            "image_size",
            "Edge of the model's input.  [default: the model's own; smaller for small images "
            "if it is trained on the spot]",
            metavar="PIXELS",
            kind=int,
        ),
        _option("data", "Your images, see below.", metavar="PATH"),
        _option("skip_corrupt", "Leave out images that cannot be read instead of stopping."),
    ),
    "What to cut": (
        _option(
            "keep",
            "Budget: units to keep, as a share above 0 and at most 1.",
            metavar="SHARE",
            kind=float,
        ),
        _option(
            "macs",
            "Budget: multiply-accumulates, as a share of the dense model's.  "
            f"[default: {DEFAULT_MACS}]",
            metavar="SHARE",
            kind=float,
        ),
        _option("params", "Budget: parameters, likewise.", metavar="SHARE", kind=float),
        _option(
            "criterion",
            "How units are scored, see below; settings go behind a colon, as lrp:rule=gamma.",
            metavar="NAME",
        ),
        _option(
            "sampler",
            f"Which images they are scored on: {', '.join(SAMPLERS)}.",
            metavar="NAME",
        ),
        _option("per_class", "How many of them per class.", metavar="N", kind=int),
        _option(
            "aggregate",
            f"How these images are summed: {', '.join(AGGREGATES)}.",
            metavar="NAME",
        ),
        _option(
            "scoring_batch",
            "How many are scored at once; fewer take less memory.",
            metavar="N",
            kind=int,
        ),
        _option(
            "ranking",
            f"How units compare: {', '.join(RANKINGS)}. All with each other; the same share "
            "of each group; or by score per unit of the budget.",
            metavar="NAME",
        ),
        _option(
            "align",
            "Widths end on multiples of this; off for any.  [default: the target's]",
            metavar="N|off",
            kind=alignment,
        ),
    ),
    "What to leave (names as `edgeprune inspect MODEL` lists them, * for any part)": (
        _option(
            "kinds",
            "Cut only groups of these kinds, as conv,hidden. --keep then counts only theirs.",
            metavar="NAMES",
            kind=names,
        ),
        _option(
            "keep_group",
            "Groups that stay whole. This and the next three may be given several times.",
            metavar="PATTERN",
            several=True,
        ),
        _option(
            "freeze",
            "Modules or parameters whose tensors keep their shapes, as layer4 with all below it.",
            metavar="PATTERN",
            several=True,
        ),
        _option(
            "floor",
            "Groups keep at least this share of their units, as 'layer4.*=0.5'.",
            metavar="PATTERN=SHARE",
            kind=pattern_share,
            several=True,
        ),
        _option(
            "ceiling",
            "Groups keep at most this share, likewise.",
            metavar="PATTERN=SHARE",
            kind=pattern_share,
            several=True,
        ),
    ),
    "Training": (
        _option(
            "dense_epochs",
            "Epochs of training on the spot.  [default: by the number of images, "
            f"{_epochs(FROM_SCRATCH)} from scratch, {_epochs(NEW_HEAD)} with a new head]",
            metavar="N",
            kind=int,
        ),
        _option(
            "epochs",
            "Epochs of recovery after the cut.  [default: by the number of images, "
            f"{_epochs(RECOVERY)}]",
            metavar="N",
            kind=int,
        ),
        _option(
            "lr",
            "Peak learning rate of recovery.  [default: lower if weights were given]",
            metavar="RATE",
            kind=float,
        ),
        _option(
            "batch_size",
            f"Of training and recovery.  [default: {TrainSettings.batch_size}]",
            metavar="N",
            kind=int,
        ),
    ),
    "Target and measurement": (
        _option(
            "target",
            "The device: built in (see `edgeprune targets`), or a TOML file.",
            metavar="NAME|FILE",
        ),
        _option(
            "formats",
            "Artifacts to write, as onnx,openvino or onnx:fp32,openvino:int8.  [default: the "
            "target's]",
            metavar="NAMES",
        ),
        _option(
            "precision",
            f"Of the slim model's artifacts: {', '.join(PRECISIONS)}; dense is always measured in "
            "fp32.  [default: the target's]",
            metavar="NAME",
        ),
        _option(
            "max_drop",
            "Points of accuracy that int8 may cost on the validation split; layers go back to "
            "float until it holds.  [default: any]",
            metavar="POINTS",
            kind=float,
        ),
        _option(
            "threads",
            "CPU threads of the runtime that is measured.  [default: the target's]",
            metavar="N",
            kind=int,
        ),
        _option(
            "rounds",
            "Fresh processes of each model in the measurement; an even number.",
            metavar="N",
            kind=int,
        ),
    ),
    "Run": (
        click.Option(
            ["--out"],
            type=_FILE,
            metavar="DIR",
            default=Path("edgeprune-out"),
            show_default=True,
            help="Folder of the bundle; must be empty or new.",
        ),
        _option("resume", "Continue a run that was interrupted."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the results as JSON."),
        _option("seed", "Of everything random.", metavar="N", kind=int),
        click.Option(
            ["--config"],
            type=_FILE,
            metavar="FILE",
            callback=read_config,
            is_eager=True,
            expose_value=False,
            help="TOML file of these options by name; the command line wins.",
        ),
    ),
}

COMPRESS_OPTIONS: Final[tuple[click.Parameter, ...]] = tuple(
    option for options in OPTIONS.values() for option in options
)


class CompressCommand(GroupedCommand):
    """``compress``, its options under headings."""

    sections = OPTIONS
