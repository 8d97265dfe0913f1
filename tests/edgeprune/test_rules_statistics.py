"""Rules of reductions and normalisations over units: cut, masked and gated agree."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.axes import analyse
from edgeprune.gates import GatedModel

from .probe import reasons
from .rule_case import Bench, Body, bench, captured, check, free


def _standardised(m: Bench, x: Tensor) -> Tensor:
    """A convolution whose weight is standardised for each output, as in NFNet and BiT."""
    weight = F.batch_norm(m.square.reshape(1, 8, -1), None, None, m.vector, training=True)
    return F.conv2d(F.relu(x), weight.reshape(8, 8, 1, 1))


def _standardised_by_hand(m: Bench, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(m.square, dim=1, keepdim=True, unbiased=False)
    return F.conv2d(x, ((m.square - mean) / (variance + 1e-5).sqrt())[:, :, None, None])


def _spatial_attention(m: Bench, x: Tensor) -> Tensor:
    """CBAM: every position weighted by the mean and the maximum of its channels."""
    seen = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
    return x * F.conv2d(seen, m.matrix[None, :2, :1, None]).sigmoid()


def _response_normalisation(m: Bench, x: Tensor) -> Tensor:
    """GRN of ConvNeXt V2: the norm over space, by its mean over channels."""
    norm = x.norm(p=2, dim=(2, 3), keepdim=True)
    return x + m.vector[:, None, None] * (x * (norm / (norm.mean(1, keepdim=True) + 1e-6)))


def _simple_attention(m: Bench, x: Tensor) -> Tensor:
    """SimAM: energies of positions within a channel."""
    squares = (x - x.mean((2, 3), keepdim=True)).pow(2)
    return x * (squares / (squares.sum((2, 3), keepdim=True) / 15 + 1e-4) + 0.5).sigmoid()


def _selective_kernels(m: Bench, x: Tensor) -> Tensor:
    """SKNet: a softmax over branches, for every channel."""
    both = torch.stack([x, F.relu(x)], 1)
    attention = (both.sum(1).mean((2, 3)) @ m.square).relu() @ torch.cat([m.square, -m.square], 1)
    return (both * attention.view(-1, 2, 8, 1, 1).softmax(1)).sum(1)


def _normalised_by_sum(m: Bench, x: Tensor) -> Tensor:
    powers = x.exp()
    return powers / powers.sum(1, keepdim=True)


PASSING: dict[str, Body] = {
    "sum": lambda m, x: x.sum(1),
    "sum of two axes": lambda m, x: x.sum((1, 2)),
    "mean": lambda m, x: x.mean(1),
    "mean of channels and space": lambda m, x: x - x.mean((1, 2, 3), keepdim=True),
    "mean of channels that lie in two columns": lambda m, x: x.unflatten(1, (2, 4)).mean((1, 2)),
    "variance": lambda m, x: x.var((1, 2, 3)),
    "deviation": lambda m, x: x / x.std(1, keepdim=True, unbiased=False),
    "variance and mean": lambda m, x: torch.cat(torch.var_mean(x, 1, correction=0), 1),
    "amax": lambda m, x: x - x.amax(1, keepdim=True),
    "amin": lambda m, x: x.amin(1),
    "max and where": lambda m, x: x.max(1).values,
    "min and where": lambda m, x: x.min(1, keepdim=True)[0],
    "max of two": lambda m, x: torch.max(x, m.vector[:, None, None]),
    "product": lambda m, x: x.tanh().prod(1),
    "logsumexp": lambda m, x: x.logsumexp(1),
    "softmax": lambda m, x: x.softmax(1),
    "log softmax": lambda m, x: F.log_softmax(x, 1),
    "softmax by hand": _normalised_by_sum,
    "running sum": lambda m, x: x.cumsum(1),
    "running product": lambda m, x: x.tanh().cumprod(1),
    "norm": lambda m, x: x.norm(dim=1),
    "norm of order 1": lambda m, x: torch.linalg.vector_norm(x, 1, dim=1),
    "largest norm": lambda m, x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    "normalised": lambda m, x: F.normalize(x, dim=1),
    "layer norm": lambda m, x: F.layer_norm(x.movedim(1, -1), (8,), m.vector, m.vector),
    "layer norm of everything": lambda m, x: F.layer_norm(x, (8, 4, 4)),
    "layer norm of two axes": lambda m, x: F.layer_norm(
        x.movedim(1, 2), (8, 4), m.vector[:, None] * m.cube[0, 0, :4]
    ),
    "rms norm": lambda m, x: F.rms_norm(x.movedim(1, -1), (8,), m.vector),
    "group norm": lambda m, x: F.group_norm(x, 1, m.vector),
    "group norm of two": lambda m, x: F.group_norm(x, 2, m.vector, m.vector),
    "group norm without space": lambda m, x: F.group_norm(x.mean((2, 3)), 2),
    "instance norm": lambda m, x: F.instance_norm(x, weight=m.vector).relu(),
    "instance norm of channels": lambda m, x: F.instance_norm(x.flatten(2).mT),
    "weight standardised": _standardised,
    "weight standardised by hand": _standardised_by_hand,
    "weight norm": lambda m, x: (
        x.movedim(1, -1) @ torch._weight_norm(m.matrix.T, m.six[:, None], 0).T
    ),
    "spatial attention": _spatial_attention,
    "response normalisation": _response_normalisation,
    "simple attention": _simple_attention,
    "selective kernels": _selective_kernels,
}

LOCKING: dict[str, tuple[Body, str]] = {
    "argmax": (lambda m, x: x * x.argmax(1, keepdim=True), "positions are compared"),
    "max and its place": (lambda m, x: x * x.max(1, keepdim=True)[1], "positions are compared"),
    "top k": (lambda m, x: x.topk(3, 1).values, "positions are compared"),
    "sort": (lambda m, x: x.sort(1).values, "positions are compared"),
    "unbiased variance": (lambda m, x: x - x.var(1, keepdim=True), "unbiased"),
    "unbiased deviation": (lambda m, x: torch.std_mean(x, 1)[0], "unbiased"),
    "any": (lambda m, x: x * (x > 0.1).all(1, keepdim=True), "positions are compared"),
    "number of values": (
        lambda m, x: torch.linalg.vector_norm(x.relu(), 0, dim=1), "norm of order 0",
    ),
    "least norm": (
        lambda m, x: torch.linalg.vector_norm(x, -float("inf"), dim=1), "norm of order -inf",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_a_statistic_over_channels_leaves_them_removable(name: str) -> None:
    dense = bench(PASSING[name])
    assert free(analyse(dense), "conv.weight") == 8
    check(dense)


@pytest.mark.parametrize("name", LOCKING)
def test_what_depends_on_every_position_is_locked_and_named(name: str) -> None:
    body, reason = LOCKING[name]
    analysis = analyse(bench(body))
    assert free(analysis, "conv.weight") == 0
    assert any(reason in found for found in reasons(analysis, "conv.weight"))


def test_a_standardised_weight_shrinks_on_both_sides_and_takes_one_image_at_a_time() -> None:
    dense = bench(_standardised)
    analysis = analyse(dense)
    assert free(analysis, "square", 0) == free(analysis, "square", 1) == 8
    assert not GatedModel(dense, analysis).by_sample


def test_spatial_gating_leaves_its_hidden_units_removable() -> None:
    class Gating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(3, 8, 1), nn.Linear(8, 12)
            self.norm, self.mix = nn.LayerNorm(6), nn.Linear(16, 16)
            self.down, self.read = nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).flatten(2).mT
            u, v = F.gelu(self.up(x)).chunk(2, -1)
            v = self.mix(self.norm(v).mT).mT
            return self.read((x + self.down(u * v)).mean(1))

    dense = captured(Gating())
    sizes = {g.name: g.size for g in analyse(dense).groups}
    assert sizes == {"conv": 8, "up": 6}
    check(dense)
