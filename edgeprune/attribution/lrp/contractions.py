"""How a contraction shares the relevance of its result among its operands.

With contributions z_i = x_i w_i of each operand and the bias b, the result is
z = Σ z_i + b; a rule says which share of R(z) each z_i gets. All leave the value
as it is: gradient × value is relevance. Under half precision shares are
computed in float32.

Patents: LRP is patented in some jurisdictions; see ``Lrp``.
"""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.attribution.lrp.operands import Contraction
from edgeprune.attribution.propagation import rescaled

_NEAR_ZERO: Final = 1e-9


class ContractionRule(Protocol):
    """What gives a contraction its gradient; built in are ``Epsilon``, ``ZPlus`` and ``Gamma``."""

    @property
    def folds(self) -> bool:
        """Whether normalisation that follows is a part of the contraction."""
        ...

    def __call__(self, contraction: Contraction) -> Tensor:
        """Return the result of the contraction, its gradient being the rule's."""
        ...


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """R(x_i) = z_i / (z + e · sign z) · R(z).

    Cost: four passes over the result forwards and one backwards, and no
    further contraction. Source: Bach et al., PLoS ONE 2015, equation 58.

    Attributes:
        epsilon: e as a share of the mean |z|, taken over everything but the
            images, so that it fits every layer and no image depends on its batch.
            0 absorbs nothing.
        absolute: whether ``epsilon`` is e itself, whatever the layer. Then
            normalisation is folded, since the scale of z counts.
    """

    epsilon: float = 0.1
    absolute: bool = False

    @property
    def folds(self) -> bool:
        """Whether normalisation that follows is a part of the contraction."""
        return self.absolute

    def __call__(self, contraction: Contraction) -> Tensor:
        """Return the result of the contraction, its gradient being the rule's."""
        z = contraction.run()
        if self.epsilon == 0:
            return z
        size = z.detach().abs().to(_wide(z.dtype))
        return rescaled(z, z, size.div_(size + self._e(size, contraction.images)))

    def _e(self, size: Tensor, images: int) -> Tensor | float:
        if self.absolute:
            return self.epsilon
        rest = tuple(dim for dim in range(size.dim()) if dim != images)
        return self.epsilon * (size.mean(rest, keepdim=True) if rest else size) + 1e-12


@dataclass(frozen=True, kw_only=True)
class ZPlus:
    """R(x_i) = z_i⁺ / (Σ z_j⁺ + b⁺) · R(z): only what speaks for the result counts.

    Negative x with negative weight is a positive contribution. Cost: one
    further contraction forwards, and where x is not positive throughout another
    one, forwards and backwards. Source: Bach et al., PLoS ONE 2015, equation 60
    with α = 1, β = 0; Montavon et al., Pattern Recognition 2017.
    """

    @property
    def folds(self) -> bool:
        """Whether normalisation that follows is a part of the contraction."""
        return True

    def __call__(self, contraction: Contraction) -> Tensor:
        """Return the result of the contraction, its gradient being the rule's."""
        with torch.no_grad():
            z = contraction.run()
        positive = _positive(contraction)
        size = positive.detach().to(_wide(z.dtype))
        share = (z / size).masked_fill_(size < _NEAR_ZERO, 0)
        return rescaled(positive, z, share)


@dataclass(frozen=True, kw_only=True)
class Gamma:
    """R(x_i) = (z_i + γ z_i^±) / (z + γ z^±) · R(z), z^± being what has the sign of z.

    z⁺ = Σ z_j⁺ + b⁺ where z > 0, and z⁻ = z − z⁺ else, so that nothing cancels
    in the denominator. Cost: that of z+, and one further contraction backwards.
    Source: Andéol et al., Learning Domain Invariant Representations by Joint
    Wasserstein Distance Minimization, 2021 (generalised gamma); for positive x
    it is that of Montavon et al., Layer-Wise Relevance Propagation: An
    Overview, 2019, section 10.2.1.

    Attributes:
        gamma: how much more that counts; 0 is LRP-0, and a large one z+ where z > 0.
    """

    gamma: float = 0.25

    @property
    def folds(self) -> bool:
        """Whether normalisation that follows is a part of the contraction."""
        return True

    def __call__(self, contraction: Contraction) -> Tensor:
        """Return the result of the contraction, its gradient being the rule's."""
        z = contraction.run()
        if self.gamma == 0:
            return z
        return _Favoured.apply(z, _positive(contraction), self.gamma)  # type: ignore[no-any-return]


class _Favoured(torch.autograd.Function):
    """Have the value z, and the gradient z / y of y = z + γ (z⁺ where z > 0, else z − z⁺).

    For either sign |y| = z + γ z⁺ or −(1 + γ) z + γ z⁺. One tensor is kept, z / |y|.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, positive: Tensor, gamma: float) -> Tensor:  # noqa: ANN401
        wide = z.to(_wide(z.dtype))
        size = F.leaky_relu(wide, -(1 + gamma)).add_(positive, alpha=gamma).clamp_min_(1e-30)
        ctx.save_for_backward(wide / size)
        ctx.gamma = gamma
        return z.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        (share,) = ctx.saved_tensors
        own = F.leaky_relu(share, -(1 + ctx.gamma)).mul_(gradients[0])
        return own, (share * gradients[0]).mul_(ctx.gamma), None


def _positive(contraction: Contraction) -> Tensor:
    """Return what all positive contributions and a positive bias amount to."""
    x, weight, bias = contraction.signal, contraction.weight, contraction.bias
    above = weight.clamp(min=0)
    added = None if bias is None else bias.clamp(min=0)
    if bool((x.detach() >= 0).all()):  # after ReLU: saves a contraction each way
        return contraction.apply(x, above, added)
    found = contraction.apply(x.clamp(min=0), above, added)
    return found + contraction.apply(x.clamp(max=0), weight.clamp(max=0), None)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute shares in."""
    return torch.promote_types(dtype, torch.float32)
