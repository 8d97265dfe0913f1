"""A few inputs with the outputs that the device has to reproduce."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from edgeprune.files import replacing, write_json


def write_golden(
    folder: Path,
    inputs: Tensor,
    outputs: Tensor,
    ids: tuple[str, ...],
    tolerances: Mapping[str, float],
) -> None:
    """Write prepared inputs (N, C, H, W) and the slim model's logits (N, K) as float32.

    tolerances: by precision, in the measure of the artifacts' proofs.
    """
    for name, values in (("inputs", inputs), ("outputs", outputs)):
        with replacing(folder / f"{name}.npy") as temporary:
            np.save(temporary, values.numpy().astype(np.float32))
    write_json(
        folder / "golden.json",
        {
            "ids": list(ids),
            "relative_tolerance": dict(tolerances),
            "outputs_from": "torch, float32",
        },
    )
