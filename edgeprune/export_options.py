"""The options of ``export``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from edgeprune.grouped_command import GroupedCommand
from edgeprune.option_types import names
from edgeprune.pipeline.export_settings import CALIBRATION_IMAGES, ExportSettings
from edgeprune.pipeline.settings import SAMPLERS
from edgeprune.targets.target import PRECISIONS
from edgeprune.unit_options import AS_JSON, SEED, SUBJECT_OPTIONS, subject_of

_FILE: Final = click.Path(path_type=Path)
_OWN: Final = (
    *("target", "formats", "precision", "calibration", "sampler"),
    *("batch", "simplify", "max_drop", "dla_core", "workspace_mb"),
)

EXPORT_EXAMPLES: Final = """\b
Examples:
  edgeprune export edgeprune-out --precision int8 --max-drop 1
      the slim model of a bundle that was made from phantoms, for OpenVINO, in int8
  edgeprune export slim/ --data images/ --formats openvino:fp32,openvino:int8,onnx:fp16
      another bundle, several precisions at once, each in a folder of its own
  edgeprune export resnet18 --weights mine.safetensors --data images/ --target jetson
      a dense model of your own, as ONNX and as a recipe for TensorRT
  edgeprune export mine.onnx --data images/ --target jetson --precision int8 --batch 1
      a network that is ONNX already
"""

EXPORT_OPTIONS: Final[Mapping[str, tuple[click.Option, ...]]] = {
    "Model and images": SUBJECT_OPTIONS,
    "What to write": (
        click.Option(
            ["--target"],
            metavar="NAME|FILE",
            default="cpu",
            show_default=True,
            help="The device: built in (see `edgeprune targets`), or a TOML file.",
        ),
        click.Option(
            ["--formats"],
            type=names,
            metavar="NAMES",
            default="",
            help="Artifacts to write, as onnx,openvino or onnx:fp32,openvino:int8.  "
            "[default: the target's]",
        ),
        click.Option(
            ["--precision"],
            metavar="NAME",
            help=f"Of those that name none: {', '.join(PRECISIONS)}.  [default: the target's]",
        ),
        click.Option(
            ["--batch"],
            type=int,
            metavar="N",
            help="Fix the batch size; sizes are then constants in the files.  [default: any size]",
        ),
        click.Option(
            ["--simplify"],
            is_flag=True,
            help="Let onnxsim reduce the graph; kept only where it does and still equals the "
            "model.",
        ),
    ),
    "int8": (
        click.Option(
            ["--calibration"],
            type=int,
            metavar="N",
            default=CALIBRATION_IMAGES,
            show_default=True,
            help="Training images to calibrate on, spread over the classes.",
        ),
        click.Option(
            ["--sampler"],
            metavar="NAME",
            default="random",
            show_default=True,
            help=f"How they are chosen: {', '.join(SAMPLERS)}.",
        ),
        click.Option(
            ["--max-drop"],
            type=float,
            metavar="POINTS",
            help="Points of accuracy that int8 may cost on the validation split; layers go back "
            "to float until it holds.  [default: any]",
        ),
    ),
    "TensorRT": (
        click.Option(
            ["--dla-core"],
            type=int,
            metavar="N",
            help="Run the engine on this deep learning accelerator, where the target has it; "
            "fp16 and a fixed batch only.",
        ),
        click.Option(
            ["--workspace-mb"],
            type=int,
            metavar="MIB",
            help="Memory that building the engine may use.  [default: the target's]",
        ),
    ),
    "Run": (
        click.Option(
            ["--out"],
            type=_FILE,
            metavar="DIR",
            default=Path("edgeprune-export"),
            show_default=True,
            help="A new folder for the artifacts, each with its proof.",
        ),
        AS_JSON,
        SEED,
    ),
}


class ExportCommand(GroupedCommand):
    """``export``, its options under headings."""

    sections = EXPORT_OPTIONS


def export_settings(asked: Mapping[str, Any]) -> ExportSettings:
    """Return what a command line asks ``export`` for."""
    return ExportSettings(subject=subject_of(asked), **{name: asked[name] for name in _OWN})
