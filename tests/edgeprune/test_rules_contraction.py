"""Rules of products: what they tie and read, and that cut, masked and gated agree."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.axes import analyse

from .probe import reasons
from .rule_case import Bench, Body, bench, captured, check, free


def tokens(x: Tensor) -> Tensor:
    """Lay (N, C, H, W) out as (N, H·W, C)."""
    return x.flatten(2).mT


def means(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def _conditional(m: Bench, x: Tensor) -> Tensor:
    """A convolution of which every image has its own weight."""
    n = x.shape[0]
    weight = (means(x).softmax(1) @ m.square).reshape(n, 8, 1) * m.matrix  # (N, 8, 6)
    weight = weight.transpose(1, 2).reshape(n * 6, 8, 1, 1)
    y = F.conv2d(x.reshape(1, n * 8, 4, 4), weight, groups=n)
    return y.reshape(n, 6, 4, 4)


# body, and how many of the 8 channels can go
PRODUCTS: dict[str, tuple[Body, int]] = {
    "matmul": (lambda m, x: tokens(x) @ m.matrix, 8),
    "matmul from the left": (lambda m, x: m.matrix.T @ x.flatten(2), 8),
    "matmul with a vector": (lambda m, x: tokens(x) @ m.vector, 8),
    "vector with a matmul": (lambda m, x: m.vector @ x.flatten(2), 8),
    "matmul of two vectors": (lambda m, x: x.flatten(2) * (m.vector @ m.vector), 8),
    "mm": (lambda m, x: means(x).mm(m.square), 8),
    "mv": (lambda m, x: means(x).mv(m.vector), 8),
    "mv of weights": (lambda m, x: means(x) * m.square.mv(m.vector), 8),
    "dot of weights": (lambda m, x: x.flatten(2) * m.vector.dot(m.vector), 8),
    "inner": (lambda m, x: torch.inner(tokens(x), m.square), 8),
    "outer": (lambda m, x: means(x) @ torch.outer(m.vector, m.six), 8),
    "linear without rows": (lambda m, x: F.linear(tokens(x), m.vector), 8),
    "addmm": (lambda m, x: torch.addmm(m.six, means(x), m.matrix, beta=0.5, alpha=2), 8),
    "addmv": (lambda m, x: torch.addmv(means(x)[:, 0] * 0, means(x), m.vector), 7),
    "bmm": (lambda m, x: torch.bmm(tokens(x), x.flatten(2)), 8),
    "baddbmm": (lambda m, x: torch.baddbmm(m.vector[:1], tokens(x), x.flatten(2)), 8),
    "addbmm": (lambda m, x: torch.addbmm(m.six, x.flatten(2).transpose(0, 1), m.spread), 8),
    "bilinear": (lambda m, x: F.bilinear(means(x), means(F.relu(x)), m.cube), 8),
    "tensordot": (lambda m, x: torch.tensordot(x, m.square, dims=([1], [0])), 8),
    "tensordot of two axes": (
        lambda m, x: torch.tensordot(x.flatten(2), m.spread, dims=([1, 2], [0, 1])), 8,
    ),
    "cosine": (lambda m, x: F.cosine_similarity(x, F.silu(x), dim=1), 8),
    "convolution with padding by name": (
        lambda m, x: F.conv2d(x, m.square[:, :, None, None].expand(-1, -1, 3, 3), padding="same"),
        8,
    ),
    "convolution beside the channels": (
        lambda m, x: F.conv1d(tokens(x), m.spread[0].T[:, :, None], m.six), 8,
    ),
    "convolution beside the channels, strided": (
        lambda m, x: F.conv1d(tokens(x), m.spread[0].T[:, :, None], stride=2), 0,
    ),
    "convolution along the channels": (
        lambda m, x: F.conv1d(tokens(x), m.spread[0].T[:, :, None].expand(-1, -1, 3), padding=1),
        0,
    ),
    "convolution of each channel by its own image": (
        lambda m, x: F.conv2d(
            x.reshape(1, x.shape[0] * 8, 4, 4),
            (means(x) @ m.square).tanh().reshape(-1, 1, 1, 1),
            groups=x.shape[0] * 8,
        ).reshape(-1, 8, 4, 4),
        8,
    ),
    "convolution of one image": (
        lambda m, x: x + 0 * F.conv2d(x[0], m.square[:, :, None, None])[None], 8,
    ),
    "convolution with a weight per image": (_conditional, 8),
    "transposed": (lambda m, x: F.conv_transpose2d(x, m.matrix[:, :, None, None]), 8),
    "transposed in groups": (
        lambda m, x: F.conv_transpose2d(x, m.matrix[:, :, None, None], groups=4), 8,
    ),
    "transposed by channel": (
        lambda m, x: F.conv_transpose2d(x, m.matrix[:, :2, None, None], groups=8), 8,
    ),
    "transposed in one dimension": (
        lambda m, x: F.conv_transpose1d(x.flatten(2), m.matrix[:, :, None], m.six), 8,
    ),
}  # fmt: skip

EINSUMS: dict[str, tuple[Body, int]] = {
    "contraction": (lambda m, x: torch.einsum("bchw,co->bohw", x, m.matrix), 8),
    "weights first": (lambda m, x: torch.einsum("co,bchw->bohw", m.matrix, x), 8),
    "no arrow": (lambda m, x: torch.einsum("bc,cd", means(x), m.matrix), 8),
    "ellipsis": (lambda m, x: torch.einsum("...c,cd->...d", tokens(x), m.matrix), 8),
    "ellipsis without arrow": (lambda m, x: torch.einsum("...c,cd", tokens(x), m.matrix), 8),
    "ellipses of unlike length": (
        lambda m, x: torch.einsum("...c,...c->...", tokens(x), m.vector), 8,
    ),
    "three operands": (
        lambda m, x: torch.einsum("bci,cd,bdi->bi", x.flatten(2), m.square, x.flatten(2)), 8,
    ),
    "two that vary": (lambda m, x: torch.einsum("bic,bjc->bij", tokens(x), tokens(x)), 8),
    "a sum of one operand": (lambda m, x: torch.einsum("bchw->bhw", x), 8),
    "outer": (lambda m, x: torch.einsum("bc,bd->bcd", means(x), means(x)), 8),
    "weights alone": (
        lambda m, x: means(x) * torch.einsum("cd,d->c", m.square, m.vector), 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_leaves_its_channels_removable(name: str) -> None:
    body, left = PRODUCTS[name]
    dense = bench(body)
    assert free(analyse(dense), "conv.weight") == left
    check(dense)


@pytest.mark.parametrize("name", EINSUMS)
def test_an_einsum_leaves_its_channels_removable(name: str) -> None:
    body, left = EINSUMS[name]
    dense = bench(body)
    assert free(analyse(dense), "conv.weight") == left
    check(dense)


def test_a_letter_is_one_axis_in_every_operand() -> None:
    dense = bench(lambda m, x: torch.einsum("bchw,co->bohw", x, m.matrix))
    groups = {g.name: g for g in analyse(dense).groups}
    held = {o.parameter: o.dim for o in groups["conv"].parameters}
    assert held == {"conv.weight": 0, "conv.bias": 0, "matrix": 0}
    assert any(
        o.parameter == "matrix" and o.dim == 1 for g in groups.values() for o in g.parameters
    )


def test_a_diagonal_is_locked_and_named() -> None:
    dense = bench(lambda m, x: x.flatten(2) * torch.einsum("ii->i", m.square)[:, None])
    analysis = analyse(dense)
    assert free(analysis, "square") == free(analysis, "conv.weight") == 0
    assert reasons(analysis, "conv.weight") == {
        "aten.einsum.default (a diagonal)",
        "image channels",
    }


def test_a_transposed_convolution_in_groups_loses_whole_groups_or_all_alike() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1)
            self.up = nn.ConvTranspose2d(8, 12, 3, groups=4)
            self.read = nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(means(self.up(self.first(x))))

    dense = captured(Model())
    sizes = {g.name: g.size for g in analyse(dense).groups}
    assert sorted(sizes.values()) == [2, 3, 4]  # places in a group, before and behind; groups
    check(dense)
