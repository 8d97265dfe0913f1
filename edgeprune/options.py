"""The options of ``compress``: in groups, with the defaults of the settings themselves."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import click

from edgeprune.attribution.registry import CRITERIA
from edgeprune.budget import Budget
from edgeprune.errors import UsageError
from edgeprune.pipeline.settings import (
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

RUN: Final = "Run"
BUDGETS: Final = ("keep", "macs", "params")
DEFAULTS: Final = CompressSettings()


class GroupedCommand(click.Command):
    """``compress``, whose help lists the options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one section per heading."""
        for heading, options in OPTIONS.items():
            last = [self.get_help_option(ctx)] if heading == RUN else []
            records = [each.get_help_record(ctx) for each in (*options, *last) if each]
            with formatter.section(heading):
                formatter.write_dl([record for record in records if record])


def read_config(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Take defaults from a TOML file with the options' own names.

    Raises:
        UsageError: it cannot be read, or names an option that is none.
    """
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config '{path}' cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config '{path}' is not TOML: {error}") from None
    known = {
        name.removeprefix("--"): parameter.name or ""
        for parameter in context.command.params
        for name in parameter.opts
        if parameter.expose_value
    }
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("_", "-")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"--config '{path}' sets '{key}', which is no option{hint}")
        if isinstance(value, dict):
            raise UsageError(f"--config '{path}': '{key}' is a table; give one value")
        defaults[known[name]] = ",".join(map(str, value)) if isinstance(value, list) else value
    context.default_map = defaults


def settings_of(context: click.Context) -> CompressSettings:
    """Return the settings that a command line asks for.

    A budget on the command line replaces one of the configuration file.
    """
    options = {name: context.params[name] for name in _SETTINGS if name in context.params}
    options["formats"] = tuple(filter(None, (context.params["formats"] or "").split(",")))
    shares = {name: context.params[name] for name in BUDGETS}
    typed = {k for k in BUDGETS if context.get_parameter_source(k) is _COMMAND_LINE}
    shares = {k: v for k, v in shares.items() if v is not None and (not typed or k in typed)}
    if shares:
        options["budget"] = Budget(**shares)
    return CompressSettings(**{k: v for k, v in options.items() if v is not None})


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
    kind: type[int] | type[float] | click.Path | None = None,
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
        _option("criterion", f"How units are scored: {', '.join(CRITERIA)}.", metavar="NAME"),
        _option("sampler", f"Which images are scored: {', '.join(SAMPLERS)}.", metavar="NAME"),
        _option("per_class", "How many of them per class.", metavar="N", kind=int),
        _option(
            "ranking",
            f"How units compare: {', '.join(RANKINGS)}. All with each other; the same share "
            "of each group; or by score per unit of the budget.",
            metavar="NAME",
        ),
        _option(
            "align",
            "Widths end on multiples of this; 1 for any.  [default: the target's]",
            metavar="N",
            kind=int,
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
            "Artifacts to write, as onnx,openvino.  [default: the target's]",
            metavar="NAMES",
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
    RUN: (
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
