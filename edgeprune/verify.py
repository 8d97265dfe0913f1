"""Prove that the cut model is the dense one without the removed units.

Run on real inputs for every cut: the cut graph against the dense graph whose
gates are 0 at the removed units and 1 elsewhere.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from edgeprune.axes.analysis import analyse
from edgeprune.capture import Captured
from edgeprune.errors import CutError, UsageError
from edgeprune.gates import GatedModel
from edgeprune.plan import Plan

TOLERANCE: Final = 1e-4  # relative to the largest logit, in float32


@dataclass(frozen=True, kw_only=True)
class CutProof:
    """How far the cut model is from the masked dense model.

    Attributes:
        max_abs: largest difference of a logit.
        max_rel: the same, relative to the largest masked logit.
        tolerance: what ``max_rel`` may be.
        samples: number of images compared.
        changed: largest difference of a logit between masked and dense,
            relative; 0 would mean that nothing was tested.
    """

    max_abs: float
    max_rel: float
    tolerance: float
    samples: int
    changed: float

    @property
    def ok(self) -> bool:
        """Whether the two are equal within the tolerance."""
        return self.max_rel <= self.tolerance

    def require(self) -> None:
        """Raise CutError unless the proof holds."""
        if not self.ok:
            raise CutError(
                f"the cut model differs from the masked model by {self.max_rel:.1e} relative "
                f"(tolerance {self.tolerance:.0e}): this cut must not be used; please report it"
            )


def verify_cut(dense: Captured, slim: Captured, plan: Plan, sample: Tensor) -> CutProof:
    """Compare the cut model with the masked dense model on images (N, C, H, W).

    Call it before recovery: afterwards the weights differ on purpose.

    Raises:
        CutError: the cut model cannot even be run.
        UsageError: fewer images than the fixed batch of the model.
    """
    sample = _whole_batch(dense, sample)
    analysis = analyse(dense)
    gated = GatedModel(dense, analysis)
    with torch.no_grad():
        masked = gated(sample, gated.from_masks(plan.masks(analysis.groups)))
        original = dense.module(sample)
        actual = _run(slim, sample)
    scale = float(masked.abs().max().clamp_min(1e-12))
    difference = float((actual - masked).abs().nan_to_num(nan=float("inf")).max())
    return CutProof(
        max_abs=difference,
        max_rel=difference / scale,
        tolerance=TOLERANCE,
        samples=len(sample),
        changed=float((masked - original).abs().max()) / scale,
    )


def _run(slim: Captured, sample: Tensor) -> Tensor:
    try:
        return slim.module(sample)  # type: ignore[no-any-return]
    except RuntimeError as error:
        raise CutError(
            f"the cut model does not run ({error}): this cut must not be used; please report it"
        ) from error


def _whole_batch(dense: Captured, sample: Tensor) -> Tensor:
    """Return as many images as the model takes."""
    batch = len(dense.sample)
    if dense.dynamic_batch:
        return sample
    if len(sample) < batch:
        raise UsageError(
            f"{len(sample)} images to verify a model captured for batches of {batch}; give {batch}"
        )
    return sample[:batch]
