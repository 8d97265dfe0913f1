"""How far an artifact may be from its model, by precision.

In float32 only the order of additions differs, and one number serves all
models. What float16 and int8 cost depends on the model, so the model itself says
what its logits lose when its values are rounded, and an artifact may lose a
multiple of that. In float16 rounding is all there is: artifacts of ten
architectures lost 4e-4 to 9e-3, and 0.5 to 1.0 times what their models lost. In
int8 ranges are fixed and more is rounded: the noise of trained models was 0.02 to
0.09, that of random ones 0.05 to 0.4 and up to 9 times what rounding costs, and
those with more agreed with less than a third of their models' calls. A proof in
int8 tells faults from that; what int8 costs is told by the accuracy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np

from edgeprune_exporters.distances import Array, distance, noise
from edgeprune_exporters.parity import FLOAT32, Batch, Limit


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A multiple of what rounding costs the model, between a floor and a ceiling.

    Attributes:
        measure: of both, ``max_rel`` or ``noise``.
        factor: how many times the cost.
        floor: never less.
        ceiling: never more.
    """

    measure: str
    factor: float
    floor: float
    ceiling: float

    def of(self, cost: float) -> float:
        """Return how far an artifact may be for what rounding costs."""
        return min(max(self.factor * cost, self.floor), self.ceiling)


BOUNDS: Final = {
    "fp16": Bounds(measure="max_rel", factor=4, floor=1e-3, ceiling=5e-2),
    "int8": Bounds(measure="noise", factor=9, floor=0.25, ceiling=0.5),
}
# Of values within, when a fault is looked for: sums dilute it, so less is allowed.
WITHIN: Final = BOUNDS | {"int8": Bounds(measure="noise", factor=6, floor=5e-2, ceiling=0.5)}


@runtime_checkable
class Roundable(Protocol):
    """A model that can say what a precision costs it at best."""

    def rounded_logits(self, images: Array, precision: str) -> Array:
        """Return logits (N, K) with values rounded to a precision below float32."""
        ...

    def rounded_values(
        self, images: Array, names: Sequence[str], precision: str
    ) -> Mapping[str, Array]:
        """Return values within, likewise."""
        ...


def limit_for(model: object, batches: Sequence[Batch], precision: str) -> Limit:
    """Return how far an artifact's logits may be; the ceiling for a model that cannot say."""
    if precision == "fp32":
        return FLOAT32
    bounds = BOUNDS[precision]
    tolerance, reason = bounds.ceiling, "what rounding costs this model is not known"
    if isinstance(model, Roundable):
        rounded = [model.rounded_logits(batch.images, precision) for batch in batches]
        own = [batch.logits for batch in batches]
        cost = _far(np.concatenate(rounded), np.concatenate(own), bounds.measure)
        tolerance = bounds.of(cost)
        reason = (
            f"{bounds.factor:g} × what rounding to {precision} costs the model itself "
            f"({cost:.1e}), no less than {bounds.floor:g} and no more than {bounds.ceiling:g}"
        )
    return Limit(tolerance=tolerance, reason=reason, measure=bounds.measure, precision=precision)


def is_wrong(actual: Array, wanted: Array, *, rounded: Array | None, limit: Limit) -> bool:
    """Whether a value within an artifact is further off than its precision explains.

    Args:
        actual: the artifact's.
        wanted: the model's.
        rounded: the model's own with values rounded, or None if that is not known.
        limit: of the logits.
    """
    found = _far(actual, wanted, limit.measure)
    if rounded is None:
        return found > limit.tolerance
    return found > WITHIN[limit.precision].of(_far(rounded, wanted, limit.measure))


def _far(actual: Array, wanted: Array, measure: str) -> float:
    found = noise(actual, wanted) if measure == "noise" else None
    return distance(actual, wanted)[1] if found is None else found
