"""What a cut model may cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeprune.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the cut model may cost, as a share of the dense model; exactly one is given.

    Attributes:
        keep: share of units.
        macs: share of multiply-accumulates.
        params: share of parameters.
        floors: least share of units to keep, by pattern of group names as in
            ``{"layer4.*": 0.5}``.
    """

    keep: float | None = None
    macs: float | None = None
    params: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse no budget, several, and shares outside (0, 1]."""
        given = {k: v for k in ("keep", "macs", "params") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            names = ", ".join(f"{k} {v:g}" for k, v in given.items()) or "none"
            raise UsageError(f"give exactly one budget of keep, macs and params; seen: {names}")
        for name, share in (given | dict(self.floors)).items():
            if not 0 < share <= 1:
                raise UsageError(
                    f"{name} {share:g} is not a share: give a number above 0 and at most 1, "
                    "as 0.5 for half of the dense model"
                )

    @property
    def kind(self) -> str:
        """Which of the three is given."""
        return next(k for k in ("keep", "macs", "params") if getattr(self, k) is not None)

    @property
    def share(self) -> float:
        """The share that is given."""
        return float(getattr(self, self.kind))
