"""First-order Taylor expansion on gates: what the target would lose without a unit."""

import warnings
from dataclasses import dataclass
from typing import cast

from captum.attr import InputXGradient
from torch import Tensor

from edgeprune.attribution.criterion import Attributor, Batch, Explained, Run, objective
from edgeprune.attribution.settings import require_target
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """Gate × gradient, by captum's InputXGradient.

    The gate is 1, so the score is the gradient itself: the first term of what
    the target loses when the gate goes from 1 to 0. In logits (evidence, margin)
    or nats (loss), which says little of images that the model is sure of. Cost:
    one forward and one backward per batch, whatever the number of units and
    groups. Source: Molchanov et al., Importance Estimation
    for Neural Network Pruning, CVPR 2019, equations 5 to 8 (there squared; here
    absolute values are summed over images).
    """

    explained: Explained = "evidence"

    def __post_init__(self) -> None:
        """Refuse an unknown target."""
        require_target(self.explained)

    def per_sample(self, model: GatedModel, seed: int) -> Attributor:
        """Return what gives gate × gradient, (N, U); the seed is not used."""
        return lambda batch: gate_times_gradient(
            model, model.ones(len(batch)), batch, self.explained
        )


def gate_times_gradient(run: Run, gates: Tensor, batch: Batch, explained: Explained) -> Tensor:
    """Attribute what is explained to gates through ``run``, (N, U) for N images."""

    def forward(gates: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return objective(run(images, gates), labels, explained, batch.multi_label)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum says that it sets requires_grad
        found = InputXGradient(forward).attribute(
            gates, additional_forward_args=(batch.images, batch.labels)
        )
    return cast(Tensor, found).detach()
