"""Which criteria there are: built in, and from outside by entry point.

A distribution adds criteria with entry points of the group
``edgeprune.criteria``; each names an object with ``per_sample``, ``learn`` or
``per_unit``. If it is a dataclass, its fields are settings.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final, TypeGuard

from edgeprune.attribution.activation import Activation
from edgeprune.attribution.backtrace import Backtrace
from edgeprune.attribution.chance import Chance
from edgeprune.attribution.criterion import (
    Criterion,
    LearnedCriterion,
    ModelCriterion,
    SampleCriterion,
    needs_images,
    needs_labels,
)
from edgeprune.attribution.integrated_gradients import Integrated
from edgeprune.attribution.lrp import Lrp
from edgeprune.attribution.magnitude import Magnitude
from edgeprune.attribution.sensitivity import Sensitivity
from edgeprune.attribution.shapley import Shapley
from edgeprune.attribution.specification import (
    Setting,
    settings_of,
    split_specification,
    with_settings,
    written,
)
from edgeprune.attribution.taylor import Taylor
from edgeprune.attribution.xpruner import XPruner
from edgeprune.errors import UsageError

GROUP: Final = "edgeprune.criteria"

CRITERIA: Final[Mapping[str, Criterion]] = {
    "taylor": Taylor(),
    "ig": Integrated(),
    "lrp": Lrp(),
    "backtrace": Backtrace(),
    "shapley": Shapley(),
    "sensitivity": Sensitivity(),
    "xpruner": XPruner(),
    "activation": Activation(),
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


@dataclass(frozen=True, kw_only=True)
class Description:
    """A criterion in a few lines, from its docstring and its fields.

    Attributes:
        name: what it is called.
        summary: what it measures, one sentence.
        cost: what it costs, one sentence; empty where the docstring does not say.
        needs: what it looks at: ``nothing``, ``images`` or ``images and labels``.
        settings: what can be set by ``name:key=value``.
    """

    name: str
    summary: str
    cost: str
    needs: str
    settings: tuple[Setting, ...]


def find_criterion(given: str | Criterion) -> Criterion:
    """Return a criterion by its name, with settings or without (``lrp:rule=gamma``).

    Built-ins come before those from outside. What is one already is returned.

    Raises:
        UsageError: there is none of that name (the nearest is named), it is
            refused for a reason, its entry point does not work, it has no such
            setting or value, or it is an object that is no criterion.
    """
    if not isinstance(given, str):
        if _is_criterion(given):
            return given
        raise UsageError(f"{given!r} is no criterion: give a name, or an object such as Taylor()")
    name, settings = split_specification(given)
    return with_settings(_by_name(name), name, settings)


def name_of(criterion: str | Criterion) -> str:
    """Return a criterion as text: its name, and the settings that are not the default.

    Raises:
        UsageError: as ``find_criterion``.
    """
    if isinstance(criterion, str):
        name, _ = split_specification(criterion)
        return written(find_criterion(criterion), name, _by_name(name))
    kinds: dict[type[object], str] = {type(known): name for name, known in CRITERIA.items()}
    kind = kinds.get(type(criterion))
    if kind is None:
        return type(criterion).__name__.lower()
    return written(criterion, kind, CRITERIA[kind])


def describe() -> tuple[Description, ...]:
    """Describe the built-in criteria, in the order of ``CRITERIA``."""
    return tuple(_described(name, criterion) for name, criterion in CRITERIA.items())


def _described(name: str, criterion: Criterion) -> Description:
    document = inspect.getdoc(criterion) or ""
    text = " ".join(document.split()).replace("``", "")
    cost = re.search(r"Cost: (.*?\.)(?=\s|$)", text)
    needs = "images and labels" if needs_labels(criterion) else "images"
    return Description(
        name=name,
        summary=" ".join(document.partition("\n\n")[0].split()),
        cost=cost[1] if cost else "",
        needs=needs if needs_images(criterion) else "nothing",
        settings=settings_of(criterion),
    )


def _by_name(name: str) -> Criterion:
    if name in CRITERIA:
        return CRITERIA[name]
    outside: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=GROUP)}
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
    if _is_criterion(found):
        return found
    raise UsageError(
        f"criterion '{name}' ({value}) is {type(found).__name__} without per_sample, learn or "
        "per_unit; its entry point should name an object that has one of them"
    )


def _is_criterion(found: object) -> TypeGuard[Criterion]:
    # A class has the methods as well, but nothing to call them on.
    kinds = (SampleCriterion, LearnedCriterion, ModelCriterion)
    return isinstance(found, kinds) and not isinstance(found, type)
