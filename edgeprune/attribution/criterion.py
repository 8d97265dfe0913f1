"""What a criterion is, and what it explains.

A criterion either reads images, and then attributes each image's decision to
the gates of all units, or it looks at the model alone. Attribution is a number
per image and unit, with sign, in units of the target: nats for the loss,
logits for the evidence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.gates import GatedModel

Explained: TypeAlias = Literal["loss", "evidence"]
Run: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # images, gates → logits


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images with their labels.

    Attributes:
        images: float (N, C, H, W), on the model's device.
        labels: int64 (N,), the class of each image; or float (N, K) of 0 and 1.
        multi_label: which of the two.
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
        return Batch(
            images=self.images[rows], labels=self.labels[rows], multi_label=self.multi_label
        )


@runtime_checkable
class SampleCriterion(Protocol):
    """Scores units by what images make of them."""

    def per_sample(self, model: GatedModel, seed: int) -> "Attributor":
        """Return what gives each unit's part in each image's decision, (N, U), signed."""
        ...


@runtime_checkable
class ModelCriterion(Protocol):
    """Scores units without any image."""

    def per_unit(self, model: GatedModel, seed: int) -> Tensor:
        """Return a score per unit, (U,), larger for what matters more."""
        ...


Attributor: TypeAlias = Callable[[Batch], Tensor]
Criterion: TypeAlias = SampleCriterion | ModelCriterion


def objective(logits: Tensor, labels: Tensor, explained: Explained, multi_label: bool) -> Tensor:
    """Return what is explained of each image, (N,), from logits (N, K).

    The loss is cross-entropy, or binary cross-entropy summed over findings. The
    evidence is the logit of the true class, or the sum of the logits of all
    findings that are present less those that are absent.
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
    return logits.gather(1, labels[:, None])[:, 0]
