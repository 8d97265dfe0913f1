"""Prove that an artifact computes what torch computes.

The files are loaded as a device would load them and run on real images at each
batch size; the error is the largest difference of a logit relative to the
largest logit in absolute value. A NaN is an infinite difference.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import ParityError

TOLERANCE: Final = 1e-4  # relative, in float32: other kernels add in another order, no more

Array = NDArray[np.float32]
Logits = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images (N, C, H, W) with torch's logits (N, K) for them."""

    images: Array
    logits: Array


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A loaded artifact: what runs it, the precision it says it runs in, and how to run it."""

    name: str
    version: str
    precision: str
    run: Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class BatchParity:
    """The error at one batch size: absolute, and relative to the largest logit."""

    batch: int
    max_abs: float
    max_rel: float


@dataclass(frozen=True, kw_only=True)
class ParityProof:
    """How far an artifact is from torch.

    Attributes:
        batches: the error at each batch size.
        runtime: what ran the files, with its version.
        precision: of the arithmetic, as the runtime reports it.
        tolerance: what ``max_rel`` may be.
        note: what was not compared, and why, or None.
    """

    batches: tuple[BatchParity, ...]
    runtime: str
    runtime_version: str
    precision: str
    tolerance: float = TOLERANCE
    note: str | None = field(default=None)

    @property
    def max_rel(self) -> float:
        """The largest relative error over the batch sizes."""
        return max(batch.max_rel for batch in self.batches)

    @property
    def ok(self) -> bool:
        """Whether every batch size is within the tolerance."""
        return self.max_rel <= self.tolerance

    def require(self, format_name: str, rounding: float | None = None) -> None:
        """Raise ParityError unless the proof holds.

        Args:
            format_name: of the files, for the message.
            rounding: how far torch's logits in float32 are from those in
                float64, in the measure of ``max_rel``, if that is known.
        """
        if not self.ok:
            worst = max(self.batches, key=lambda batch: batch.max_rel)
            raise ParityError(
                f"the {format_name} file differs from torch by {worst.max_rel:.1e} relative at "
                f"batch {worst.batch} in {self.runtime} {self.runtime_version} (tolerance "
                f"{self.tolerance:.0e}): it was not kept; {_advice(rounding, self.tolerance)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the proof as JSON values; an infinite error is null."""
        return {
            "ok": self.ok,
            "tolerance": self.tolerance,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "precision": self.precision,
            "batches": [
                {
                    "batch": each.batch,
                    "max_abs": each.max_abs if math.isfinite(each.max_abs) else None,
                    "max_rel": each.max_rel if math.isfinite(each.max_rel) else None,
                }
                for each in self.batches
            ],
            "note": self.note,
        }


def _advice(rounding: float | None, tolerance: float) -> str:
    # A runtime adds in another order than torch: it can be as far off as torch itself is.
    if rounding is None or rounding < tolerance / 10:
        return "please report the model"
    return (
        f"torch's own float32 logits are {rounding:.1e} from its float64 ones, so the model "
        "amplifies rounding errors and the file may be right: train it, or give its "
        "normalisations statistics of real images"
    )


def prove(runtime: Runtime, batches: Sequence[Batch], note: str | None = None) -> ParityProof:
    """Run every batch and compare with torch.

    Raises:
        ParityError: a batch does not run, or gives logits of another shape.
    """
    return ParityProof(
        batches=tuple(_compare(runtime, batch) for batch in batches),
        runtime=runtime.name,
        runtime_version=runtime.version,
        precision=runtime.precision,
        note=note,
    )


def _compare(runtime: Runtime, batch: Batch) -> BatchParity:
    size = len(batch.images)
    try:
        actual = runtime.run(batch.images)
    except Exception as error:  # each runtime has its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ParityError(
            f"{runtime.name} {runtime.version} loads the file but cannot run it at batch {size}: "
            f"{reason}"
        ) from error
    if actual.shape != batch.logits.shape:
        raise ParityError(
            f"{runtime.name} {runtime.version} gives logits of shape {actual.shape} at batch "
            f"{size}; torch gives {batch.logits.shape}"
        )
    max_abs, max_rel = distance(actual, batch.logits)
    return BatchParity(batch=size, max_abs=max_abs, max_rel=max_rel)


def distance(actual: Logits, wanted: Logits) -> tuple[float, float]:
    """Return the largest difference, and the same relative to the largest wanted logit."""
    difference = np.abs(actual.astype(np.float64) - wanted)
    max_abs = float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max())
    return max_abs, max_abs / max(float(np.abs(wanted).max()), 1e-12)
