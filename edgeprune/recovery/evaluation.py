"""How good a model is on a split."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeprune.data import PreparedSplit, batches
from edgeprune.errors import DataError
from edgeprune.recovery.losses import task_loss


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean loss in nats, and accuracy or, for findings, macro AUROC."""

    loss: float
    metric: float


def evaluate(
    model: nn.Module, data: PreparedSplit, *, multi_label: bool, batch_size: int = 64
) -> Evaluation:
    """Run the model over the split in evaluation mode; the mode it was in is restored.

    Raises:
        DataError: the split is empty, or no finding both occurs and is absent in it.
    """
    logits = predict(model, data, batch_size=batch_size)
    labels = torch.from_numpy(np.asarray(data.split.labels))
    loss = float(task_loss(logits, labels, multi_label=multi_label))
    if multi_label:
        metric = macro_auroc(logits.numpy(), labels.numpy(), split=data.split.name)
    else:
        metric = float((logits.argmax(1) == labels).double().mean())
    return Evaluation(loss=loss, metric=metric)


def predict(model: nn.Module, data: PreparedSplit, *, batch_size: int = 64) -> Tensor:
    """Return the logits of every image, (N, K), in the split's order.

    Raises:
        DataError: the split is empty.
    """
    if not len(data):
        raise DataError(f"the split '{data.split.name}' holds no images to evaluate on")
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = [
                model(images.to(device)).cpu()
                for images, _ in batches(data, data.how, batch_size=batch_size)
            ]
    finally:
        model.train(training)
    return torch.cat(parts)


def macro_auroc(scores: NDArray[np.float32], labels: NDArray[np.float32], *, split: str) -> float:
    """Average the area under the ROC curve over findings, scores and labels (N, K).

    Findings that all or none of the images show have no such area, and are left out.

    Raises:
        DataError: there is no other finding.
    """
    # Here, since loading it takes seconds and --help needs none of it.
    from sklearn.metrics import roc_auc_score

    decided = [k for k, column in enumerate(labels.T) if 0 < column.sum() < len(column)]
    if not decided:
        raise DataError(
            f"in the split '{split}' every finding is in all images or in none, so AUROC is not "
            "defined: give it images with and without findings"
        )
    if not np.isfinite(scores).all():
        return 0.0
    return float(np.mean([roc_auc_score(labels[:, k], scores[:, k]) for k in decided]))
