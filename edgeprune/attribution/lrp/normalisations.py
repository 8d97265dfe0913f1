"""Normalisations: the deviation is held constant, so that what is left is linear.

Source: Ali et al., XAI for Transformers: Better Explanations through
Conservative Propagation, ICML 2022, equation 8.
"""

from typing import Final

import torch
from torch import Tensor

from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Step
from edgeprune.weighted import affine

NORMALISATIONS: Final = frozenset({"layer_norm", "rms_norm", "group_norm"})


def detached_deviation(step: Step) -> Tensor:
    """Run layer_norm, rms_norm or group_norm, its deviation without gradient."""
    name, arguments = operation(step.node), dict(step.arguments)
    x, eps = arguments["input"], arguments["eps"]
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    gates = torch.ones([1] * x.dim()).to(x) if step.weights is None else step.weights
    if name == "group_norm":
        split = (arguments["num_groups"], x.shape[1] // arguments["num_groups"], -1)
        parts, gates = x.reshape(len(x), *split), gates.expand_as(x).reshape(len(x), *split)
        normal = _normalised(parts, gates, (2, 3), epsilon=eps, centred=True).reshape(x.shape)
        return affine(normal, arguments, (-1, *[1] * (x.dim() - 2)))
    shape = tuple(arguments["normalized_shape"])
    dims = tuple(range(x.dim() - len(shape), x.dim()))
    normal = _normalised(x, gates, dims, epsilon=eps, centred=name == "layer_norm")
    return affine(normal, arguments, shape)


def _normalised(
    x: Tensor, gates: Tensor, dims: tuple[int, ...], *, epsilon: float, centred: bool
) -> Tensor:
    """Standardise x over ``dims``; gates weigh the statistics and broadcast to x."""
    count = gates.expand_as(x).sum(dims, keepdim=True)
    count = count.where(count > 0, 1)
    if centred:
        x = x - (x * gates).sum(dims, keepdim=True) / count
    variance = (x.square() * gates).sum(dims, keepdim=True) / count
    return x * torch.rsqrt(variance + epsilon).detach()
