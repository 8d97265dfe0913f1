"""How far an artifact may be from its model, by precision.

In float32 only the order of additions differs, and one number serves all
models. What float16 or int8 costs depends on the model: 4e-4 to 9e-3 and 4e-2 to
1 were measured for ten architectures. So the model itself says what its logits
lose when its values are rounded, and an artifact may lose a multiple of that. In
float16, where rounding is all there is, artifacts lost 0.5 to 1.0 times as much.
In int8 they have fixed ranges and more rounded operators, and lost 0.7 to 12
times as much, or were of no use: above the ceiling, the artifacts measured agreed
with less than two thirds of their models' calls. So did those whose errors were
more than half of what images change in the logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from edgeprune_exporters.parity import FLOAT32, Array, Batch, Limit, distance


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Multiples of what rounding costs the model, between a floor and a ceiling; and noise."""

    factor: float
    floor: float
    ceiling: float
    noise: float | None


BOUNDS: Final = {
    "fp16": Bounds(factor=4, floor=1e-3, ceiling=5e-2, noise=None),
    "int8": Bounds(factor=16, floor=1e-2, ceiling=0.3, noise=0.5),
}


@runtime_checkable
class Roundable(Protocol):
    """A model that can say what a precision costs it at best."""

    def rounded_logits(self, images: Array, precision: str) -> Array:
        """Return logits (N, K) with values rounded to a precision below float32."""
        ...


def limit_for(model: object, batches: Sequence[Batch], precision: str) -> Limit:
    """Return what an artifact's ``max_rel`` may be; the ceiling for a model that cannot say."""
    if precision == "fp32":
        return FLOAT32
    bounds = BOUNDS[precision]
    if not isinstance(model, Roundable):
        return Limit(tolerance=bounds.ceiling, reason="what rounding costs this model is not known")
    cost = max(
        distance(model.rounded_logits(batch.images, precision), batch.logits)[1]
        for batch in batches
    )
    return Limit(
        tolerance=min(max(bounds.factor * cost, bounds.floor), bounds.ceiling),
        reason=f"{bounds.factor:g} × what rounding to {precision} costs the model itself "
        f"({cost:.1e}), no less than {bounds.floor:g} and no more than {bounds.ceiling:g}",
        noise=bounds.noise,
    )
