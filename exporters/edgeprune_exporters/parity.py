"""Prove that an artifact computes what the model computes.

The files are loaded as a device would load them and run on real images at each
batch size; the error is the largest difference of a logit relative to the
largest logit in absolute value. A NaN is an infinite difference. In int8 the
largest difference says little, and the error is the noise: the root mean square
of all differences, relative to what the logits differ from image to image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeprune.errors import ParityError
from edgeprune_exporters.calls import Accuracy, agreement
from edgeprune_exporters.distances import (
    Array,
    difference,
    distance,
    root_mean_square,
    rounded,
    spread_of,
)

__all__ = ["FLOAT32", "TOLERANCE", "Array", "Batch", "BatchParity", "Limit"]
__all__ += ["ParityProof", "Runtime", "distance", "prove"]

TOLERANCE: Final = 1e-4  # relative, in float32: other kernels add in another order, no more


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images (N, C, H, W) with the model's own logits (N, K) for them."""

    images: Array
    logits: Array


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A loaded artifact.

    Attributes:
        name: of what runs it.
        version: of what runs it.
        precision: of the arithmetic, as it says itself.
        run: logits (N, K) of images (N, C, H, W).
        path: the file that was loaded; in it, a layer can be named that deviates.
    """

    name: str
    version: str
    precision: str
    run: Callable[[Array], Array]
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How far an artifact may be.

    Attributes:
        tolerance: what the error may be.
        reason: where that comes from.
        measure: of the error, ``max_rel`` or ``noise``.
        precision: that this is the limit for.
    """

    tolerance: float
    reason: str
    measure: str = "max_rel"
    precision: str = "fp32"


FLOAT32: Final = Limit(tolerance=TOLERANCE, reason="other kernels add in another order, no more")


@dataclass(frozen=True, kw_only=True)
class BatchParity:
    """The errors at one batch size.

    Attributes:
        batch: how many images ran at once.
        max_abs: the largest difference of a logit.
        mean_abs: the mean difference.
        max_rel: the largest difference, relative to the largest logit.
        noise: root mean square of the differences, relative to that of what the logits
            of all images differ from their mean; None where all images give the same.
        agreement: share of calls that are the model's own.
    """

    batch: int
    max_abs: float
    mean_abs: float
    max_rel: float
    noise: float | None
    agreement: float


@dataclass(frozen=True, kw_only=True)
class ParityProof:
    """How far an artifact is from the model that it was made from.

    Attributes:
        batches: the errors at each batch size.
        runtime: what ran the files, with its version.
        precision: of the arithmetic, as the runtime reports it.
        limit: how far it may be.
        reference: what the logits were compared with, as ``torch``.
        note: what was not compared, and why, or None.
        accuracy: on the test split, if there is one.
        deviation: where the artifact leaves the model's values, or None.
    """

    batches: tuple[BatchParity, ...]
    runtime: str
    runtime_version: str
    precision: str
    limit: Limit = FLOAT32
    reference: str = "torch"
    note: str | None = None
    accuracy: Accuracy | None = None
    deviation: str | None = None

    @property
    def max_rel(self) -> float:
        """The largest relative error over the batch sizes."""
        return max(batch.max_rel for batch in self.batches)

    @property
    def tolerance(self) -> float:
        """What the error may be."""
        return self.limit.tolerance

    @property
    def agreement(self) -> float:
        """Share of the calls on all compared images that are the model's own."""
        count = sum(batch.batch for batch in self.batches)
        return sum(batch.batch * batch.agreement for batch in self.batches) / count

    @property
    def noise(self) -> float | None:
        """The noise over all compared images."""
        count = sum(batch.batch for batch in self.batches)
        squares = [
            batch.batch * batch.noise**2 for batch in self.batches if batch.noise is not None
        ]
        return math.sqrt(sum(squares) / count) if squares else None

    @property
    def error(self) -> float:
        """What the limit is for; the largest relative error where there is no noise to measure."""
        if self.limit.measure == "noise" and self.noise is not None:
            return self.noise
        return self.max_rel

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance, and no layer was found to deviate."""
        return self.error <= self.tolerance and self.deviation is None

    def require(self, format_name: str, rounding: float | None = None) -> None:
        """Raise ParityError unless the proof holds.

        Args:
            format_name: of the files, for the message.
            rounding: how far the model's logits in float32 are from those in
                float64, in the measure of ``max_rel``, if that is known.
        """
        if not self.ok:
            where = f"; {self.deviation}" if self.deviation else ""
            raise ParityError(
                f"the {format_name} file differs from {self.reference} by {self._far()} in "
                f"{self.runtime} {self.runtime_version} (tolerance {self.tolerance:.0e}){where}: "
                f"it was not kept; {self._advice(rounding)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the proof as JSON values; an infinite error is null."""
        return {
            "ok": self.ok,
            "tolerance": rounded(self.tolerance),
            "tolerance_reason": self.limit.reason,
            "measure": self.limit.measure,
            "error": rounded(self.error),
            "noise": rounded(self.noise),
            "reference": self.reference,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "precision": self.precision,
            "images": sum(each.batch for each in self.batches),
            "agreement": rounded(self.agreement),
            "batches": [
                {
                    "batch": each.batch,
                    "max_abs": rounded(each.max_abs),
                    "mean_abs": rounded(each.mean_abs),
                    "max_rel": rounded(each.max_rel),
                    "noise": rounded(each.noise),
                    "agreement": rounded(each.agreement),
                }
                for each in self.batches
            ],
            "accuracy": None if self.accuracy is None else asdict(self.accuracy),
            "note": self.note,
        }

    def _far(self) -> str:
        if self.error != self.max_rel:
            return f"{self.error:.1e} of what images change in the logits"
        worst = max(self.batches, key=lambda batch: batch.max_rel)
        return f"{worst.max_rel:.1e} relative at batch {worst.batch}"

    def _advice(self, rounding: float | None) -> str:
        if self.limit != FLOAT32:
            return (
                f"if {self.limit.precision} costs this model so much, give a smaller --max-drop or "
                "write a higher precision"
            )
        # A runtime adds in another order: it can be as far off as the model itself is.
        if rounding is None or rounding < self.tolerance / 10:
            return "please report the model"
        return (
            f"{self.reference}'s own float32 logits are {rounding:.1e} from its float64 ones, so "
            "the model amplifies rounding errors and the file may be right: train it, or give "
            "its normalisations statistics of real images"
        )


def prove(
    runtime: Runtime,
    batches: Sequence[Batch],
    note: str | None = None,
    *,
    limit: Limit = FLOAT32,
    reference: str = "torch",
    multi_label: bool = False,
) -> ParityProof:
    """Run every batch and compare with the model's own logits.

    Args:
        runtime: what runs the artifact.
        batches: images with the logits wanted.
        note: what cannot be compared.
        limit: what the error may be.
        reference: what the logits come from.
        multi_label: whether each logit is a call of its own, by its sign.

    Raises:
        ParityError: a batch does not run, or gives logits of another shape.
    """
    outputs = [_run(runtime, batch, reference) for batch in batches]
    spread = spread_of(np.concatenate([batch.logits for batch in batches]))
    return ParityProof(
        batches=tuple(
            _parity(actual, batch.logits, spread, multi_label)
            for actual, batch in zip(outputs, batches, strict=True)
        ),
        runtime=runtime.name,
        runtime_version=runtime.version,
        precision=runtime.precision,
        limit=limit,
        reference=reference,
        note=note,
    )


def _run(runtime: Runtime, batch: Batch, reference: str) -> Array:
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
            f"{size}; {reference} gives {batch.logits.shape}"
        )
    return actual


def _parity(actual: Array, own: Array, spread: float | None, multi_label: bool) -> BatchParity:
    max_abs, max_rel = distance(actual, own)
    return BatchParity(
        batch=len(own),
        max_abs=max_abs,
        mean_abs=float(difference(actual, own).mean()),
        max_rel=max_rel,
        noise=None if spread is None else root_mean_square(difference(actual, own)) / spread,
        agreement=agreement(actual, own, multi_label=multi_label),
    )
