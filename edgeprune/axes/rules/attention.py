"""Attention as one operator."""

from edgeprune.axes.op import Op, rule
from edgeprune.axes.rules.pointwise import broadcast
from edgeprune.axes.units import Axes, merge


@rule("aten.scaled_dot_product_attention")
def attention(
    op: Op, query: Axes, key: Axes, value: Axes, mask: Axes | None, *settings: object
) -> Axes:
    """Contract head_dim of query and key: (…, H, N, D), (…, H, M, D), (…, H, M, E) → (…, H, N, E).

    The implicit scale is that of the dense head_dim, so a cut writes it out.
    """
    _dropout, _causal, scale, shared = settings
    op.unify(query[-1], key[-1])
    op.reads("query", len(query) - 1, query[-1])
    op.fix(query[-2], key[-2], value[-2])
    if shared:
        lead = _grouped(op, query[:-2], key[:-2], value[:-2])
    else:
        lead = broadcast(op, [query[:-2], key[:-2], value[:-2]])
    if mask is not None:
        broadcast(op, [mask, (*lead, query[-2], key[-2])])
    for axis in lead:
        op.mark("heads", axis)
    op.mark("head_dim", query[-1])
    op.mark("head_dim", value[-1])
    size = query[-1].size
    dense_scale = size**-0.5 if scale is None else scale
    op.on_cut(lambda kept: {} if kept.count(query[-1]) == size else {"scale": dense_scale})
    tokens = query[-2].size * key[-2].size
    op.costs(tokens, *lead, query[-1])
    op.costs(tokens, *lead, value[-1])
    return (*lead, query[-2], value[-1])


def _grouped(op: Op, query: Axes, key: Axes, value: Axes) -> Axes:
    """Tie each head of keys to the run of query heads that shares it.

    Whole runs go, or the same places of all runs.
    """
    runs = key[-1].size
    run, place = op.split(query[-1], (runs, query[-1].size // runs))
    op.unify(key[-1], value[-1])
    op.unify(run, key[-1])
    batch = broadcast(op, [query[:-1], key[:-1], value[:-1]])
    return (*batch, merge([run, place]))


__all__ = ["attention"]
