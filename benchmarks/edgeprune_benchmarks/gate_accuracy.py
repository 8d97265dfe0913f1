"""Whether a candidate still decides as well as before, as findings.

A class with too few images to ever exclude a fall by the margin is no reason to stop a
merge as long as its own images show none; it is named, so that nobody takes it for
judged.
"""

from collections.abc import Iterator
from typing import Final

from edgeprune_benchmarks.formats import ACCURACY, INCONCLUSIVE, NOTE, PASSED, Finding
from edgeprune_benchmarks.noninferiority import Bound, NonInferiority, least_images

STATUSES: Final = {"pass": PASSED, "regression": ACCURACY, "inconclusive": INCONCLUSIVE}


def accuracy_findings(found: NonInferiority, group: str) -> Iterator[Finding]:
    """Say what is known of accuracy as a whole, then of each class."""
    yield _finding(found.overall, group, STATUSES[found.overall.status])
    for bound in found.per_class:
        small = bound.status == "inconclusive" and bound.n < least_images(bound.margin)
        kept = bound.difference >= -bound.margin
        yield _finding(bound, group, NOTE if small and kept else STATUSES[bound.status])


def _finding(bound: Bound, group: str, status: str) -> Finding:
    name = bound.measure if bound.name == "all" else f"{bound.measure} of {bound.name}"
    return Finding(
        name=name,
        group=group,
        status=status,
        message=bound.reason.removeprefix(f"{name}: "),
        value=bound.difference,
        unit="share",
        limit=-bound.margin,
    )
