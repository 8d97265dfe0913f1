import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import MeasureError, UsageError
from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.metrics import decisions
from edgeprune_benchmarks.noninferiority import (
    Bound,
    NonInferiority,
    least_images,
    non_inferiority,
)

NAMES = ("normal", "nodule")
Labels = NDArray[np.int64]


def judged(before: Labels, after: Labels, labels: Labels, **how: float) -> NonInferiority:
    margins = {"margin": 0.01, "class_margin": 0.05, **how}
    columns = (before, after) if labels.ndim == 2 else (before[:, None], after[:, None])
    return non_inferiority(
        *columns, labels, NAMES, margin=margins["margin"], class_margin=margins["class_margin"]
    )


def changed(n: int, *, lost: int, won: int = 0, margin: float = 0.05) -> Bound:
    """Judge a split of one class, of which some images were lost and others won."""
    labels = np.zeros(n, np.int64)
    before, after = labels.copy(), labels.copy()
    before[:won] = 1
    after[n - lost :] = 1
    return judged(before, after, labels, margin=margin).overall


def test_a_bound_equals_a_hand_worked_table() -> None:
    found = changed(200, lost=6, won=2)
    assert (found.n, found.lost, found.won) == (200, 6, 2)
    assert (found.before, found.after) == (pytest.approx(0.99), pytest.approx(0.97))
    assert found.difference == pytest.approx(-0.02)
    assert found.p_value == pytest.approx(2 * (1 + 8 + 28) / 2**8)  # McNemar's exact test


def test_unchanged_decisions_are_bounded_as_the_closed_form_says() -> None:
    z = 1.6448536269514722
    found = changed(100, lost=0)
    assert (found.low, found.high) == pytest.approx((-(z**2) / (100 + z**2), z**2 / (100 + z**2)))


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.02), (0.08, 0.03), (0.01, 0.0)])
@pytest.mark.parametrize("n", [60, 400])
def test_the_true_fall_lies_under_the_bound_in_at_most_6_of_100(
    n: int, lost: float, won: float
) -> None:
    rng = np.random.default_rng(n)
    drawn = rng.multinomial(n, [lost, won, 1 - lost - won], size=500)
    missed = sum(changed(n, lost=a, won=b).low > won - lost for a, b, _ in drawn.tolist())
    assert missed <= 0.06 * 500


def test_too_few_images_are_inconclusive_even_if_none_changed() -> None:
    least = least_images(0.05)
    assert least == 52
    assert changed(least, lost=0).status == "pass"
    short = changed(least - 1, lost=0)
    assert (short.status, short.needed) == ("inconclusive", least)
    assert "about 52 images would decide" in short.reason


def test_a_fall_beyond_the_margin_that_is_not_chance_is_a_regression() -> None:
    found = changed(300, lost=40, won=2)
    assert found.status == "regression"
    assert "more than 5 points lower, and not by chance" in found.reason


def test_a_fall_beyond_the_margin_on_five_images_is_not_called_a_regression() -> None:
    assert changed(5, lost=1).status == "inconclusive"
    assert changed(5, lost=5).status == "regression"


def test_a_significant_fall_within_the_margin_is_no_regression() -> None:
    found = changed(4000, lost=100, won=40)
    assert found.high < 0
    assert found.p_value < 0.001
    assert found.status == "pass"


def test_the_images_needed_decide_when_there_are_so_many() -> None:
    few = changed(100, lost=3, won=1)
    assert few.status == "inconclusive"
    assert few.needed is not None
    more = few.needed // 100 + 1
    assert changed(100 * more, lost=3 * more, won=more).status == "pass"


def test_each_class_is_bounded_on_its_own_images() -> None:
    labels = np.repeat([0, 1], [900, 100])
    after = labels.copy()
    after[900:920] = 0  # 20 of 100 nodules are missed: 2 points of accuracy
    found = judged(labels, after, labels, margin=0.05)
    normal, nodule = found.per_class
    assert (found.overall.status, normal.status, nodule.status) == ("pass", "pass", "regression")
    assert (nodule.n, nodule.measure, nodule.lost) == (100, "sensitivity", 20)
    assert found.status == "regression"


def test_false_alarms_of_a_finding_are_bounded_too() -> None:
    labels = np.zeros((400, 2), np.int64)
    labels[:200, 0] = labels[:100, 1] = 1
    after = labels.copy()
    after[200:260, 0] = 1  # called on 60 of 200 images that do not have it
    found = judged(labels, after, labels)
    status = {(each.name, each.measure): each.status for each in found.per_class}
    assert status == {
        ("normal", "sensitivity"): "pass",
        ("normal", "specificity"): "regression",
        ("nodule", "sensitivity"): "pass",
        ("nodule", "specificity"): "pass",
    }


def test_images_with_several_calls_are_resampled_whole() -> None:
    labels = np.zeros((1000, 2), np.int64)
    together, apart = labels.copy(), labels.copy()
    together[:40] = 1
    apart[:40, 0] = apart[40:80, 1] = 1
    one, other = judged(labels, together, labels), judged(labels, apart, labels)
    assert one.overall.difference == other.overall.difference == pytest.approx(-0.04)
    assert one.overall.low < other.overall.low  # 40 images off by all tell less than 80 by half
    assert one.overall.n == 1000


def test_several_calls_that_did_not_change_are_bounded_as_few_images_too() -> None:
    labels = np.zeros((100, 2), np.int64)
    after = labels.copy()
    after[0, 0] = 1  # half of one image, so that images are resampled
    found = judged(labels, after, labels).overall
    assert found.low <= -(1.6448536269514722**2) / (100 + 1.6448536269514722**2)
    assert found.high > 0


def test_one_image_tells_nothing() -> None:
    labels = np.zeros((1, 2), np.int64)
    after = np.array([[1, 0]])
    found = judged(labels, after, labels).overall
    assert (found.low, found.high, found.status) == (-1.0, 1.0, "inconclusive")


def test_a_class_without_images_is_inconclusive_and_says_so() -> None:
    labels = np.zeros(500, np.int64)
    found = judged(labels, labels, labels)
    nodule = found.per_class[1]
    assert (nodule.n, nodule.before, nodule.status) == (0, None, "inconclusive")
    assert "no image" in nodule.reason
    assert found.status == "inconclusive"


def test_an_answer_can_be_written_and_read_again() -> None:
    found = judged(np.zeros(60, int), np.zeros(60, int), np.zeros(60, int))
    assert decode(NonInferiority, encode(found)) == found


def test_decisions_of_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(MeasureError, match="1 of 2 images are not finite"):
        decisions(np.array([[0.0, np.nan], [1.0, 2.0]]), multi_label=False)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, float("nan")])
def test_a_margin_that_decides_nothing_is_refused(margin: float) -> None:
    with pytest.raises(UsageError, match="margin"):
        judged(np.zeros(9, int), np.zeros(9, int), np.zeros(9, int), class_margin=margin)


def test_decisions_that_do_not_fit_the_labels_are_refused() -> None:
    labels = np.zeros(9, int)
    with pytest.raises(MeasureError, match=r"shape \(8, 1\), not \(9, 1\)"):
        judged(labels, labels[:8], labels)
    with pytest.raises(MeasureError, match="no test images"):
        judged(labels[:0], labels[:0], labels[:0])
