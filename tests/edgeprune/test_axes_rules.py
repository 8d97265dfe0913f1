"""What holds for every rule: in-place forms, unknown operators, tied weights, grouped channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.axes import analyse
from edgeprune.axes.op import RULES, rule_for
from edgeprune.capture import capture
from edgeprune.cut import cut
from edgeprune.verify import verify_cut

from .models import images, random_plan
from .probe import channels, check, probe, reasons


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
    aten = torch.ops.aten
    assert rule_for(aten.relu_.default) is rule_for(aten.relu.default) is not None
    assert rule_for(aten.add_.Scalar) is rule_for(aten.add.Tensor) is not None
    assert rule_for(aten.histc.default) is None


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
