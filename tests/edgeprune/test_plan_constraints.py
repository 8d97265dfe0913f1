"""What a plan leaves alone: floors, ceilings, kept groups, frozen modules, kinds, multiples."""

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeprune.alignment import alignment
from edgeprune.attribution.scores import Scores
from edgeprune.axes import Analysis, analyse
from edgeprune.budget import Budget
from edgeprune.capture import Captured, capture, trainable
from edgeprune.cut import cut
from edgeprune.errors import PlanError, UsageError
from edgeprune.plan import Plan, Ranking, make_plan
from edgeprune.prices import unit_costs
from edgeprune.verify import verify_cut

from .models import CLASSES, TINY, Transformer, images, random_scores

CaptureOf = Callable[..., Captured]
RANKINGS: tuple[Ranking, ...] = ("global", "group", "cost")


class Joined(nn.Module):
    """Two convolutions laid end to end with the image itself, then a hidden layer."""

    def __init__(self, first: int, second: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, first, 1)
        self.second = nn.Conv2d(first, second, 1)
        self.hidden = nn.Conv2d(first + second + 3, hidden, 1)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.first(x))
        b = torch.cat([a, F.relu(self.second(a)), x], 1)
        return self.head(F.relu(self.hidden(b)).mean((2, 3)))


class Biased(Transformer):
    """Attention with a table of one number per head and pair of tokens."""

    def __init__(self) -> None:
        super().__init__(width=32, heads=4)
        self.table = nn.Parameter(torch.randn(4, 10, 10))

    def attend(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(-2, -1)) * 8**-0.5 + self.table).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))


SIZES: tuple[tuple[int, ...], ...] = (
    (5, 16, 40), (1, 8, 24), (17, 33, 64), (16, 13, 100), (48, 2), (40, 5), (12, 3)
)  # fmt: skip


@cache
def sized(sizes: tuple[int, ...]) -> tuple[Captured, Analysis]:
    """Capture a convolutional network of three sizes, or a transformer of width and heads."""
    torch.manual_seed(0)
    model = Joined(*sizes) if len(sizes) == 3 else Transformer(*sizes)
    dense = capture(model.eval(), images(2))
    return dense, analyse(dense)


def scores_for(analysis: Analysis, seed: int, levels: int) -> Scores:
    """Score by chance with so many different values, hence ties."""
    rng = np.random.default_rng(seed)
    return Scores(
        criterion="random",
        values={g.name: torch.from_numpy(rng.integers(0, levels, g.size) / levels + 0.1)
                for g in analysis.groups},
    )  # fmt: skip


def kept(plan: Plan) -> dict[str, frozenset[int]]:
    return {group.name: frozenset(group.kept) for group in plan.groups}


def counts(plan: Plan) -> dict[str, int]:
    return {group.name: len(group.kept) for group in plan.groups}


@st.composite
def limits(draw: st.DrawFn, analysis: Analysis) -> dict[str, dict[str, float]]:
    """Draw a floor, a ceiling, both or none for every group."""
    floors, ceilings = {}, {}
    for group in analysis.groups:
        low, high = sorted((draw(st.floats(0.01, 1)), draw(st.floats(0.01, 1))))
        if draw(st.booleans()):
            floors[group.name] = low
        if draw(st.booleans()):
            ceilings[group.name] = high
    return {"floors": floors, "ceilings": ceilings}


@st.composite
def wishes(draw: st.DrawFn) -> tuple[tuple[int, ...], Scores, list[Budget], int, Ranking]:
    """Draw a model, scores, two budgets of the same limits, an alignment and a ranking."""
    sizes = draw(st.sampled_from(SIZES))
    _, analysis = sized(sizes)
    kind = draw(st.sampled_from(["keep", "macs", "params"]))
    bounds = draw(limits(analysis)) if draw(st.booleans()) else {}
    shares = sorted((draw(st.floats(0.02, 1)), draw(st.floats(0.02, 1))))
    return (
        sizes,
        scores_for(analysis, draw(st.integers(0, 99)), draw(st.sampled_from([2, 7, 10**6]))),
        [Budget(**{kind: share}, **bounds) for share in shares],  # type: ignore[arg-type]
        draw(st.sampled_from([1, 2, 3, 4, 8, 16])),
        draw(st.sampled_from(RANKINGS)),
    )


def planned(dense: Captured, scores: Scores, budget: Budget, align: int, how: Ranking) -> Plan:
    """Plan for a budget, or for the least one that can be reached."""
    try:
        return make_plan(dense, scores, budget, align=align, ranking=how)
    except PlanError as error:
        least = float(str(error).split("ask for at least ")[1].split(",")[0])
        again = Budget(**{budget.kind: least}, floors=budget.floors, ceilings=budget.ceilings)  # type: ignore[arg-type]
        return make_plan(dense, scores, again, align=align, ranking=how)


def check_widths(analysis: Analysis, plan: Plan, align: int) -> None:
    """Every tensor's width is a multiple, or one of its groups says why not."""
    noted = {group.name for group in plan.groups if group.note}
    after = analysis.kept(plan.masks(analysis.groups))
    for group in analysis.groups:
        for place in group.parameters:
            axis = analysis.parameters[place.parameter][place.dim]
            if axis.size > 1 and after.count(axis) % align:
                sharing = {
                    other.name
                    for other in analysis.groups
                    for o in other.parameters
                    if (o.parameter, o.dim) == (place.parameter, place.dim)
                }
                assert sharing & noted, (place, after.count(axis))


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(wishes())
def test_whatever_is_asked_for_holds(
    wish: tuple[tuple[int, ...], Scores, list[Budget], int, Ranking],
) -> None:
    sizes, scores, budgets, align, ranking = wish
    dense, analysis = sized(sizes)
    smaller, larger = [planned(dense, scores, b, align, ranking) for b in budgets]
    for plan, budget in ((smaller, budgets[0]), (larger, budgets[1])):
        for group in plan.groups:
            count = len(group.kept)
            least = budget.floors.get(group.name, 0) * group.size
            most = budget.ceilings.get(group.name, 1) * group.size
            assert count >= max(1, least - 1e-9)
            assert count <= max(1, most, np.ceil(least)) + 1e-9
        check_widths(analysis, plan, align)
        if len(sizes) == 2 and not (budget.floors or budget.ceilings):
            assert all(not group.removed for group in plan.groups if group.note)
        assert bool(plan.notes) == any(group.note for group in plan.groups)
    assert all(kept(smaller)[name] <= kept(larger)[name] for name in kept(larger))
    again = planned(dense, scores, budgets[0], align, ranking)
    assert json.dumps(again.to_dict()) == json.dumps(smaller.to_dict())


@pytest.mark.parametrize("ranking", RANKINGS)
def test_ceilings_hold_however_large_the_budget(ranking: Ranking, capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = random_scores(dense)
    plans = [
        make_plan(
            dense, scores, Budget(macs=share, ceilings={"conv*": 0.5, "conv2": 0.34}),
            ranking=ranking,
        )
        for share in (0.1, 0.3, 1.0)
    ]  # fmt: skip
    assert counts(plans[-1]) == {"conv1": 4, "conv2": 4, "hidden": 16}
    for smaller, larger in pairwise(plans):
        assert all(kept(smaller)[name] <= kept(larger)[name] for name in kept(larger))


def test_a_ceiling_never_empties_a_group(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    plan = make_plan(dense, random_scores(dense), Budget(keep=1, ceilings={"*": 0.01}))
    assert set(counts(plan).values()) == {1}


def test_a_floor_and_a_ceiling_of_half_leave_half_rounded_up_where_it_must_be() -> None:
    dense, _ = sized((17, 33, 64))
    budget = Budget(keep=1, floors={"*": 0.5}, ceilings={"*": 0.5})
    plan = make_plan(dense, random_scores(dense), budget)
    assert counts(plan) == {"first": 9, "second": 17, "hidden": 32}


def test_shares_of_units_are_not_off_by_one_for_rounding() -> None:
    dense, _ = sized((16, 13, 100))
    scores = random_scores(dense)
    floor = Budget(keep=0.15, floors={"hidden": 0.07}, ceilings={"hidden": 0.07})
    assert counts(make_plan(dense, scores, floor))["hidden"] == 7
    assert (
        counts(make_plan(dense, scores, Budget(keep=1, ceilings={"hidden": 0.29})))["hidden"] == 29
    )  # 100 times 0.29 is 28.999999999999996


def test_kept_groups_stay_whole_and_the_rest_pays(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    plan = make_plan(dense, random_scores(dense), Budget(params=0.6, keep_groups=("conv[12]",)))
    assert counts(plan)["conv1"] == 8
    assert counts(plan)["conv2"] == 12
    assert counts(plan)["hidden"] < 16
    assert plan.to_dict()["made_from"]["budget"] == {"params": 0.6, "keep_groups": ["conv[12]"]}


@pytest.mark.parametrize(
    ("pattern", "whole"),
    [
        ("conv2", {"conv1", "conv2"}),  # its weight holds the units of both
        ("conv2.bias", {"conv2"}),
        ("bn1", {"conv1"}),
        ("*.running_mean", {"conv1", "conv2"}),
        ("h*", {"conv2", "hidden"}),
        ("head", {"hidden"}),
    ],
)
def test_frozen_modules_keep_the_shapes_of_their_tensors(
    pattern: str, whole: set[str], capture_of: CaptureOf
) -> None:
    torch.manual_seed(0)
    model = TINY["Chain"]()
    model.conv2.bias = nn.Parameter(torch.rand(12))
    dense = capture(model.eval(), images(2))
    floors = Budget(keep=1, ceilings={"*": 0.5})
    free = make_plan(dense, random_scores(dense), floors)
    assert all(group.removed for group in free.groups)
    least = sum(g.size for g in free.groups if g.name in whole) + 3 - len(whole)
    plan = make_plan(dense, random_scores(dense), Budget(keep=least / 36, freeze=(pattern,)))
    assert {group.name for group in plan.groups if not group.removed} == whole


def test_a_module_stands_for_all_that_is_below_it() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(10, 5),
    ).eval()
    dense = capture(model, images(2))
    plan = make_plan(dense, random_scores(dense), Budget(keep=0.7, freeze=("0",)))
    assert counts(plan)["0.0"] == 6
    assert counts(plan)["0.2"] == 8
    slim = cut(dense, plan)
    before, after = dense.module.state_dict(), slim.module.state_dict()
    same = {name for name in before if before[name].shape == after[name].shape}
    assert {"0.0.weight", "0.0.bias", "0.2.weight", "0.2.bias"} <= same
    assert "1.0.weight" not in same


@pytest.mark.parametrize("kind", ["heads", "head_dim", "hidden", "width"])
def test_each_kind_alone_can_be_halved(kind: str) -> None:
    dense, _ = sized((48, 2))
    budget = Budget(keep=0.5, kinds=(kind,))
    plan = make_plan(dense, random_scores(dense), budget, ranking="group")
    for group in plan.groups:
        assert len(group.kept) == (group.size // 2 if group.kind == kind else group.size)
    slim = cut(dense, plan)
    proof = verify_cut(dense, slim, plan, images(2))
    assert proof.ok
    assert proof.changed > 1e-3
    macs = Budget(macs=0.97, kinds=(kind,))
    assert {g.kind for g in make_plan(dense, random_scores(dense), macs).groups if g.removed} == {
        kind
    }


def test_a_floor_may_reach_over_kinds_that_are_not_cut() -> None:
    dense, _ = sized((48, 2))
    budget = Budget(keep=0.5, kinds=("hidden",), ceilings={"*": 0.4})
    assert {g.name for g in make_plan(dense, random_scores(dense), budget).groups if g.removed} == {
        "up"
    }


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"keep_groups": ("convv1",)}, "keep-group 'convv1' matches no channel group: did you "),
        ({"keep_groups": ("convv1",)}, "mean conv1, conv2"),
        ({"floors": {"zz": 0.5}}, r"floor 'zz' matches no channel group; they are conv1, conv2"),
        ({"ceilings": {"hiden": 0.5}}, "ceiling 'hiden' matches no .* did you mean hidden"),
        ({"freeze": ("hed",)}, "freeze 'hed' matches no module or parameter: did you mean head"),
        ({"freeze": ("head.wait",)}, "did you mean head.weight"),
        ({"kinds": ("conv", "heads")}, "no channel group is of kind 'heads': .* conv, hidden"),
        ({"kinds": ("conv",), "floors": {"hidden": 1}}, "floor 'hidden' matches no channel group"),
        ({"floors": {"conv*": 0.6}, "ceilings": {"*1": 0.5}}, "group 'conv1' is to keep at least"),
        (
            {"keep_groups": ("conv1",), "ceilings": {"*": 0.5}},
            r"'conv1' is to stay whole \(keep-group 'conv1'\) and to keep at most 0.5",
        ),
        (
            {"freeze": ("head.*",), "ceilings": {"hidden": 0.5}},
            r"'hidden' is to stay whole \(freeze 'head.\*'\)",
        ),
        ({"ceilings": {"conv1": 0}}, "ceiling conv1 0 is not a share"),
        ({"ceilings": {"conv1": 1.1}}, "ceiling conv1 1.1 is not a share"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    budget: dict[str, object], message: str, capture_of: CaptureOf
) -> None:
    dense = capture_of("Chain")
    with pytest.raises(UsageError, match=message):
        make_plan(dense, random_scores(dense), Budget(keep=0.5, **budget))  # type: ignore[arg-type]


def test_what_is_near_a_part_of_names_is_suggested_as_a_pattern() -> None:
    model = nn.Sequential()
    model.add_module("layer1", nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1)))
    model.add_module("tail", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)))
    dense = capture(model.eval(), images(2))
    with pytest.raises(UsageError, match=r"did you mean layer1\.\*, layer1\.[02]"):
        make_plan(dense, random_scores(dense), Budget(keep=0.5, keep_groups=("layer1",)))
    plan = make_plan(dense, random_scores(dense), Budget(keep=1, keep_groups=("layer1.*",)))
    assert plan.units_removed == 0


# --- alignment ------------------------------------------------------------------------


def notes_of(plan: Plan) -> dict[str, str]:
    return {group.name: group.note for group in plan.groups if group.note}


def test_a_size_that_is_no_multiple_may_end_on_one_below_and_says_so_when_whole() -> None:
    dense, _ = sized((16, 13, 100))
    scores = random_scores(dense)
    whole = make_plan(dense, scores, Budget(keep=1), align=16)
    assert notes_of(whole)["hidden"] == "stays whole: its 100 units are no multiple of 16"
    cut_ = make_plan(dense, scores, Budget(macs=0.99), align=16)
    assert counts(cut_)["hidden"] == 96
    assert "hidden" not in notes_of(cut_)


def test_a_ceiling_below_one_multiple_wins_over_the_alignment_and_is_noted() -> None:
    dense, _ = sized((16, 13, 100))
    plan = make_plan(dense, random_scores(dense), Budget(keep=1, ceilings={"*": 0.14}), align=16)
    assert counts(plan) == {"first": 2, "second": 1, "hidden": 14}
    assert notes_of(plan)["hidden"] == (
        "ends on no multiple of 16: its limits leave 14 of its 100 units"
    )


def test_frozen_channels_beside_an_aligned_group_are_noted() -> None:
    dense, _ = sized((17, 33, 64))
    plan = make_plan(dense, random_scores(dense), Budget(macs=0.3), align=8)
    assert all(count % 8 == 0 for count in counts(plan).values())
    width = counts(plan)["first"] + counts(plan)["second"] + 3
    for name in ("first", "second"):
        assert notes_of(plan)[name] == (
            f"ends on a multiple itself: beside others, 'hidden.weight' is {width} wide, which is "
            "no multiple of 8"
        )
    assert len(plan.notes) == 1
    assert plan.notes[0].endswith("(likewise 'second')")


def test_a_number_per_head_is_no_width() -> None:
    torch.manual_seed(0)
    dense = capture(Biased().eval(), images(2))
    heads = next(g for g in analyse(dense).groups if g.kind == "heads")
    assert {o.positions for o in heads.parameters} == {1, 8, 24}
    assert alignment(heads, 16) == 2
    plan = make_plan(dense, random_scores(dense), Budget(macs=0.8, kinds=("heads",)), align=16)
    assert counts(plan)[heads.name] == 2
    assert heads.name not in notes_of(plan)
    assert verify_cut(dense, cut(dense, plan), plan, images(2)).ok


def test_many_groups_that_cannot_be_aligned_are_summed_up_in_few_notes() -> None:
    stages: list[nn.Module] = []
    for before, after in pairwise([3, 6, 6, 6, 6, 6, 10]):
        stages += [nn.Conv2d(before, after, 1), nn.ReLU()]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5)]
    dense = capture(nn.Sequential(*stages, *tail).eval(), images(2))
    plan = make_plan(dense, random_scores(dense), Budget(keep=1), align=8)
    assert len(notes_of(plan)) == 6
    assert plan.notes == (
        "group '0' stays whole: its 6 units are no more than one multiple of 8 "
        "(likewise '2', '4', '6' and 1 more)",
        "group '10' stays whole: its 10 units are no multiple of 8",
    )
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


# --- costs and obstacles --------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_a_unit_costs_what_the_counts_fall_by_without_it(name: str, capture_of: CaptureOf) -> None:
    dense = capture_of(name)
    analysis, names = analyse(dense), trainable(dense.module)
    costs = unit_costs(analysis, names)
    macs, params = analysis.count_macs(), analysis.count_parameters(names)
    for group in analysis.groups:
        mask = np.arange(group.size) > 0
        left = analysis.kept({group.name: mask})
        assert costs[group.name].macs == macs - analysis.count_macs(left)
        assert costs[group.name].params == params - analysis.count_parameters(names, left) > 0


def test_a_model_of_which_nothing_can_go_is_refused_with_few_reasons() -> None:
    class Sorting(nn.Module):
        """Tells no channel from another."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).sort(1).values

    steps = [Sorting() for _ in range(9)]
    model = nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    dense = capture(model.eval(), images(2))
    with pytest.raises(PlanError) as raised:
        make_plan(dense, random_scores(dense), Budget(keep=0.5))
    message = str(raised.value)
    assert message.startswith("nothing can be removed from this model: ")
    assert "aten.sort" in message
    assert message.count(";") == 3
    assert "more, see `edgeprune inspect`" in message
