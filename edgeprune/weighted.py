"""Operators whose statistics run over units, with every position weighted by its gate.

A mean over channels is another number when channels go. With gates g it is
Σ g x / Σ g, and all other statistics follow suit: at 0 that is exactly what the
cut network computes, at 1 what the dense one does, and in between it is
smooth. Outputs themselves are not gated: that is for who reads them.

Each function takes the operator, its arguments by name, and weights that
broadcast to its first operand.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from edgeprune.axes.op import call, plain_name

Arguments = Mapping[str, Any]
Dims = tuple[int, ...]
Weighted = Callable[[Any, Arguments, Tensor], Any]


def run_weighted(target: Any, arguments: Arguments, weights: Tensor) -> Any:  # noqa: ANN401
    """Run an operator with its statistics weighted.

    Args:
        target: an operator of ``WEIGHTED``.
        arguments: its arguments by name, in the order of its schema.
        weights: of the same rank as the first operand, 1 long where they do not vary.
    """
    return WEIGHTED[plain_name(target)](target, arguments, weights)


def weighted_mean(x: Tensor, weights: Tensor, dims: Dims) -> Tensor:
    """Return Σ g x / Σ g over ``dims``, which stay with size 1."""
    return (x * weights).sum(dims, keepdim=True) / _not_zero(_count(x, weights, dims))


def standardise(
    x: Tensor, weights: Tensor, dims: Dims, *, eps: float | None, centred: bool = True
) -> Tensor:
    """Return x less its weighted mean, over its weighted deviation.

    Without ``eps`` it is that of the type, as RMSNorm has it.
    """
    if centred:
        x = x - weighted_mean(x, weights, dims)
    floor = torch.finfo(x.dtype).eps if eps is None else eps
    return x * torch.rsqrt(weighted_mean(x.square(), weights, dims) + floor)


def _count(x: Tensor, weights: Tensor, dims: Dims) -> Tensor:
    """Sum weights over ``dims`` as if they were expanded to x."""
    times = math.prod(x.shape[d] for d in dims if weights.shape[d] == 1)
    return weights.sum(dims, keepdim=True) * times


def _not_zero(total: Tensor) -> Tensor:
    """Spare a division by 0 what has lost all its units: nobody reads it."""
    return total.where(total != 0, 1)


def _operand(arguments: Arguments) -> Tensor:
    """Return the first operand in the type that the operator computes in."""
    x: Tensor = next(iter(arguments.values()))
    dtype = arguments.get("dtype")
    return x if dtype is None else x.to(dtype)


def _reduced_dims(arguments: Arguments, rank: int) -> Dims:
    """Return the dimensions that a reduction is over: all of them when it names none."""
    dim = arguments.get("dim")
    if dim is None or dim == []:
        return tuple(range(rank))
    return tuple(d % rank for d in ([dim] if isinstance(dim, int) else dim))


def _shaped(value: Tensor, arguments: Arguments, dims: Dims) -> Tensor:
    """Drop the reduced dimensions unless they are wanted."""
    return value if arguments.get("keepdim") else value.squeeze(dims)


def _mean(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    x = _operand(arguments)
    dims = _reduced_dims(arguments, x.dim())
    return _shaped(weighted_mean(x, weights, dims), arguments, dims)


def _moments(arguments: Arguments, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return variance and mean, with as many positions as weights sum to."""
    x = _operand(arguments)
    dims = _reduced_dims(arguments, x.dim())
    correction = arguments.get("correction", arguments.get("unbiased"))
    mean = weighted_mean(x, weights, dims)
    squares = ((x - mean).square() * weights).sum(dims, keepdim=True)
    freedom = _count(x, weights, dims) - (1.0 if correction is None else float(correction))
    variance = squares / freedom.where(freedom > 0, 1)
    return _shaped(variance, arguments, dims), _shaped(mean, arguments, dims)


def _root(variance: Tensor) -> Tensor:
    """Return the square root, with gradient 0 where the variance is 0."""
    return variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()


def _variance(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    return _moments(arguments, weights)[0]


def _deviation(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    return _root(_moments(arguments, weights)[0])


def _deviation_and_mean(
    target: object, arguments: Arguments, weights: Tensor
) -> tuple[Tensor, Tensor]:
    variance, mean = _moments(arguments, weights)
    return _root(variance), mean


def _variance_and_mean(
    target: object, arguments: Arguments, weights: Tensor
) -> tuple[Tensor, Tensor]:
    return _moments(arguments, weights)


def _exponentials(x: Tensor, weights: Tensor, dims: Dims) -> tuple[Tensor, Tensor]:
    """Return exp(x - top) and top, the maximum of what is left.

    What is not left may be larger than that; it is held at 1, so that a weight
    of 0 meets no infinity.
    """
    top = x.detach().masked_fill(weights == 0, -math.inf).amax(dims, keepdim=True)
    top = top.where(top.isfinite(), 0)
    return (x - top).clamp(max=0).exp(), top


def _softmax(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    x = _operand(arguments)
    powers, _ = _exponentials(x, weights, (arguments["dim"],))
    return powers / _not_zero((powers * weights).sum(arguments["dim"], keepdim=True))


def _log_sum(x: Tensor, weights: Tensor, dims: Dims) -> Tensor:
    powers, top = _exponentials(x, weights, dims)
    return _not_zero((powers * weights).sum(dims, keepdim=True)).log() + top


def _log_softmax(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    x = _operand(arguments)
    return x - _log_sum(x, weights, (arguments["dim"],))


def _logsumexp(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    x = _operand(arguments)
    dims = _reduced_dims(arguments, x.dim())
    return _shaped(_log_sum(x, weights, dims), arguments, dims)


def _replaced(target: Any, arguments: Arguments, x: Tensor) -> Any:  # noqa: ANN401
    """Run an operator on another first operand."""
    named = dict(arguments)
    named[next(iter(named))] = x
    return call(target, named)


def _maximum(target: object, arguments: Arguments, weights: Tensor) -> Any:  # noqa: ANN401
    """Draw what goes to the least value, where no maximum finds it."""
    x = _operand(arguments)
    least = x.detach().amin(_reduced_dims(arguments, x.dim()), keepdim=True)
    return _replaced(target, arguments, x * weights + least * (1 - weights))


def _minimum(target: object, arguments: Arguments, weights: Tensor) -> Any:  # noqa: ANN401
    """Draw what goes to the greatest value, where no minimum finds it."""
    x = _operand(arguments)
    greatest = x.detach().amax(_reduced_dims(arguments, x.dim()), keepdim=True)
    return _replaced(target, arguments, x * weights + greatest * (1 - weights))


def _product(target: object, arguments: Arguments, weights: Tensor) -> Any:  # noqa: ANN401
    """Draw factors that go to 1."""
    return _replaced(target, arguments, 1 + (_operand(arguments) - 1) * weights)


def _layer_norm(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    x, count = _operand(arguments), len(arguments["normalized_shape"])
    dims = tuple(range(x.dim() - count, x.dim()))
    centred = plain_name(target) == "aten.layer_norm"
    normal = standardise(x, weights, dims, eps=arguments["eps"], centred=centred)
    return affine(normal, arguments, tuple(arguments["normalized_shape"]))


def _group_norm(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    x, groups = _operand(arguments), arguments["num_groups"]
    parts, shares = (
        value.reshape(len(value), groups, x.shape[1] // groups, -1)
        for value in (x, weights.expand(-1, *x.shape[1:]))
    )
    normal = standardise(parts, shares, (2, 3), eps=arguments["eps"])
    return affine(normal.reshape(x.shape), arguments, _along_channels(x))


def _batch_norm(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    x = _operand(arguments)
    by_image = plain_name(target) == "aten.instance_norm"
    dims = tuple(range(2, x.dim())) if by_image else (0, *range(2, x.dim()))
    normal = standardise(x, weights, dims, eps=arguments["eps"])
    return affine(normal, arguments, _along_channels(x))


def _weight_norm(target: object, arguments: Arguments, weights: Tensor) -> Tensor:
    """Scale v to the length g, the length being that of what is left."""
    v, dim = arguments["v"], arguments["dim"]
    rest = [d for d in range(v.dim()) if d != dim]
    length: Tensor = torch.linalg.vector_norm(v * weights, dim=rest, keepdim=True)
    return v * (arguments["g"] / _not_zero(length))  # type: ignore[no-any-return]


def _along_channels(x: Tensor) -> tuple[int, ...]:
    return (-1, *[1] * (x.dim() - 2))


def affine(x: Tensor, arguments: Arguments, shape: tuple[int, ...]) -> Tensor:
    """Scale and shift by a normalisation's parameters, laid out as ``shape``."""
    weight, bias = arguments.get("weight"), arguments.get("bias")
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


WEIGHTED: Final[Mapping[str, Weighted]] = {
    "aten.mean": _mean,
    "aten.var": _variance,
    "aten.std": _deviation,
    "aten.var_mean": _variance_and_mean,
    "aten.std_mean": _deviation_and_mean,
    "aten.softmax": _softmax,
    "aten._softmax": _softmax,
    "aten.log_softmax": _log_softmax,
    "aten.logsumexp": _logsumexp,
    "aten.amax": _maximum,
    "aten.max": _maximum,
    "aten.amin": _minimum,
    "aten.min": _minimum,
    "aten.prod": _product,
    "aten.cumprod": _product,
    "aten.layer_norm": _layer_norm,
    "aten.rms_norm": _layer_norm,
    "aten.group_norm": _group_norm,
    "aten.batch_norm": _batch_norm,
    "aten.instance_norm": _batch_norm,
    "aten._weight_norm": _weight_norm,
}
