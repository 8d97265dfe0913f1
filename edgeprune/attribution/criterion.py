"""What a criterion is, and what it explains.

A criterion reads images one by one, and then attributes each image's decision
to the gates of all units; or it learns from all of them together; or it looks
at the model alone. Attribution is a number per image and unit, with sign, in
units of the target: nats for the loss, logits for the evidence and the margin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.gates import GatedModel

Explained: TypeAlias = Literal["loss", "evidence", "margin"]
Run: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # images, gates → logits


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images with their labels.

    Attributes:
        images: float (N, C, H, W), on the model's device.
        labels: int64 (N,), the class of each image; or float (N, K) of 0 and 1;
            or (0,) where they are not known, which only criteria get that do not
            look at them.
        multi_label: which of the first two.
    """

    images: Tensor
    labels: Tensor
    multi_label: bool

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def part(self, start: int, size: int) -> "Batch":
        """Take ``size`` images from ``start`` on, the last one repeated where they end."""
        rows = torch.arange(start, start + size).clamp_max(len(self) - 1)
        labels = self.labels[rows] if len(self.labels) else self.labels
        return Batch(images=self.images[rows], labels=labels, multi_label=self.multi_label)


@runtime_checkable
class SampleCriterion(Protocol):
    """Scores units by what images make of them.

    One that does not look at labels says so by a class attribute
    ``needs_labels = False``.
    """

    def per_sample(self, model: GatedModel, seed: int) -> "Attributor":
        """Return what gives each unit's part in each image's decision, (N, U), signed."""
        ...


@runtime_checkable
class ModelCriterion(Protocol):
    """Scores units without any image."""

    def per_unit(self, model: GatedModel, seed: int) -> Tensor:
        """Return a score per unit, (U,), larger for what matters more."""
        ...


@runtime_checkable
class LearnedCriterion(Protocol):
    """Scores units by learning from all images, several times over."""

    def learn(
        self,
        model: GatedModel,
        batches: Sequence[Batch],
        *,
        classes: int,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> "Learned":
        """Return a score per unit, and per class and unit.

        progress is called with the number of images seen so far, each counted
        once, however often it is looked at.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """What was learned.

    Attributes:
        per_unit: (U,), larger for what matters more.
        per_class: (classes, U), likewise.
    """

    per_unit: Tensor
    per_class: Tensor


Attributor: TypeAlias = Callable[[Batch], Tensor]
Criterion: TypeAlias = SampleCriterion | LearnedCriterion | ModelCriterion


def needs_images(criterion: Criterion) -> bool:
    """Say whether a criterion looks at images at all."""
    return not isinstance(criterion, ModelCriterion)


def needs_labels(criterion: Criterion) -> bool:
    """Say whether a criterion looks at labels."""
    return needs_images(criterion) and bool(getattr(criterion, "needs_labels", True))


def direction(criterion: Criterion) -> int:
    """Return 1, or −1 where attributions are of the loss, which a useful unit lowers."""
    return -1 if getattr(criterion, "explained", None) == "loss" else 1


def objective(logits: Tensor, labels: Tensor, explained: Explained, multi_label: bool) -> Tensor:
    """Return what is explained of each image, (N,), from logits (N, K).

    The loss is cross-entropy, or binary cross-entropy summed over findings. The
    evidence is the logit of the true class, or the sum of the logits of all
    findings that are present less those that are absent. The margin is the
    logit of the true class less the highest of the others; findings are decided
    at 0, so that their margin is their evidence.
    """
    if multi_label:
        if explained == "loss":
            losses = F.binary_cross_entropy_with_logits(
                logits, labels.to(logits.dtype), reduction="none"
            )
            return losses.sum(1)
        return (logits * (2 * labels.to(logits.dtype) - 1)).sum(1)
    if explained == "loss":
        return F.cross_entropy(logits, labels, reduction="none")
    true = logits.gather(1, labels[:, None])[:, 0]
    if explained == "evidence" or logits.shape[1] == 1:
        return true
    return true - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
