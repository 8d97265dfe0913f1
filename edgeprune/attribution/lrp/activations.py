"""Activations: one value in, one value out, so relevance passes on as it is."""

from typing import Final

import torch
from torch import Tensor

from edgeprune.attribution.propagation import Step, rescaled

_NEAR_ZERO: Final = 1e-9

ACTIVATIONS: Final = frozenset(
    {
        "gelu", "silu", "hardswish", "tanh", "mish", "elu", "selu", "celu", "leaky_relu", "prelu",
        "relu6", "hardtanh", "square", "pow",
    }
)  # fmt: skip


def proportional(step: Step) -> Tensor:
    """R(x) = R(f(x)) where f(0) = 0: the gradient is f(x) / x."""
    x, z = step.first, step.run()
    if not isinstance(x, Tensor):  # 2 ** x has no signal to pass on to
        return z  # type: ignore[no-any-return]
    value, factor = z.detach(), x.detach()
    small = factor.abs() < _NEAR_ZERO
    return rescaled(x, value, torch.where(small, 0.0, value / torch.where(small, 1.0, factor)))
