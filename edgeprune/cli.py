"""The command line: options in, one table or one line of error out.

What a command does lives in the pipeline; here is only how it is asked for and
how it is shown. Progress goes to stderr, results to stdout.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import click
from rich.console import Console
from rich.markup import escape

from edgeprune.console import RichReporter, print_results
from edgeprune.errors import EdgepruneError
from edgeprune.options import COMPRESS_OPTIONS, GroupedCommand, settings_of

INTERRUPTED: Final = 130  # as shells count: 128 and the signal's number

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


class Interrupted(click.ClickException):
    """The user pressed Ctrl-C."""

    exit_code = INTERRUPTED


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


@cli.command(cls=GroupedCommand, params=list(COMPRESS_OPTIONS), epilog=EXAMPLES)
@click.pass_context
def compress(context: click.Context, /, **_options: object) -> None:
    """Attribute, cut, recover, export, measure and report, from end to end.

    Writes a bundle to --out. Intermediate results stay beside it in OUT.work,
    where an interrupted run continues with --resume.
    """
    asked = context.params  # by name, as click also passes them
    settings = settings_of(context)
    with _one_line_on_interrupt():
        from edgeprune.pipeline import compress as run

        reporter = RichReporter(Console(stderr=True))
        results = run(settings, asked["out"], resume=asked["resume"], reporter=reporter)
    if asked["as_json"]:
        click.echo(json.dumps(results.headline, indent=1))
    else:
        print_results(results, Console())


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def report(bundle: Path) -> None:
    """Write report.html of BUNDLE again."""
    from edgeprune.pipeline import rewrite_report

    click.echo(str(rewrite_report(bundle)))


@cli.command()
def targets() -> None:
    """List the devices that can be targeted."""
    from edgeprune.targets import load_target, target_names

    for name in target_names():
        click.echo(f"{name:18} {load_target(name).description}")


def main() -> None:
    """Run the command line; a user's mistake becomes one line and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except click.Abort:
        _fail("interrupted", INTERRUPTED)
    except EdgepruneError as error:
        _fail(str(error), error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _one_line_on_interrupt() -> Iterator[None]:
    """Take Ctrl-C before click does, which would print an empty line."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted: what is complete is kept; --resume continues") from None


def _fail(message: str, code: int) -> NoReturn:
    """Print one line, also where a runtime's last words are several."""
    line = " | ".join(part.strip() for part in message.splitlines() if part.strip())
    console = Console(stderr=True, highlight=False)
    console.print(f"[bold red]error:[/] {escape(line)}", soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
