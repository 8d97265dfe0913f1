"""Phase 2: how much each channel group keeps under a budget.

In the order of their masks, the units of a group stand at places from 0 to 1,
and a threshold per group says from which place on they are kept. Thresholds
are places, not scores: groups whose masks differ in scale then learn at one
speed, and the share kept falls with the threshold at one rate everywhere.
Invariant: no group is left without its best unit.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from edgeprune.attribution.xpruner.images import Images, mean_loss, run
from edgeprune.attribution.xpruner.masks import check_loss
from edgeprune.attribution.xpruner.settings import Price, XPrunerSettings
from edgeprune.capture import trainable
from edgeprune.gates import GatedModel
from edgeprune.prices import unit_costs

SOFT: Final = (0.1, 0.02)  # width of the step from closed to open, in places: first and last
PENALTY: Final = 20.0  # nats per squared share outside the budget
ASCENT: Final = 2.0  # nats per share that the multiplier gains, per share and step
LOWEST: Final = -0.1  # a threshold at which a whole group is open


def learn_thresholds(
    model: GatedModel,
    images: Images,
    scores: Tensor,
    settings: XPrunerSettings,
    *,
    generator: torch.Generator,
    stepped: Callable[[], None],
) -> Tensor:
    """Return the place from which on each group keeps its units, (groups,).

    The cross-entropy of the network, units closed softly below their group's
    threshold, is minimised under ``share kept = budget``: by an augmented
    Lagrangian whose multiplier ascends by the excess of each step, while the
    gates harden from step to step.

    Args:
        model: the network, held still.
        images: what to learn from.
        scores: (U,), what orders the units of a group.
        settings: budget, price, and how to learn.
        generator: of the order of the images.
        stepped: called after each step.

    Raises:
        EdgepruneError: the loss is no longer a number.
    """
    places, owner = places_in_group(model, scores), owners(model, scores.device)
    prices = unit_prices(model, settings.price).to(places)
    highest = torch.zeros(len(model.analysis.groups)).to(places).scatter_reduce(
        0, owner, places, "amax"
    )
    thresholds = torch.full_like(highest, 1 - settings.budget).requires_grad_()
    optimizer = torch.optim.Adam([thresholds], lr=settings.rate_lr)
    multiplier, steps = torch.zeros_like(places[0]), settings.rate_epochs * images.steps
    batches = (b for _ in range(settings.rate_epochs) for b in images.epoch(generator))
    for step, batch in enumerate(batches, start=1):
        width = SOFT[0] * (SOFT[1] / SOFT[0]) ** (step / steps)
        gates = ((places - thresholds[owner]) / width).sigmoid()
        excess = prices @ gates - settings.budget
        loss = mean_loss(run(model, batch, gates[None]), batch)
        loss = loss + (multiplier + PENALTY / 2 * excess) * excess
        check_loss(loss, "rates", "rate_lr", settings.rate_lr)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        optimizer.step()
        with torch.no_grad():
            thresholds.clamp_(min=LOWEST).clamp_(max=highest)
            multiplier += ASCENT * excess
        stepped()
    return thresholds.detach()


def relative(model: GatedModel, scores: Tensor, thresholds: Tensor) -> Tensor:
    """Return scores (U,) in units of the score at which their group is cut: 1 and more is kept.

    A group is cut midway between its weakest unit kept and its strongest one
    removed, or at half its weakest unit where none is removed.
    """
    kept = places_in_group(model, scores) >= thresholds[owners(model, scores.device)]
    tiny = torch.finfo(scores.dtype).tiny
    parts = []
    for own, keep in zip(
        model.by_group(scores).values(), model.by_group(kept).values(), strict=True
    ):
        strongest = own[~keep].amax() if not bool(keep.all()) else own.new_zeros(())
        cut = (own[keep].amin() + strongest) / 2
        parts.append(own / cut.clamp_min(tiny))
    return torch.cat(parts)


def places_in_group(model: GatedModel, scores: Tensor) -> Tensor:
    """Return where each unit stands among those of its group, (U,): above 0, below 1, evenly."""
    parts = []
    for own in model.by_group(scores).values():
        order = own.argsort(stable=True)
        places = torch.empty_like(own)
        places[order] = (torch.arange(len(own)).to(own) + 0.5) / len(own)
        parts.append(places)
    return torch.cat(parts)


def owners(model: GatedModel, device: torch.device) -> Tensor:
    """Return the index of the group of each unit, (U,)."""
    sizes = torch.tensor([group.size for group in model.analysis.groups])
    return torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(device)


def unit_prices(model: GatedModel, price: Price) -> Tensor:
    """Return what each unit costs as a share of what all cost together, (U,)."""
    groups = model.analysis.groups
    each = [1] * len(groups)
    if price == "macs":
        costs = unit_costs(model.analysis, frozenset(trainable(model.module)))
        each = [costs[group.name].macs for group in groups]
    prices = torch.cat([torch.full((g.size,), float(p)) for g, p in zip(groups, each, strict=True)])
    return prices / prices.sum()
