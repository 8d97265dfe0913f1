"""Contributions by their sign, and shares of them.

Positive contributions are products of parts of equal sign. Running a sum on
parts instead of subtracting totals keeps what is 0 exactly 0.
"""

import itertools
from collections.abc import Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor

from edgeprune.attribution.backtrace.sums import Term
from edgeprune.attribution.propagation import rescaled

_NEAR_ZERO: Final = 1e-9
_NEAR_ZERO_HALF: Final = 1e-4  # what float16 can still divide by

Parts: TypeAlias = tuple[Tensor, Tensor | None]  # the positive and the negative one, both ≥ 0


def signed_parts(x: Tensor) -> Parts:
    """Take a tensor apart; None where nothing is negative."""
    return x.clamp(min=0), (-x).clamp(min=0) if bool((x < 0).any()) else None


def by_sign(term: Term, parts: Sequence[Parts]) -> tuple[Tensor, Tensor]:
    """Return the sums of positive and of negative contributions, without sign.

    Args:
        term: what sums up.
        parts: those of each of its factors.
    """
    found: list[Tensor | None] = [None, None]
    for signs in itertools.product((0, 1), repeat=len(parts)):
        chosen = [part[sign] for part, sign in zip(parts, signs, strict=True)]
        if any(part is None for part in chosen):
            continue
        odd = sum(signs) % 2
        result = term.run(*chosen)
        before = found[odd]
        found[odd] = result if before is None else before + result
    positive, negative = found
    assert positive is not None  # noqa: S101 - all positive parts exist
    return positive, torch.zeros_like(positive) if negative is None else negative


def scaled_gradient(x: Tensor, share: float) -> Tensor:
    """Return x with this share of its gradient."""
    if share == 0:
        return x.detach()
    return x if share == 1 else rescaled(x, x, x.new_tensor(share))


def ratio(value: Tensor, by: Tensor) -> Tensor:
    """Divide, with 0 where there is nothing to divide by."""
    least = _NEAR_ZERO_HALF if by.dtype == torch.float16 else _NEAR_ZERO
    return (value / by.where(by.abs() >= least, torch.inf)).nan_to_num_(0.0, 0.0, 0.0)
