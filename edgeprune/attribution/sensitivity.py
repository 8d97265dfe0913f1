"""Leave one out: what the target loses when a unit is gone and all others stay."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.attribution.criterion import Attributor, Batch, Explained, objective
from edgeprune.attribution.repeats import repeated, repeats
from edgeprune.attribution.rerun import Nodes, Rerun, readers_onwards
from edgeprune.attribution.settings import require_rows, require_target
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The target of the dense model less that of the model without the unit.

    Exactly what cutting this one unit changes, with the sign of Taylor, which
    is its first term: in nats (loss; below 0 where the unit helps) or logits
    (evidence, margin). Cost: a forward per image and unit, each only from the
    first reader of the unit's group on, which is 0.1 to 0.5 of a whole one on
    average over the units of ResNet, VGG, ViT, ConvNeXt and EfficientNet: for
    small models, or few images. As many units run at once as ``rows`` has room
    for copies of the batch, and what their runs start from stays in memory.
    Source: oracle pruning in Molchanov et al., Pruning Convolutional Neural
    Networks for Resource Efficient Inference, ICLR 2017.
    """

    explained: Explained = "loss"
    rows: int = 64

    def __post_init__(self) -> None:
        """Refuse an unknown target, and runs of nothing."""
        require_target(self.explained)
        require_rows(self.rows)

    def per_sample(self, model: GatedModel, seed: int) -> Attributor:
        """Return what gives the change that each unit makes, (N, U); the seed is not used."""
        later = readers_onwards(model)
        return lambda batch: self._changes(model, later, batch)

    @torch.no_grad()
    def _changes(self, model: GatedModel, later: Mapping[str, Nodes], batch: Batch) -> Tensor:
        units = repeats(model, len(batch), self.rows)
        copies = repeated(batch, units)
        rerun = Rerun(model, later, copies.images)

        def target(logits: Tensor) -> Tensor:
            found = objective(logits, copies.labels, self.explained, batch.multi_label)
            return found.reshape(units, len(batch))

        dense = target(rerun.logits)
        changes = []
        for group, slots in model.by_group(torch.arange(model.total)).items():
            for gone in torch.split(slots, units):
                gates = model.ones(units)
                gates[range(len(gone)), gone] = 0
                # One row is for all images, also where they share what carries gates.
                rows = gates if units == 1 else gates.repeat_interleave(len(batch), 0)
                changes.append((dense - target(rerun.under(rows, group)))[: len(gone)])
        return torch.cat(changes).T
