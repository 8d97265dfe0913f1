"""Attention: two products, of which each operand gets half, and a softmax that passes on."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from edgeprune.attribution.backtrace.passing import passed_on
from edgeprune.attribution.backtrace.sums import Reach, Sum, Term, evenly, level, term
from edgeprune.attribution.propagation import Step

Spread: TypeAlias = Callable[[tuple[Sum, ...], Tensor], tuple[Tensor, ...]]


def attend(steps: tuple[Step, ...], spread: Spread, reach: Reach) -> tuple[Tensor, ...]:
    """Run scaled_dot_product_attention once per map.

    Queries and keys share the relevance of their scores in proportion to
    |q_d k_d|, weights and values that of the result in proportion to |p_j v_j|.
    """
    step = steps[0]
    query, key, value = (level(step, name, reach) for name in ("query", "key", "value"))
    heads = [_heads(one) for one in steps]
    scale = step.arguments["scale"] or 1 / math.sqrt(heads[0][0].shape[-1])

    def product(q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) * scale

    share = evenly(query, key)
    sums = tuple(Sum(terms=(Term(run=product, factors=(q, k), share=share),)) for q, k, _ in heads)
    scores = spread(sums, product(heads[0][0], heads[0][1]).detach())
    scores = _masked(steps, scores, spread, reach)
    weights = [passed_on(s, s.detach().softmax(-1)) for s in scores]
    share = evenly(max(query, key), value)
    sums = tuple(
        Sum(terms=(Term(run=torch.matmul, factors=(p, v), share=share),))
        for p, (_, _, v) in zip(weights, heads, strict=True)
    )
    return spread(sums, (weights[0] @ heads[0][2]).detach())


def _heads(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, shared ones repeated."""
    q, k, v = (step.arguments[name] for name in ("query", "key", "value"))
    if step.arguments["enable_gqa"]:
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    return q, k, v


def _masked(
    steps: tuple[Step, ...], scores: tuple[Tensor, ...], spread: Spread, reach: Reach
) -> tuple[Tensor, ...]:
    step = steps[0]
    if step.arguments["is_causal"]:
        allowed = torch.ones_like(scores[0], dtype=torch.bool).tril()
        return tuple(s.masked_fill(~allowed, -torch.inf) for s in scores)
    mask = step.arguments["attn_mask"]
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return tuple(s.masked_fill(~mask, -torch.inf) for s in scores)
    share = float(level(step, "attn_mask", reach) > 0)
    sums = tuple(
        Sum(terms=(term(s, 1.0), term(one.arguments["attn_mask"], share)))
        for s, one in zip(scores, steps, strict=True)
    )
    return spread(sums, (scores[0] + mask).detach())
