"""The default mode: relevance in proportion to what contributes, whatever its sign.

    R(i) = Σ_j |z_ij| / (Σ_k |z_kj| + |b_j|) · R(j)

What the bias contributes gets its share and passes it to nobody. The published
algorithm gives positive and negative contributions P and N their shares
P / (P + N + |b|) and N / (P + N + |b|) and divides each in proportion, which
is the same. Source: Sankarapu et al., DLBacktrace, arXiv 2411.12643, default mode.
"""

from dataclasses import dataclass

from torch import Tensor

from edgeprune.attribution.backtrace.parts import by_sign, ratio, scaled_gradient, signed_parts
from edgeprune.attribution.backtrace.sums import Sum, Term
from edgeprune.attribution.propagation import rescaled


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Where an activation saturates, in the units of its input."""

    low: float
    high: float


def in_proportion(
    sums: tuple[Sum, ...], value: Tensor, bounds: Bounds | None = None
) -> tuple[Tensor, ...]:
    """Return ``value`` so that its relevance goes to the terms of the one sum.

    With bounds, positive contributions count for nothing where the value is
    below the low one, nor negative ones where it is above the high one.
    """
    (found,) = sums
    parts = [_absolute(t) if bounds is None else _effective(t, value, bounds) for t in found.terms]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    if found.bias is not None:
        total = total + found.bias.detach().abs()
    return (rescaled(total, value, ratio(value, total.detach())),)


def _absolute(term: Term) -> Tensor:
    pairs = zip(term.factors, term.share, strict=True)
    return term.run(*(scaled_gradient(factor, share).abs() for factor, share in pairs))


def _effective(term: Term, value: Tensor, bounds: Bounds) -> Tensor:
    pairs = zip(term.factors, term.share, strict=True)
    parts = [signed_parts(scaled_gradient(factor, share)) for factor, share in pairs]
    positive, negative = by_sign(term, parts)
    return positive * (value >= bounds.low) + negative * (value <= bounds.high)
