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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from edgeprune_exporters.parity import FLOAT32, Array, Batch, Limit, distance, noise


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A multiple of what rounding costs the model, between a floor and a ceiling."""

    factor: float
    floor: float
    ceiling: float

    def of(self, cost: float) -> float:
        """Return how far an artifact may be for what rounding costs in the same measure."""
        return min(max(self.factor * cost, self.floor), self.ceiling)


BOUNDS: Final = {
    "fp16": Bounds(factor=4, floor=1e-3, ceiling=5e-2),
    "int8": Bounds(factor=16, floor=1e-2, ceiling=0.3),
}
# Of values within, when a fault is looked for: sums dilute it, so the factor is smaller.
NOISE: Final = {"int8": Bounds(factor=6, floor=5e-2, ceiling=0.5)}


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
        cost = max(
            distance(model.rounded_logits(batch.images, precision), batch.logits)[1]
            for batch in batches
        )
        tolerance = bounds.of(cost)
        reason = (
            f"{bounds.factor:g} × what rounding to {precision} costs the model itself "
            f"({cost:.1e}), no less than {bounds.floor:g} and no more than {bounds.ceiling:g}"
        )
    return Limit(
        tolerance=tolerance,
        reason=reason,
        noise=NOISE[precision].ceiling if precision in NOISE else None,
        precision=precision,
    )


def is_wrong(actual: Array, wanted: Array, *, rounded: Array | None, limit: Limit) -> bool:
    """Whether a value within an artifact is further off than its precision explains.

    Args:
        actual: the artifact's.
        wanted: the model's.
        rounded: the model's own with values rounded, or None if that is not known.
        limit: of the logits.
    """
    relative = distance(actual, wanted)[1]
    if rounded is None:
        return relative > limit.tolerance
    if limit.precision in NOISE:
        # Rounded coarsely, single numbers are far off in a layer that is right.
        found, cost = noise(actual, wanted), noise(rounded, wanted)
        if found is not None and cost is not None:
            return found > NOISE[limit.precision].of(cost)
    return relative > BOUNDS[limit.precision].of(distance(rounded, wanted)[1])
