"""How masks and rates are learned."""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from edgeprune.errors import UsageError

Price = Literal["units", "macs"]


@dataclass(frozen=True, kw_only=True)
class XPrunerSettings:
    """What decides how masks and rates come out.

    Attributes:
        epochs: passes over the images while masks are learned.
        lr: Adam's step on masks; they begin at 1.
        smooth: weight of the variance between the masks of the classes.
        sparse: weight of the mean square of the masks.
        rate_epochs: passes while rates are learned.
        rate_lr: Adam's step on the place in its group from which on units are kept.
        budget: share that all groups together keep.
        price: what it is a share of: units, or their multiply-accumulates, those of
            one unit counted while all others stay.
        batch_size: images of a step; fewer where the batches that come in are smaller.
    """

    epochs: int = 15
    lr: float = 0.05
    smooth: float = 0.3
    sparse: float = 1.0
    rate_epochs: int = 10
    rate_lr: float = 0.01
    budget: float = 0.5
    price: Price = "units"
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse what cannot be learned with."""
        for field in fields(self):
            value = getattr(self, field.name)
            if reason := _reason(field.name, value):
                raise UsageError(f"xpruner's {field.name} is {value!r}: {reason}")


def _reason(name: str, value: object) -> str | None:
    """Say why a value cannot be used, or None."""
    if name == "price":
        known = get_args(Price)
        return None if value in known else f"give one of {', '.join(known)}"
    if name in ("epochs", "rate_epochs", "batch_size"):
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return None if good else "give a whole number of 1 or more"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "give a number"
    if name == "budget":
        return None if 0 < value < 1 else "give a share above 0 and below 1"
    if name in ("lr", "rate_lr"):
        return None if value > 0 else "give a number above 0"
    return None if value >= 0 else "give 0 or more"
