"""Attention of any rank as the attention of four dimensions that torch.onnx translates.

torch takes (…, N, C); Nested Transformers attend within blocks, (B, blocks, heads,
N, C), and code without heads has (B, N, C). Leading dimensions only repeat the
computation, so they can be flattened into one or filled up with ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.module import CapturedModule


def four_dimensional_attention(module: CapturedModule) -> None:
    """Let every attention of a module shape its operands, in place; values stay the same."""
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.scaled_dot_product_attention.default:
            node.target = attention
    module.recompile()


def attention(  # noqa: PLR0917 - a graph calls it in place of the operator, by position
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend from query (…, N, C) to key (…, M, C) and value (…, M, D): (…, N, D)."""
    lead = query.shape[:-3]
    found = F.scaled_dot_product_attention(
        _four(query, lead),
        _four(key, lead),
        _four(value, lead),
        attn_mask if attn_mask is None or attn_mask.dim() < 4 else _four(attn_mask, lead),
        dropout_p,
        is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
    )
    return found.reshape(*query.shape[:-1], value.shape[-1])


def _four(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    while x.dim() < 4:
        x = x.unsqueeze(0)
    return x if len(lead) < 2 else x.expand(*lead, *x.shape[-3:]).flatten(0, -4)
