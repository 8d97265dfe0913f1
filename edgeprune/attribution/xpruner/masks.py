"""Phase 1: how much of each unit each class needs.

Every class has a mask, a number per unit. Masks begin at 1 and gate the network
by the class of the image, while a pull towards 0 closes all that the decision
can do without. Invariant: the network itself does not change.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from edgeprune.attribution.criterion import Batch
from edgeprune.attribution.xpruner.images import Images, mean_loss
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
    """Return the masks, (classes, U), none below 0.

    With findings there is one row more, for images without any. Masks are the
    mean over all steps: those that closed first are then the least, where the
    last step finds all that are nearly closed in any order. A mask that the loss
    never felt is 0: of a unit without effect, or a class without images.

    What is minimised, per image: cross-entropy in nats under the mask of its
    class, ``sparse`` times the mean square of that mask, and ``smooth`` times the
    variance of each unit's mask between classes, mean over units.

    Raises:
        EdgepruneError: the loss is no longer a number.
    """
    masks = model.ones(classes + images.batches[0].multi_label).requires_grad_()
    optimizer = torch.optim.Adam([masks], lr=settings.lr)
    total, felt = torch.zeros_like(masks), torch.zeros_like(masks, dtype=torch.bool)
    for _ in range(settings.epochs):
        for batch in images.epoch(generator):
            # In half precision a step of lr is no more than a rounding.
            with torch.autocast(masks.device.type, enabled=False):
                gates = shares(batch, classes).to(masks.dtype) @ masks
            loss = mean_loss(model, batch, gates)
            check_loss(loss, "masks", "lr", settings.lr)
            # Of the images' masks, not of all: a class of few images is pulled as rarely as held.
            sparsity = gates.square().mean()
            smoothness = (masks - masks.mean(0)).square().mean()
            regularisation = settings.sparse * sparsity + settings.smooth * smoothness
            (of_loss,) = torch.autograd.grad(loss, masks, retain_graph=True)
            (of_rest,) = torch.autograd.grad(regularisation, masks)
            masks.grad = of_loss + of_rest
            optimizer.step()
            with torch.no_grad():  # a statistic cannot be weighed by less than nothing
                masks.clamp_(min=0)
            felt |= of_loss != 0
            total += masks.detach()
            stepped()
    return total * felt / (settings.epochs * images.steps)


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
