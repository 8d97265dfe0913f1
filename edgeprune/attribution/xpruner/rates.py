"""Phase 2: how much each channel group keeps under a budget.

In the order of their masks, the units of a group stand at places from 0 to 1,
and a threshold per group says from which place on they are kept. Thresholds
are places, not scores: groups whose masks differ in scale then learn at one
speed, and the share kept falls with the threshold at one rate everywhere.
Invariant: no group is left without its best unit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from edgeprune.attribution.xpruner.images import Images, mean_loss
from edgeprune.attribution.xpruner.masks import check_loss
from edgeprune.attribution.xpruner.settings import Price, XPrunerSettings
from edgeprune.capture import trainable
from edgeprune.gates import GatedModel
from edgeprune.prices import unit_costs

SOFT: Final = (0.1, 0.02)  # width of the step from closed to open, in places: first and last
PENALTY: Final = 100.0  # nats per squared share outside the budget
ASCENT: Final = 10.0  # nats per share that the multiplier gains, per share and step
LOWEST: Final = -0.1  # a threshold at which a whole group is open
HALVINGS: Final = 40  # of a shift between -1 and 1.1: to less than two places can differ by
BELOW: Final = 1 - 1e-6  # the most that a removed unit scores
ROUNDING: Final = 1e-5  # of sums of prices in float32


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Where units stand, and what they cost.

    Attributes:
        place: where a unit stands in its group, (U,): evenly between 0 and 1.
        owner: index of its group, (U,) of int64.
        price: what it costs, as a share of what all units cost, (U,).
        together: thresholds at which the best units of all groups are kept, (groups,).
        highest: place of each group's best unit, (groups,).
        budget: share of the cost that is kept.
    """

    place: Tensor
    owner: Tensor
    price: Tensor
    together: Tensor
    highest: Tensor
    budget: float

    def soft_gates(self, thresholds: Tensor, width: float) -> Tensor:
        """Return gates (U,), half open at their group's threshold."""
        return ((self.place - thresholds[self.owner]) / width).sigmoid()

    def kept(self, thresholds: Tensor) -> Tensor:
        """Return which units reach their group's threshold, (U,) of bool."""
        return self.place >= thresholds[self.owner]

    def limited(self, thresholds: Tensor) -> Tensor:
        """Return thresholds that leave each group its best unit."""
        return torch.minimum(thresholds.clamp_min(LOWEST), self.highest)

    def on_budget(self, thresholds: Tensor) -> Tensor:
        """Shift all thresholds alike, until what they keep costs as much as is allowed.

        Learning ends near the budget; what is missing or too much all groups bear alike.
        """
        low, high = -1.0, 1.0 - LOWEST  # keeps everything, and the best unit of each group
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            cost = float(self.price[self.kept(self.limited(thresholds + middle))].sum())
            low, high = (middle, high) if cost > self.budget + ROUNDING else (low, middle)
        return self.limited(thresholds + high)


def stand(model: GatedModel, scores: Tensor, settings: XPrunerSettings) -> Places:
    """Line up the units of each group by scores (U,)."""
    groups = model.by_group(scores).values()
    parts = [(own.argsort(stable=True).argsort().to(own) + 0.5) / len(own) for own in groups]
    price = unit_prices(model, settings.price).to(scores)
    best = scores.argsort(descending=True, stable=True)
    gone = torch.empty_like(scores)
    gone[best] = (price[best].cumsum(0) > settings.budget).to(scores)
    sizes = torch.tensor([len(part) for part in parts])
    return Places(
        place=torch.cat(parts),
        owner=torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(scores.device),
        price=price,
        together=torch.stack([part.mean() for part in model.by_group(gone).values()]),
        highest=torch.stack([part.amax() for part in parts]),
        budget=settings.budget,
    )


def learn_thresholds(
    model: GatedModel,
    images: Images,
    places: Places,
    settings: XPrunerSettings,
    *,
    generator: torch.Generator,
    stepped: Callable[[], None],
) -> Tensor:
    """Return the place from which on each group keeps its units, (groups,).

    Thresholds begin where the masks of all groups, ranked together, would put
    them. The loss of the network, units closed softly below their group's
    threshold, is minimised under ``share kept = budget``: by an augmented
    Lagrangian whose multiplier ascends by the excess of each step, while gates
    harden from step to step.

    Raises:
        EdgepruneError: the loss is no longer a number.
    """
    thresholds = places.limited(places.together).requires_grad_()
    optimizer = torch.optim.Adam([thresholds], lr=settings.rate_lr)
    multiplier, steps = torch.zeros_like(thresholds[0]), settings.rate_epochs * images.steps
    batches = (b for _ in range(settings.rate_epochs) for b in images.epoch(generator))
    for step, batch in enumerate(batches, start=1):
        gates = places.soft_gates(thresholds, SOFT[0] * (SOFT[1] / SOFT[0]) ** (step / steps))
        excess = (places.price * gates).sum() - settings.budget
        loss = mean_loss(model, batch, gates[None])
        loss = loss + (multiplier + PENALTY / 2 * excess) * excess
        check_loss(loss, "rates", "rate_lr", settings.rate_lr)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        optimizer.step()
        with torch.no_grad():
            thresholds.copy_(places.limited(thresholds))
            multiplier += ASCENT * excess
        stepped()
    return thresholds.detach()


def relative(model: GatedModel, scores: Tensor, kept: Tensor) -> Tensor:
    """Return scores (U,) in units of the score at which their group is cut: 1 and more is kept.

    A group is cut midway between its weakest unit kept and its strongest one
    removed, or at half its weakest unit where none is removed. A score of 0
    stays 0, whatever its group keeps.
    """
    groups = zip(model.by_group(scores).values(), model.by_group(kept).values(), strict=True)
    return torch.cat([_relative(own, keep) for own, keep in groups])


def _relative(own: Tensor, keep: Tensor) -> Tensor:
    alive = own[keep & (own > 0)]
    if not len(alive):
        return torch.zeros_like(own)
    strongest = own.new_zeros(()) if bool(keep.all()) else own[~keep].amax()
    ratio = own / ((alive.amin() + strongest) / 2)
    # Equal scores lie on both sides of the cut: places have decided between them.
    return torch.where(keep & (own > 0), ratio.clamp_min(1), ratio.clamp_max(BELOW))


def unit_prices(model: GatedModel, price: Price) -> Tensor:
    """Return what each unit costs as a share of what all cost together, (U,)."""
    groups = model.analysis.groups
    each = [1] * len(groups)
    if price == "macs":
        costs = unit_costs(model.analysis, frozenset(trainable(model.module)))
        each = [costs[group.name].macs for group in groups]
    prices = torch.cat([torch.full((g.size,), float(p)) for g, p in zip(groups, each, strict=True)])
    return prices / prices.sum()
