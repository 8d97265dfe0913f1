"""A few inputs with the outputs that the device has to reproduce."""

from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor

from edgeprune.files import replacing, write_json

TOLERANCES: Final = {"fp32": 1e-4}  # relative to the largest logit


def write_golden(folder: Path, inputs: Tensor, outputs: Tensor, ids: tuple[str, ...]) -> None:
    """Write prepared inputs (N, C, H, W) and the slim model's logits (N, K) as float32."""
    for name, values in (("inputs", inputs), ("outputs", outputs)):
        with replacing(folder / f"{name}.npy") as temporary:
            np.save(temporary, values.numpy().astype(np.float32))
    write_json(
        folder / "golden.json",
        {"ids": list(ids), "relative_tolerance": TOLERANCES, "outputs_from": "torch, float32"},
    )
