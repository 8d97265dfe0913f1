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


def estimate_line(found: Mapping[str, Any], target: str) -> str:
    """Say an estimate, given as JSON values, in one line."""
    return (
        f"{found['words']}: {found['ms']:.2f} ms on '{target}' at batch {found['batch']} in "
        f"{found['precision']} (roofline; not a measurement)"
    )
