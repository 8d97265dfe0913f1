"""Shapley values of units: their part in every order of opening gates, on average."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import torch
from captum.attr import ShapleyValueSampling
from torch import Tensor

from edgeprune.attribution.criterion import Attributor, Batch, Explained, objective
from edgeprune.attribution.players import Players, join_units
from edgeprune.attribution.repeats import repeated, repeats
from edgeprune.attribution.settings import require_rows, require_target
from edgeprune.attribution.taylor import gate_times_gradient
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel

MOST_EXACT: Final = 10  # players; 1024 forwards


@dataclass(frozen=True, kw_only=True)
class Shapley:
    """What a player adds to the target when its gates open, over orders of all players.

    A player is a unit, or several of one channel group that ``join_units``
    joins by an image's Taylor scores; its value is divided among its units in
    proportion to their absolute Taylor scores. Values of one image sum to the
    target of the dense model less that of the model whose gates are all 0,
    whatever the number of orders. In nats (loss) or logits (evidence, margin).
    Orders come in pairs, each with its reverse, and are the same for all images.

    Cost: one gradient, and samples × players forwards per batch, with players
    counted over all groups; 2 ^ players forwards for exact values. Source:
    Shapley, A Value for n-Person Games, 1953; sampled by captum as in Castro et
    al., Polynomial Calculation of the Shapley Value Based on Sampling, 2009; with
    the reversed orders of Mitchell et al., Sampling Permutations for Shapley
    Value Estimation, JMLR 2022.

    Attributes:
        explained: the target.
        players: how many a channel group has at most.
        samples: number of orders; 0 for exact values, of at most 10 players in all.
        rows: images at once; a batch runs as often at once as that has room for it.
    """

    explained: Explained = "loss"
    players: int = 4
    samples: int = 8
    rows: int = 64

    def __post_init__(self) -> None:
        """Refuse a game without a target, players, orders or images."""
        require_target(self.explained)
        if self.players < 1:
            raise UsageError(f"{self.players} players per group share nothing: use 1 or more")
        if self.samples < 0:
            raise UsageError(f"{self.samples} samples: use 1 or more, or 0 for exact values")
        require_rows(self.rows)

    def per_sample(self, model: GatedModel, seed: int) -> Attributor:
        """Return what gives each unit's value, (N, U); the seed is that of the orders.

        Raises:
            UsageError: exact values of too many players.
        """
        if self.samples == 0:
            _check_few(sum(min(self.players, g.size) for g in model.analysis.groups))
        return lambda batch: self._values(model, batch, seed)

    def _values(self, model: GatedModel, batch: Batch, seed: int) -> Tensor:
        taylor = gate_times_gradient(model, model.ones(len(batch)), batch, self.explained)
        players = join_units(model, taylor, self.players)
        at_once = repeats(model, len(batch), self.rows)
        if self.samples == 0:
            found = self._exact(model, batch, players, at_once)
        else:
            found = self._sampled(model, batch, players, at_once, seed)
        return found.to(taylor.dtype) * players.share

    def _sampled(
        self, model: GatedModel, batch: Batch, players: Players, at_once: int, seed: int
    ) -> Tensor:
        """Give each unit its player's mean over orders, (N, U)."""

        def forward(gates: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            return objective(model(images, gates), labels, self.explained, batch.multi_label)

        sampling = ShapleyValueSampling(forward)
        sampling.permutation_generator = partial(_orders, seed)
        gates = model.ones(len(batch))
        found = sampling.attribute(
            gates,
            baselines=torch.zeros_like(gates),
            additional_forward_args=(batch.images, batch.labels),
            feature_mask=players.of_unit,
            n_samples=self.samples,
            perturbations_per_eval=at_once,
        )
        return cast(Tensor, found)

    @torch.no_grad()
    def _exact(self, model: GatedModel, batch: Batch, players: Players, at_once: int) -> Tensor:
        """Give each unit its player's value by every subset of players, (N, U) of float64."""
        subsets = torch.arange(2**players.count)[:, None] >> torch.arange(players.count) & 1
        values = []
        for part in torch.split(subsets.to(batch.images.device), at_once):
            gates = part[:, players.of_unit].flatten(0, 1).to(model.ones().dtype)
            copies = repeated(batch, len(part))
            logits = model(copies.images, gates)
            target = objective(logits, copies.labels, self.explained, batch.multi_label)
            values.append(target.double().reshape(len(part), len(batch)))
        weights = _weights(subsets).to(batch.images.device)
        return (torch.cat(values).T @ weights).gather(1, players.of_unit)


def _orders(seed: int, num_features: int, num_samples: int) -> Iterator[list[int]]:
    """Draw orders in pairs; captum's own come from the generator that the whole process shares."""
    generator = torch.Generator().manual_seed(seed)
    for drawn in range(0, num_samples, 2):
        order = torch.randperm(num_features, generator=generator).tolist()
        yield order
        if drawn + 1 < num_samples:
            yield order[::-1]


def _check_few(players: int) -> None:
    if players > MOST_EXACT:
        raise UsageError(
            f"exact Shapley values of {players} players need 2^{players} forwards; they are for at "
            f"most {MOST_EXACT} players: use fewer per group, or 1 or more samples"
        )


def _weights(subsets: Tensor) -> Tensor:
    """Return what each subset's value counts in each player's, both (2^n, n).

    A player gets the mean, over sizes and then over subsets of each size that
    lack it, of what it adds.
    """
    count = subsets.shape[1]
    per_size = torch.tensor(
        [1 / (count * math.comb(count - 1, others)) for others in range(count)],
        dtype=torch.float64,
    )
    others = subsets.sum(1, keepdim=True) - subsets
    return per_size[others] * (2 * subsets - 1)
