"""What a cut model may cost, and where that may be saved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edgeprune.errors import UsageError

COUNTED: Final = ("keep", "macs", "params")
LIMITS: Final = ("floors", "ceilings", "keep_groups", "freeze", "kinds")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the cut model may cost, as a share of the dense model, and where that may be saved.

    Exactly one of ``keep``, ``macs`` and ``params`` is given. Patterns are those of
    a shell (``*``, ``?``, ``[0-3]``); ``*`` also crosses dots.

    Attributes:
        keep: share of units; of those of ``kinds`` only, if these are given.
        macs: share of multiply-accumulates.
        params: share of parameters.
        floors: least share of its units that a group keeps, by pattern of group
            names as in ``{"layer4.*": 0.5}``; the highest that matches counts.
        ceilings: the most, likewise; the lowest that matches counts. A ceiling is
            rounded down to whole units, but never to none or below a floor.
        keep_groups: patterns of groups that stay whole.
        freeze: patterns of modules and parameters whose tensors keep their shapes;
            a module stands for everything below it.
        kinds: kinds of groups that may be cut; empty for all.
    """

    keep: float | None = None
    macs: float | None = None
    params: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)
    keep_groups: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse no budget, several, and shares outside (0, 1]."""
        given = {k: v for k in COUNTED if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            names = ", ".join(f"{k} {v:g}" for k, v in given.items()) or "none"
            raise UsageError(f"give exactly one budget of keep, macs and params; seen: {names}")
        floors = {f"floor {pattern}": share for pattern, share in self.floors.items()}
        ceilings = {f"ceiling {pattern}": share for pattern, share in self.ceilings.items()}
        for name, share in (given | floors | ceilings).items():
            if not 0 < share <= 1:
                raise UsageError(
                    f"{name} {share:g} is not a share: give a number above 0 and at most 1, "
                    "as 0.5 for half of the dense model"
                )

    @property
    def kind(self) -> str:
        """Which of the three is given."""
        return next(k for k in COUNTED if getattr(self, k) is not None)

    @property
    def share(self) -> float:
        """The share that is given."""
        return float(getattr(self, self.kind))

    def to_dict(self) -> dict[str, Any]:
        """Return what is given as JSON values."""
        limits = {name: getattr(self, name) for name in LIMITS if getattr(self, name)}
        written = {k: dict(v) if isinstance(v, Mapping) else list(v) for k, v in limits.items()}
        return {self.kind: self.share} | written
