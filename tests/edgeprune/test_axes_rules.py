"""Each rule on a small graph: what it ties, what it locks, and that the cut is right."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.axes import Analysis, analyse
from edgeprune.axes.op import RULES
from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.verify import verify_cut

from .models import disturb, images, random_plan

Body = Callable[["Probe", Tensor], Tensor]


class Probe(nn.Module):
    """A convolution to 8 channels, an operation under test, and a reader.

    ``body`` maps (N, 8, 6, 6) to (N, C, …), whose mean over positions is read.
    """

    def __init__(self, body: Body, out: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.other = nn.Conv2d(3, 8, 1)
        self.per_channel = nn.Parameter(torch.rand(8, 1, 1))
        self.mix = nn.Conv2d(8, 8, 1)
        self.slopes = nn.Parameter(torch.rand(8))
        self.body = body
        self.read = nn.Linear(out, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self, self.conv(x))
        return self.read(y.flatten(2).mean(2))


def probe(body: Body, out: int = 8) -> Captured:
    torch.manual_seed(0)
    model = Probe(body, out)
    disturb(model)
    dense = capture(model, images(2, 6))
    assert dense.dynamic_batch
    return dense


def channels(analysis: Analysis, parameter: str = "conv.weight") -> int:
    """Count the channels of a parameter that can be removed."""
    columns = analysis.parameters[parameter][0].columns
    return int(sum((column >= 0) for column in columns).astype(bool).sum()) if columns else 0


def reasons(analysis: Analysis, parameter: str = "") -> set[str]:
    """Collect why parameters are frozen, or one of them."""
    found = [axis for axis in analysis.frozen if axis.parameter == parameter or not parameter]
    return {reason for axis in found for reason in axis.reasons}


def check(dense: Captured, *, vacuous: bool = False) -> None:
    """Cut at random, three times; the masked model must be met."""
    for seed in range(3):
        plan = random_plan(dense, seed=seed)
        proof = verify_cut(dense, cut(dense, plan), plan, images(3, 6))
        assert proof.max_rel < 1e-5
        assert proof.changed > 1e-3 or vacuous


PASSING: dict[str, tuple[Body, int]] = {
    "unary": (lambda m, x: F.silu(x).tanh(), 8),
    "clamp by numbers": (lambda m, x: x.clamp(-0.5, 0.5), 8),
    "clamp by a tensor": (lambda m, x: x.clamp(min=m.per_channel - 1), 8),
    "times parameter": (lambda m, x: x * m.per_channel, 8),
    "sum of two": (lambda m, x: x + m.mix(F.relu(x)), 8),
    "where": (lambda m, x: torch.where(x > 0, x, m.mix(x)), 8),
    "masked fill": (lambda m, x: x.masked_fill(x > 0.3, 0.3), 8),
    "prelu": (lambda m, x: F.prelu(x, m.slopes), 8),
    "expand as": (lambda m, x: x * m.per_channel[None].expand_as(x), 8),
    "expand": (lambda m, x: x * m.per_channel.expand(-1, 6, 6), 8),
    "cat": (lambda m, x: torch.cat([x, F.relu(x)], 1), 16),
    "stack": (lambda m, x: torch.stack([x, F.relu(x)], 2), 8),
    "slice": (lambda m, x: x[:, 2:7], 5),
    "slice from the end": (lambda m, x: x[:, -3:], 3),
    "chunk": (lambda m, x: torch.mul(*x.chunk(2, 1)), 4),
    "split": (lambda m, x: torch.cat(x.split([3, 5], 1)[::-1], 1), 8),
    "tensor split": (lambda m, x: torch.cat(x.tensor_split(3, 1)[1:], 1), 5),
    "flip": (lambda m, x: x.flip(1) + x, 8),
    "pad channels": (lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 2)), 11),
    "pad space": (lambda m, x: F.pad(x, (1, 1, 2, 0), mode="reflect"), 8),
    "movedim": (lambda m, x: x.movedim((1, 3), (3, 1)).movedim(3, 1), 8),
    "permute": (lambda m, x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2), 8),
    "unsqueeze": (lambda m, x: (x[:, None] * m.per_channel).squeeze(1), 8),
    "reshape": (lambda m, x: x.reshape(x.shape[0], 2, 4, 36).transpose(1, 2).flatten(1, 2), 8),
    "unflatten": (lambda m, x: x.unflatten(1, (4, 2)).sum(3).flatten(1, 2), 8),
    "pool": (lambda m, x: F.avg_pool2d(F.max_pool2d(x, 2), 2), 8),
    "pool with indices": (lambda m, x: F.adaptive_max_pool2d(x, 2), 8),
    "pool 1d": (lambda m, x: F.avg_pool1d(x.flatten(2), 3), 8),
    "upsample": (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), 8),
    "transposed": (lambda m, x: F.conv_transpose2d(x, m.mix.weight), 8),
    "group norm": (lambda m, x: F.group_norm(x, 1, m.slopes, m.slopes), 8),
    "group norm of four": (lambda m, x: F.group_norm(x, 4, m.slopes, m.slopes), 8),
    "rms norm": (lambda m, x: F.rms_norm(x.transpose(1, 3), (8,), m.slopes).transpose(1, 3), 8),
    "instance norm": (lambda m, x: F.instance_norm(x, weight=m.slopes).relu(), 8),
    "weights as left operand": (
        lambda m, x: torch.matmul(m.mix.weight[:, :, 0, 0], x.flatten(2)), 8,
    ),
    "in place on a view": (lambda m, x: _halve_first(x * 1), 8),
    "zeros of its shape": (lambda m, x: x + torch.zeros_like(x), 8),
    "ones": (lambda m, x: x * torch.ones(8, 1, 1), 8),
    "new zeros beside it": (lambda m, x: torch.cat([x, x.new_zeros(x.shape[0], 2, 6, 6)], 1), 10),
    "second image's twin": (lambda m, x: x + x[-1:] * 0, 8),
}  # fmt: skip

LOCKING: dict[str, tuple[Body, int, int, str]] = {
    "unknown operator": (lambda m, x: x.cumsum(1), 8, 0, "aten.cumsum.default: no rule"),
    "sum over channels": (lambda m, x: x.sum(1, keepdim=True), 1, 0, "reduced axis"),
    "softmax over channels": (lambda m, x: x.softmax(1), 8, 0, "normalised axis"),
    "strided slice": (lambda m, x: x[:, ::2], 4, 0, "strided or symbolic range"),
    "roll": (lambda m, x: x.roll(1, 1), 8, 0, "rolled"),
    "lookup": (lambda m, x: x[:, torch.tensor([0, 2])], 2, 0, "looked up"),
    "reflected channels": (
        lambda m, x: F.pad(x.flatten(2).mT, (1, 1), mode="circular").mT,
        10, 0, "padded from its own values",
    ),
    "sum with a constant": (lambda m, x: x + torch.arange(8.0)[:, None, None], 8, 0, "a constant"),
    "stretched from one": (lambda m, x: x[:, :1] * x, 8, 7, "broadcast from size 1"),
    "unbound": (lambda m, x: torch.stack(x.unbind(1)[:4], 1), 4, 0, "taken apart"),
    "selected": (lambda m, x: x * x.select(1, 3)[:, None], 8, 7, "selected position"),
    "weight standardised": (
        lambda m, x: F.conv2d(F.relu(x), _standardised(m.mix.weight)),
        8, 0, "statistics over these axes",
    ),
}  # fmt: skip


def _standardised(weight: Tensor) -> Tensor:
    flat = F.batch_norm(weight.reshape(1, 8, 8), None, None, training=True)
    return flat.reshape(8, 8, 1, 1)


def _halve_first(x: Tensor) -> Tensor:
    x[:, :3] *= 0.5
    return x


@pytest.mark.parametrize("name", PASSING)
def test_an_operator_with_a_rule_leaves_channels_removable(name: str) -> None:
    body, out = PASSING[name]
    dense = probe(body, out)
    analysis = analyse(dense)
    assert channels(analysis) >= min(out, 8)
    assert not any("no rule" in reason for reason in reasons(analysis))
    check(dense)


@pytest.mark.parametrize("name", LOCKING)
def test_what_cannot_be_removed_is_locked_and_named(name: str) -> None:
    body, out, left, reason = LOCKING[name]
    dense = probe(body, out)
    analysis = analyse(dense)
    assert channels(analysis) == left
    assert any(reason in found for found in reasons(analysis, "conv.weight"))
    check(dense, vacuous=True)


def test_an_unknown_operator_freezes_its_channels_and_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dense = probe(lambda m, x: F.relu(x))
    assert channels(analyse(dense)) == 8
    monkeypatch.delitem(RULES, "aten.relu")
    frozen = analyse(dense)
    assert channels(frozen) == 0
    assert reasons(frozen, "conv.weight") == {"image channels", "aten.relu.default: no rule"}


def test_a_rule_that_does_not_fit_freezes_instead_of_guessing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dense = probe(lambda m, x: F.relu(x))
    monkeypatch.setitem(RULES, "aten.relu", lambda op, x: x[:-1])
    assert channels(analyse(dense)) == 0


def test_a_position_in_the_batch_is_not_given_the_batch_of_the_analysis() -> None:
    dense = probe(lambda m, x: x + x.select(0, -1)[None])
    plan = random_plan(dense)
    slim = cut(dense, plan)
    for count in (2, 5):
        assert verify_cut(dense, slim, plan, images(count, 6)).max_rel < 1e-5


def test_every_form_of_an_operator_shares_its_rule() -> None:
    from edgeprune.axes.op import rule_for

    aten = torch.ops.aten
    assert rule_for(aten.relu_.default) is rule_for(aten.relu.default) is not None
    assert rule_for(aten.add_.Scalar) is rule_for(aten.add.Tensor) is not None
    assert rule_for(aten.cumsum.default) is None


def test_a_tied_weight_has_one_set_of_units() -> None:
    dense = probe(lambda m, x: m.mix(F.relu(m.mix(x))))
    analysis = analyse(dense)
    (group,) = (
        g for g in analysis.groups if any(o.parameter == "mix.weight" for o in g.parameters)
    )
    assert [(o.parameter, o.dim) for o in group.parameters if o.parameter == "mix.weight"] == [
        ("mix.weight", 0),
        ("mix.weight", 1),
    ]
    check(dense)


@pytest.mark.parametrize(
    ("groups", "out"), [(8, 8), (8, 16), (2, 8), (4, 4)], ids=["depthwise", "multiplier", "2", "4"]
)
def test_grouped_convolutions_lose_whole_groups_or_all_groups_alike(groups: int, out: int) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1)
            self.grouped = nn.Conv2d(8, out, 3, groups=groups)
            self.read = nn.Linear(out, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.grouped(self.first(x)).mean((2, 3)))

    torch.manual_seed(0)
    dense = capture(Model(), images(2, 6))
    analysis = analyse(dense)
    assert channels(analysis, "first.weight") == 8
    check(dense)
    for seed in range(3):
        plan = random_plan(dense, seed=seed)
        slim = cut(dense, plan)
        weight = slim.module.get_parameter("grouped.weight")
        (node,) = (n for n in slim.module.graph.nodes if n.name == "conv2d_1")
        left = node.args[-1]
        assert len(slim.module.get_parameter("first.weight")) == left * weight.shape[1]
        assert len(weight) % left == 0
