"""Attention: weights constant (CP) or signals (AttnLRP), as one operator or spelt out."""

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.attribution import attribute
from edgeprune.attribution.lrp import Lrp, propagation
from edgeprune.attribution.propagation import Attention, find_paths
from edgeprune.axes.op import bind
from edgeprune.capture import Captured, capture
from edgeprune.gates import GatedModel

from .relevance_ledger import account

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, "Block"], Tensor]  # (N, heads, T, d), thrice
HEADS: Final = 2
WIDTH: Final = 4  # of a head
TOKENS: Final = 9
BOTH: Final[tuple[Attention, ...]] = ("cp", "attnlrp")


class Block(nn.Module):
    """Nine patches that attend to each other, without norms, so that attention is all there is."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend
        self.embed, self.qkv = nn.Conv2d(3, 8, 3, 3), nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(HEADS, TOKENS, TOKENS))
        self.mix = nn.Linear(HEADS, HEADS)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, WIDTH)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.head(self.attend(q, k, v, self).transpose(1, 2).flatten(2).mean(1))


def _fused(**options: Any) -> Attend:
    return lambda q, k, v, block: F.scaled_dot_product_attention(q, k, v, **options)


def _biased(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=block.bias)


def _grouped(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / math.sqrt(WIDTH)).softmax(-1)


def _by_matmul(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    return _weights(q, k) @ v


def _by_einsum(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    scores = torch.einsum("nhqd,nhkd->nhqk", q, k) * WIDTH**-0.5
    return torch.einsum("nhqk,nhkd->nhqd", scores.softmax(-1), v)


def _by_bmm(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    a, b, c = (part.flatten(0, 1) for part in (q, k, v))
    scores = torch.bmm(a * WIDTH**-0.5, b.transpose(1, 2)).softmax(-1)
    return torch.bmm(scores, c).unflatten(0, (-1, HEADS))


def _by_baddbmm(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    a, b, c = (part.flatten(0, 1) for part in (q, k, v))
    added = block.bias.repeat(len(q), 1, 1)
    scores = torch.baddbmm(added, a, b.transpose(1, 2), alpha=WIDTH**-0.5).softmax(-1)
    return torch.bmm(scores, c).unflatten(0, (-1, HEADS))


def _causal(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    later = torch.ones(TOKENS, TOKENS).triu(1).bool()
    scores = (q @ k.transpose(-2, -1) * 0.3).masked_fill(later, -math.inf)
    return scores.softmax(-1) @ v


def _repeated(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    return _weights(q, k[:, :1].expand(-1, HEADS, -1, -1)) @ v[:, :1].expand(-1, HEADS, -1, -1)


def _talking(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    mixed = block.mix(_weights(q, k).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return mixed @ v


def _gated_positions(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    share = block.bias.mean((1, 2))[:, None, None].sigmoid()
    mixed = (1 - share) * _weights(q, k) + share * block.bias.softmax(-1)
    return (mixed / mixed.sum(-1, keepdim=True)) @ v


def _linear(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    q, k = q.relu(), k.relu()
    total = q @ k.sum(-2, keepdim=True).transpose(-2, -1)
    return (q @ (k.transpose(-2, -1) @ v)) / (total + 1)


def _windows(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    a, b, c = (part.roll(1, 2).unflatten(2, (3, 3)) for part in (q, k, v))
    return (_weights(a, b) @ c).flatten(2, 3).roll(-1, 2)


SAME: Final[dict[str, tuple[Attend, Attend]]] = {
    "plain": (_fused(), _by_matmul),
    "einsum": (_fused(), _by_einsum),
    "bmm": (_fused(), _by_bmm),
    "mask": (_biased, _by_baddbmm),
    "causal with a scale": (_fused(is_causal=True, scale=0.3), _causal),
    "grouped queries": (_grouped, _repeated),
}
OTHERS: Final[dict[str, Attend]] = {
    "talking heads": _talking,
    "gated positions": _gated_positions,
    "linear": _linear,
    "windows": _windows,
}


def _captured(attend: Attend) -> Captured:
    torch.manual_seed(0)
    return capture(Block(attend).eval(), torch.randn(2, 3, 9, 9))


def _relevance(attend: Attend, attention: Attention) -> tuple[Tensor, Tensor]:
    """Return the logits of two images, and the relevance of their pixels."""
    model = GatedModel(_captured(attend))
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
    logits = propagation(model, Lrp(epsilon=0, attention=attention))(images, model.ones())
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), images)
    return logits.detach(), (gradient * images).detach()


@pytest.mark.parametrize("attention", BOTH)
@pytest.mark.parametrize("case", SAME)
def test_attention_spelt_out_gets_the_relevance_of_the_operator(
    case: str, attention: Attention
) -> None:
    one, spelt_out = (_relevance(attend, attention) for attend in SAME[case])
    torch.testing.assert_close(one[0], spelt_out[0], rtol=1e-5, atol=1e-6)
    assert one[1].abs().max() > 1e-3
    torch.testing.assert_close(one[1], spelt_out[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", OTHERS)
def test_other_attentions_lose_nothing_while_weights_are_constant(case: str) -> None:
    model = GatedModel(_captured(OTHERS[case]))
    found = account(model, torch.randn(2, 3, 9, 9), Lrp(epsilon=0))
    assert abs(found.image) > 1e-3
    for node, leak in found.ledger.leaks().items():
        assert abs(leak) <= 1e-9, node
    assert found.total == pytest.approx(found.explained, rel=1e-8)


def test_constant_weights_pass_the_relevance_that_attention_with_fixed_weights_has() -> None:
    torch.manual_seed(0)  # the weights of the captured one
    held = Block(lambda q, k, v, _: _weights(q, k).detach() @ v)
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (expected,) = torch.autograd.grad(held(images)[:, 1].sum(), images)
    _, found = _relevance(_fused(), "cp")
    torch.testing.assert_close(found, (expected * images).detach(), rtol=1e-4, atol=1e-6)


def test_signals_get_a_half_of_the_value_product_and_a_quarter_by_queries_and_keys() -> None:
    """Hand-made: relevance of each operand is its share of gradient times value."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 4, 3, requires_grad=True) for _ in range(3))
    out = F.scaled_dot_product_attention(q, k, v)[0, 0, 1, 2]
    own = torch.autograd.grad(out, (q, k, v))

    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = x[:, 0:1], x[:, 1:2], x[:, 2:3]
            return F.scaled_dot_product_attention(q, k, v)[:, 0, 1]

    model = GatedModel(capture(Through(Three()), torch.randn(2, 3, 4, 3)))
    images = torch.cat([q, k, v], 1).detach().requires_grad_()
    run = propagation(model, Lrp(epsilon=0, attention="attnlrp"))
    (found,) = torch.autograd.grad(run(images, model.ones())[0, 2], images)
    for part, gradient, share in zip(found[0], own, (0.25, 0.25, 0.5), strict=True):
        torch.testing.assert_close(part, share * gradient[0, 0], rtol=1e-5, atol=1e-7)


class Through(nn.Module):
    """A module with one more layer, which has parameters: three results to themselves."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))


class Unprojected(nn.Module):
    """Attention whose queries, keys and values are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 3, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(F.scaled_dot_product_attention(x, x, x).mean(1))


def test_a_tensor_that_is_query_and_value_gets_relevance_as_a_value_alone() -> None:
    torch.manual_seed(0)
    dense = capture(Unprojected().eval(), torch.randn(2, 3, 9, 9))
    found = account(GatedModel(dense), torch.randn(2, 3, 9, 9), Lrp(epsilon=0))
    assert found.total == pytest.approx(found.explained, rel=1e-8)


def test_queries_and_keys_lie_on_the_trunk_under_attnlrp_alone() -> None:
    model = GatedModel(_captured(_fused()))
    (node,) = [n for n in model.module.graph.nodes if "scaled_dot" in n.name]
    query, key, value = (bind(node)[name].name for name in ("query", "key", "value"))
    constant, signals = (find_paths(model, attention=mode) for mode in BOTH)
    assert {query, key, value} & constant.trunk == {value}
    assert {query, key, value} <= signals.trunk
    assert constant.signals[node.name] == {"value"}
    assert signals.signals[node.name] == {"query", "key", "value"}


@pytest.mark.parametrize("attention", BOTH)
@pytest.mark.parametrize("attend", [_fused(), _by_matmul], ids=["one operator", "spelt out"])
def test_units_of_queries_and_keys_are_scored_either_way(
    attend: Attend, attention: Attention
) -> None:
    batch = (torch.randn(2, 3, 9, 9), torch.tensor([0, 2]))
    scores = attribute(_captured(attend), [batch], Lrp(attention=attention))
    for name, values in scores.values.items():
        assert values.min() >= 0
        assert values.any(), name
