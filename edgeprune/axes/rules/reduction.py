"""Operators that reduce axes or resample positions: reduced axes lose nothing."""

from edgeprune.axes.op import Op, rule
from edgeprune.axes.units import Axes, Axis


@rule(
    "aten.mean", "aten.sum", "aten.amax", "aten.amin", "aten.var", "aten.std", "aten.prod",
    "aten.any", "aten.all", "aten.argmax", "aten.argmin",
)  # fmt: skip
def reduce(op: Op, x: Axes, dim: list[int] | int | None = None, *rest: object) -> Axes:
    """Lock the reduced axes, which leave or stay with size 1."""
    if isinstance(dim, bool) or not isinstance(dim, int | list) or dim == []:
        dims = list(range(len(x)))
    else:
        dims = [d % len(x) for d in ([dim] if isinstance(dim, int) else dim)]
    op.lock(*(x[d] for d in dims), why="reduced axis")
    keeps_dims = len(op.shape) == len(x)
    return tuple(
        Axis(1) if d in dims else axis for d, axis in enumerate(x) if keeps_dims or d not in dims
    )


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


__all__ = ["reduce", "resample"]
