"""Normalisations: the deviation is held constant, so that what is left is linear.

Source: Ali et al., XAI for Transformers: Better Explanations through
Conservative Propagation, ICML 2022, equation 8.
"""

from typing import Any, Final

import torch
from torch import Tensor

from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Step
from edgeprune.weighted import affine, weighted_mean

NORMALISATIONS: Final = frozenset(
    {"layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm"}
)
_HALVES: Final = (torch.float16, torch.bfloat16)


def detached_deviation(step: Step) -> Tensor:
    """Run a normalisation, its deviation without gradient; with stored statistics it is linear."""
    arguments = dict(step.arguments)
    if arguments.get("training") is False or arguments.get("use_input_stats") is False:
        return step.run()  # type: ignore[no-any-return]
    given: Tensor = arguments["input"]
    # The operators themselves take the statistics of half types in float32.
    x = given.float() if given.dtype in _HALVES else given
    out = _normalised(operation(step.node), x, step.weights, arguments)
    return out if torch.is_autocast_enabled(x.device.type) else out.to(given.dtype)


def _normalised(name: str, x: Tensor, gates: Tensor | None, arguments: dict[str, Any]) -> Tensor:
    """Standardise over the dimensions of each operator, then scale and shift."""
    eps = (
        torch.finfo(arguments["input"].dtype).eps if arguments["eps"] is None else arguments["eps"]
    )
    along_channels = (-1, *[1] * (x.dim() - 2))
    match name:
        case "layer_norm" | "rms_norm":
            shape = tuple(arguments["normalized_shape"])
            dims = tuple(range(x.dim() - len(shape), x.dim()))
            normal = _standardised(x, gates, dims, epsilon=eps, centred=name == "layer_norm")
            return affine(normal, arguments, shape)
        case "group_norm":
            split = (arguments["num_groups"], x.shape[1] // arguments["num_groups"], -1)
            parts = x.reshape(len(x), *split)
            if gates is not None:
                gates = gates.expand(-1, *x.shape[1:]).reshape(len(gates), *split)
            normal = _standardised(parts, gates, (2, 3), epsilon=eps).reshape(x.shape)
            return affine(normal, arguments, along_channels)
        case _:
            by_image = name == "instance_norm"
            dims = tuple(range(2, x.dim())) if by_image else (0, *range(2, x.dim()))
            return affine(_standardised(x, gates, dims, epsilon=eps), arguments, along_channels)


def _standardised(
    x: Tensor,
    gates: Tensor | None,
    dims: tuple[int, ...],
    *,
    epsilon: float,
    centred: bool = True,
) -> Tensor:
    """Standardise x over ``dims``; gates weigh the statistics and broadcast to x."""
    if centred:
        x = x - _mean(x, gates, dims)
    with torch.no_grad():
        scale = torch.rsqrt(_mean(x.square(), gates, dims) + epsilon)
    return x * scale


def _mean(x: Tensor, gates: Tensor | None, dims: tuple[int, ...]) -> Tensor:
    return x.mean(dims, keepdim=True) if gates is None else weighted_mean(x, gates, dims)
