"""How operators pass relevance on: R(x) = x · gradient, with a backward of their own.

A rule takes an operator's first operand x, its result z, the stabiliser and the
dimension of z along which images lie, and returns z, equal in value, with
another gradient. Operators without a rule keep their own
gradient: that is already conservative for everything linear (additions, pools,
concatenations, batch normalisation as the affine map it is in evaluation) and
for ReLU and max-pooling.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor, float, int], Tensor]

_NEAR_ZERO: Final = 1e-9


class _Rescaled(torch.autograd.Function):
    """Have one tensor's value, and pass the gradient times a factor to another."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, factor: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(factor)
        return value.clone() if value is source else value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None, None


def rescaled(source: Tensor, value: Tensor, factor: Tensor) -> Tensor:
    """Return ``value`` with the gradient ``factor`` towards ``source``."""
    return _Rescaled.apply(source, value, factor)  # type: ignore[no-any-return]


def stabilised(x: Tensor, z: Tensor, epsilon: float, images: int) -> Tensor:
    """Epsilon rule for what contracts channels: R(x) = x · ∂z/∂x · R(z) / (z + e · sign z).

    e is ``epsilon`` times the mean of |z| over everything but the images, so
    that it fits every layer and no image depends on its batch.
    """
    if epsilon == 0:
        return z
    size = z.detach().abs()
    rest = tuple(dim for dim in range(z.dim()) if dim != images)
    e = epsilon * (size.mean(rest, keepdim=True) if rest else size) + 1e-12
    return rescaled(z, z, size / (size + e))


def proportional(x: Tensor, z: Tensor, epsilon: float, images: int) -> Tensor:
    """Activations with f(0) = 0: R(x) = R(f(x)), the gradient being f(x) / x."""
    value, factor = z.detach(), x.detach()
    small = factor.abs() < _NEAR_ZERO
    return rescaled(x, value, torch.where(small, 0.0, value / torch.where(small, 1.0, factor)))


def halved(x: Tensor, z: Tensor, epsilon: float, images: int) -> Tensor:
    """Products of two signals: half of the relevance to each."""
    return rescaled(z, z, torch.full((), 0.5, dtype=z.dtype, device=z.device))


CONTRACTIONS: Final = (
    "linear", "addmm", "mm", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
)  # fmt: skip
_ACTIVATIONS: Final = (
    "gelu", "silu", "hardswish", "tanh", "mish", "elu", "selu", "celu", "leaky_relu", "prelu",
    "relu6", "hardtanh", "square", "pow",
)  # fmt: skip

RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(CONTRACTIONS, stabilised),
    **dict.fromkeys(_ACTIVATIONS, proportional),
}


def normalised(
    x: Tensor, gates: Tensor, dims: tuple[int, ...], *, epsilon: float, centred: bool
) -> Tensor:
    """Standardise x over ``dims`` with the deviation held constant: linear in x.

    gates weigh the statistics and broadcast to x.
    """
    count = gates.expand_as(x).sum(dims, keepdim=True)
    count = count.where(count > 0, 1)
    if centred:
        x = x - (x * gates).sum(dims, keepdim=True) / count
    variance = (x.square() * gates).sum(dims, keepdim=True) / count
    return x * torch.rsqrt(variance + epsilon).detach()
