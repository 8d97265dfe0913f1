"""How fast a model would be on a device that is not here: an estimate, labelled as one."""

from collections.abc import Mapping
from typing import Any

from edgeprune.capture import Captured
from edgeprune.targets import Target
from edgeprune.targets.roofline import estimate, no_estimate


def latency_estimate(
    model: Captured | None, target: Target, batch: int = 1
) -> dict[str, Any] | None:
    """Return the roofline estimate as JSON values; None where there can be none."""
    if model is None or no_estimate(target, target.precision):
        return None
    found = estimate(model, target, precision=target.precision, batch=batch)
    return {
        "ms": found.ms,
        "batch": batch,
        "precision": found.precision,
        "words": found.words,
        "assumptions": list(found.assumptions),
    }


def estimate_line(found: Mapping[str, Mapping[str, Any]], target: str) -> str:
    """Say estimates of one target, given by model as JSON values, in one line."""
    first = next(iter(found.values()))
    times = ", ".join(f"{name} {each['ms']:.3g} ms".strip() for name, each in found.items())
    return (
        f"{first['words']}: {times} on '{target}' in {first['precision']} at batch "
        f"{first['batch']} (roofline; not a measurement)"
    )
