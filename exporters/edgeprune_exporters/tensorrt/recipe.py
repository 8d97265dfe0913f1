"""What travels to the device: the graph, golden vectors, and how to build an engine from them.

Equal exports give equal bytes, and nothing in the folder tells of the machine it
was made on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeprune.files import sha256, write_json, write_text
from edgeprune.targets import Target
from edgeprune.targets.tensorrt_versions import Version
from edgeprune_exporters.lowering import OUTPUT
from edgeprune_exporters.parity import Batch
from edgeprune_exporters.tensorrt.limits import version_text
from edgeprune_exporters.tensorrt.trtexec import FAMILIES, Engine, build_command, time_command

FORMAT: Final = "edgeprune-tensorrt-recipe"
FORMAT_VERSION: Final = 1
RECIPE: Final = "recipe.json"
INSTRUCTIONS: Final = "BUILD.md"
RUN: Final = "run.py"
GOLDEN_INPUTS: Final = "golden_inputs.npy"
GOLDEN_OUTPUTS: Final = "golden_outputs.npy"


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """What the engine has to reproduce.

    Attributes:
        batch: images (N, C, H, W), and the model's own logits (N, K) for them.
        tolerance: largest difference of a logit, relative to the largest logit.
        agreement: share of the calls that have to be the model's.
        multi_label: whether each logit is a call of its own, by its sign.
    """

    batch: Batch
    tolerance: float
    agreement: float
    multi_label: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """How to build an engine, and how to tell that it is right.

    Attributes:
        target: the device to build on.
        engine: what to build.
        opset: of the ONNX graph.
        precision: that the engine has to be found to run in.
        least: the oldest TensorRT that can read the graph.
        golden: what the engine has to reproduce.
    """

    target: Target
    engine: Engine
    opset: int
    precision: str
    least: Version
    golden: Golden

    @property
    def expected(self) -> str | None:
        """The version of TensorRT that the target is known to have."""
        return self.target.device.tensorrt if self.target.device else None


def write_recipe(recipe: Recipe, graph_files: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Write all that goes beside the graph, and return the names of all files, the graph first.

    Args:
        recipe: what is written down.
        graph_files: names of the graph's files, which are in the folder.
        folder: where to write.
    """
    np.save(folder / GOLDEN_INPUTS, recipe.golden.batch.images)
    np.save(folder / GOLDEN_OUTPUTS, recipe.golden.batch.logits)
    covered = (*graph_files, GOLDEN_INPUTS, GOLDEN_OUTPUTS)
    hashes = {name: sha256(folder / name) for name in covered}
    write_json(folder / RECIPE, recipe_document(recipe, hashes))
    write_text(folder / RUN, runner_source())
    write_text(folder / INSTRUCTIONS, instructions(recipe))
    return (*covered, RECIPE, RUN, INSTRUCTIONS)


def recipe_document(recipe: Recipe, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return the recipe as ``run.py`` reads it."""
    engine = recipe.engine
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "target": recipe.target.name,
        "onnx": engine.onnx,
        "opset": recipe.opset,
        "precision": recipe.precision,
        "flags": list(engine.precision_flags),
        "input": engine.input,
        "output": OUTPUT,
        "profile": engine.profile and {k: list(v) for k, v in engine.profile.items()},
        "workspace_mb": engine.workspace_mb,
        "dla_core": engine.dla_core,
        "tensorrt": {
            "expected": recipe.expected,
            "least": version_text(recipe.least),
            "below": None,
        },
        "golden": {
            "inputs": GOLDEN_INPUTS,
            "outputs": GOLDEN_OUTPUTS,
            "tolerance": recipe.golden.tolerance,
            "agreement": recipe.golden.agreement,
            "multi_label": recipe.golden.multi_label,
        },
        "files": dict(sorted(hashes.items())),
    }


def runner_source() -> str:
    """Return the program that builds and checks the engine on the device."""
    return (resources.files("edgeprune_exporters.tensorrt") / RUN).read_text(encoding="utf-8")


def instructions(recipe: Recipe) -> str:
    """Return what to do on the device, in Markdown."""
    device = recipe.target.device
    release = f" (JetPack {device.jetpack})" if device and device.jetpack else ""
    families = {name: v for name, v in FAMILIES.items() if _reads(v, recipe.least)}
    return INSTRUCTION_TEXT.format(
        description=recipe.target.description,
        precision=recipe.precision,
        expected=f"TensorRT {recipe.expected}{release}",
        least=version_text(recipe.least),
        tolerance=recipe.golden.tolerance,
        agreement=recipe.golden.agreement,
        commands="\n".join(_commands(recipe.engine, name, v) for name, v in families.items()),
    )


def _reads(family: Version, least: Version) -> bool:
    """Whether some version of a family, which ``10.x`` stands for, is new enough."""
    return family >= least or (family >= (10,) and family[0] >= least[0])


def _commands(engine: Engine, name: str, version: Version) -> str:
    lines = (build_command(engine, version), time_command(engine, version))
    return "\n".join([f"TensorRT {name}:", "", *(f"    {' '.join(line)}" for line in lines), ""])


INSTRUCTION_TEXT: Final = """\
# Build the engine on the device

For {description}: {expected}, in {precision}.

An engine runs only on the kind of GPU and with the version of TensorRT that it was
built with, so this folder holds what to build one from. Copy all of it to the
device and there, in the folder, run

    python3 run.py build

This needs Python 3.8 or newer, numpy, and the Python module of TensorRT {least} or newer.
It builds `engine.plan`, runs the images of `golden_inputs.npy`, and keeps the engine only
if its logits are within {tolerance:.1e} of the model's, `golden_outputs.npy` (relative to the
largest), at least {agreement:.0%} of the calls are the model's, and the engine is found to
run in {precision}. What was found is in `engine.json`. Later,

    python3 run.py check

tells whether the engine still fits the device and still gives these results.

## With trtexec

Where only `trtexec` is at hand (often in `/usr/src/tensorrt/bin`), the first line builds
and the second times. Neither compares results: an engine built like this is not proven.

{commands}"""
