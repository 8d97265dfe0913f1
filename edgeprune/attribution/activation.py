"""How large a unit's value is: what can be said without asking what it is for."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, fx

from edgeprune.attribution.criterion import Attributor, Batch
from edgeprune.axes.op import bind
from edgeprune.gates import Gated, GatedInterpreter, GatedModel

READ: Final = 0
MEASURED: Final = 1  # by a statistic
UNREACHED: Final = 2  # by any image


@dataclass(frozen=True, kw_only=True)
class Activation:
    """Mean absolute value of a unit over the positions where it is read.

    The mean runs over all readers of the unit and all positions of each, in the
    units of measurement of the value, so that it compares within a group rather
    than between groups. Units that are part of statistics alone count with what
    these see. What no image changes, as a recurrent weight, counts only for
    units that occur nowhere else. Never below 0, and without a target. Cost: one
    forward per batch. Source: the activation criterion of Molchanov et al.,
    Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR
    2017; Hu et al., Network Trimming, 2016, count how often it is 0 instead.
    """

    needs_labels: ClassVar[bool] = False

    def per_sample(self, model: GatedModel, seed: int) -> Attributor:
        """Return what gives each unit's mean absolute value, (N, U); the seed is not used."""
        reached = _reached(model)
        return lambda batch: self._means(model, reached, batch)

    @torch.no_grad()
    def _means(self, model: GatedModel, reached: frozenset[str], batch: Batch) -> Tensor:
        if model.by_sample:
            return _Recorder(model, reached, len(batch)).means(batch.images)
        count = 1 if model.captured.dynamic_batch else len(model.captured.sample)
        # What they share is not laid out by image, so all of a run are the same one.
        return torch.cat(
            [
                _Recorder(model, reached, 1).means(image.expand(count, -1, -1, -1))
                for image in torch.split(batch.images, 1)
            ]
        )


class _Recorder(GatedInterpreter):
    """Sums absolute values wherever gates are, by kind of place, image and unit."""

    def __init__(self, model: GatedModel, reached: frozenset[str], images: int) -> None:
        super().__init__(model, model.ones())
        self.reached = reached
        self.images = images
        self.sums = self.gates.new_zeros(3, images, model.total + 1, dtype=torch.float64)
        self.positions = torch.zeros_like(self.sums[:, 0])

    def means(self, images: Tensor) -> Tensor:
        """Run images, (N, C, H, W); return means over the first kind of place that a unit has."""
        self.run(images)
        means = self.sums / self.positions[:, None].clamp_min(1)
        first = self.positions.gt(0).int().argmax(0)
        chosen: Tensor = means.gather(0, first.expand(1, self.images, -1))[0, :, :-1]
        return chosen

    def along(self, node: fx.Node, gated: Gated, value: Tensor) -> Tensor:
        """Note an operand, which its gates of 1 leave as it is."""
        operand = gated.of(bind(node)).name
        if operand not in self.reached:
            place = UNREACHED
        elif any(gated is read for read in self.model.operands.get(node.name, ())):
            place = READ
        else:
            place = MEASURED
        sums = self._by_image(operand, value.abs().double(), gated.dim)
        slots = self._fitted(gated.slots, value.shape[gated.dim])
        for column in (column.to(value.device) for column in slots):
            self.sums[place].index_add_(1, column, sums)
            each = value.numel() / sums.numel()
            self.positions[place].index_add_(0, column, torch.full_like(sums[0], each))
        return super().along(node, gated, value)

    def _by_image(self, operand: str, value: Tensor, dim: int) -> Tensor:
        """Sum over all but images and one dimension, (N, size)."""
        size = value.shape[dim]
        if self.images == 1:
            return value.movedim(dim, 0).reshape(1, size, -1).sum(2)
        layout = self.model.layouts[operand]
        found = value.movedim((layout.dim, dim), (0, 1))
        found = found.reshape(*found.shape[:2], -1).sum(2)
        return found.reshape(layout.blocks, self.images, -1, size).sum((0, 2))


def _reached(model: GatedModel) -> frozenset[str]:
    """Name what depends on the images."""
    found: set[fx.Node] = set()
    for node in model.module.graph.nodes:
        if node.op == "placeholder" or found.intersection(node.all_input_nodes):
            found.add(node)
    return frozenset(node.name for node in found)
