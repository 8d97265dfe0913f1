"""The images to learn from, in a new order for every epoch.

They are drawn from across all batches: those that come in are often of one
class each, and would pull the masks of one class at a time.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.attribution.criterion import Batch, objective
from edgeprune.capture import CapturedModule
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Batches as they came in, and how many images a step takes of them."""

    batches: Sequence[Batch]
    size: int

    def __len__(self) -> int:
        """Count the images."""
        return sum(len(batch) for batch in self.batches)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self) // self.size)

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield all images once, ``size`` at a time, in an order drawn from the generator."""
        places = [(b, row) for b, batch in enumerate(self.batches) for row in range(len(batch))]
        order = torch.randperm(len(places), generator=generator)
        for chosen in torch.split(order, self.size):
            yield self._gathered([places[i] for i in chosen.tolist()])

    def _gathered(self, places: Sequence[tuple[int, int]]) -> Batch:
        # One by one: all images in one tensor would double what they take.
        return Batch(
            images=torch.stack([self.batches[b].images[row] for b, row in places]),
            labels=torch.stack([self.batches[b].labels[row] for b, row in places]),
            multi_label=self.batches[0].multi_label,
        )


def run(model: GatedModel, batch: Batch, gates: Tensor) -> Tensor:
    """Return logits (N, K) under gates (1, U) or (N, U), whatever batch the model takes."""
    captured = model.captured
    if captured.dynamic_batch:
        return model(batch.images, gates)  # type: ignore[no-any-return]
    size, parts = len(captured.sample), []
    for start in range(0, len(batch), size):
        rows = torch.arange(start, start + size).clamp_max(len(batch) - 1)
        own = gates if len(gates) == 1 else gates[rows.to(gates.device)]
        parts.append(model(batch.part(start, size).images, own)[: len(batch) - start])
    return torch.cat(parts)


def mean_loss(model: GatedModel, batch: Batch, gates: Tensor) -> Tensor:
    """Return the loss under gates (1, U) or (N, U), in nats per image."""
    logits = run(model, batch, gates)
    return objective(logits, batch.labels, "loss", batch.multi_label).mean()


@contextlib.contextmanager
def held(module: CapturedModule) -> Iterator[None]:
    """Let a module compute as in evaluation and its parameters take no gradient, for a while."""
    training = module.training
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if training:
        module.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        if training:
            module.train()
