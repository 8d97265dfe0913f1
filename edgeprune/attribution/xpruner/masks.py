"""Phase 1: how much of each unit each class needs.

Every class has a mask, a number per unit. Masks begin at 1 and gate the network
by the class of the image, while a pull towards 0 closes all that the decision
can do without. Invariant: the network itself does not change.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from edgeprune.attribution.criterion import Batch
from edgeprune.attribution.xpruner.images import Images, mean_loss, run
from edgeprune.attribution.xpruner.settings import XPrunerSettings
from edgeprune.errors import EdgepruneError
from edgeprune.gates import GatedModel


def learn_masks(
    model: GatedModel,
    images: Images,
    settings: XPrunerSettings,
    *,
    classes: int,
    generator: torch.Generator,
    stepped: Callable[[], None],
) -> Tensor:
    """Return the masks, (classes, U); with findings one row more, for images without any.

    What is minimised, per image: cross-entropy in nats under the mask of its
    class, ``sparse`` times the mean square of that mask, and ``smooth`` times the
    variance of each unit's mask between classes, mean over units.

    Raises:
        EdgepruneError: the loss is no longer a number.
    """
    masks = model.ones(classes + images.batches[0].multi_label).requires_grad_()
    optimizer = torch.optim.Adam([masks], lr=settings.lr)
    for _ in range(settings.epochs):
        for batch in images.epoch(generator):
            gates = shares(batch, classes).to(masks.dtype) @ masks
            # Of the images' masks, not of all: a class of few images is pulled as rarely as held.
            sparsity = gates.square().mean()
            smoothness = (masks - masks.mean(0)).square().mean()
            loss = mean_loss(run(model, batch, gates), batch)
            loss = loss + settings.sparse * sparsity + settings.smooth * smoothness
            check_loss(loss, "masks", "lr", settings.lr)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
            optimizer.step()
            stepped()
    return masks.detach()


def shares(batch: Batch, classes: int) -> Tensor:
    """Return how an image's mask is made of the rows, (N, classes), and one more for findings.

    A class takes its own row, findings the mean of theirs, and an image without
    findings the last row.
    """
    if not batch.multi_label:
        return torch.eye(classes, device=batch.labels.device)[batch.labels]
    present = torch.cat([batch.labels, (batch.labels.sum(1, keepdim=True) == 0)], 1)
    return present / present.sum(1, keepdim=True)


def check_loss(loss: Tensor, what: str, name: str, rate: float) -> None:
    """Refuse to go on from a loss that is not a number."""
    if not bool(loss.isfinite()):
        raise EdgepruneError(
            f"xpruner's loss is {float(loss.detach())} while it learns {what}: look for NaN or "
            f"infinity in the images and the weights, or use a {name} below {rate:g}"
        )
