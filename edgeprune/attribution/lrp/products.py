"""Products of signals, where none is another's gate: each gets an even share.

Gradient × value of a function of degree n is n times its value, so a product of
n signals passes on one n-th of its gradient.

Source: Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation
for Transformers, ICML 2024, proposition 3.3 (uniform rule).
"""

import math
from typing import Final

import torch
from torch import Tensor

from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Rule, Step, rescaled
from edgeprune.attribution.propagation.gating import FACTORS

WITH_ADDEND: Final = frozenset({"addcmul", "addmm", "addbmm", "baddbmm", "addmv", "bilinear"})


def even_shares(count: int) -> Rule:
    """Give each of ``count`` factors its share of the relevance, and an addend all of its own."""

    def rule(step: Step) -> Tensor:
        name = operation(step.node)
        if name not in WITH_ADDEND:
            return scaled(step.run(), 1 / count)
        parts = {part: scaled(step.arguments[part], 1 / count) for part in FACTORS[name]}
        return step.given(parts).run()  # type: ignore[no-any-return]

    return rule


def gated_linear_unit(step: Step) -> Tensor:
    """Give everything to the half that is signal, nothing to the one that is squashed."""
    signal, gate = step.arguments["self"].chunk(2, step.arguments["dim"])
    return signal * gate.detach().sigmoid()  # type: ignore[no-any-return]


def variance(step: Step) -> Tensor | tuple[Tensor, Tensor]:
    """Pass on half of the gradient of a variance, a function of degree 2; all of a mean's."""
    found = step.run()
    if isinstance(found, Tensor):
        return scaled(found, 1 / 2)
    return scaled(found[0], 1 / 2), found[1]


def product(step: Step) -> Tensor:
    """Give each of the elements that are multiplied together its share."""
    dim = step.arguments.get("dim")
    shape = step.first.shape
    return scaled(step.run(), 1 / max(math.prod(shape) if dim is None else shape[dim], 1))


def running_product(step: Step) -> Tensor:
    """Give each of the elements multiplied so far its share."""
    result: Tensor = step.run()
    dim = step.arguments["dim"] % result.dim()
    shape = [-1 if d == dim else 1 for d in range(result.dim())]
    counts = torch.arange(1, result.shape[dim] + 1, dtype=result.dtype, device=result.device)
    return rescaled(result, result, 1 / counts.reshape(shape))


def scaled(value: Tensor, share: float) -> Tensor:
    """Return a value that passes on a share of its gradient."""
    return rescaled(value, value, torch.full((), share, dtype=value.dtype, device=value.device))
