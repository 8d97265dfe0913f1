import numpy as np
import pytest
from scipy.stats import binomtest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.metrics import classification_metrics, paired_difference

NAMES = ("normal", "nodule", "effusion")


def one_hot(*called: int) -> np.ndarray:
    return np.eye(3)[list(called)] * 4.0


def test_single_label_metrics_equal_a_hand_worked_table() -> None:
    # truth:    0 0 0 1 1 1;  called: 0 0 1 1 1 0
    logits = one_hot(0, 0, 1, 1, 1, 0)
    found = classification_metrics(logits, np.array([0, 0, 0, 1, 1, 1]), NAMES)
    assert found.accuracy == pytest.approx(4 / 6)
    normal, nodule, effusion = found.per_class
    assert (normal.n, nodule.n, effusion.n) == (3, 3, 0)
    assert normal.sensitivity == pytest.approx(2 / 3)
    # of 3 × 3 pairs: 4 in the right order, 4 ties, 1 wrong → (4 + 4 / 2) / 9
    assert normal.auroc == pytest.approx(6 / 9)
    assert found.auroc == pytest.approx(6 / 9)


def test_a_class_without_images_has_no_value_and_does_not_lower_the_mean() -> None:
    found = classification_metrics(one_hot(0, 1), np.array([0, 1]), NAMES)
    effusion = found.per_class[2]
    assert (effusion.n, effusion.sensitivity, effusion.auroc) == (0, None, None)
    assert effusion.average_precision is None
    assert found.auroc == 1.0
    assert found.average_precision == 1.0


def test_one_class_alone_has_no_auroc() -> None:
    found = classification_metrics(one_hot(0, 0), np.array([0, 0]), NAMES)
    assert found.accuracy == 1.0
    assert found.auroc is None


def test_multi_label_metrics_equal_a_hand_worked_table() -> None:
    logits = np.array([[2.0, -1.0], [1.0, 1.0], [-1.0, 3.0], [0.5, -2.0]])
    labels = np.array([[1, 0], [0, 1], [0, 1], [1, 1]], dtype=np.float32)
    found = classification_metrics(logits, labels, ("nodule", "effusion"))
    assert found.multi_label
    assert found.accuracy == pytest.approx((3 / 4 + 3 / 4) / 2)
    nodule, effusion = found.per_class
    assert (nodule.n, effusion.n) == (2, 3)
    assert nodule.sensitivity == 1.0
    assert effusion.sensitivity == pytest.approx(2 / 3)
    assert nodule.auroc == pytest.approx(3 / 4)  # of the pairs only 0.5 against 1 is wrong
    assert effusion.auroc == pytest.approx(2 / 3)
    assert nodule.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_single_label_auroc_ranks_probabilities_not_logits() -> None:
    # The second image's logits are all higher, but its share for class 0 is lower.
    logits = np.array([[1.0, 0.0], [2.0, 5.0]])
    found = classification_metrics(logits, np.array([0, 1]), ("no", "yes"))
    assert found.per_class[0].auroc == 1.0


def test_paired_difference_equals_a_hand_worked_table() -> None:
    labels = np.zeros(20, np.int64)
    dense = one_hot(*[0] * 17, 1, 1, 1)
    slim = one_hot(*[1] * 5, *[0] * 12, 0, 1, 2)
    found = paired_difference(dense, slim, labels)
    assert (found.only_dense_right, found.only_slim_right) == (5, 1)
    assert found.accuracy == pytest.approx(-4 / 20)
    assert found.disagreement == pytest.approx(7 / 20)
    # two-sided: 2 · (C(6,0) + C(6,1)) / 2⁶
    assert found.p_value == pytest.approx(2 * 7 / 64)
    assert found.p_value == pytest.approx(binomtest(5, 6).pvalue)
    assert found.low < -4 / 20 < found.high


def test_the_same_outputs_differ_by_exactly_nothing() -> None:
    logits = one_hot(0, 1, 2, 2)
    found = paired_difference(logits, logits, np.array([0, 1, 2, 0]))
    assert (found.accuracy, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert found.disagreement == 0.0


def test_the_paired_interval_holds_the_true_difference_in_95_of_100() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(400, np.int64)
    held = 0
    for _ in range(100):
        draw = rng.random(400)
        dense = one_hot(*np.where(draw < 0.90, 0, 1))
        slim = one_hot(*np.where((draw > 0.06) & (draw < 0.92), 0, 1))  # true difference −0.04
        found = paired_difference(dense, slim, labels, resamples=400)
        held += found.low <= -0.04 <= found.high
    assert 89 <= held <= 100


def test_findings_of_one_image_are_resampled_together_and_not_tested_as_independent() -> None:
    labels = np.zeros((50, 3), np.float32)
    dense = np.full((50, 3), -1.0)
    slim = np.where(np.arange(50)[:, None] < 10, 1.0, dense)  # ten images wrong in all three
    found = paired_difference(dense, slim, labels)
    assert found.p_value is None
    assert found.only_dense_right == 30
    single = paired_difference(one_hot(*[0] * 50), one_hot(*[1] * 10, *[0] * 40), labels[:, 0])
    assert found.high - found.low == pytest.approx(single.high - single.low, rel=1e-9)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "no test images"),
        (np.zeros((2, 4)), np.zeros(2, int), r"shape \(2, 4\); \(2, 3\) was expected"),
        (np.full((2, 3), np.nan), np.zeros(2, int), "outputs of 2 of 2 images are not finite"),
        (np.zeros((2, 3)), np.array([0, 7]), r"labels outside 0 … 2: \[7\]"),
        (np.zeros((2, 3)), np.full((2, 3), 2.0), "not 0 or 1 for each of 3 findings"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    logits: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(MeasureError, match=message):
        classification_metrics(logits, labels, NAMES)
