"""Operators that resample positions in space: batch and channels pass."""

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, Axis


@rule(
    "aten.max_pool2d", "aten.avg_pool2d", "aten.adaptive_avg_pool2d", "aten.adaptive_max_pool2d",
    "aten.max_pool1d", "aten.avg_pool1d", "aten.adaptive_avg_pool1d", "aten.upsample_nearest2d",
    "aten.upsample_bilinear2d", "aten.upsample_bicubic2d", "aten._upsample_bilinear2d_aa",
    "aten._upsample_bicubic2d_aa", "aten.upsample_linear1d",
)  # fmt: skip
def resample(op: Op, x: Axes, *rest: object) -> Axes | list[Axes]:
    """Keep batch and channels; positions in space come out in another number."""
    space = 1 if "1d" in op.name else 2
    op.fix(*x[-space:])
    out = (*x[:-space], *(Axis(size) for size in op.shape[-space:]))
    return [out for _ in op.shapes] if op.returns_list else out
