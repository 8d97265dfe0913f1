"""Every operator has an entry, and each rule does what its entry says."""

import json
from collections.abc import Callable
from typing import Final, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgeprune.attribution.criterion import Run
from edgeprune.attribution.lrp import Lrp, propagation
from edgeprune.attribution.lrp.table import operators, table
from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Entry, entry_for
from edgeprune.axes.op import RULES
from edgeprune.capture import capture
from edgeprune.gates import GatedModel

from .families import FAMILIES, family, pictures
from .models import TINY, build, images
from .relevance_ledger import account

Function: TypeAlias = Callable[[Tensor, "Through"], Tensor]

# What the 98 families of timm 1.0.31 consist of, Python's own operators on sizes left out.
OCCURRING: Final = (
    "_upsample_bicubic2d_aa", "adaptive_avg_pool2d", "add", "addcmul", "alias", "amax",
    "arange", "avg_pool1d", "avg_pool2d", "batch_norm", "bitwise_not", "cat", "chunk", "clamp",
    "clamp_min", "col2im", "contiguous", "conv1d", "conv2d", "conv_transpose2d", "copy", "cos",
    "cumsum", "div", "dropout", "einsum", "exp", "expand", "expand_as", "flatten", "flip",
    "gelu", "getitem", "group_norm", "hardsigmoid", "hardswish", "hardtanh", "im2col", "index",
    "layer_norm", "leaky_relu", "lift_fresh_copy", "linalg_vector_norm", "linear", "lstm",
    "matmul", "max", "max_pool2d", "mean", "meshgrid", "mul", "neg", "one_hot", "pad",
    "permute", "pow", "relu", "repeat", "repeat_interleave", "reshape", "reshape_as",
    "rms_norm", "roll", "rsqrt", "rsub", "scaled_dot_product_attention", "select", "sigmoid",
    "silu", "sin", "slice", "softmax", "split", "split_with_sizes", "squeeze", "stack", "sub",
    "sum", "sym_size", "tile", "to", "transpose", "type_as", "unbind", "unfold", "unsqueeze",
    "upsample_bicubic2d", "upsample_bilinear2d", "upsample_linear1d", "upsample_nearest2d",
    "view", "zeros",
)  # fmt: skip


def _entry(operator: str) -> Entry | None:
    return entry_for(table("cp"), operator)


@pytest.mark.parametrize("operator", OCCURRING)
def test_every_operator_of_the_families_has_an_entry_that_says_why(operator: str) -> None:
    entry = _entry(operator)
    assert entry is not None
    assert len(entry.why) > 10


def test_every_operator_with_an_axis_rule_has_an_entry() -> None:
    names = {name.removeprefix("aten.") for name in RULES}
    assert len(names) > 200
    assert sorted(name for name in names if _entry(name) is None) == []


def test_no_operator_is_in_two_entries() -> None:
    for attention in ("cp", "attnlrp"):
        names = [name for entry in table(attention) for name in entry.operators]
        assert sorted(names) == sorted(set(names))


def test_the_listing_tells_of_each_operator_what_becomes_of_relevance() -> None:
    listed = operators("attnlrp")
    assert list(listed) == sorted(listed)
    assert "lost" in listed["softmax"]
    assert listed["scaled_dot_product_attention"] != operators("cp")["scaled_dot_product_attention"]
    json.dumps(listed)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_no_operator_of_a_family_lacks_an_entry(name: str) -> None:
    built = family(name)
    dense = capture(built.model, pictures(2, built.size, seed=2))
    found = {operation(n) for n in dense.module.graph.nodes if _on_tensors(n)}
    assert found
    assert sorted(operator for operator in found if _entry(operator) is None) == []
    assert found <= set(OCCURRING)


def _on_tensors(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


class Through(nn.Module):
    """A function between a convolution, whose result is (N, 8, 6, 6), and a linear layer."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.vector = nn.Parameter(torch.rand(8) + 0.5)
        self.matrix = nn.Parameter(torch.randn(8, 8))
        self.layers = nn.ModuleDict(
            {
                "lstm": nn.LSTM(8, 5, num_layers=2, bidirectional=True, batch_first=True),
                "gru": nn.GRU(8, 5, num_layers=2, bias=False),
                "tanh": nn.RNN(8, 5, bidirectional=True),
                "relu": nn.RNN(8, 5, nonlinearity="relu", batch_first=True),
                "lstm_cell": nn.LSTMCell(8, 5),
                "gru_cell": nn.GRUCell(8, 5),
                "tanh_cell": nn.RNNCell(8, 5),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.conv(x), self)
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, 8 - x.shape[1])) if x.shape[1] < 8 else x
        return self.head(x.flatten(2).mean(2) if x.dim() > 2 else x)


def _tokens(x: Tensor) -> Tensor:
    """Lay positions out as a sequence, (N, 36, 8)."""
    return x.flatten(2).transpose(1, 2)


def _sequence(name: str, *, batch_first: bool) -> Function:
    def run(x: Tensor, model: Through) -> Tensor:
        tokens = _tokens(x)[:, :6]
        y, *_ = model.layers[name](tokens if batch_first else tokens.transpose(0, 1))
        return (y if batch_first else y.transpose(0, 1)).mean(1)[:, :8]

    return run


def _cells(x: Tensor, model: Through) -> Tensor:
    first, second = _tokens(x)[:, 0], _tokens(x)[:, 7]
    hidden, memory = model.layers["lstm_cell"](first)
    hidden, _ = model.layers["lstm_cell"](second, (hidden, memory))
    hidden = model.layers["gru_cell"](second, hidden)
    return model.layers["tanh_cell"](first, hidden)


CASES: Final[dict[str, Function]] = {
    "gelu": lambda x, m: F.gelu(x),
    "hardswish": lambda x, m: F.hardswish(x),
    "elu": lambda x, m: F.elu(x),
    "relu6": lambda x, m: F.relu6(x * 5),
    "leaky_relu and prelu": lambda x, m: F.prelu(F.leaky_relu(x, 0.2), m.vector),
    "square and powers": lambda x, m: x.square() + x.pow(3) + x.abs().pow(m.vector[:, None, None]),
    "square root": lambda x, m: x.relu().sqrt(),
    "sigmoid": lambda x, m: x.sigmoid(),
    "softplus": lambda x, m: F.softplus(x) - F.hardsigmoid(x),
    "exp and cos": lambda x, m: x.exp() + x.cos() + 2**x,
    "clamp": lambda x, m: x.clamp(0.2, 0.5) + x.clamp_min(-0.1) + F.hardtanh(x, 0.1, 0.4),
    "maximum with a constant": lambda x, m: torch.maximum(m.vector[:, None, None] - 1, x),
    "maximum of two": lambda x, m: torch.maximum(x, x.flip(1)) - torch.minimum(x, x.roll(1, 2)),
    "round": lambda x, m: (4 * x).round() / 4,
    "glu": lambda x, m: F.glu(torch.cat([x, x.flip(1)], 1), 1),
    "swiglu": lambda x, m: F.silu(x) * x.flip(1),
    "gate": lambda x, m: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "branches": lambda x, m: (torch.stack([x, x.flip(1)]).softmax(0) * x).sum(0),
    "variance": lambda x, m: x.var((2, 3)) + torch.var_mean(x, (2, 3))[1],
    "deviation and length": lambda x, m: x.std((2, 3)) + x.flatten(2).norm(dim=2),
    "products": lambda x, m: x[:, :, :2, :2].flatten(2).prod(2) + x[:, :, 0].cumprod(2).mean(2),
    "cumulative sum": lambda x, m: x.cumsum(1),
    "unit length": lambda x, m: F.normalize(x, dim=1) + x / x.norm(dim=1, keepdim=True),
    "a constant over a signal": lambda x, m: x + 1 / (x.abs() + 1),
    "global response": lambda x, m: x + x * (x.norm(dim=(2, 3), keepdim=True) / (x.norm() + 1)),
    "batch statistics": lambda x, m: F.batch_norm(x, None, None, m.vector, m.vector, training=True),
    "instance norm": lambda x, m: F.instance_norm(x, weight=m.vector, bias=m.vector),
    "group norm": lambda x, m: F.group_norm(x, 2, m.vector, m.vector),
    "rms norm": lambda x, m: F.rms_norm(_tokens(x), [8], m.vector).mean(1),
    "layer norm": lambda x, m: F.layer_norm(_tokens(x), [8], m.vector, m.vector).mean(1),
    "maximum pool": lambda x, m: F.max_pool2d(x, 3, 2, 1) + F.adaptive_max_pool2d(x, 3),
    "largest": lambda x, m: (
        x.amax((2, 3)) + x.flatten(2).topk(3)[0].sum(2) + x.sort(1)[0][..., 0, 0]
    ),
    "resized": lambda x, m: F.interpolate(F.interpolate(x, 4, mode="bilinear"), 8, mode="bicubic"),
    "where": lambda x, m: torch.where(x > 0.1, x, m.vector[:, None, None]).masked_fill(x > 1, 0.5),
    "lookup": lambda x, m: x[:, [3, 1, 2, 0, 4, 5, 6, 7]] + m.matrix[x.argmax(1)].movedim(-1, 1),
    "standardised weight": lambda x, m: F.linear(_tokens(x), m.matrix / m.matrix.norm()).mean(1),
    "weight from the image": lambda x, m: F.conv2d(
        x.reshape(1, -1, 6, 6), x.mean((2, 3)).reshape(-1, 1, 1, 1), groups=8 * len(x)
    ).reshape(x.shape),
    "sampled": lambda x, m: F.grid_sample(
        x, _tokens(x)[:, :, :2].reshape(-1, 6, 6, 2).tanh(), align_corners=False
    ),
    "matrix by a constant": lambda x, m: (m.matrix @ x.flatten(2)).mean(2),
    "addcmul": lambda x, m: torch.addcmul(x, x.flip(1), x.flip(2), value=0.5),
    "lerp": lambda x, m: torch.lerp(x, x.flip(1), x.sigmoid()),
    "einsum of three": lambda x, m: torch.einsum("nchw,nchv,ck->nk", x, x.flip(1), m.matrix),
    "lstm": _sequence("lstm", batch_first=True),
    "gru": _sequence("gru", batch_first=False),
    "rnn with tanh": _sequence("tanh", batch_first=False),
    "rnn with relu": _sequence("relu", batch_first=True),
    "cells": _cells,
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_keeps_the_value_and_the_sum_of_relevance(name: str) -> None:
    torch.manual_seed(0)
    shown = torch.randn(2, 3, 8, 8)
    dense = capture(Through(CASES[name]).eval(), shown)
    model = GatedModel(dense)
    expected = dense.module(shown)
    logits = propagation(model, Lrp(epsilon=0))(shown, model.ones())
    assert (logits - expected).abs().max() <= 1e-6 * expected.abs().max()
    found = account(model, shown, Lrp(epsilon=0))
    assert found.image != 0
    for node, leak in found.ledger.leaks().items():
        assert abs(leak) <= 1e-8, node
    assert found.total == pytest.approx(found.explained, rel=1e-7, abs=1e-9)


DEVICES: Final = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TINY)
def test_under_autocast_relevance_is_finite_and_much_the_same(name: str, device: str) -> None:
    dense = capture(build(name).to(device), images(2).to(device))
    model = GatedModel(dense)
    for attention in ("cp", "attnlrp"):
        run = propagation(model, Lrp(attention=attention))
        exact = _relevance(run, model, device)
        with torch.autocast(device, torch.bfloat16):
            coarse = _relevance(run, model, device)
        assert coarse.isfinite().all()
        assert torch.corrcoef(torch.stack([exact, coarse]))[0, 1] > 0.98


def _relevance(run: Run, model: GatedModel, device: str) -> Tensor:
    """Return the relevance of all units for one logit, (U,)."""
    gates = model.ones().requires_grad_()
    (found,) = torch.autograd.grad(run(images(2).to(device), gates)[:, 1].sum(), gates)
    return found[0].float()
