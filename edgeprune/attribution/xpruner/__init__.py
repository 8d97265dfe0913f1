"""Masks per class and rates per group, learned: the criterion ``xpruner``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.attribution.criterion import Batch, Learned
from edgeprune.attribution.xpruner.images import Images, held
from edgeprune.attribution.xpruner.masks import learn_masks
from edgeprune.attribution.xpruner.rates import learn_thresholds, relative
from edgeprune.attribution.xpruner.settings import Price, XPrunerSettings
from edgeprune.errors import DataError
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class XPruner(XPrunerSettings):
    """Explainability-aware masks per class, and how much each group keeps under a budget.

    ...
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
            thresholds = learn_thresholds(
                model, images, scores, self, generator=generator, stepped=stepped
            )
        return Learned(per_unit=relative(model, scores, thresholds), per_class=masks[:classes])

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
