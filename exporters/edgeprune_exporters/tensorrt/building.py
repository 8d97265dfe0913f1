"""Build the engine at once where this machine is the device.

The program that builds is the one that travels: what works here is what works
there. It runs as a process of its own, so that a crash of a driver is an error
message and not the end of an export.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from edgeprune.errors import ExportError, ParityError
from edgeprune.progress import Reporter
from edgeprune.targets import Target
from edgeprune_exporters.tensorrt.recipe import RUN

PROOF: Final = "engine.json"


@dataclass(frozen=True, kw_only=True)
class Built:
    """The files that building left, if anything was built, and a sentence about it."""

    files: tuple[str, ...]
    note: str


def build_here(target: Target, folder: Path, reporter: Reporter) -> Built:
    """Build and check the engine of a recipe, if this machine is the recipe's device.

    Raises:
        ExportError: TensorRT cannot build it.
        ParityError: the engine does not give the golden outputs.
    """
    if reason := _elsewhere(target):
        return Built(
            files=(),
            note=f"the engine is built and proven on the device, with 'python3 {RUN} build': "
            f"{reason}",
        )
    before = {path.name for path in folder.iterdir()}
    with reporter.track("TensorRT: engine", None):
        done = subprocess.run(
            [sys.executable, RUN, "build"], cwd=folder, capture_output=True, text=True, check=False
        )
    if done.returncode:
        kind = ParityError if done.returncode == ParityError.exit_code else ExportError
        raise kind(f"no engine for target '{target.name}': {_last_words(done)}")
    proof = json.loads((folder / PROOF).read_text(encoding="utf-8"))
    left = {path.name for path in folder.iterdir()} - before
    return Built(files=tuple(sorted(left)), note=_words(proof))


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix(f"{RUN}: ") if lines else f"{RUN} ended with {done.returncode}"


def _words(proof: Mapping[str, Any]) -> str:
    device, precision, dla = proof["device"], proof["precision"], proof["dla"]
    worst = max(batch["max_rel"] for batch in proof["parity"]["batches"])
    there = f", {dla['share']:.0%} of its parts run on accelerator {dla['core']}" if dla else ""
    return (
        f"the engine was built here, by TensorRT {device['tensorrt']} for {device['gpu']}: "
        f"{proof['shares'][precision]['share']:.0%} of its layers compute in {precision}{there}, "
        f"and its logits are within {worst:.1e} of the model's"
    )


def _elsewhere(target: Target) -> str | None:
    """Say why this machine is not the device, or None."""
    if find_spec("tensorrt") is None:
        return "TensorRT is not installed here"
    here = compute_capability()
    if here is None:
        return "there is no GPU here"
    wanted = target.device.compute_capability if target.device else None
    if wanted is not None and wanted != here:
        return f"the GPU here has compute capability {here}, and the target's {wanted}"
    return None


def compute_capability() -> str | None:
    """Return that of the GPU of this machine, or None if there is none."""
    if not torch.cuda.is_available():
        return None
    return ".".join(map(str, torch.cuda.get_device_capability()))
