"""The command line: options in, one table or one line of error out.

What a command does lives in the pipeline; here is only how it is asked for and
how it is shown. Progress goes to stderr, results to stdout.
"""

import difflib
import errno
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from edgeprune.console import RichReporter, print_results
from edgeprune.errors import EdgepruneError, UsageError

EXAMPLES = """\b
Examples:
  edgeprune compress
      the whole way on embedded phantoms, with a small model trained on the spot
  edgeprune compress --model resnet18 --data images/ --keep 0.5 --out slim/
      train resnet18 on your images, halve its units, export, measure, report
  edgeprune compress --model vit_tiny_patch16_224 --weights vit.safetensors \\
      --data findings.csv --macs 0.5 --target cpu-ort --out slim/
      start from your own weights; measure in ONNX Runtime

DATA is one of: a folder with train/ val/ test/ of class folders, or of class
folders only (split by seed); a CSV with path and label, or path and one 0/1
column per finding, optionally split and patient; an .npz in MedMNIST layout;
'phantoms' or 'phantoms-multilabel'.
"""


def read_config(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Take defaults from a TOML file with the options' own names."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"'{path}' cannot be read as TOML: {error}") from None
    known = {p.name for p in context.command.params if p.name}
    defaults = {key.replace("-", "_"): value for key, value in values.items()}
    for key in defaults.keys() - known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"'{path}' sets '{key}', which is no option of this command{hint}")
    context.default_map = {**(context.default_map or {}), **defaults}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="edgeprune")
def cli() -> None:
    """Make a trained image classifier smaller, and prove by measurement what changed."""


@cli.command(epilog=EXAMPLES)
@click.option("--model", help="A timm name, or the factory of your own network: module:function or file.py:function.  [default: resnet10t]")
@click.option("--weights", type=click.Path(path_type=Path), help="Its weights: .safetensors, or a state dict (.pt, .pth) without code. Without weights the model is trained on the spot.")
@click.option("--pretrained", is_flag=True, help="Fetch timm's own weights, then train on the spot.")
@click.option("--data", help="Your images (see below).  [default: phantoms]")
@click.option("--target", default="cpu", show_default=True, help="The device: a built-in name (see `edgeprune targets`) or a TOML file.")
@click.option("--keep", type=float, help="Budget: share of units to keep, above 0 and at most 1.")
@click.option("--macs", type=float, help="Budget: share of multiply-accumulates.  [default: 0.5]")
@click.option("--params", type=float, help="Budget: share of parameters.")
@click.option("--criterion", default="taylor", show_default=True, help="How units are scored: taylor, ig, lrp, magnitude, random.")
@click.option("--sampler", default="cluster", show_default=True, help="Which images are scored: cluster, confidence, random.")
@click.option("--per-class", type=int, default=10, show_default=True, help="How many of them per class.")
@click.option("--ranking", default="global", show_default=True, help="global: all units against each other; group: the same share of each; cost: score per unit of the budget.")
@click.option("--align", type=int, help="Widths end on multiples of this; 1 for any.  [default: the target's]")
@click.option("--epochs", type=int, help="Epochs of recovery.  [default: by the number of images]")
@click.option("--dense-epochs", type=int, help="Epochs of training on the spot.  [default: by the number of images]")
@click.option("--lr", type=float, help="Peak learning rate of recovery.  [default: by the model]")
@click.option("--batch-size", type=int, help="Of training and recovery.  [default: 32]")
@click.option("--image-size", type=int, help="Edge of the input in pixels.  [default: the model's own]")
@click.option("--formats", help="Artifacts to write, as onnx,openvino.  [default: the target's]")
@click.option("--rounds", type=int, default=6, show_default=True, help="Fresh processes of each model in the measurement; even.")
@click.option("--threads", type=int, help="CPU threads of the runtime that is measured.  [default: the target's]")
@click.option("--skip-corrupt", is_flag=True, help="Leave out images that cannot be read instead of stopping.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("edgeprune-out"), show_default=True, help="Folder of the bundle; must be empty or new.")
@click.option("--resume", is_flag=True, help="Continue a run that was interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--config", type=click.Path(path_type=Path), callback=read_config, is_eager=True, expose_value=False, help="TOML file with these options by name; the command line wins.")
def compress(**options: Any) -> None:  # noqa: ANN401 - click passes every option by name
    """Attribute, cut, recover, export, measure and report, from end to end.

    Writes a bundle to --out. Intermediate results stay beside it in OUT.work,
    where an interrupted run continues with --resume.
    """
    from edgeprune.pipeline import compress as run

    out, resume = options.pop("out"), options.pop("resume")
    as_json = options.pop("as_json")
    settings = _compress_settings(options)
    results = run(settings, out, resume=resume, reporter=RichReporter(Console(stderr=True)))
    if as_json:
        click.echo(json.dumps(results.headline, indent=1))
    else:
        print_results(results, Console())


def _compress_settings(options: dict[str, Any]) -> Any:  # noqa: ANN401 - imported only when used
    from edgeprune.pipeline.settings import CompressSettings
    from edgeprune.plan import Budget

    shares = {name: options.pop(name) for name in ("keep", "macs", "params")}
    if all(share is None for share in shares.values()):
        shares["macs"] = 0.5
    options["formats"] = tuple(filter(None, (options["formats"] or "").split(",")))
    given = {name: value for name, value in options.items() if value is not None}
    return CompressSettings(budget=Budget(**shares), **given)


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
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; run again with --resume to continue", 130)
    except EdgepruneError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        place = f" ('{error.filename}')" if error.filename else ""
        _fail(f"cannot write: {error.strerror}{place}; free some space or choose another --out", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"[bold red]error:[/] {_escape(message)}"
    )
    sys.exit(code)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
