import math

import pytest
import torch
import torch.nn.functional as F

from edgeprune.errors import UsageError
from edgeprune.recovery import TrainSettings
from edgeprune.recovery.losses import distillation_loss, task_loss, training_loss

STUDENT = torch.tensor([[0.0, 0.0]])
TEACHER = torch.tensor([[math.log(9.0), 0.0]])  # softmax: 0.9, 0.1


def test_distillation_equals_the_value_worked_by_hand() -> None:
    loss = distillation_loss(STUDENT, TEACHER, temperature=1.0, multi_label=False)
    assert float(loss) == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))


def test_the_temperature_softens_both_sides_and_scales_by_its_square() -> None:
    # Halved, the teacher's logits are log 3 and 0: softmax 0.75, 0.25.
    loss = distillation_loss(STUDENT, TEACHER, temperature=2.0, multi_label=False)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(loss) == pytest.approx(4 * divergence)


def test_findings_are_distilled_one_by_one() -> None:
    loss = distillation_loss(STUDENT, TEACHER, temperature=1.0, multi_label=True)
    first = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert float(loss) == pytest.approx((first + 0.0) / 2)  # the second finding agrees: 0.5


@pytest.mark.parametrize("multi_label", [False, True])
def test_distillation_is_zero_with_zero_gradient_where_both_agree(multi_label: bool) -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = distillation_loss(logits, logits.detach(), temperature=3.0, multi_label=multi_label)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("multi_label", [False, True])
def test_distillation_is_averaged_over_images(multi_label: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 5, 3, generator=generator)
    options = {"temperature": 2.0, "multi_label": multi_label}
    each = [
        distillation_loss(student[i : i + 1], teacher[i : i + 1], **options)  # type: ignore[arg-type]
        for i in range(5)
    ]
    together = distillation_loss(student, teacher, **options)  # type: ignore[arg-type]
    assert float(together) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def test_the_task_and_the_teacher_are_weighed() -> None:
    labels = torch.tensor([1])
    settings = TrainSettings(distill_weight=0.25, temperature=2.0)
    task = math.log(2)
    taught = float(distillation_loss(STUDENT, TEACHER, temperature=2.0, multi_label=False))
    loss = training_loss(STUDENT, labels, TEACHER, settings, multi_label=False)
    assert float(loss) == pytest.approx(0.75 * task + 0.25 * taught)
    alone = training_loss(STUDENT, labels, None, settings, multi_label=False)
    assert float(alone) == pytest.approx(task)


def test_smoothed_labels_lie_between_the_label_and_ignorance() -> None:
    logits = torch.tensor([[2.0, -1.0]])
    single = task_loss(logits, torch.tensor([0]), multi_label=False, label_smoothing=0.2)
    chances = F.log_softmax(logits, 1)[0]
    assert float(single) == pytest.approx(float(-(0.9 * chances[0] + 0.1 * chances[1])))
    multi = task_loss(logits, torch.tensor([[1.0, 0.0]]), multi_label=True, label_smoothing=0.2)
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([[0.9, 0.1]]))
    assert float(multi) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"lr": 0.0},
        {"lr": 1.5},
        {"batch_size": 1},
        {"weight_decay": -0.1},
        {"distill_weight": 1.1},
        {"temperature": 0.0},
        {"label_smoothing": 1.0},
        {"warmup": 1.0},
        {"clip_norm": 0.0},
        {"patience": 0},
        {"threads": 0},
    ],
)
def test_settings_that_cannot_train_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        TrainSettings(**wrong)  # type: ignore[arg-type]
