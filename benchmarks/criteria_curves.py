"""How accuracy falls as units go, without recovery, and what a curve comes to in one number."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor

from criteria_cases import BATCH, Trained
from edgeprune.attribution import Scores
from edgeprune.cut import cut
from edgeprune.errors import PlanError
from edgeprune.gates import GatedModel
from edgeprune.plan import Budget, Plan, Ranking, make_plan
from edgeprune.verify import verify_cut

Answers: TypeAlias = Callable[[Tensor], Tensor]  # images (N, C, H, W) → logits (N, K)

RANKINGS: Final[tuple[Ranking, ...]] = ("global", "group", "cost")
AT_CHANCE: Final = 0.03  # above chance: a standard error of 240 images
TOLERATED: Final = 0.05  # below the dense model


@dataclass(frozen=True, kw_only=True)
class Point:
    """A cut model that was not trained again.

    Attributes:
        rate: share taken away, of units, or under ``cost`` of MACs.
        units, macs: shares that are left.
        accuracy: balanced, or None where it was not measured any more.
    """

    rate: float
    units: float
    macs: float
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy along the rates.

    Attributes:
        points: by rising rate.
        dense: accuracy of the dense model.
        chance: accuracy of who does not look; what is not measured any more counts as much.
    """

    points: tuple[Point, ...]
    dense: float
    chance: float

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Accuracy at each rate."""
        return tuple(self.chance if p.accuracy is None else p.accuracy for p in self.points)

    @property
    def area(self) -> float:
        """Mean accuracy over the rates."""
        return float(np.mean(self.accuracies))

    @property
    def harmless(self) -> float:
        """The largest rate up to which accuracy stays within 5 points of the dense model."""
        best = 0.0
        for point, accuracy in zip(self.points, self.accuracies, strict=True):
            if accuracy < self.dense - TOLERATED:
                break
            best = point.rate
        return best

    def at_macs(self, shares: Sequence[float]) -> tuple[float, ...]:
        """Return the accuracy at shares of the MACs, on straight lines between the points.

        The dense model is a point as well, and so is one of no MACs, which guesses.
        A point counts only where no other has more accuracy for no more MACs: who
        takes away the wrong channels need not take away more of them.
        """
        found = zip((point.macs for point in self.points), self.accuracies, strict=True)
        best = {0.0: self.chance}
        for share, accuracy in sorted([*found, (1.0, self.dense)]):
            if accuracy > max(best.values()):
                best[share] = accuracy
        return tuple(np.interp(shares, list(best), list(best.values())).tolist())

    def to_dict(self) -> dict[str, Any]:
        """Return the curve as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Self:
        """Read what ``to_dict`` wrote."""
        points = tuple(Point(**point) for point in document["points"])
        return cls(points=points, dense=document["dense"], chance=document["chance"])


def stopped(accuracies: Sequence[float | None], chance: float) -> bool:
    """Say whether the last two measured accuracies in a row are at chance."""
    last = accuracies[-2:]
    return len(last) == 2 and all(a is None or a <= chance + AT_CHANCE for a in last)


def curve(
    trained: Trained, gated: GatedModel, scores: Scores, ranking: Ranking, rates: Sequence[float]
) -> Curve:
    """Measure the dense model with the gates of what a plan removes at 0, which equals its cut.

    A budget that no plan meets counts as chance.
    """
    points: list[Point] = []
    for rate in rates:
        done = stopped([point.accuracy for point in points], trained.chance)
        points.append(_point(trained, gated, planned(trained, scores, ranking, rate), rate, done))
    dense = accuracy(trained.dense.module, trained)
    return Curve(points=tuple(points), dense=dense, chance=trained.chance)


def planned(trained: Trained, scores: Scores, ranking: Ranking, rate: float) -> Plan | None:
    """Plan to take away a share of the units, or under ``cost`` of the MACs, if that can be."""
    left = round(1 - rate, 6)
    budget = Budget(macs=left) if ranking == "cost" else Budget(keep=left)
    try:
        return make_plan(trained.dense, scores, budget, ranking=ranking)
    except PlanError:
        return None


def _point(
    trained: Trained, gated: GatedModel, plan: Plan | None, rate: float, done: bool
) -> Point:
    if plan is None:
        return Point(rate=rate, units=0.0, macs=1 - rate, accuracy=None)
    sizes = [(len(group.kept), group.size) for group in plan.groups]
    return Point(
        rate=rate,
        units=sum(kept for kept, _ in sizes) / sum(size for _, size in sizes),
        macs=plan.predicted["macs"] / plan.dense["macs"],
        accuracy=None if done else accuracy(masked(gated, plan), trained),
    )


def masked(gated: GatedModel, plan: Plan) -> Answers:
    """Return the dense model with the gates of what the plan removes at 0."""
    gates = gated.from_masks(plan.masks(gated.analysis.groups))
    return lambda images: gated(images, gates)


def accuracy(answers: Answers, trained: Trained) -> float:
    """Return the share of test images that are told right, each class counting alike."""
    with torch.no_grad():
        logits = torch.cat([answers(images) for images in torch.split(trained.images, BATCH)])
    right = (logits.argmax(1) == trained.labels).double()
    recalls = [right[trained.labels == index].mean() for index in range(len(trained.classes))]
    return float(torch.stack(recalls).mean())


def check_by_cut(trained: Trained, gated: GatedModel, plan: Plan) -> dict[str, float]:
    """Cut for once, and compare with the gates: what is stated of gates holds of cuts.

    Raises:
        CutError: they differ.
    """
    slim = cut(trained.dense, plan)
    proof = verify_cut(trained.dense, slim, plan, trained.images[:BATCH])
    proof.require()
    return {
        "max_rel": proof.max_rel,
        "masked": accuracy(masked(gated, plan), trained),
        "cut": accuracy(slim.module, trained),
    }
