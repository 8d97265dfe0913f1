"""Attention as one operator; spelt out, it is a product whose gates are its weights.

Sources: Ali et al., XAI for Transformers: Better Explanations through
Conservative Propagation, ICML 2022, equation 9 (CP: weights are constant);
Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for
Transformers, ICML 2024, propositions 3.1 (softmax by its first-order Taylor
expansion, which is its own gradient) and 3.3 (even shares in both products).
"""

from typing import Final

from torch import Tensor

from edgeprune.attribution.lrp.products import scaled
from edgeprune.attribution.propagation import Step

SCORES: Final = ("query", "key", "attn_mask")  # what attention weights are made of


def constant_weights(step: Step) -> Tensor:
    """Pass relevance to values alone.

    What only makes weights lies off the trunk and is no signal. A tensor that is
    query and value at once is: it gets nothing as a query.
    """
    held = {name: step.arguments[name].detach() for name in step.signals - {"value"}}
    return step.given(held).run()  # type: ignore[no-any-return]


def shared_weights(step: Step) -> Tensor:
    """Pass half to values, half to the weights, and of that half each to queries and keys.

    In a chain of products shares multiply, so that they can be taken at the
    operands, and the fused operator runs as it is.
    """
    mixed = "value" in step.signals and not step.signals.isdisjoint(SCORES)
    half = 1 / 2 if mixed else 1.0
    each = half / 2 if {"query", "key"} <= step.signals else half
    shares = {"query": each, "key": each, "attn_mask": half, "value": half}
    parts = {name: scaled(step.arguments[name], shares[name]) for name in step.signals}
    return step.given(parts).run()  # type: ignore[no-any-return]
