"""Prove that an artifact computes what the model computes.

The files are loaded as a device would load them and run on real images at each
batch size; the error is the largest difference of a logit relative to the
largest logit in absolute value. A NaN is an infinite difference. Below float32
the errors must also stay small beside what the images make of a difference:
logits may be nearly the same for all images, and nearly right for none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import ParityError
from edgeprune_exporters.calls import Accuracy, agreement

TOLERANCE: Final = 1e-4  # relative, in float32: other kernels add in another order, no more
DIGITS: Final = 4  # of a measured number in a document: the rest is noise

Array = NDArray[np.float32]
Logits = NDArray[np.float32] | NDArray[np.float64]


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
        tolerance: what ``max_rel`` may be.
        reason: where that comes from.
        noise: what ``noise`` may be, or None for anything.
        precision: that this is the limit for.
    """

    tolerance: float
    reason: str
    noise: float | None = None
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
        agreement: share of calls that are the model's own.
    """

    batch: int
    max_abs: float
    mean_abs: float
    max_rel: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class ParityProof:
    """How far an artifact is from the model that it was made from.

    Attributes:
        batches: the errors at each batch size.
        runtime: what ran the files, with its version.
        precision: of the arithmetic, as the runtime reports it.
        limit: how far it may be.
        noise: root mean square of the errors, relative to that of what the logits
            differ from image to image; None where all images give the same.
        reference: what the logits were compared with, as ``torch``.
        note: what was not compared, and why, or None.
        accuracy: on the test split, if there is one.
        deviation: where a failed artifact first leaves the model's values, or None.
    """

    batches: tuple[BatchParity, ...]
    runtime: str
    runtime_version: str
    precision: str
    limit: Limit = FLOAT32
    noise: float | None = None
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
        """What ``max_rel`` may be."""
        return self.limit.tolerance

    @property
    def agreement(self) -> float:
        """Share of the calls on all compared images that are the model's own."""
        count = sum(batch.batch for batch in self.batches)
        return sum(batch.batch * batch.agreement for batch in self.batches) / count

    @property
    def ok(self) -> bool:
        """Whether every batch size is within the tolerance, and the noise is."""
        return self.max_rel <= self.tolerance and not self.drowned

    @property
    def drowned(self) -> bool:
        """Whether the errors are too large beside the differences between images."""
        if self.noise is None or self.limit.noise is None:
            return False
        return self.noise > self.limit.noise

    def require(self, format_name: str, rounding: float | None = None) -> None:
        """Raise ParityError unless the proof holds.

        Args:
            format_name: of the files, for the message.
            rounding: how far the model's logits in float32 are from those in
                float64, in the measure of ``max_rel``, if that is known.
        """
        if not self.ok:
            worst = max(self.batches, key=lambda batch: batch.max_rel)
            where = f"; {self.deviation}" if self.deviation else ""
            drowned = f", {self.noise:.1e} of what images change," if self.drowned else ""
            raise ParityError(
                f"the {format_name} file differs from {self.reference} by {worst.max_rel:.1e} "
                f"relative at batch {worst.batch}{drowned} in {self.runtime} "
                f"{self.runtime_version} ({self._limits()}){where}: it was not kept; "
                f"{self._advice(rounding)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the proof as JSON values; an infinite error is null."""
        return {
            "ok": self.ok,
            "tolerance": rounded(self.tolerance),
            "tolerance_reason": self.limit.reason,
            "noise": None if self.noise is None else rounded(self.noise),
            "noise_tolerance": self.limit.noise,
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
                    "agreement": rounded(each.agreement),
                }
                for each in self.batches
            ],
            "accuracy": None if self.accuracy is None else asdict(self.accuracy),
            "note": self.note,
        }

    def _limits(self) -> str:
        drowned = f" and {self.limit.noise:.0e}" if self.drowned else ""
        return f"tolerance {self.tolerance:.0e}{drowned}"

    def _advice(self, rounding: float | None) -> str:
        if self.limit != FLOAT32:
            return "bound the loss with --max-drop, or write a higher precision"
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
    pairs = list(zip(outputs, (batch.logits for batch in batches), strict=True))
    return ParityProof(
        batches=tuple(_parity(actual, own, multi_label) for actual, own in pairs),
        noise=noise(np.concatenate(outputs), np.concatenate([own for _, own in pairs])),
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


def _parity(actual: Array, own: Array, multi_label: bool) -> BatchParity:
    max_abs, max_rel = distance(actual, own)
    return BatchParity(
        batch=len(own),
        max_abs=max_abs,
        mean_abs=float(_difference(actual, own).mean()),
        max_rel=max_rel,
        agreement=agreement(actual, own, multi_label=multi_label),
    )


def distance(actual: Logits, wanted: Logits) -> tuple[float, float]:
    """Return the largest difference, and the same relative to the largest wanted value."""
    max_abs = float(_difference(actual, wanted).max(initial=0.0))
    return max_abs, max_abs / max(float(np.abs(wanted).max(initial=0.0)), 1e-12)


def noise(actual: Logits, wanted: Logits) -> float | None:
    """Return the errors relative to what wanted values (N, …) differ from image to image.

    Both as root mean squares; None where all images give the same but for rounding.
    """
    spread = float(np.square(wanted - wanted.mean(0)).mean())
    if spread <= (TOLERANCE * float(np.abs(wanted).max(initial=0.0))) ** 2:
        return None
    return math.sqrt(float(np.square(_difference(actual, wanted)).mean()) / spread)


def rounded(value: float) -> float | None:
    """Return a measured number for a document: in few digits, and null where infinite."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _difference(actual: Logits, wanted: Logits) -> NDArray[np.float64]:
    difference = np.abs(actual.astype(np.float64) - wanted)
    return np.nan_to_num(difference, nan=np.inf, posinf=np.inf)
