"""Normalisations: the deviation is held constant, so that what is left is linear.

Source: Ali et al., XAI for Transformers: Better Explanations through
Conservative Propagation, ICML 2022, equation 8.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Step, rescaled
from edgeprune.weighted import affine, weighted_mean

NORMALISATIONS: Final = frozenset(
    {"layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm"}
)
_HALVES: Final = (torch.float16, torch.bfloat16)

Shape: TypeAlias = tuple[int, ...]


def detached_deviation(step: Step) -> Tensor:
    """Run a normalisation, its deviation without gradient."""
    given = step.arguments
    if given.get("training") is False or given.get("use_input_stats") is False:
        return stored_statistics(step)
    if step.weights is not None:
        return _weighted(step, step.weights)
    source: Tensor = given["input"]
    value: Tensor = step.given({"input": source.detach()}).run().detach()
    parts, dims, channels = _layout(step)
    x = _wide(source).reshape(parts)
    x = x - x.mean(dims, keepdim=True) if _is_centred(step) else x
    scale = torch.rsqrt(x.detach().square().mean(dims, keepdim=True) + _epsilon(given))
    # The operator's own value: what is computed here would differ by a rounding error.
    normal = rescaled(x, value.reshape(parts), scale).reshape(value.shape)
    weight = given.get("weight")
    return normal if weight is None else rescaled(normal, value, weight.detach().reshape(channels))


def stored_statistics(step: Step) -> Tensor:
    """Run a batch or instance normalisation by stored statistics, a scale per channel.

    Its gradient is written out: PyTorch's own on a CPU is wrong for one image
    whose gradient comes channels last.
    """
    x, weight, variance = (step.arguments[key] for key in ("input", "weight", "running_var"))
    value: Tensor = step.given({"input": x.detach()}).run().detach()
    scale = torch.rsqrt(variance.detach() + step.arguments["eps"])
    if weight is not None:
        scale = scale * weight.detach()
    return rescaled(x, value, scale.reshape(-1, *[1] * (x.dim() - 2)))


def _weighted(step: Step, gates: Tensor) -> Tensor:
    """Standardise with gates that weigh the statistics, and get what they do to the mean."""
    given = step.arguments
    parts, dims, channels = _layout(step)
    x = _wide(given["input"])
    if operation(step.node) == "group_norm":
        gates = gates.expand(-1, *x.shape[1:]).reshape(len(gates), *parts[1:])
    x = x.reshape(parts)
    if _is_centred(step):
        x = x - weighted_mean(x, gates, dims)
    with torch.no_grad():
        scale = torch.rsqrt(weighted_mean(x.square(), gates, dims) + _epsilon(given))
    out = affine((x * scale).reshape(given["input"].shape), given, channels)
    return out if torch.is_autocast_enabled(out.device.type) else out.to(given["input"].dtype)


def _layout(step: Step) -> tuple[Shape, Shape, Shape]:
    """Return the shape to standardise in, over which dimensions, and how parameters lie."""
    shape = tuple(step.arguments["input"].shape)
    rank, channels = len(shape), (-1, *[1] * (len(shape) - 2))
    match operation(step.node):
        case "layer_norm" | "rms_norm":
            own = tuple(step.arguments["normalized_shape"])
            return shape, tuple(range(rank - len(own), rank)), own
        case "group_norm":
            groups = step.arguments["num_groups"]
            return (shape[0], groups, shape[1] // groups, -1), (2, 3), channels
        case "instance_norm":
            return shape, tuple(range(2, rank)), channels
        case _:
            return shape, (0, *range(2, rank)), channels


def _is_centred(step: Step) -> bool:
    return operation(step.node) != "rms_norm"


def _epsilon(given: Mapping[str, Any]) -> float:
    """Return what keeps a deviation from 0; RMSNorm may take it from its type."""
    found = given["eps"]
    return torch.finfo(given["input"].dtype).eps if found is None else float(found)


def _wide(x: Tensor) -> Tensor:
    """Take half types to float32, in which the operators take their statistics."""
    return x.float() if x.dtype in _HALVES else x
