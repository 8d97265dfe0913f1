import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.attribution import (
    CRITERIA,
    Aggregate,
    Batch,
    Learned,
    LearnedCriterion,
    Scores,
    Taylor,
    attribute,
    load_scores,
    save_scores,
)
from edgeprune.attribution.scores import ranks
from edgeprune.errors import DataError, EdgepruneError, ModelError, UsageError
from edgeprune.gates import GatedModel


class Small(nn.Module):
    """Two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def dense() -> ep.Captured:
    torch.manual_seed(0)
    return ep.capture(Small(), torch.randn(2, 3, 8, 8))


def _batch(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 3


def _flat(scores: Scores) -> Tensor:
    return torch.cat([*scores.values.values()])


@dataclass(frozen=True, kw_only=True)
class ByPixels:
    """Scores all units of an image alike, by its first pixel; notes the sizes of batches."""

    needs_labels = False

    sizes: list[int]
    explained: Literal["loss", "evidence"] = "evidence"

    def per_sample(self, model: GatedModel, seed: int) -> Callable[[Batch], Tensor]:
        def attribute(batch: Batch) -> Tensor:
            self.sizes.append(len(batch))
            return batch.images[:, 0, 0, :1].expand(-1, model.total)

        return attribute


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Learns how many images of each class there are."""

    value: float = 1.0

    def learn(
        self,
        model: GatedModel,
        batches: Sequence[Batch],
        *,
        classes: int,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> Learned:
        seen, per_class = 0, torch.zeros(classes, model.total)
        for batch in batches:
            seen += len(batch)
            per_class += F.one_hot(batch.labels, classes).sum(0)[:, None]
            if progress is not None:
                progress(seen)
        return Learned(per_unit=self.value * per_class.sum(0), per_class=per_class)


# --- how images are summed ------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("absolute", lambda rows: rows.abs()),
        ("signed", lambda rows: rows),
        ("positive", lambda rows: rows.clamp_min(0)),
        ("squared", lambda rows: rows.square()),
    ],
)
def test_images_are_summed_as_asked(
    how: Aggregate, expected: Callable[[Tensor], Tensor], dense: ep.Captured
) -> None:
    images, labels = _batch()
    criterion = Taylor(explained="evidence")
    model = GatedModel(dense)
    batch = Batch(images=images, labels=labels, multi_label=False)
    rows = expected(criterion.per_sample(model, 0)(batch).double())
    scores = attribute(dense, [(images, labels)], criterion, aggregate=how)
    torch.testing.assert_close(_flat(scores), rows.sum(0), rtol=1e-5, atol=1e-9)
    assert scores.per_class is not None
    for index in range(3):
        own = model.by_group(rows[labels == index].sum(0))
        torch.testing.assert_close(
            scores.per_class["conv1"][index], own["conv1"], rtol=1e-5, atol=0
        )
    assert scores.aggregate == how


def test_what_lowers_the_loss_counts_as_speaking_for_the_decision(dense: ep.Captured) -> None:
    images, labels = _batch()
    images[:, 0, 0, 0] = torch.tensor([1.0, -2, 3, -4, 5, -6])

    def total(explained: Literal["loss", "evidence"], how: Aggregate) -> float:
        criterion = ByPixels(sizes=[], explained=explained)
        return float(attribute(dense, [(images, labels)], criterion, aggregate=how)["conv1"][0])

    assert (total("evidence", "positive"), total("loss", "positive")) == (9, 12)
    assert (total("evidence", "signed"), total("loss", "signed")) == (-3, 3)
    assert (total("evidence", "absolute"), total("loss", "absolute")) == (21, 21)


def test_an_aggregate_is_refused_where_it_does_not_exist_or_apply(dense: ep.Captured) -> None:
    with pytest.raises(UsageError, match="unknown aggregate 'mean': use one of absolute, signed"):
        attribute(dense, [_batch()], aggregate="mean")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'magnitude' gives one score for all images: aggregate"):
        attribute(dense, [], "magnitude", aggregate="signed")
    with pytest.raises(UsageError, match="'counting' gives one score for all images"):
        attribute(dense, [_batch()], Counting(), aggregate="squared")


# --- batches --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("parts", [(6,), (1, 1, 4), (5, 1), (2, 2, 2)])
def test_images_go_in_batches_of_the_size_asked_for(
    batch_size: int, parts: tuple[int, ...], dense: ep.Captured
) -> None:
    images, labels = _batch()
    given = list(zip(images.split(parts), labels.split(parts), strict=True))  # type: ignore[no-untyped-call]
    criterion, seen = ByPixels(sizes=[]), list[int]()
    scores = attribute(dense, given, criterion, batch_size=batch_size, progress=seen.append)
    full, rest = divmod(6, batch_size)
    assert criterion.sizes == [batch_size] * full + [rest] * bool(rest)
    assert seen == np.cumsum(criterion.sizes).tolist()
    expected = attribute(dense, [(images, labels)], ByPixels(sizes=[]))
    torch.testing.assert_close(_flat(scores), _flat(expected))
    assert scores.per_class is not None
    assert expected.per_class is not None
    torch.testing.assert_close(scores.per_class["conv2"], expected.per_class["conv2"])


def test_a_batch_of_no_image_is_refused(dense: ep.Captured) -> None:
    with pytest.raises(UsageError, match="a batch size of 0 is too small"):
        attribute(dense, [_batch()], batch_size=0)


def test_empty_batches_are_passed_over_but_not_if_all_are_empty(dense: ep.Captured) -> None:
    images, labels = _batch()
    empty = images[:0], labels[:0]
    whole = attribute(dense, [empty, (images, labels), empty])
    torch.testing.assert_close(_flat(whole), _flat(attribute(dense, [(images, labels)])))
    for criterion in ("taylor", "activation", Counting()):
        for nothing in ([empty], []):
            with pytest.raises(DataError, match="looks at images, but there are none in the"):
                attribute(dense, nothing, criterion)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (torch.randn(3, 8, 8), r"shape \(3, 8, 8\), the model takes \(N, 3, H, W\)"),
        (torch.randn(2, 1, 8, 8), r"shape \(2, 1, 8, 8\), the model takes \(N, 3, H, W\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "images are torch.uint8: preprocess them"),
        ((torch.randn(2, 3, 8, 8), torch.tensor([0.0, 1.0])), "labels are torch.float32: give"),
        ((torch.randn(2, 3, 8, 8), [0, 1]), r"a batch is \(Tensor, list\): give tensors"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(entry: Any, message: str, dense: ep.Captured) -> None:
    with pytest.raises(DataError, match=message):
        attribute(dense, [entry])


def test_whole_numbers_of_any_type_are_classes(dense: ep.Captured) -> None:
    images, labels = _batch()
    expected = _flat(attribute(dense, [(images, labels)]))
    for kind in (torch.int32, torch.uint8):
        torch.testing.assert_close(_flat(attribute(dense, [[images, labels.to(kind)]])), expected)


# --- labels ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["alone", "none", "tuple of one"])
def test_images_without_labels_do_for_criteria_that_need_none(
    form: str, dense: ep.Captured
) -> None:
    images, labels = _batch()
    given: dict[str, Any] = {"alone": images, "none": (images, None), "tuple of one": (images,)}
    scores = attribute(dense, [given[form]], "activation", batch_size=4)
    expected = attribute(dense, [(images, labels)], "activation")
    torch.testing.assert_close(_flat(scores), _flat(expected))
    assert scores.per_class is None
    assert scores.counts == ()
    assert scores.most_affected("conv1") is None
    assert expected.counts == (2, 2, 2)


def test_labels_of_some_images_only_give_no_scores_by_class(dense: ep.Captured) -> None:
    images, labels = _batch()
    mixed = [(images[:2], labels[:2]), (images[2:], None)]
    scores = attribute(dense, mixed, "activation", batch_size=5)
    torch.testing.assert_close(_flat(scores), _flat(attribute(dense, [images], "activation")))
    assert scores.per_class is None


@pytest.mark.parametrize("criterion", ["taylor", "ig", "lrp", "shapley", "xpruner"])
def test_a_criterion_that_needs_labels_says_so_and_names_those_that_do_not(
    criterion: str, dense: ep.Captured
) -> None:
    images, _ = _batch()
    others = "activation, magnitude, random"
    with pytest.raises(DataError, match=f"'{criterion}' needs labels, .* needs none: {others}"):
        attribute(dense, [images], criterion)


# --- criteria that learn ----------------------------------------------------------------


def test_a_criterion_that_learns_gets_all_images_at_once(dense: ep.Captured) -> None:
    images, labels = _batch(5)
    seen: list[int] = []
    given = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    scores = attribute(dense, given, Counting(), batch_size=2, progress=seen.append)
    assert seen == [2, 4, 5]
    assert scores["conv1"].tolist() == [5] * 6
    assert scores.per_class is not None
    assert scores.per_class["conv2"][:, 0].tolist() == [2, 2, 1]
    assert scores.counts == (2, 2, 1)
    assert scores.aggregate is None
    assert scores["conv1"].dtype == torch.float64


def test_what_was_learned_has_to_be_finite(dense: ep.Captured) -> None:
    with pytest.raises(ModelError, match="'counting' gives values that are not finite for group"):
        attribute(dense, [_batch()], Counting(value=torch.nan))


# --- rows and layers ----------------------------------------------------------------------


@pytest.fixture
def by_hand() -> Scores:
    return Scores(
        criterion="by hand",
        values={
            "a": torch.tensor([3.0, 1.0, 3.0], dtype=torch.float64),
            "b": torch.tensor([2.0, 1.0], dtype=torch.float64),
        },
        per_class={
            "a": torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.0, 0.0], [2.0, 0.6, 3.0]]).double(),
            "b": torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).double(),
        },
        classes=("rare", "never", "common"),
        counts=(1, 0, 4),
        kinds={"a": "conv"},
        aggregate="absolute",
    )


def test_rows_tell_every_unit_with_its_ranks(by_hand: Scores) -> None:
    rows = list(by_hand.rows())
    assert [(row.group, row.kind, row.unit, row.score) for row in rows] == [
        *(("a", "conv", 0, 3.0), ("a", "conv", 1, 1.0), ("a", "conv", 2, 3.0)),
        *(("b", "", 0, 2.0), ("b", "", 1, 1.0)),
    ]
    assert [row.rank for row in rows] == [5, 1, 4, 3, 2]
    assert [row.rank_in_group for row in rows] == [3, 1, 2, 2, 1]
    assert rows[0].per_class == (1.0, None, 2.0)


def test_the_class_that_a_unit_matters_most_to_is_told_per_image(by_hand: Scores) -> None:
    # 2 over four images of the common class is less than 1 over one of the rare.
    assert by_hand.most_affected("a") == ["rare", "rare", "common"]
    learned = replace(by_hand, aggregate=None)
    assert learned.most_affected("a") == ["common", "common", "common"]
    assert replace(by_hand, counts=()).most_affected("a") == ["common", "common", "common"]


def test_a_class_without_images_is_never_the_most_affected(by_hand: Scores) -> None:
    assert by_hand.per_class is not None
    negative = {name: -1 - values for name, values in by_hand.per_class.items()}
    scores = replace(by_hand, per_class=negative, counts=(1, 0, 1))
    # Of no image, -1 would be more than the rest.
    assert scores.most_affected("a") == ["rare", "rare", "rare"]


def test_layers_are_the_sums_and_means_of_their_units(by_hand: Scores) -> None:
    first, second = by_hand.layers
    assert (first.group, first.kind, first.size, first.total) == ("a", "conv", 3, 7.0)
    assert first.mean == pytest.approx(7 / 3)
    assert first.per_class == pytest.approx((1.4, None, 5.6))
    assert (second.total, second.mean) == (3.0, 1.5)


def test_scores_of_the_model_alone_have_rows_without_classes(dense: ep.Captured) -> None:
    scores = attribute(dense, [], "magnitude")
    rows = list(scores.rows())
    assert {(row.most, row.per_class) for row in rows} == {(None, ())}
    assert {row.kind for row in rows} == {"conv"}
    assert [layer.per_class for layer in scores.layers] == [(), ()]
    assert sorted(row.rank for row in rows) == list(range(1, 12))


def test_rows_rank_as_a_plan_does(dense: ep.Captured) -> None:
    scores = attribute(dense, [_batch()])
    plan = ep.make_plan(dense, scores, ep.Budget(keep=0.4), ranking="global")
    by_unit = {(row.group, row.unit): row.rank for row in scores.rows()}
    removed = [(g.name, unit) for g in plan.groups for unit in g.removed]
    assert removed
    assert all(by_unit[name, unit.unit] == unit.rank for name, unit in removed)


def test_equal_scores_rank_by_position() -> None:
    found = ranks({"a": np.array([1.0, 1.0]), "b": np.array([1.0, 0.0])})
    assert [found["a"].tolist(), found["b"].tolist()] == [[3, 2], [4, 1]]
    assert ranks({}) == {}


# --- on disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["taylor:explained=margin", "magnitude"])
def test_scores_are_read_as_they_were_written(
    criterion: str, dense: ep.Captured, tmp_path: Path
) -> None:
    ids, hashes = tuple("abcdef"), tuple("123456")
    scores = attribute(dense, [_batch()], criterion, sampler="random", sample_ids=ids)
    scores = replace(scores, hashes=hashes)
    save_scores(tmp_path, scores)
    found = load_scores(tmp_path)
    assert list(found.rows()) == list(scores.rows())
    assert [*found.values] == [*scores.values]
    assert replace(found, values={}, per_class=None).__dict__ == (
        replace(scores, values={}, per_class=None).__dict__
    )
    assert (found.per_class is None) == (criterion == "magnitude")


@pytest.mark.parametrize("change", ["no head", "no key", "no group", "no json"])
def test_damaged_scores_are_refused(change: str, by_hand: Scores, tmp_path: Path) -> None:
    save_scores(tmp_path, by_hand)
    head = tmp_path / "scores.json"
    document = json.loads(head.read_text())
    match change:
        case "no head":
            head.unlink()
        case "no key":
            head.write_text(json.dumps({k: v for k, v in document.items() if k != "classes"}))
        case "no group":
            head.write_text(json.dumps(document | {"groups": {"c": "conv"}}))
        case _:
            head.write_text("{")
    with pytest.raises(DataError, match="score again"):
        load_scores(tmp_path)


# --- precision and names ----------------------------------------------------------------------


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "random"])
def test_every_criterion_scores_under_autocast(criterion: str, dense: ep.Captured) -> None:
    batch = _batch(12)
    exact = _flat(attribute(dense, [batch], criterion))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _flat(attribute(dense, [batch], criterion))
    assert found.isfinite().all()
    if not isinstance(CRITERIA[criterion], LearnedCriterion):  # which takes other steps then
        assert spearmanr(exact, found).statistic > 0.9


def test_hashes_are_one_for_each_image(dense: ep.Captured) -> None:
    with pytest.raises(UsageError, match="2 sample_hashes for 6 images: give one each"):
        attribute(dense, [_batch()], sample_hashes=("x", "y"))


def test_a_model_without_groups_has_nothing_to_score() -> None:
    dense = ep.capture(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(2, 3, 2, 2))
    with pytest.raises(EdgepruneError, match="there is nothing to score"):
        attribute(dense, [])
