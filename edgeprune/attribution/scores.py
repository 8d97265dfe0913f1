"""How much each unit carries: what every criterion returns."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """One number per unit, larger for what matters more.

    Attributes:
        criterion: how they came about.
        values: per group, (size,) of float64.
        per_class: per group, (classes, size) of float64, or None where the
            criterion looks at no images.
        classes: names of the classes, in the order of ``per_class``.
        sampler: how the images were chosen, or None.
        samples: ids of the images that were looked at.
    """

    criterion: str
    values: Mapping[str, Tensor]
    per_class: Mapping[str, Tensor] | None = None
    classes: tuple[str, ...] = ()
    sampler: str | None = None
    samples: tuple[str, ...] = ()

    def __getitem__(self, group: str) -> Tensor:
        """Return a group's scores, (size,)."""
        return self.values[group]

    def most_affected(self, group: str) -> list[str] | None:
        """Name for each unit the class that it matters most to, if that is known."""
        if self.per_class is None:
            return None
        best = self.per_class[group].argmax(0).tolist()
        return [self.classes[i] if self.classes else str(i) for i in best]
