"""Which criteria there are: built in, and from outside by entry point.

A distribution adds criteria with entry points of the group
``edgeprune.criteria``; each names an object with ``per_sample`` or ``per_unit``.
"""

import difflib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Final

from edgeprune.attribution.chance import Chance
from edgeprune.attribution.criterion import Criterion, ModelCriterion, SampleCriterion
from edgeprune.attribution.integrated_gradients import Integrated
from edgeprune.attribution.lrp import Lrp
from edgeprune.attribution.magnitude import Magnitude
from edgeprune.attribution.taylor import Taylor
from edgeprune.errors import UsageError

GROUP: Final = "edgeprune.criteria"

CRITERIA: Final[Mapping[str, Criterion]] = {
    "taylor": Taylor(),
    "ig": Integrated(),
    "lrp": Lrp(),
    "magnitude": Magnitude(),
    "random": Chance(),
}
_SAME_AS_TAYLOR: Final = (
    "is refused: its rules are for modules, and on the gates of a graph it silently returns "
    "gate × gradient; use taylor, which says so"
)
REFUSED: Final[Mapping[str, str]] = {
    "deeplift": _SAME_AS_TAYLOR,
    "deepliftshap": _SAME_AS_TAYLOR,
}


def find_criterion(name: str) -> Criterion:
    """Return a criterion by its name; built-ins come before those from outside.

    Raises:
        UsageError: there is none of that name (the nearest is named), it is
            refused for a reason, or its entry point does not work.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    outside = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in outside:
        return _loaded(name, outside[name].value, outside[name].load)
    reason = REFUSED.get(name.lower().replace("_", "").replace("-", ""))
    if reason is not None:
        raise UsageError(f"criterion '{name}' {reason}")
    known = [*CRITERIA, *outside]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UsageError(f"unknown criterion '{name}'; {hint}there are {', '.join(known)}")


def _loaded(name: str, value: str, load: Callable[[], object]) -> Criterion:
    try:
        found = load()
    except Exception as error:  # an entry point runs code of others
        raise UsageError(f"criterion '{name}' ({value}) cannot be loaded: {error}") from error
    if isinstance(found, SampleCriterion | ModelCriterion) and not isinstance(found, type):
        return found
    raise UsageError(
        f"criterion '{name}' ({value}) is {type(found).__name__} without per_sample or per_unit; "
        "its entry point should name an object that has one of them"
    )
