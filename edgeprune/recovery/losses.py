"""What training minimises.

``(1 - w) * task + w * T² * KL(teacher ‖ student)``, with logits divided by the
temperature T in the second term, and T² because its gradients shrink by that
much (Hinton, Vinyals and Dean 2015, arXiv 1503.02531).
"""

import torch.nn.functional as F
from torch import Tensor

from edgeprune.recovery.settings import TrainSettings


def task_loss(
    logits: Tensor, labels: Tensor, *, multi_label: bool, label_smoothing: float = 0.0
) -> Tensor:
    """Compare logits (N, K) with classes int64 (N,) or findings float (N, K); mean, in nats."""
    if not multi_label:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    smooth = labels * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, smooth)


def distillation_loss(
    student: Tensor, teacher: Tensor, *, temperature: float, multi_label: bool
) -> Tensor:
    """Compare the student's logits with the teacher's, both (N, K); mean, in nats times T².

    Classes exclude each other, so their softmax is compared, averaged over images.
    Findings do not: each is a yes or no of its own, averaged over images and findings.
    0 where both agree.
    """
    student, teacher = student / temperature, teacher / temperature
    if multi_label:
        answers = teacher.sigmoid()
        # Minus the teacher's own entropy, so that agreement costs nothing.
        divergence = F.binary_cross_entropy_with_logits(
            student, answers
        ) - F.binary_cross_entropy_with_logits(teacher, answers)
    else:
        divergence = F.kl_div(
            F.log_softmax(student, 1),
            F.log_softmax(teacher, 1),
            reduction="batchmean",
            log_target=True,
        )
    return divergence * temperature**2


def training_loss(
    logits: Tensor,
    labels: Tensor,
    answers: Tensor | None,
    settings: TrainSettings,
    *,
    multi_label: bool,
) -> Tensor:
    """Weigh the task against the teacher's answers (N, K); without them, the task alone."""
    task = task_loss(
        logits, labels, multi_label=multi_label, label_smoothing=settings.label_smoothing
    )
    if answers is None:
        return task
    distilled = distillation_loss(
        logits, answers, temperature=settings.temperature, multi_label=multi_label
    )
    weight = settings.distill_weight
    return (1 - weight) * task + weight * distilled
