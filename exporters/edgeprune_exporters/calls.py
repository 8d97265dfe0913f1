"""What logits call an image, a class or findings, and how often rightly."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How an artifact does on the test split, beside the model that it was made from.

    Attributes:
        images: how many there are.
        artifact: share of right calls.
        model: the model's own share.
        agreement: share of calls that are the model's own.
    """

    images: int
    artifact: float
    model: float
    agreement: float


def calls(logits: NDArray[Any], *, multi_label: bool) -> NDArray[np.int64]:
    """Return classes (N,) of logits (N, K), or 0 and 1 per finding (N, K).

    A single logit without findings, (N, 1), is a choice of two by its sign.
    """
    if multi_label:
        found = logits > 0
    elif logits.shape[1] == 1:
        found = logits[:, 0] > 0
    else:
        found = logits.argmax(1)
    return np.asarray(found, np.int64)


def agreement(actual: NDArray[Any], wanted: NDArray[Any], *, multi_label: bool) -> float:
    """Return the share of calls of two sets of logits (N, K) that are equal."""
    other = calls(wanted, multi_label=multi_label)
    return share_right(actual, other, multi_label=multi_label)


def share_right(logits: NDArray[Any], labels: NDArray[Any], *, multi_label: bool) -> float:
    """Return the share of calls that equal labels (N,) or (N, K); a NaN calls nothing."""
    right = calls(logits, multi_label=multi_label) == labels
    finite = np.isfinite(logits) if multi_label else np.isfinite(logits).all(1)
    return float((right & finite).mean())
