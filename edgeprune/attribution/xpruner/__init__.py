"""Masks per class and rates per group, learned: the criterion ``xpruner``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from edgeprune.attribution.criterion import Batch, Learned
from edgeprune.attribution.xpruner.images import Images, held
from edgeprune.attribution.xpruner.masks import learn_masks
from edgeprune.attribution.xpruner.rates import learn_thresholds, relative, stand
from edgeprune.attribution.xpruner.settings import Price, XPrunerSettings
from edgeprune.errors import DataError
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class XPruner(XPrunerSettings):
    """Explainability-aware masks per class, and how much each group keeps under a budget.

    First, every class learns a mask over all units, the network held still:
    masks begin at 1, gate each image by that of its class (an image with several
    findings by the mean of theirs), and shrink as far as the loss allows. Then
    every group learns how much it keeps, units ordered by the sum of their
    masks over classes, so that all groups together keep ``budget``. Scores are
    that sum relative to what the group is cut at, without a unit of
    measurement: the learned cut is at 1, and units without effect are at 0.
    Ranking all units together under a budget of the same share of units removes
    what the rates say; another budget moves all groups from there. Per class:
    the absolute mask, on average over its training; 0 for a class without images.

    Cost: a forward and a backward per image and epoch of both phases, without
    gradients of weights; the images stay in memory. Source: Yu and Xiang, X-Pruner:
    eXplainable Pruning for Vision Transformers, CVPR 2023, for units of any
    network. Its code was never released, so three things are our own. Masks
    are smoothed by their variance over classes, which no order of classes can
    change. Rates are learned through gates that really close units. The
    multiplier of the budget ascends, whereas minimising over it, too, takes the
    constraint away.
    """

    def learn(
        self,
        model: GatedModel,
        batches: Sequence[Batch],
        *,
        classes: int,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> Learned:
        """Learn masks, then rates; the model is as it was afterwards.

        progress is told the number of images times the share of all steps that are done.

        Raises:
            DataError: no images.
            EdgepruneError: a loss that is not a number.
        """
        filled = [batch for batch in batches if len(batch)]
        if not filled:
            raise DataError("xpruner learns from images, but there are none in the batches")
        images = Images(
            batches=filled, size=min(self.batch_size, max(len(batch) for batch in filled))
        )
        generator = torch.Generator().manual_seed(seed)
        stepped = self._counter(images, progress)
        with held(model.module), torch.enable_grad():
            masks = learn_masks(
                model, images, self, classes=classes, generator=generator, stepped=stepped
            ).abs()
            scores = masks.sum(0)
            places = stand(model, scores, self)
            thresholds = learn_thresholds(
                model, images, places, self, generator=generator, stepped=stepped
            )
        per_unit = relative(model, scores, places.kept(places.on_budget(thresholds)))
        return Learned(per_unit=per_unit, per_class=masks[:classes])

    def _counter(
        self, images: Images, progress: Callable[[int], None] | None
    ) -> Callable[[], None]:
        steps, done = (self.epochs + self.rate_epochs) * images.steps, 0

        def stepped() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(len(images) * done // steps)

        return stepped


__all__ = ["Price", "XPruner", "XPrunerSettings"]
