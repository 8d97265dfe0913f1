"""Units that play together, so that a game of all units has few players."""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Players:
    """Who plays for whom, image by image.

    Attributes:
        of_unit: the player that each unit belongs to, (N, U) of int64.
        share: what part of that player's value is the unit's, (N, U); the
            shares of a player sum to 1.
        count: number of players, the same for all images.
    """

    of_unit: Tensor
    share: Tensor
    count: int


def join_units(model: GatedModel, scores: Tensor, most: int) -> Players:
    """Join each group's units into at most ``most`` players by scores (N, U) of each image.

    Units next to each other in the order of signed scores join, so that a unit
    for and one against the target do not cancel within a player; players of a
    group differ by at most one unit. A unit's share is that of its absolute
    score among its player's, and equal where all are 0.
    """
    numbers, count = [], 0
    for part in model.by_group(scores).values():
        size = part.shape[1]
        players = min(most, size)
        rank = part.argsort(dim=1, stable=True).argsort(dim=1)
        numbers.append(count + rank * players // size)
        count += players
    of_unit = torch.cat(numbers, dim=1)
    return Players(of_unit=of_unit, share=_shares(scores.abs(), of_unit, count), count=count)


def _shares(weights: Tensor, of_unit: Tensor, count: int) -> Tensor:
    def per_player(values: Tensor) -> Tensor:
        sums = torch.zeros(len(values), count, dtype=values.dtype, device=values.device)
        return sums.scatter_add(1, of_unit, values).gather(1, of_unit)

    total, members = per_player(weights), per_player(torch.ones_like(weights))
    return torch.where(total == 0, 1 / members, weights / total)
