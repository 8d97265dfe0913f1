import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.attribution.scores import Scores
from edgeprune.axes import analyse
from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.errors import PlanError, UsageError
from edgeprune.plan import Budget, Plan, Ranking, alignment, make_plan
from edgeprune.verify import verify_cut

from .models import TINY, images, random_scores

CaptureOf = Callable[..., Captured]
RANKINGS: tuple[Ranking, ...] = ("global", "group", "cost")


def kept(plan: Plan) -> dict[str, frozenset[int]]:
    return {group.name: frozenset(group.kept) for group in plan.groups}


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("kind", ["keep", "macs", "params"])
@pytest.mark.parametrize("name", TINY)
def test_a_plan_meets_its_budget_and_wastes_little(
    name: str, kind: str, ranking: Ranking, capture_of: CaptureOf
) -> None:
    dense = capture_of(name)
    plan = make_plan(dense, random_scores(dense), Budget(**{kind: 0.5}), ranking=ranking)
    cost, full = {
        "keep": (plan.units_total - plan.units_removed, plan.units_total),
        "macs": (plan.predicted["macs"], plan.dense["macs"]),
        "params": (plan.predicted["params"], plan.dense["params"]),
    }[kind]
    assert 0.3 * full < cost <= 0.5 * full
    assert all(group.kept for group in plan.groups)


def test_what_a_plan_predicts_is_what_the_cut_model_has(capture_of: CaptureOf) -> None:
    dense = capture_of("Transformer")
    plan = make_plan(dense, random_scores(dense), Budget(macs=0.4))
    slim = cut(dense, plan)
    assert plan.dense["params"] == sum(p.numel() for p in dense.module.parameters())
    assert plan.predicted["params"] == sum(p.numel() for p in slim.module.parameters())
    assert plan.predicted["macs"] == analyse(slim).count_macs()
    assert verify_cut(dense, slim, plan, images(2)).max_rel < 1e-5


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("align", [1, 4])
def test_a_larger_budget_keeps_whatever_a_smaller_one_keeps(
    ranking: Ranking, align: int, capture_of: CaptureOf
) -> None:
    dense = capture_of("Chain")
    scores = random_scores(dense)
    plans = [
        kept(make_plan(dense, scores, Budget(macs=share), align=align, ranking=ranking))
        for share in np.linspace(0.35, 1, 14).tolist()
    ]
    for smaller, larger in pairwise(plans):
        assert all(smaller[name] <= larger[name] for name in smaller)
    assert plans[0] != plans[-1]


def test_a_whole_budget_removes_nothing(capture_of: CaptureOf) -> None:
    dense = capture_of("Residual")
    plan = make_plan(dense, random_scores(dense), Budget(keep=1))
    assert plan.units_removed == 0
    assert plan.predicted == plan.dense


@pytest.mark.parametrize(
    ("name", "align"), [*((n, a) for n in TINY for a in (1, 2, 4)), ("Transformer", 8)]
)
def test_widths_are_multiples_of_the_alignment_or_whole(
    name: str, align: int, capture_of: CaptureOf
) -> None:
    dense = capture_of(name)
    plan = make_plan(dense, random_scores(dense), Budget(macs=0.8), align=align)
    slim = cut(dense, plan)
    before = dict(dense.module.named_parameters())
    for parameter, tensor in slim.module.named_parameters():
        for now, once in zip(tensor.shape, before[parameter].shape, strict=True):
            assert now == once or now % align == 0, parameter


def test_a_few_heads_make_an_aligned_width(capture_of: CaptureOf) -> None:
    groups = {g.name: g for g in analyse(capture_of("Transformer")).groups}
    assert alignment(groups["qkv:heads"], 4) == 1
    assert alignment(groups["qkv:heads"], 8) == 2
    assert alignment(groups["qkv:head_dim"], 8) == 8
    assert alignment(groups["up"], 8) == 8


def test_a_group_smaller_than_the_alignment_stays_whole_and_is_noted(
    capture_of: CaptureOf,
) -> None:
    dense = capture_of("Residual")
    plan = make_plan(dense, random_scores(dense), Budget(keep=1), align=8)
    assert {group.name: group.note for group in plan.groups} == {
        "stem": "stays whole: its 8 units are no more than one multiple of 8",
        "reduce": "stays whole: its 6 units are no more than one multiple of 8",
    }
    assert plan.notes == (
        "group 'stem' stays whole: its 8 units are no more than one multiple of 8 "
        "(likewise 'reduce')",
    )


def test_floors_keep_the_share_of_the_groups_they_match(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    budget = Budget(keep=0.5, floors={"conv*": 0.75, "conv2": 0.9})
    plan = make_plan(dense, random_scores(dense), budget)
    widths = {name: len(units) for name, units in kept(plan).items()}
    assert widths["conv1"] >= 6
    assert widths["conv2"] >= 11
    assert widths["hidden"] < 8


def test_the_least_budget_leaves_one_unit_in_each_group(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    plan = make_plan(dense, random_scores(dense), Budget(keep=3 / 36))
    assert [len(group.kept) for group in plan.groups] == [1, 1, 1]


def scores_of(dense: Captured, **values: list[float]) -> Scores:
    base = {g.name: torch.ones(g.size, dtype=torch.float64) for g in analyse(dense).groups}
    given = {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()}
    return Scores(criterion="by hand", values=base | given)


def test_global_ranking_compares_all_units(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = scores_of(dense, conv1=[0.5, 0.1, 0.5, 0.2, 0.5, 0.3, 0.5, 0.4])
    plan = make_plan(dense, scores, Budget(keep=33 / 36))
    (conv1, *rest) = plan.groups
    assert [unit.unit for unit in conv1.removed] == [1, 3, 5]
    assert not any(group.removed for group in rest)


def test_group_ranking_takes_the_same_share_of_each(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = scores_of(dense, conv1=[0.01 * i for i in range(8)])
    plan = make_plan(dense, scores, Budget(keep=0.5), ranking="group")
    assert [len(group.kept) / group.size for group in plan.groups] == [0.5, 0.5, 0.5]
    assert plan.groups[0].kept == (4, 5, 6, 7)


def test_cost_ranking_prefers_to_remove_what_is_dear(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = scores_of(dense, conv1=[1.2] * 8)
    # conv1's units cost the most: their own filters, and their share of conv2's.
    dear = make_plan(dense, scores, Budget(macs=0.9), ranking="cost")
    assert [bool(group.removed) for group in dear.groups] == [True, False, False]
    alike = make_plan(dense, scores, Budget(macs=0.9), ranking="global")
    assert [bool(group.removed) for group in alike.groups] == [False, True, False]


@pytest.mark.parametrize("ranking", RANKINGS)
def test_every_removed_unit_has_score_rank_and_reason(
    ranking: Ranking, capture_of: CaptureOf
) -> None:
    dense = capture_of("Chain")
    scores = random_scores(dense)
    plan = make_plan(dense, scores, Budget(keep=0.5), ranking=ranking)
    for group in plan.groups:
        values = scores[group.name]
        assert sorted([*group.kept, *(u.unit for u in group.removed)]) == list(range(group.size))
        weakest = min(values[list(group.kept)])
        for unit in group.removed:
            assert unit.score == pytest.approx(float(values[unit.unit]), rel=1e-5)
            assert unit.score <= weakest
            total = group.size if ranking == "group" else plan.units_total
            assert 1 <= unit.rank <= total
            assert unit.reason.startswith(f"rank {unit.rank} of {total} ")
            assert f"scores {weakest:.3g}" in unit.reason


def test_global_ranks_number_all_units_from_the_worst(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = random_scores(dense)
    plan = make_plan(dense, scores, Budget(keep=3 / 36))
    everything = np.sort(np.concatenate([v.numpy() for v in scores.values.values()]))
    for group in plan.groups:
        for unit in group.removed:
            place = np.searchsorted(everything, float(scores[group.name][unit.unit])) + 1
            assert unit.rank == place


def test_a_removed_unit_names_the_class_it_mattered_most_to(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = random_scores(dense)
    per_class = {name: torch.stack([0 * v, v]) for name, v in scores.values.items()}
    named = replace(scores, per_class=per_class, classes=("well", "ill"))
    plan = make_plan(dense, named, Budget(keep=0.5))
    assert {unit.most for group in plan.groups for unit in group.removed} == {"ill"}


@pytest.mark.parametrize("ranking", RANKINGS)
def test_every_removed_unit_is_held_against_the_weakest_kept_of_its_group(
    ranking: Ranking, capture_of: CaptureOf
) -> None:
    dense = capture_of("Chain")
    scores = random_scores(dense)
    plan = make_plan(dense, scores, Budget(macs=0.5), ranking=ranking)
    for group in plan.groups:
        values = scores[group.name]
        weakest = group.weakest_kept
        assert weakest is not None
        assert weakest.unit == min(group.kept, key=lambda unit: float(values[unit]))
        assert weakest.score == pytest.approx(float(values[weakest.unit]), rel=1e-5)
        for unit in group.removed:
            own, kept_score = float(values[unit.unit]), float(values[weakest.unit])
            assert unit.rank < weakest.rank
            assert unit.margin == pytest.approx(kept_score - own, rel=1e-5)
            assert unit.ratio == pytest.approx(own / kept_score, rel=1e-5)


def test_a_unit_that_goes_says_how_many_weaker_ones_stay(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    # conv1 has the four weakest units, but may only give up two of them.
    scores = scores_of(
        dense, conv1=[0.1, 0.2, 0.3, 0.4, 3, 3, 3, 3], hidden=[0.5, *[2.0] * 15], conv2=[4.0] * 12
    )
    plan = make_plan(dense, scores, Budget(keep=33 / 36, floors={"conv1": 0.75}))
    conv1, _, hidden = plan.groups
    assert [(unit.unit, unit.overtook) for unit in conv1.removed] == [(0, 0), (1, 0)]
    assert [(unit.unit, unit.overtook) for unit in hidden.removed] == [(0, 2)]
    assert plan.weakest_kept == conv1.weakest_kept
    assert plan.weakest_kept is not None
    assert (plan.weakest_kept.group, plan.weakest_kept.unit, plan.weakest_kept.rank) == (
        *("conv1", 2),
        3,
    )


def test_groups_that_were_not_compared_have_no_weakest_of_all(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    plan = make_plan(dense, random_scores(dense), Budget(keep=0.5), ranking="group")
    assert plan.weakest_kept is None
    assert {unit.overtook for group in plan.groups for unit in group.removed} == {0}


def test_a_ratio_is_only_given_between_scores_above_zero(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = scores_of(dense, conv1=[-1, -0.5, 0.0, 0.0, 2, 3, 3, 3])
    conv1 = make_plan(dense, scores, Budget(keep=0.5), ranking="group").groups[0]
    assert [unit.ratio for unit in conv1.removed] == [None, None, 0.0, 0.0]
    assert [unit.margin for unit in conv1.removed] == [3.0, 2.5, 2.0, 2.0]


def test_of_units_that_do_harm_the_dearest_goes_first(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = scores_of(dense, conv1=[-1.0, *[1.0] * 7], hidden=[-1.0, *[1.0] * 15])
    plan = make_plan(dense, scores, Budget(macs=0.99), ranking="cost")
    # A unit of conv1 costs many more MACs than one of the last layers.
    assert [[unit.unit for unit in group.removed] for group in plan.groups] == [[0], [], []]


def test_a_plan_holds_scores_per_class_and_the_images_by_hash(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = random_scores(dense)
    named = replace(
        scores,
        per_class={name: torch.stack([v, 0 * v, v / 3]) for name, v in scores.values.items()},
        classes=("well", "never seen", "ill"),
        counts=(1, 0, 1),
        samples=("a.png", "b.png"),
        hashes=("12ab", "34cd"),
    )
    plan = make_plan(dense, named, Budget(keep=0.5))
    for group in plan.groups:
        for unit in group.removed:
            score = float(scores[group.name][unit.unit])
            first, unseen, last = unit.per_class
            assert first == unit.score
            assert unseen is None
            assert last == float(f"{score / 3:.6g}")
    made = plan.to_dict()["made_from"]
    assert (made["classes"], made["counts"]) == (["well", "never seen", "ill"], [1, 0, 1])
    assert (made["samples"], made["sha256"]) == (["a.png", "b.png"], ["12ab", "34cd"])


def test_a_plan_from_before_units_were_compared_still_loads(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    plan = make_plan(dense, random_scores(dense), Budget(keep=0.5))
    document = json.loads(json.dumps(plan.to_dict()))
    del document["weakest_kept"]
    for group in document["groups"]:
        del group["weakest_kept"]
        for unit in group["removed"]:
            for key in ("margin", "ratio", "overtook", "per_class"):
                del unit[key]
    old = Plan.from_dict(document)
    assert old.weakest_kept is None
    assert old.groups[0].removed[0].margin is None
    assert old.masks(analyse(dense).groups)["conv1"].sum() == len(plan.groups[0].kept)


def test_equal_scores_are_decided_by_position(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    plans = [make_plan(dense, scores_of(dense), Budget(keep=0.5)) for _ in range(2)]
    assert plans[0] == plans[1]
    for group in plans[0].groups:
        assert group.kept == tuple(range(len(group.kept)))


def test_the_same_input_gives_the_same_document(capture_of: CaptureOf) -> None:
    dense = capture_of("Transformer")
    texts = {
        json.dumps(make_plan(dense, random_scores(dense), Budget(macs=0.5), align=2).to_dict())
        for _ in range(2)
    }
    assert len(texts) == 1


def test_a_plan_survives_json(capture_of: CaptureOf) -> None:
    dense = capture_of("Transformer")
    budget = Budget(params=0.6, floors={"up": 0.5})
    plan = make_plan(dense, random_scores(dense), budget)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.to_dict()["made_from"]["budget"] == {"params": 0.6, "floors": {"up": 0.5}}


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "seen: none"),
        ({"keep": 0.5, "macs": 0.5}, "seen: keep 0.5, macs 0.5"),
        ({"keep": 0}, "keep 0 is not a share"),
        ({"keep": 1.5}, "keep 1.5 is not a share"),
        ({"macs": -0.1}, "macs -0.1 is not a share"),
        ({"params": float("nan")}, "params nan is not a share"),
        ({"keep": 0.5, "floors": {"conv1": 2}}, "conv1 2 is not a share"),
    ],
)
def test_a_budget_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(**options)  # type: ignore[arg-type]


def test_a_budget_that_no_plan_meets_is_refused_with_the_least_one(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    scores = random_scores(dense)
    with pytest.raises(PlanError, match=r"keep 0\.05 cannot be reached.*at least 0\.084"):
        make_plan(dense, scores, Budget(keep=0.05))
    make_plan(dense, scores, Budget(keep=0.084))


@pytest.mark.parametrize("options", [{"align": 0}, {"ranking": "best"}])
def test_an_alignment_or_ranking_that_does_not_exist_is_refused(
    options: dict[str, object], capture_of: CaptureOf
) -> None:
    dense = capture_of("Chain")
    with pytest.raises(UsageError, match="ranking one of global, group, cost"):
        make_plan(dense, random_scores(dense), Budget(keep=0.5), **options)  # type: ignore[arg-type]


def test_a_floor_for_no_group_is_refused(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    with pytest.raises(UsageError, match="'layer9' matches no channel group; they are conv1"):
        make_plan(dense, random_scores(dense), Budget(keep=0.5, floors={"layer9": 0.5}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v | {"conv1": torch.ones(3)}, r"'conv1' needs 8 scores; seen: \(3,\)"),
        (lambda v: {k: s for k, s in v.items() if k != "conv1"}, "seen: none"),
        (lambda v: v | {"conv1": v["conv1"] / 0 * 0}, "not all finite"),
    ],
)
def test_scores_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, capture_of: CaptureOf
) -> None:
    dense = capture_of("Chain")
    scores = random_scores(dense)
    with pytest.raises(PlanError, match=message):
        make_plan(dense, replace(scores, values=change(dict(scores.values))), Budget(keep=0.5))


def test_a_model_of_which_nothing_can_go_is_refused_with_the_reason() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1))

    dense = capture(Fixed(), images(2, 2))
    with pytest.raises(PlanError, match=r"nothing can be removed from this model: .*model output"):
        make_plan(dense, random_scores(dense), Budget(keep=0.5))


def test_a_plan_for_another_model_is_refused(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    plan = make_plan(dense, random_scores(dense), Budget(keep=0.5))
    groups = analyse(dense).groups
    assert plan.masks(groups).keys() == {"conv1", "conv2", "hidden"}
    with pytest.raises(PlanError, match="'hidden' has 16 units; this model's has none"):
        plan.masks(groups[:2])
    with pytest.raises(PlanError, match="'hidden' has no units; this model's has 16"):
        replace(plan, groups=plan.groups[:2]).masks(groups)
    with pytest.raises(PlanError, match="belongs to another model"):
        plan.masks((replace(groups[0], size=9), *groups[1:]))


@pytest.mark.parametrize("units", [(), (0, 8), (-1, 2)])
def test_a_plan_that_keeps_nothing_or_what_is_not_there_is_refused(
    units: tuple[int, ...], capture_of: CaptureOf
) -> None:
    dense = capture_of("Chain")
    plan = make_plan(dense, random_scores(dense), Budget(keep=1))
    broken = replace(plan, groups=(replace(plan.groups[0], kept=units), *plan.groups[1:]))
    with pytest.raises(PlanError, match="keep at least one, numbered from 0 to 7"):
        cut(dense, broken)


def test_a_document_that_is_no_plan_is_refused(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    document = make_plan(dense, random_scores(dense), Budget(keep=0.5)).to_dict()
    with pytest.raises(PlanError, match="a plan is edgeprune-plan version 1"):
        Plan.from_dict(document | {"version": 2})
    with pytest.raises(PlanError, match="the plan is damaged: KeyError 'groups'"):
        Plan.from_dict({k: v for k, v in document.items() if k != "groups"})


def test_an_edited_plan_must_say_of_each_unit_whether_it_goes(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    document = make_plan(dense, random_scores(dense), Budget(keep=0.5)).to_dict()
    group = document["groups"][0]
    spared = group["removed"].pop()
    with pytest.raises(PlanError, match="must be in exactly one of the two lists"):
        Plan.from_dict(document)
    group["kept"].append(spared["unit"])
    assert spared["unit"] in Plan.from_dict(document).groups[0].kept
