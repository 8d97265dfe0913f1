"""The comparison of criteria: curves, what they come to, and what is said of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

pytest.importorskip("criteria", reason="benchmarks need an editable install")

from criteria import _public
from criteria_cases import Case, Places, Trained, chosen_cases
from criteria_curves import RANKINGS, Curve, Point, accuracy, curve, planned, stopped
from criteria_report import Report
from criteria_results import Result, Results, read_results
from criteria_torch_pruning import Peer
from criteria_worker import Job
from edgeprune.attribution import attribute
from edgeprune.capture import capture
from edgeprune.cut import cut
from edgeprune.data import PreparedSplit, Preprocessing, make_phantoms
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel

RATES = (0.25, 0.5, 0.75)
HOW = Preprocessing(
    size=(32, 32), channels=3, resize="squash", crop_pct=1.0, interpolation="bilinear",
    mean=(0.5,) * 3, std=(0.25,) * 3,
)  # fmt: skip


def line(*points: tuple[float, float, float | None], dense: float = 0.9) -> Curve:
    """Make a curve of (rate, share of MACs, accuracy) on two classes."""
    made = [Point(rate=r, units=1 - r, macs=macs, accuracy=a) for r, macs, a in points]
    return Curve(points=tuple(made), dense=dense, chance=0.5)


@pytest.fixture(scope="module")
def small() -> Trained:
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", num_classes=4).eval()
    data = make_phantoms(size=32, counts=(24, 4, 32))
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # so that every class is answered
        module.fc.bias -= module(images).mean(0)
        logits = module(images)
    return Trained(
        case=Case(model="resnet18", data="phantoms", seed=0),
        module=module,
        dense=capture(module, images[:2]),
        train=PreparedSplit(data.train, HOW),
        classes=data.classes,
        images=images,
        labels=logits.argmax(1),  # so that every cut costs accuracy
        seconds=0.0,
    )


def test_what_is_not_measured_any_more_counts_as_chance() -> None:
    found = line((0.1, 0.9, 0.8), (0.2, 0.8, 0.5), (0.3, 0.7, None))
    assert found.area == pytest.approx((0.8 + 0.5 + 0.5) / 3)


def test_the_harmless_rate_ends_with_the_first_loss_of_more_than_5_points() -> None:
    assert line((0.1, 0.9, 0.86), (0.2, 0.8, 0.7), (0.3, 0.7, 0.9)).harmless == 0.1
    assert line((0.1, 0.9, 0.6)).harmless == 0


def test_a_curve_stops_after_two_rates_at_chance_in_a_row() -> None:
    assert stopped([0.9, 0.52, 0.5], 0.5)
    assert stopped([0.9, 0.5, None], 0.5)
    assert not stopped([0.5, 0.9, 0.5], 0.5)
    assert not stopped([0.5], 0.5)


def test_accuracy_at_equal_macs_lies_between_the_points() -> None:
    found = line((0.1, 0.6, 0.8), (0.2, 0.2, 0.6))
    assert found.at_macs((1.0, 0.8, 0.4, 0.1)) == pytest.approx((0.9, 0.85, 0.7, 0.55))


def test_a_point_counts_only_if_none_has_more_accuracy_for_no_more_macs() -> None:
    with_bad = line((0.1, 0.6, 0.8), (0.2, 0.7, 0.4), (0.3, 0.99, 0.5))
    assert with_bad.at_macs((0.8,)) == line((0.1, 0.6, 0.8)).at_macs((0.8,))


def test_a_curve_comes_back_from_json() -> None:
    found = line((0.1, 0.9, 0.8), (0.2, 0.8, None))
    assert Curve.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_gates_tell_the_accuracy_of_the_cut(small: Trained) -> None:
    gated = GatedModel(small.dense)
    scores = attribute(small.dense, [], criterion="random")
    found = curve(small, gated, scores, "group", RATES)
    plans = [planned(small, scores, "group", rate) for rate in RATES]
    measured = [
        None if point.accuracy is None else accuracy(cut(small.dense, plan).module, small)
        for point, plan in zip(found.points, plans, strict=True)
        if plan is not None
    ]
    assert found.dense == 1
    assert measured == [point.accuracy for point in found.points]
    assert min(found.accuracies) < 1


def test_under_cost_a_rate_is_of_macs(small: Trained) -> None:
    scores = attribute(small.dense, [], criterion="magnitude")
    found = curve(small, GatedModel(small.dense), scores, "cost", (0.5,))
    assert found.points[0].macs == pytest.approx(0.5, abs=0.02)


def test_a_budget_that_no_plan_meets_counts_as_chance(small: Trained) -> None:
    scores = attribute(small.dense, [], criterion="magnitude")
    found = curve(small, GatedModel(small.dense), scores, "cost", (0.99999,))
    assert found.accuracies == (0.25,)


@pytest.mark.filterwarnings("ignore")  # the peer's
@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_the_peer_prunes_by_itself_and_its_result_is_counted(
    small: Trained, importance: str
) -> None:
    pytest.importorskip("torch_pruning")
    weights = {name: tensor.clone() for name, tensor in small.module.state_dict().items()}
    peer = Peer(trained=small, scored=(small.images[:8], small.labels[:8]), importance=importance)
    found, _ = peer.curve("local", (0.5,))
    assert found.points[0].units == pytest.approx(0.5, abs=0.02)
    assert found.points[0].macs == pytest.approx(0.26, abs=0.03)
    after = small.module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


def test_the_usual_pairs_are_taken_unless_both_are_named() -> None:
    usual = chosen_cases((), (), (0, 1))
    assert len(usual) == 14
    assert [case.seed for case in usual] == [0] * 7 + [1] * 7
    assert {case.data for case in chosen_cases(("resnet18",), (), (0,))} == {
        "pneumonia", "mednist", "phantoms",
    }  # fmt: skip
    named = chosen_cases(("resnet50",), ("phantoms",), (0,))
    assert [case.name for case in named] == ["resnet50-phantoms-0"]


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="--models alexnet: not known; give some of resnet18"):
        chosen_cases(("alexnet",), (), (0,))


def test_a_case_without_its_file_says_which(tmp_path: Path) -> None:
    places = Places(data=tmp_path, work=tmp_path)
    reason = places.lacks(Case(model="resnet18", data="mednist", seed=0))
    assert reason == "mednist_64_small.npz is not in the data folder"
    assert places.lacks(Case(model="resnet18", data="phantoms", seed=0)) is None


def test_rows_that_failed_or_were_measured_otherwise_are_missing(tmp_path: Path) -> None:
    rows = ("taylor", "lrp", "ig", "random", "sensitivity")
    case = Case(model="resnet18", data="phantoms", seed=0)
    job = Job(case=case, places=Places(data=tmp_path, work=tmp_path), rows=rows, rates=RATES,
              images=4, deadline=0.0)  # fmt: skip
    known = {
        "taylor": {"setting": job.setting, "error": None, "curves": {}},
        "lrp": {"setting": job.setting, "error": "ValueError"},
        "ig": {"setting": job.setting | {"images": 5}, "error": None},
        "sensitivity": {"setting": job.setting, "error": None, "left_out": "costs too much"},
    }
    job.path("taylor").parent.mkdir(parents=True)
    for row, facts in known.items():
        job.path(row).write_text(json.dumps(facts), encoding="utf-8")
    assert job.missing() == ("lrp", "ig", "random")


def test_an_unfinished_case_takes_no_part_and_is_named(tmp_path: Path) -> None:
    places = Places(data=tmp_path, work=tmp_path)
    jobs = [
        Job(case=Case(model="resnet18", data="phantoms", seed=seed), places=places,
            rows=("taylor", "lrp"), rates=RATES, images=4, deadline=0.0)
        for seed in (0, 1)
    ]  # fmt: skip
    for job in jobs:
        places.of(job.case).mkdir()
        (places.of(job.case) / "case.json").write_text("{}", encoding="utf-8")
        for row in job.rows[: 2 - job.case.seed]:
            curves = {"cost": line((0.1, 0.9, 0.8)).to_dict()}
            facts = {"setting": job.setting, "error": None, "curves": curves}
            job.path(row).write_text(json.dumps(facts), encoding="utf-8")
    found = read_results(jobs)
    assert found.unfinished == ("resnet18-phantoms-1",)
    assert {result.seed for result in found.found} == {0}
    assert found.complete == ("taylor", "lrp")


def test_a_run_without_any_result_says_so(tmp_path: Path) -> None:
    job = Job(case=Case(model="resnet18", data="phantoms", seed=0), rows=("lrp",), rates=RATES,
              places=Places(data=tmp_path, work=tmp_path), images=4, deadline=0.0)  # fmt: skip
    text = Report(results=read_results([job]), setting="").text()
    assert text.startswith("Nothing was measured.")
    assert "left out: resnet18-phantoms-0" in text


def results(areas: dict[str, float]) -> Results:
    """Make results on two networks and two seeds, areas shifted by seed alone."""
    pairs = (("resnet18", "phantoms"), ("resnet50", "mednist"))
    found = [
        Result(
            pair=pair,
            seed=seed,
            row=row,
            curves={r: line((0.1, 0.9, area + 0.01 * seed)) for r in RANKINGS},
            seconds=1.0,
            images=8,
        )
        for pair in pairs
        for seed in (0, 1)
        for row, area in areas.items()
    ]
    facts = {"pixels": 32, "units": 10, "macs": 1000, "accuracy": 0.9, "test_images": 4,
             "proof": {"max_rel": 1e-7}, "training_seconds": 1.0}  # fmt: skip
    return Results(found=tuple(found), cases={pair: [facts, facts] for pair in pairs})


ORDERED = {
    "taylor": 0.7, "random": 0.5, "magnitude": 0.55, "activation": 0.6, "lrp": 0.85, "ig": 0.8,
}  # fmt: skip


def test_ranks_count_from_the_largest_area() -> None:
    found = results(ORDERED)
    assert [found.rank(name) for name in ("lrp", "ig", "taylor", "random")] == [1, 2, 3, 6]


def test_equal_areas_share_their_rank() -> None:
    found = results({"taylor": 0.7, "lrp": 0.7, "random": 0.5})
    assert found.rank("taylor") == found.rank("lrp") == 1.5


def test_a_criterion_that_is_not_measured_everywhere_has_no_rank() -> None:
    found = results(ORDERED)
    partial = Results(found=found.found[:-1], cases=found.cases)
    assert "ig" not in partial.complete
    assert "lrp" in partial.complete
    assert partial.against("ig", "taylor", "cost").of == 2


def test_differences_are_paired_by_seed() -> None:
    found = results(ORDERED).against("lrp", "taylor", "global")
    assert found.mean == pytest.approx(0.15)
    assert found.error == pytest.approx(0, abs=1e-12)
    assert (found.above, found.of) == (2, 2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "The papers' order, LRP over integrated gradients over the rest, shows with `lrp`"),
        ({"taylor": 0.82}, "over the rest, does not show with `lrp`: it holds in 0 of 6"),
        ({}, "the default, `taylor`, is 3 of 6; the best is `lrp`, against the default +15.0"),
        ({"taylor": 0.88}, "the default, `taylor`, wins; the next is `lrp`"),
        ({"lrp": 0.7, "ig": 0.6}, "wins; the next is `lrp`, against the default +0.0 ± 0.0 points, "
         "not distinguishable"),
    ],
)  # fmt: skip
def test_the_report_says_what_the_numbers_say(changed: dict[str, float], said: str) -> None:
    assert said in Report(results=results(ORDERED | changed), setting="").text()


def test_tables_have_one_width() -> None:
    text = Report(results=results(ORDERED), setting="").text()
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 5
    assert all(len({row.count("|") for row in block.split("\n")}) == 1 for block in tables)


def test_what_was_not_measured_is_named_with_its_reason() -> None:
    found = results(ORDERED)
    failed = Result(pair=("resnet50", "mednist"), seed=2, row="shapley", reason="ValueError: no")
    text = Report(
        results=Results(found=(*found.found, failed), cases=found.cases), setting=""
    ).text()
    assert "- `shapley` (1: resnet50 mednist 2): ValueError: no" in text


def test_folders_are_not_published() -> None:
    given = ["--work", "/home/me", "--data-dir=/data", "--fresh", "--seeds", "0", "--write"]
    assert _public(given) == ["--seeds", "0", "--write"]


def test_accuracy_counts_classes_alike(small: Trained) -> None:
    labels = torch.tensor([0, 0, 0, 1])
    three = Trained(**(vars(small) | {"images": small.images[:4], "labels": labels,
                                      "classes": ("a", "b")}))  # fmt: skip
    answers = torch.eye(2)[torch.tensor([0, 0, 0, 0])]
    assert accuracy(lambda images: answers[: len(images)], three) == pytest.approx(0.5)
    assert np.isfinite(three.chance)
