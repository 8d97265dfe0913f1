"""The contrast mode: one map of relevance for the decision, one for what is against it.

Of a neuron with relevance R+ and R− the contributions that push its value t
the way it went inherit the larger map, the others the smaller one, each in
proportion within its sign and each on its own map:

    t > 0 and R+ > R−:  R+(i) = z_ij+ / P_j · R+(j),  R−(i) = |z_ij−| / N_j · R−(j)

and so on for the other three cases. Where all contributions have one sign they
share both maps. A bias takes nothing, it only takes part in t. Source:
Sankarapu et al., DLBacktrace, arXiv 2411.12643, contrast mode.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgeprune.attribution.backtrace.parts import Parts, by_sign, ratio, signed_parts
from edgeprune.attribution.backtrace.sums import Sum, Term


def by_dominance(sums: tuple[Sum, ...], value: Tensor) -> tuple[Tensor, ...]:
    """Return ``value`` twice: its relevance goes to the terms of the first and the second sum.

    Both sums have the same values. The split depends on both maps, so one
    backward has to carry both.
    """
    signals = [
        factor
        for found in sums
        for term in found.terms
        for factor, share in zip(term.factors, term.share, strict=True)
        if share
    ]
    return _Contrast.apply(sums[0].terms, value, *signals)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Signal:
    """A factor that gets relevance, with parts of its own."""

    parts: Parts
    share: float

    def gradient(self, found: tuple[Tensor, ...]) -> Tensor:
        """Return the gradient of the factor from those of its parts."""
        positive, negative = self.parts
        own = found[0] * (positive > 0)
        return self.share * (own if negative is None else own - found[1] * (negative > 0))

    def leaves(self) -> list[Tensor]:
        """Return the parts there are."""
        return [part for part in self.parts if part is not None]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Contributions:
    """Sums by sign with the graph that made them.

    Attributes:
        positive: P of each neuron, in the shape of the result.
        negative: N, likewise.
        value: t, likewise.
        signals: the factors that they were summed from.
    """

    positive: Tensor
    negative: Tensor
    value: Tensor
    signals: tuple[_Signal, ...]

    def gradients(self, to_positive: Tensor, to_negative: Tensor) -> list[Tensor]:
        """Give relevance to contributions of each sign; return the gradient of each signal."""
        leaves = [leaf for signal in self.signals for leaf in signal.leaves()]
        sums = [s for s in (self.positive, self.negative) if s.requires_grad]
        given = [ratio(to_positive, self.positive), ratio(to_negative, self.negative)]
        found = iter(
            torch.autograd.grad(
                sums, leaves, given[: len(sums)], retain_graph=True, materialize_grads=True
            )
        )
        return [s.gradient(tuple(next(found) for _ in s.leaves())) for s in self.signals]


class _Contrast(torch.autograd.Function):
    """Have one value twice, and split the gradients of both together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        terms: tuple[Term, ...],
        value: Tensor,
        *signals: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.found = _contributions(terms, value)
        return value.detach(), value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        found: _Contributions = ctx.found
        # A score that is masked is −∞ and has no relevance.
        maps = [(g * found.value).where(found.value.isfinite(), 0) for g in gradients]
        returned: list[Tensor] = []
        for to_positive, to_negative in _split(maps[0], maps[1], found):
            returned += found.gradients(to_positive, to_negative)
        return None, None, *returned


def _contributions(terms: tuple[Term, ...], value: Tensor) -> _Contributions:
    signals, sums = [], []
    with torch.enable_grad():
        for term in terms:
            parts = [signed_parts(factor.detach()) for factor in term.factors]
            for part, share in zip(parts, term.share, strict=True):
                if share:
                    signals.append(_Signal(parts=part, share=share))
                    for leaf in signals[-1].leaves():
                        leaf.requires_grad_()
            sums.append(by_sign(term, parts))
        positive, negative = sums[0]
        for more_positive, more_negative in sums[1:]:
            positive, negative = positive + more_positive, negative + more_negative
    return _Contributions(positive=positive, negative=negative, value=value, signals=tuple(signals))


def _split(
    plus: Tensor, minus: Tensor, found: _Contributions
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return for each map what goes to positive and to negative contributions."""
    rising, falling = found.positive.detach() > 0, found.negative.detach() > 0
    mixed = rising & falling & (found.value != 0)
    plus_rises = torch.where(found.value > 0, plus > minus, plus < minus)
    only_rising, only_falling = rising & ~falling, falling & ~rising
    return (
        (
            plus * (only_rising | (mixed & plus_rises)),
            plus * (only_falling | (mixed & ~plus_rises)),
        ),
        (
            minus * (only_rising | (mixed & ~plus_rises)),
            minus * (only_falling | (mixed & plus_rises)),
        ),
    )
