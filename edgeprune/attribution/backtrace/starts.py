"""Where relevance starts."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from edgeprune.attribution.criterion import Batch

Explained: TypeAlias = Literal["true", "predicted"]


def starts(logits: Tensor, batch: Batch, explained: Explained, *, maps: int) -> list[Tensor]:
    """Return the gradient at the logits (N, K) that each map starts with.

    Gradient × logit is relevance and never negative. For the decision it is
    |logit| of the class, and on a second map, against it, the positive logits
    of the others. With findings it is |logit| of each, on the second map where
    it is decided otherwise than explained.
    """
    signs = logits.sign()
    if not batch.multi_label:
        labels = logits.argmax(1) if explained == "predicted" else batch.labels
        others = torch.ones_like(logits).scatter_(1, labels[:, None], 0)
        return [signs * (1 - others), others * (logits > 0)][:maps]
    if maps == 1:
        return [signs]
    found = logits > 0
    told = found if explained == "predicted" else batch.labels.bool()
    return [signs * (told == found), signs * (told != found)]
