"""The size of a unit's weights: what can be said without any image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.capture import state, trainable
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """L2 norm of everything a unit owns, relative to its group.

    The norm is taken over the unit's slices of all parameters that its group
    occurs in, of producers, readers and what lies between; running statistics
    do not count. It is divided by the mean norm of the group, so that groups of
    different widths and scales compare: 1 is an average unit, without a unit of
    measurement. Cost: one look at each parameter. Source: Han et al., Learning
    both Weights and Connections, NeurIPS 2015, by slices instead of weights.
    """

    def per_unit(self, model: GatedModel, seed: int) -> Tensor:
        """Return relative norms, (U,); the seed is not used."""
        norms = _squares(model).sqrt()
        parts = model.by_group(norms).values()
        tiny = torch.finfo(norms.dtype).tiny
        return torch.cat([norms[:0], *(part / part.mean().clamp_min(tiny) for part in parts)])


def _squares(model: GatedModel) -> Tensor:
    """Sum the squares of each unit's parameters, (U,) of float64."""
    analysis = model.analysis
    slots = torch.from_numpy(analysis.slots)
    # One place more, for positions of units that belong to no group.
    sums = torch.zeros(model.total + 1, dtype=torch.float64)
    learned = trainable(model.module)
    for name, tensor in state(model.module).items():
        if name not in learned or name not in analysis.parameters:
            continue
        squares = tensor.detach().double().cpu().square()
        for dim, axis in enumerate(analysis.parameters[name]):
            per_position = squares.movedim(dim, 0).reshape(axis.size, -1).sum(1)
            for column in axis.columns:
                units = torch.from_numpy(column)
                owners = torch.where(units >= 0, slots[units], model.total)
                sums.index_add_(0, owners, per_position)
    return sums[:-1]
