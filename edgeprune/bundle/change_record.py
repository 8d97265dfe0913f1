"""``change_record.json``: what was modified, how it was checked, what it did.

Its order follows what a change to a medical device's software has to state:
identity before and after, description, verification, impact by class. It is
material for such a file, and says of itself that it is no submission.
"""

from collections.abc import Mapping
from typing import Any

from edgeprune.plan import Plan


def change_record(
    *,
    manifest: Mapping[str, Any],
    record: Mapping[str, Any],
    plan: Plan,
    plan_sha256: str,
    weights_sha256: str,
) -> dict[str, Any]:
    """Put the change record together from what the run stored."""
    return {
        "format": "edgeprune-change-record",
        "version": 1,
        "statement": "Evidence of a software change. Not a regulatory submission.",
        "before": {"source": manifest["source"], "counts": dict(plan.dense)},
        "after": {"weights_sha256": weights_sha256, "counts": dict(plan.predicted)},
        "modification": {
            "method": "structured pruning of units, then fine-tuning with distillation",
            "plan_sha256": plan_sha256,
            "made_from": dict(plan.made_from),
            "units_removed": plan.units_removed,
            "units_total": plan.units_total,
            "groups": [
                {"name": g.name, "kind": g.kind, "size": g.size, "kept": len(g.kept)}
                for g in plan.groups
            ],
        },
        "verification": {
            "cut_equals_masked": manifest["results"]["cut"],
            "artifacts_equal_torch": [
                {key: a.get(key) for key in ("format", "model", "precision", "proof", "kept")}
                for a in manifest["artifacts"]
            ],
            "not_measured": manifest["not_measured"],
        },
        "impact": {
            "test_images": manifest["data"]["splits"]["test"],
            "headline": manifest["results"],
            "difference": record.get("difference"),
            "per_class": _per_class(record),
        },
    }


def _per_class(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pair the figures of each class before and after."""
    sides = [(record.get(side) or {}).get("metrics") or {} for side in ("dense", "slim")]
    before, after = ({row["name"]: row for row in side.get("per_class", [])} for side in sides)
    return [{"class": n, "dense": row, "slim": after.get(n)} for n, row in before.items()]
