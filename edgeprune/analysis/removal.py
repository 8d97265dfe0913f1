"""What a model does without one unit, image by image."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.attribution.criterion import Attributor, Batch, objective
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """What changes when one unit goes and all others stay.

    Attributes:
        changed: whether the answer differs, bool (N,); of findings, any of them.
        loss: how much the loss rises, (N,), in nats.
    """

    changed: Tensor
    loss: Tensor


def removal(model: GatedModel, slot: int, batch: Batch) -> Removal:
    """Compare the model with itself without the unit at a slot of the gates.

    Exactly what cutting this unit alone does. Cost: two forwards.
    """
    gates = model.ones()
    without = gates.clone()
    without[:, slot] = 0
    before, after = (_logits(model, each, batch) for each in (gates, without))
    losses = [
        objective(logits, batch.labels, "loss", batch.multi_label) for logits in (before, after)
    ]
    return Removal(
        changed=_answers_differ(before, after, batch.multi_label).cpu(),
        loss=(losses[1] - losses[0]).float().cpu(),
    )


def attributions(model: GatedModel, attribute: Attributor, slot: int, batch: Batch) -> Tensor:
    """Return the attribution of each image's decision to the unit at a slot, (N,) on the CPU."""
    size = len(batch) if model.by_sample else 1
    size = size if model.captured.dynamic_batch else len(model.captured.sample)
    with torch.enable_grad():
        parts = [
            attribute(batch.part(start, size))[:, slot].detach()
            for start in range(0, len(batch), size)
        ]
    return torch.cat(parts)[: len(batch)].float().cpu()


def _logits(model: GatedModel, gates: Tensor, batch: Batch) -> Tensor:
    with torch.no_grad():
        parts = [model(part.images, gates) for part in _parts(model, batch)]
    return torch.cat(parts)[: len(batch)]


def _parts(model: GatedModel, batch: Batch) -> Iterator[Batch]:
    size = len(batch) if model.captured.dynamic_batch else len(model.captured.sample)
    for start in range(0, len(batch), size):
        yield batch.part(start, size)


def _answers_differ(before: Tensor, after: Tensor, multi_label: bool) -> Tensor:
    if multi_label:
        return ((before > 0) != (after > 0)).any(1)
    return before.argmax(1) != after.argmax(1)
