"""Rules of attention and recurrent layers: cut, masked and gated agree."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.axes import Analysis, analyse
from edgeprune.cut import cut
from edgeprune.gates import GatedModel

from .models import random_plan
from .probe import reasons
from .rule_case import captured, check, free

Attend = Callable[["Attention", Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Patches of width 12 and attention of four heads of queries, of three channels each."""

    def __init__(self, attend: Attend, kv_heads: int = 4) -> None:
        super().__init__()
        self.kv_heads = kv_heads
        self.patches = nn.Conv2d(3, 12, 2, 2)
        self.q, self.k, self.v = nn.Linear(12, 12), *(nn.Linear(12, 3 * kv_heads) for _ in "kv")
        self.out, self.read = nn.Linear(12, 12), nn.Linear(12, 5)
        self.temperature = nn.Parameter(torch.rand(4, 1, 1))
        self.rotation = nn.Parameter(torch.randn(4, 3))
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        q = self.q(x).unflatten(-1, (4, 3)).transpose(1, 2)
        k, v = (f(x).unflatten(-1, (self.kv_heads, 3)).transpose(1, 2) for f in (self.k, self.v))
        y = self.attend(self, q, k, v)
        return self.read((x + self.out(y.transpose(1, 2).flatten(2))).mean(1))


def _by_hand(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * 3**-0.5).softmax(-1) @ v


def _einsum(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def _relative(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Positions that queries are compared with, as in SAM."""
    bias = torch.einsum("bhqd,kd->bhqk", q, m.rotation)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _rotated(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One table of rotations for all heads of queries and keys."""
    q, k = (x * m.rotation.cos() + x.flip(-1) * m.rotation.sin() for x in (q, k))
    return F.scaled_dot_product_attention(q, k, v)


def _cross_covariance(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """XCiT: channels attend to channels; the softmax runs over head dimensions."""
    q, k, v = (x.mT for x in (q, k, v))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    return ((q @ k.mT * m.temperature).softmax(-1) @ v).mT


def _linear(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Linear attention, normalised by its sum."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return q @ (k.mT @ v) / (q @ k.sum(-2, keepdim=True).mT)


ATTENTION: dict[str, Attend] = {
    "one operator": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v),
    "with a scale": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
    "causal": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "with a mask by head": lambda m, q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=m.temperature.expand(4, 4, 4)
    ),
    "by hand": _by_hand,
    "einsum": _einsum,
    "relative positions": _relative,
    "rotated": _rotated,
    "cross covariance": _cross_covariance,
    "linear": _linear,
}


def sizes(analysis: Analysis) -> dict[str, list[int]]:
    """Return the sizes of groups by kind."""
    found: dict[str, list[int]] = {}
    for group in analysis.groups:
        found.setdefault(group.kind, []).append(group.size)
    return found


@pytest.mark.parametrize("name", ATTENTION)
def test_heads_and_head_dimensions_can_go(name: str) -> None:
    dense = captured(Attention(ATTENTION[name]).eval())
    found = sizes(analyse(dense))
    assert found["heads"] == [4]
    # Turning ties the first and the last dimension of queries and keys.
    assert set(found["head_dim"]) == ({1, 3} if name == "rotated" else {3})
    check(dense)


def _shared(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def _expanded(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def _repeated(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _by_hand(m, q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))


@pytest.mark.parametrize("attend", [_shared, _expanded, _repeated])
def test_a_head_of_keys_goes_with_all_heads_of_queries_that_share_it(attend: Attend) -> None:
    dense = captured(Attention(attend, kv_heads=2).eval())
    analysis = analyse(dense)
    shared = next(
        g for g in analysis.groups
        if {"q.weight", "k.weight", "v.weight"} <= {o.parameter for o in g.parameters}
        and g.kind == "heads"
    )  # fmt: skip
    assert shared.size == 2
    check(dense)


def test_places_within_every_run_of_query_heads_can_go() -> None:
    dense = captured(Attention(_shared, kv_heads=2).eval())
    plan = random_plan(dense, "heads", seed=1)
    slim = cut(dense, plan)
    heads = {
        n: len(p) // 3 for n, p in slim.module.named_parameters() if n in ("q.weight", "k.weight")
    }
    assert heads == {"q.weight": 1, "k.weight": 1}


def test_a_single_head_of_keys_serves_any_number_of_heads_of_queries() -> None:
    dense = captured(Attention(_shared, kv_heads=1).eval())
    assert 4 in sizes(analyse(dense))["heads"]
    check(dense)


def test_pytorchs_own_block_loses_heads_and_hidden_units() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 12, 2, 2)
            self.block = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
            self.read = nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.block(self.patches(x).flatten(2).mT).mean(1))

    dense = captured(Block().eval())
    found = sizes(analyse(dense))
    assert found["heads"] == [3]
    assert set(found["head_dim"]) == {4}
    assert found["hidden"] == [20]
    check(dense)


class Sequence(nn.Module):
    """A recurrent layer over the positions of an image."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.conv, self.layer, self.read = nn.Conv2d(3, 8, 1), layer, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.layer(self.conv(x).flatten(2).mT)[0].mean(1))


class Steps(nn.Module):
    """A recurrent cell stepped by hand."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.conv, self.cell, self.read = nn.Conv2d(3, 8, 1), cell, nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2)
        state = self.cell(x[..., 0])
        for step in range(1, 3):
            state = self.cell(x[..., step], state)
        return self.read(state[0] if isinstance(state, tuple) else state)


RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Sequence(nn.LSTM(8, 6, batch_first=True), 6),
    "lstm both ways": lambda: Sequence(nn.LSTM(8, 6, bidirectional=True, batch_first=True), 12),
    "lstm of two layers without bias": lambda: Sequence(
        nn.LSTM(8, 6, 2, bidirectional=True, bias=False, batch_first=True), 12
    ),
    "gru": lambda: Sequence(nn.GRU(8, 6, 2, batch_first=True), 6),
    "rnn": lambda: Sequence(nn.RNN(8, 6, nonlinearity="relu", batch_first=True), 6),
    "lstm cell": lambda: Steps(nn.LSTMCell(8, 6)),
    "gru cell": lambda: Steps(nn.GRUCell(8, 6)),
    "rnn cell": lambda: Steps(nn.RNNCell(8, 6, bias=False)),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_layer_loses_inputs_and_hidden_units(name: str) -> None:
    torch.manual_seed(0)
    dense = captured(RECURRENT[name]().eval())
    found = {g.name: (g.kind, g.size) for g in analyse(dense).groups}
    inner = "cell" if "cell" in name else "layer"
    assert found == {"conv": ("conv", 8), inner: ("hidden", 6)}
    check(dense)


def test_a_recurrent_layer_takes_gates_one_image_at_a_time() -> None:
    assert not GatedModel(captured(RECURRENT["gru"]().eval())).by_sample


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_lstm_is_locked_and_named() -> None:
    layer = nn.LSTM(8, 6, proj_size=4, batch_first=True)
    analysis = analyse(captured(Sequence(layer, 4).eval()))
    assert free(analysis, "conv.weight") == 0
    assert "aten.lstm.input at layer (projected or packed)" in reasons(analysis, "conv.weight")
    assert free(analysis, "layer.weight_hh_l0", 1) == 0
