"""Chance: the criterion that every other one has to beat."""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Uniform random numbers in [0, 1), the same for the same seed and number of units.

    Without a unit of measurement. Cost: none. Source: as the control in Mittal et
    al., Recovering from Random Pruning, WACV 2018.
    """

    def per_unit(self, model: GatedModel, seed: int) -> Tensor:
        """Return random scores, (U,)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(model.total, generator=generator, dtype=torch.float64)
