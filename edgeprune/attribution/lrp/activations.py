"""Functions of one number: relevance passes on as it is, but for what f(0) adds.

R(x) = R(f(x)) · (f(x) - f(0)) / f(x), so that gradient × value is relevance with
the gradient (f(x) - f(0)) / x, the slope of the chord from 0. f(0) is added by
the function itself, like a bias.
"""

from typing import Final

import torch
from torch import Tensor

from edgeprune.attribution.propagation import Step, rescaled

_NEAR_ZERO: Final = 1e-4  # where f(x) - f(0) is mostly rounding error, unless f(0) = 0

THROUGH_ZERO: Final = frozenset(
    {
        "gelu", "silu", "hardswish", "tanh", "mish", "elu", "selu", "celu", "relu6", "softsign",
        "tanhshrink", "hardshrink", "softshrink", "square", "sqrt", "pow", "float_power",
        "expm1", "log1p", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf", "erfinv",
        "floor", "ceil", "round", "trunc", "fix", "frac", "sign", "sgn",
    }
)  # fmt: skip
"""Functions with f(0) = 0."""

SHIFTED: Final = frozenset(
    {
        "sigmoid", "hardsigmoid", "softplus", "log_sigmoid", "hardtanh", "clamp", "clamp_min",
        "clamp_max", "clip", "threshold", "exp", "exp2", "cos", "acos", "cosh", "erfc", "sinc",
        "maximum", "minimum", "fmax", "fmin",
    }
)  # fmt: skip
"""Functions that may add f(0)."""


def chord_through_zero(step: Step) -> Tensor:
    """Pass relevance through a function with f(0) = 0: the gradient is f(x) / x."""
    name = _signal(step)
    if name == "exponent":  # of a number: p ** 0 is 1
        return chord(step)
    source: Tensor = step.arguments[name]
    value: Tensor = step.given({name: source.detach()}).run().detach()
    # 0 / 0 passes nothing on: the relevance of a zero is 0.
    factor = (value / source.detach()).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return rescaled(source, value, factor)


def chord(step: Step) -> Tensor:
    """Pass relevance through any function: the gradient is (f(x) - f(0)) / x, or f'(0) near 0.

    Of two signals under max or min the one that wins gets all.
    """
    if len(step.signals) > 1:
        return step.run()  # type: ignore[no-any-return]
    name = _signal(step)
    source: Tensor = step.arguments[name]
    x = source.detach()
    value: Tensor = step.given({name: x}).run().detach()
    start, slope = _at_zero(step, name)
    near = x.abs() <= torch.where(start == 0, 0.0, _NEAR_ZERO)
    factor = torch.where(near, slope, (value - start) / torch.where(near, 1.0, x))
    return rescaled(source, value, factor)


def _signal(step: Step) -> str:
    """Name the argument that relevance goes to."""
    return next(name for name in step.arguments if name in step.signals)


def _at_zero(step: Step, name: str) -> tuple[Tensor, Tensor]:
    """Return f(0) and f'(0), of one number unless other operands are tensors."""
    x: Tensor = step.arguments[name]
    others = [v for key, v in step.arguments.items() if key != name and isinstance(v, Tensor)]
    with torch.enable_grad():
        zero = torch.zeros(x.shape if others else (), dtype=x.dtype, device=x.device)
        value = step.given({name: zero.requires_grad_()}).run()
        (slope,) = torch.autograd.grad(value.sum(), zero)
    return value.detach(), slope
