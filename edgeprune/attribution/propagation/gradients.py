"""Values with another gradient than their own."""

from typing import Any

import torch
from torch import Tensor


class _Rescaled(torch.autograd.Function):
    """Have one tensor's value, and pass the gradient times a factor to another."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, factor: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(factor)
        return value.detach()  # an alias: returned as it came it would lose this gradient

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None, None


def rescaled(source: Tensor, value: Tensor, factor: Tensor) -> Tensor:
    """Return ``value`` with the gradient ``factor`` towards ``source``."""
    return _Rescaled.apply(source, value, factor)  # type: ignore[no-any-return]
