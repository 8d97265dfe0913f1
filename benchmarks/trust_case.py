"""What the trust benchmark measures with: one network as ONNX and as OpenVINO files.

Weights are random: widths decide latency, not values. The copies named
``slowed`` are the same bytes; ``trust_slowed_runner.py`` knows them by name.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import timm
import torch
from numpy.typing import NDArray

import edgeprune as ep
from edgeprune_benchmarks.measurement import Subject

RUNTIMES: Final = {"openvino": "openvino/model.xml", "onnxruntime": "onnx/model.onnx"}
PLANTED: Final = "slowed"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network's artifacts, and images (1, 3, H, W) to feed them."""

    network: str
    folder: Path
    images: NDArray[np.float32]

    def subject(self, runtime: str, name: str = "model") -> Subject:
        """Return the artifact of a runtime; ``PLANTED`` names the one that is slowed down."""
        artifact = (self.folder / RUNTIMES[runtime]).with_stem(name)
        return Subject(name=name, artifact=artifact, backend=runtime)


def make_case(network: str, size: int, folder: Path) -> Case:
    """Export a timm network for images of ``size`` pixels, unless the folder holds it already."""
    images = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    place = folder / f"{network}_{size}"
    if not place.exists():
        torch.manual_seed(0)
        sample = torch.randn(2, 3, size, size)
        model = ep.capture(timm.create_model(network, num_classes=10), sample)
        ep.export(model, target="cpu", folder=place, images=sample)
        for name in RUNTIMES.values():
            _copy(place / name)
    return Case(network=network, folder=place, images=images)


def _copy(artifact: Path) -> None:
    """Put a copy under the planted name beside an artifact, with the weights it loads."""
    for path in Subject(name="model", artifact=artifact).files:
        shutil.copyfile(path, path.with_name(path.name.replace("model", PLANTED, 1)))
