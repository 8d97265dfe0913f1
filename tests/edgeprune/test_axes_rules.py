"""What holds for every rule: in-place forms, unknown operators, tied weights, grouped channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.axes import analyse
from edgeprune.axes.op import RULES, Rule, rule_for
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


@pytest.mark.parametrize(
    "rule",
    [lambda op, x: x[:-1], lambda op, x: x[7], lambda op, x, y: x],
    ids=["too few axes", "an axis that is not there", "an argument that is not there"],
)
def test_a_rule_that_does_not_fit_freezes_instead_of_guessing(
    rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = probe(lambda m, x: F.relu(x))
    monkeypatch.setitem(RULES, "aten.relu", rule)
    analysis = analyse(dense)
    assert channels(analysis) == 0
    assert "aten.relu.default: no rule for this form" in reasons(analysis, "conv.weight")


def test_a_number_of_elements_stays_what_it_was() -> None:
    dense = probe(lambda m, x: x * x.numel())
    assert channels(analyse(dense)) == 8
    check(dense)


def test_what_becomes_a_number_but_no_size_is_locked() -> None:
    dense = probe(lambda m, x: F.relu(x))
    graph = dense.module.graph
    (made,) = (node for node in graph.nodes if node.name == "conv2d")
    with graph.inserting_after(made):
        graph.call_function(torch.ops.aten.sym_numel.default, (made,))
    assert any("used as a number" in r for r in reasons(analyse(dense), "conv.weight"))


def test_several_results_of_an_unknown_operator_are_frozen_one_by_one() -> None:
    dense = probe(lambda m, x: torch.ops.aten.frexp.Tensor(x)[0])
    analysis = analyse(dense)
    assert channels(analysis) == 0
    assert reasons(analysis, "conv.weight") == {"image channels", "aten.frexp.Tensor: no rule"}
    check(dense, vacuous=True)


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
