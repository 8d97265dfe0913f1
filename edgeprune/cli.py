"""The command line: options in, one table or one line of error out.

What a command does lives in the pipeline; here is only how it is asked for and
how it is shown. Progress goes to stderr, results to stdout.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from edgeprune.console import RichReporter, print_results
from edgeprune.criteria_help import criteria_help
from edgeprune.errors import EdgepruneError
from edgeprune.export_options import (
    EXPORT_EXAMPLES,
    EXPORT_OPTIONS,
    ExportCommand,
    export_settings,
)
from edgeprune.failing import INTERRUPTED, fail, one_line_on_interrupt
from edgeprune.measure_commands import bench, gate
from edgeprune.options import COMPRESS_OPTIONS, CompressCommand, settings_of
from edgeprune.target_listing import targets_help
from edgeprune.unit_options import (
    BUNDLE_OR_MODEL,
    EXPLAIN_EXAMPLES,
    EXPLAIN_OPTIONS,
    MODEL,
    SCORE_EXAMPLES,
    SCORE_OPTIONS,
    UNIT,
    ExplainCommand,
    ScoreCommand,
    explain_settings,
    page_of,
    parameters,
    score_settings,
)

_FILE: Final = click.Path(path_type=Path)

EXAMPLES: Final = """\b
Examples:
  edgeprune compress
      the whole way on embedded phantoms, with a small model trained on the spot
  edgeprune compress --model resnet18 --data images/ --keep 0.5 --out slim/
      train resnet18 on your images, keep half of its units, export, measure, report
  edgeprune compress --model vit_tiny_patch16_224 --weights vit.safetensors \\
      --data findings.csv --macs 0.5 --target cpu-ort --out slim/
      start from your own weights; measure in ONNX Runtime

\b
PATH of --data is one of:
  a folder     train/ val/ test/ of class folders, or class folders only (split by seed)
  a .csv       path and label, or path and one 0/1 column per finding;
               optionally split and patient
  a .npz       in MedMNIST layout
  phantoms or phantoms-multilabel, which are generated
"""


INSPECT_EXAMPLES: Final = """\b
Examples:
  edgeprune inspect resnet18
      its channel groups, and what cannot be cut and why
  edgeprune inspect vit_tiny_patch16_224 --kind heads --kind head_dim
      attention only
  edgeprune inspect my_net.py:build --in-chans 1 --image-size 64
      a network of your own, for grey images
  edgeprune inspect edgeprune-out --groups 'layer4.*'
      what is left in a bundle that compress wrote
  edgeprune inspect resnet50 --target jetson --precision int8
      how long it may take on a device: an estimate, layer by layer
"""


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="edgeprune")
@click.pass_context
def cli(context: click.Context) -> None:
    """Make a trained image classifier smaller, and prove by measurement what changed."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(
    cls=CompressCommand, params=list(COMPRESS_OPTIONS), epilog=f"{EXAMPLES}\n{criteria_help()}"
)
@click.pass_context
def compress(context: click.Context, /, **_options: object) -> None:
    """Attribute, cut, recover, export, measure and report, from end to end.

    Writes a bundle to --out. Intermediate results stay beside it in OUT.work,
    where an interrupted run continues with --resume.
    """
    asked = context.params  # by name, as click also passes them
    settings = settings_of(context)
    with one_line_on_interrupt("interrupted: what is complete is kept; --resume continues"):
        from edgeprune.pipeline import compress as run

        reporter = RichReporter(Console(stderr=True))
        results = run(settings, asked["out"], resume=asked["resume"], reporter=reporter)
    if asked["as_json"]:
        click.echo(json.dumps(results.headline, indent=1))
    else:
        print_results(results, Console())


@cli.command(epilog=INSPECT_EXAMPLES)
@click.argument("model")
@click.option("--weights", type=_FILE, metavar="FILE", help="Load these weights first.")
@click.option("--num-classes", type=int, metavar="N", help="Size of the head.  [default: 1000]")
@click.option("--in-chans", type=int, metavar="N", help="Channels of the input.  [default: 3]")
@click.option(
    "--image-size",
    type=int,
    metavar="PIXELS",
    help="Edge of the input.  [default: the model's own]",
)
@click.option(
    "--output",
    metavar="NAME|INDEX",
    help="Which output holds the logits, if the model gives several.",
)
@click.option(
    "--kind", "kinds", multiple=True, metavar="NAME", help="List only groups of this kind."
)
@click.option("--groups", metavar="PATTERN", help="List only groups with such names.")
@click.option(
    "--target", metavar="NAME|FILE", help="Estimate the latency on this device, layer by layer."
)
@click.option("--precision", metavar="NAME", help="Of that estimate.  [default: the target's]")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def inspect(context: click.Context, /, **_options: object) -> None:
    """List what could be cut from MODEL, and what could not and why.

    MODEL is a timm name, the function that builds your own network
    (module:function or file.py:function), or the folder of a bundle or of a
    stored model. No images and no weights are needed, and nothing is written.

    Channel groups are what `compress` cuts: units that can go one by one. Their
    names serve its options --keep-group, --floor and --ceiling, their kinds
    --kinds. A group's parameters are those that go with one of its units while
    all others stay, times its units.
    """
    asked = dict(context.params)  # by name, as click also passes them
    as_json = asked.pop("as_json")
    with one_line_on_interrupt("interrupted"):
        from edgeprune.listing import print_inspection
        from edgeprune.pipeline import InspectSettings, inspect_model

        inspected = inspect_model(InspectSettings(**asked), RichReporter(Console(stderr=True)))
    if as_json:
        click.echo(json.dumps(inspected.to_dict(), indent=1))
    else:
        print_inspection(inspected)


@cli.command(
    cls=ScoreCommand,
    params=parameters(SCORE_OPTIONS, MODEL),
    epilog=f"{SCORE_EXAMPLES}\n{criteria_help()}",
)
@click.pass_context
def score(context: click.Context, /, **_options: object) -> None:
    """Score how much each unit of MODEL carries.

    MODEL is the folder of a bundle that compress wrote (its dense model is
    meant, which lies in OUT.work) or of a stored model; or a timm name or the
    function that builds your own network, with --weights.

    Writes a table with one row per unit, a page with a plot of each channel
    group, and the scores as they are stored. Nothing is cut.
    """
    settings = score_settings(context.params)
    with one_line_on_interrupt("interrupted: nothing was written"):
        from edgeprune.pipeline import score_model
        from edgeprune.unit_listing import score_lines

        reporter = RichReporter(Console(stderr=True))
        results = score_model(settings, context.params["out"], reporter=reporter)
    if context.params["as_json"]:
        click.echo(json.dumps(results.to_dict(), indent=1))
    else:
        click.echo("\n".join(score_lines(results)))


@cli.command(
    cls=ExplainCommand,
    params=parameters(EXPLAIN_OPTIONS, UNIT, BUNDLE_OR_MODEL),
    epilog=EXPLAIN_EXAMPLES,
)
@click.pass_context
def explain(context: click.Context, /, **_options: object) -> None:
    """Show what UNIT responds to, and why it stays or goes.

    UNIT is GROUP:INDEX, as plan.json and the scores name it. MODEL is as for
    `edgeprune score`; without it, the bundle in edgeprune-out.

    Writes one page that opens offline: the images that drive the unit most, and
    where in them; what each class has of it; what the model does without it;
    its score, its rank and the plan's reason; and the units that came nearest.
    """
    asked = context.params
    settings = explain_settings(asked)
    out = asked["out"] or page_of(settings.unit)
    with one_line_on_interrupt("interrupted: nothing was written"):
        from edgeprune.pipeline import explain_unit
        from edgeprune.unit_listing import explanation_lines

        found = explain_unit(settings, out, reporter=RichReporter(Console(stderr=True)))
    if asked["as_json"]:
        click.echo(json.dumps(found.to_dict() | {"page": out.as_posix()}, indent=1))
    else:
        click.echo("\n".join(explanation_lines(found, out)))


@cli.command(cls=ExportCommand, params=parameters(EXPORT_OPTIONS, MODEL), epilog=EXPORT_EXAMPLES)
@click.pass_context
def export(context: click.Context, /, **_options: object) -> None:
    """Write artifacts of MODEL for a device, each proven.

    MODEL is the folder of a bundle that compress wrote (its slim model is meant)
    or of a stored model; an .onnx file; or a timm name or the function that
    builds your own network, with --weights.

    Every artifact is run on real images and compared with the model it was made
    from; its folder holds the proof. One that fails is not kept, and the first
    layer that deviates is named. A recipe for TensorRT is built and proven on
    the device by its own run.py.
    """
    settings = export_settings(context.params)
    with one_line_on_interrupt("interrupted: nothing was written"):
        from edgeprune.export_listing import export_lines
        from edgeprune.pipeline import export_model

        reporter = RichReporter(Console(stderr=True))
        results = export_model(settings, context.params["out"], reporter=reporter)
    if context.params["as_json"]:
        click.echo(json.dumps(results.document, indent=1))
    else:
        click.echo("\n".join(export_lines(results)))


@cli.command()
@click.argument("bundle", type=_FILE)
def report(bundle: Path) -> None:
    """Write report.html of BUNDLE again."""
    from edgeprune.pipeline import rewrite_report

    click.echo(str(rewrite_report(bundle)))


@cli.command(epilog=targets_help())
@click.argument("name", metavar="[NAME|FILE]", required=False)
def targets(name: str | None) -> None:
    """List the devices that can be targeted, or tell all about one."""
    from edgeprune.target_listing import target_details, target_lines
    from edgeprune.targets import load_target

    for line in target_lines() if name is None else target_details(load_target(name), _width()):
        click.echo(line)


cli.add_command(bench)
cli.add_command(gate)


def main() -> None:
    """Run the command line; a user's mistake becomes one line and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except click.Abort:
        fail("interrupted", INTERRUPTED)
    except EdgepruneError as error:
        fail(str(error), error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _width() -> int | None:
    """Return the columns of the terminal, or None where a pipe takes any."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


if __name__ == "__main__":
    main()
