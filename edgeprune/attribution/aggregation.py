"""How the attributions of single images become one score per unit.

Signed attributions cancel between images, and collapsed to chance when tried;
so by default each image counts with the absolute value of its attribution.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

Aggregate: TypeAlias = Literal["absolute", "signed", "positive", "squared"]


def aggregate_problem(how: str) -> str | None:
    """Say that there is no such way to aggregate, or None."""
    if how in get_args(Aggregate):
        return None
    return f"unknown aggregate '{how}': use one of {', '.join(get_args(Aggregate))}"


def contribution(signed: Tensor, how: Aggregate) -> Tensor:
    """Return what each image adds to the score of each unit, (N, U).

    ``signed`` is above 0 where the unit speaks for the decision.
    """
    match how:
        case "absolute":
            return signed.abs()
        case "signed":
            return signed
        case "positive":
            return signed.clamp_min(0)
        case "squared":
            return signed.square()


@dataclass(kw_only=True)
class Sums:
    """Sums of contributions so far: over all images, and over those of each class.

    Attributes:
        total: (U,) of float64.
        per_class: (classes, U) of float64. An image counts for each of its findings.
        counts: images of each class, (classes,) of int64.
        images: images in all.
        labelled: whether every image had labels.
    """

    total: Tensor
    per_class: Tensor
    counts: Tensor
    images: int = 0
    labelled: bool = True

    @classmethod
    def zeros(cls, classes: int, units: int) -> "Sums":
        """Return sums over no image."""
        return cls(
            total=torch.zeros(units, dtype=torch.float64),
            per_class=torch.zeros(classes, units, dtype=torch.float64),
            counts=torch.zeros(classes, dtype=torch.int64),
        )

    def add(self, contributions: Tensor, labels: Tensor) -> None:
        """Add images, (N, U) of float64 on the CPU, with labels as in ``Batch``."""
        self.images += len(contributions)
        self.total += contributions.sum(0)
        if len(labels) == 0:
            self.labelled = False
            return
        member = memberships(labels, len(self.counts))
        self.per_class += member.T @ contributions
        self.counts += member.sum(0).long()


def memberships(labels: Tensor, classes: int) -> Tensor:
    """Return which images are of which class, (N, classes) of float64, 0 or 1."""
    if labels.dim() == 2:
        return labels.double().cpu()
    return torch.nn.functional.one_hot(labels.cpu(), classes).double()
