"""What a device has to reproduce: outputs of prepared inputs, and pixels of a picture.

The inputs are the images of the artifacts' proofs, so the limits of the proofs hold
for them. The picture is one of them as it was before it was prepared.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from edgeprune.data.splits import Image
from edgeprune.files import replacing, write_json


@dataclass(frozen=True, kw_only=True)
class GoldenLimit:
    """How far an artifact's logits may be from the golden ones.

    Attributes:
        precision: of the artifact.
        measure: ``max_rel``, the largest difference relative to the largest logit, or
            ``noise``, the root mean square of the differences relative to that of what
            the golden logits differ from their mean.
        tolerance: in that measure.
    """

    precision: str
    measure: str
    tolerance: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """What a device has to reproduce.

    Attributes:
        ids: of the images.
        inputs: the images, prepared, (N, C, H, W).
        outputs: the slim model's own logits (N, K).
        limits: by the artifact's file that is loaded, relative to the bundle.
        picture: position of one of the images.
        raw: that image as it was decoded, uint8 (H, W) or (H, W, 3).
        pixels: the same, resized and cropped, uint8 (H, W, C).
    """

    ids: tuple[str, ...]
    inputs: Tensor
    outputs: Tensor
    limits: Mapping[str, GoldenLimit]
    picture: int
    raw: Image
    pixels: Image


def write_golden(folder: Path, golden: Golden) -> None:
    """Write ``golden.json`` with the arrays and the picture that it speaks of."""
    arrays: dict[str, NDArray[Any]] = {
        "inputs": golden.inputs.numpy().astype(np.float32),
        "outputs": golden.outputs.numpy().astype(np.float32),
        "pixels": golden.pixels,
    }
    for name, values in arrays.items():
        with replacing(folder / f"{name}.npy") as temporary:
            np.save(temporary, values)
    with replacing(folder / "picture.png") as temporary:
        Pillow.fromarray(golden.raw).save(temporary)
    write_json(
        folder / "golden.json",
        {
            "ids": list(golden.ids),
            "outputs_from": "torch, float32",
            "limits": {path: asdict(limit) for path, limit in golden.limits.items()},
            "picture": golden.picture,
        },
    )
