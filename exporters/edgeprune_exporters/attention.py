"""Attention as the few operators that it is made of.

torch.onnx translates attention of four dimensions alone, and transposes keys by way
of shapes that it computes anew on every image: twenty operators in place of five,
which no runtime knows again as attention. Written out, attention of any rank is
translated as it stands.
"""

import math

import torch
from torch import Tensor

from edgeprune.module import CapturedModule


def explicit_attention(module: CapturedModule) -> None:
    """Write out every attention of a module, in place; values change by rounding alone."""
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
    """Attend from query (…, N, C) to key (…, M, C) and value (…, M, D): (…, N, D).

    As ``torch.nn.functional.scaled_dot_product_attention`` does, without dropout.
    """
    del dropout_p  # the graph is of a model in evaluation mode
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    # The query and not the scores: it has fewer elements, and float16 overflows later.
    query = query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = query @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value
