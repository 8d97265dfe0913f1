"""What a precision below float32 costs a model at best, whatever runs it.

In float16 every value is rounded; in int8 the operands of every product and sum
are, weights per output channel to ±127 and values to 256 levels between their
own least and largest (Jacob et al. 2018, arXiv:1712.05877, without training).
"""

from typing import Any, Final

import torch
from torch import Tensor, fx

ATEN: Final = torch.ops.aten
ROUNDED_OPERANDS: Final = frozenset(
    {
        ATEN.conv1d.default,
        ATEN.conv2d.default,
        ATEN.conv2d.padding,
        ATEN.linear.default,
        ATEN.matmul.default,
        ATEN.bmm.default,
        ATEN.scaled_dot_product_attention.default,
        ATEN.add.Tensor,
        ATEN.add_.Tensor,
        ATEN.mul.Tensor,
    }
)
WEIGHT_LEVELS: Final = 127
VALUE_LEVELS: Final = 255


def rounded_run(module: fx.GraphModule, images: Tensor, precision: str) -> Any:  # noqa: ANN401
    """Return what a module gives for images (N, C, H, W), rounded to ``fp16`` or ``int8``."""
    with torch.no_grad():
        return _Rounding(module, precision).run(images)


class _Rounding(fx.Interpreter):
    """Runs a graph and rounds on the way."""

    def __init__(self, module: fx.GraphModule, precision: str) -> None:
        super().__init__(module)
        self.precision = precision

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as its base class
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if self.precision == "int8" and n.target in ROUNDED_OPERANDS:
            args = tuple(_to_int8(x, node) for x, node in zip(args, n.args, strict=True))
        value = getattr(self, n.op)(n.target, args, kwargs)
        return _to_half(value) if self.precision == "fp16" else value


def _to_half(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.half().to(value.dtype)
    return value


def _to_int8(value: Any, node: object) -> Any:  # noqa: ANN401
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
        return value
    if isinstance(node, fx.Node) and node.op == "get_attr":
        largest = value.abs().amax(tuple(range(1, value.dim())), keepdim=True)
        step = largest.clamp_min(torch.finfo(value.dtype).tiny) / WEIGHT_LEVELS
        return (value / step).round() * step
    low, high = value.min().clamp_max(0.0), value.max().clamp_min(0.0)
    step = (high - low).clamp_min(torch.finfo(value.dtype).tiny) / VALUE_LEVELS
    return ((value - low) / step).round() * step + low
