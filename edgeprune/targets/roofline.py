"""How long a model may take on a device that is not here: an estimate, never a measurement.

Each kernel takes as long as the slower of its arithmetic and its traffic with
memory, at the shares of the peaks that the target states (the roofline model:
Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009), and the time
that starting it takes.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.capture import Captured
from edgeprune.errors import UsageError
from edgeprune.targets.kernels import Kernel, kernels
from edgeprune.targets.target import PRECISIONS, Rates, Target

Bound = Literal["compute", "memory", "launch"]

UNCALIBRATED: Final = "estimate, uncalibrated"
BYTES: Final[Mapping[str, int]] = {"fp32": 4, "fp16": 2, "int8": 1}
ASSUMPTIONS: Final = (
    "every weight and activation has the precision asked for, in memory and in arithmetic",
    "pointwise operators are fused into the kernel before them, and batch normalisation into its "
    "weights; views, permutations and concatenations cost nothing",
    "what a kernel reads and writes goes through memory once, with no cache between kernels",
    "contracted channels are rounded up to whole blocks",
    "a depthwise convolution runs at the fp32 rate: it has no channels to contract in matrix units",
)
TF32: Final = "fp32 runs at the fp32 rate: TF32, which TensorRT may use instead, is faster"


@dataclass(frozen=True, kw_only=True)
class LayerEstimate:
    """One kernel.

    Attributes:
        name: path of the module that its first operator came from, or the operator's own.
        operator: its first operator, as ``conv2d``.
        fused: the pointwise operators that follow in it.
        macs: multiply-accumulates of the batch, without what blocks are filled up with.
        bytes: weights and activations, read and written.
        ms: milliseconds.
        bound: what takes most of that.
    """

    name: str
    operator: str
    fused: tuple[str, ...]
    macs: int
    bytes: int
    ms: float
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Every kernel of a model on one target.

    Attributes:
        target: its name.
        precision, batch: what was asked for.
        layers: the kernels in the order of the graph.
        factor: by which a measured latency has corrected the estimate; 1 without one.
        words: what kind of number this is; belongs beside each of them.
        assumptions: what was taken for granted, one sentence each.
    """

    target: str
    precision: str
    batch: int
    layers: tuple[LayerEstimate, ...]
    factor: float = 1.0
    words: str = UNCALIBRATED
    assumptions: tuple[str, ...] = ASSUMPTIONS

    @property
    def ms(self) -> float:
        """Milliseconds in all."""
        return math.fsum(layer.ms for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"ms": self.ms}


def estimate(
    model: Captured,
    target: Target,
    *,
    precision: str,
    batch: int = 1,
    analysis: Analysis | None = None,
) -> Estimate:
    """Estimate the latency of a captured model on a target, kernel by kernel.

    Args:
        model: dense or cut.
        target: states the rates of its hardware.
        precision: of weights and arithmetic, one of ``PRECISIONS``.
        batch: images at a time.
        analysis: of the model, where there is one already.

    Raises:
        UsageError: the target lacks what an estimate needs, cannot run the
            precision, or the batch is below 1.
    """
    if batch < 1:
        raise UsageError(f"a batch of {batch} is too small: give 1 or more")
    if reason := no_estimate(target, precision):
        raise UsageError(reason)
    assert target.rates is not None  # noqa: S101 - or there would have been a reason
    model_kernels = kernels(model, analysis or analyse(model))
    block = target.block(precision)
    faster = precision == "fp32" and target.runtime == "tensorrt"
    return Estimate(
        target=target.name,
        precision=precision,
        batch=batch,
        layers=tuple(_layer(k, target.rates, precision, batch, block) for k in model_kernels),
        assumptions=(*ASSUMPTIONS, TF32) if faster else ASSUMPTIONS,
    )


def no_estimate(target: Target, precision: str) -> str | None:
    """Say why latency on a target cannot be estimated at a precision, or None."""
    head = f"no estimate for '{target.name}' in {precision}"
    if precision not in PRECISIONS:
        return f"{head}: give one of {', '.join(PRECISIONS)}"
    if precision not in target.precisions:
        return f"{head}, which it cannot run: give one of {', '.join(target.precisions)}"
    how = f'a file with extends = "{target.name}" can give it'
    if target.rates is None:
        return f"{head}: the target has no table [rates] of what its hardware does at best; {how}"
    if target.rates.peak(precision) is None:
        lacking = "int8_tops" if precision == "int8" else f"{precision}_tflops"
        return f"{head}: table [rates] of the target has no '{lacking}'; {how}"
    return None


def calibrated(
    estimate: Estimate, measured_ms: float, *, measured: Estimate | None = None
) -> Estimate:
    """Return an estimate scaled by what one measured latency says.

    Every kernel is scaled by the same factor, so ratios between them stay guesses.

    Args:
        estimate: what to correct, such as that of the slim model.
        measured_ms: median latency in milliseconds, measured on the device.
        measured: the estimate of what was measured, such as that of the dense
            model; None if that is the same.

    Raises:
        UsageError: no latency, or the two are not of one target, precision and batch.
    """
    measured = measured or estimate
    if not 0 < measured_ms < math.inf:
        raise UsageError(f"a measured latency of {measured_ms:g} ms is none: give more than 0")
    for key in ("target", "precision", "batch"):
        ours, theirs = getattr(estimate, key), getattr(measured, key)
        if ours != theirs:
            raise UsageError(
                f"an estimate for {key} {ours} cannot be calibrated by a latency for {key} {theirs}"
            )
    factor = measured_ms * measured.factor / measured.ms
    scale = factor / estimate.factor
    return replace(
        estimate,
        layers=tuple(replace(each, ms=each.ms * scale) for each in estimate.layers),
        factor=factor,
        words=f"estimate, calibrated by one measured latency (times {factor:.2f})",
    )


def _layer(kernel: Kernel, rates: Rates, precision: str, batch: int, block: int) -> LayerEstimate:
    peak = rates.fp32_tflops if kernel.depthwise else rates.peak(precision)
    assert peak is not None  # noqa: S101 - as asked of no_estimate
    filled = math.prod(-(-width // block) * block / width for width in kernel.widths)
    moved = math.ceil((kernel.moved * batch + kernel.weights) * BYTES[precision])
    parts: dict[Bound, float] = {
        "compute": 2 * kernel.macs * batch * filled / (peak * rates.compute_share * 1e9),
        "memory": moved / (rates.bandwidth_gbs * rates.bandwidth_share * 1e6),
        "launch": rates.launch_us / 1e3,
    }
    return LayerEstimate(
        name=kernel.name,
        operator=kernel.operator,
        fused=kernel.fused,
        macs=kernel.macs * batch,
        bytes=moved,
        ms=max(parts["compute"], parts["memory"]) + parts["launch"],
        bound=max(parts, key=lambda part: parts[part]),
    )
