"""Integrated gradients on gates, along the path from the empty to the dense model."""

import warnings
from dataclasses import dataclass
from typing import cast

import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from edgeprune.attribution.criterion import Attributor, Batch, Explained, objective
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Integrated:
    """Gradients integrated while all gates open together from 0 to 1, by captum.

    Scores of one image sum to the target of the dense model less that of the
    model whose gates are all 0, within about 2 % at 16 steps and 0.5 % at 64.
    In logits (evidence) or nats (loss). Cost: ``steps`` forwards and backwards
    per batch, one batch in memory at a time. Source: Sundararajan et al.,
    Axiomatic Attribution for Deep Networks, ICML 2017, equation 1, with gates
    in the place of pixels.
    """

    explained: Explained = "evidence"
    steps: int = 16

    def __post_init__(self) -> None:
        """Refuse an empty path."""
        if self.steps < 1:
            raise UsageError(f"{self.steps} steps integrate nothing: use 1 or more")

    def per_sample(self, model: GatedModel, seed: int) -> Attributor:
        """Return what gives the integral from 0 to 1 of each gate's gradient, (N, U)."""
        return lambda batch: self._integrate(model, batch)

    def _integrate(self, model: GatedModel, batch: Batch) -> Tensor:

        def forward(gates: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            return objective(model(images, gates), labels, self.explained, batch.multi_label)

        gates = model.ones(len(batch))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # captum says that it sets requires_grad
            found = IntegratedGradients(forward).attribute(
                gates,
                baselines=torch.zeros_like(gates),
                additional_forward_args=(batch.images, batch.labels),
                n_steps=self.steps,
                internal_batch_size=len(batch),
            )
        return cast(Tensor, found).detach().to(gates.dtype)
