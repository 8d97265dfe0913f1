"""What was cut where, group by group in the order of the graph."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from edgeprune.report import formats
from edgeprune.report.document import Document, Documents

KINDS: Final = {
    "conv": "convolution channels",
    "hidden": "hidden units of an MLP",
    "heads": "attention heads",
    "head_dim": "dimensions of each head",
    "width": "width of a residual stream",
}
FOLD_OVER: Final = 16  # with more groups than this, stages fold
SHOWN_UNITS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A removed unit, with its reason."""

    group: str
    unit: str
    score: str
    most: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One channel group."""

    name: str
    kind: str
    size: int
    kept: int

    @property
    def share(self) -> float:
        """Share of its units that stays."""
        return self.kept / self.size if self.size else 1.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Groups whose names begin alike; ``name`` is empty when all fit on the page."""

    name: str
    bars: tuple[Bar, ...]

    @property
    def size(self) -> int:
        """Units of all its groups."""
        return sum(bar.size for bar in self.bars)

    @property
    def kept(self) -> int:
        """Units that stay."""
        return sum(bar.kept for bar in self.bars)


@dataclass(frozen=True, kw_only=True)
class BudgetLine:
    """What was counted, what was asked for, and what the plan predicts."""

    label: str
    dense: str
    predicted: str
    share: float
    asked: float | None


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """The third section."""

    bars: tuple[Bar, ...]
    kinds: tuple[tuple[str, str, int, int], ...]
    stages: tuple[Stage, ...]
    budget: tuple[BudgetLine, ...]
    first: tuple[Unit, ...]
    last: tuple[Unit, ...]
    untouched: int
    notes: tuple[str, ...]


def cuts(documents: Documents) -> Cuts:
    """Read the plan as a picture."""
    plan = documents.plan
    bars = tuple(_bar(group) for group in plan.each("groups"))
    ranked = sorted(_ranked(plan), key=lambda pair: pair[0])
    units = [unit for _, unit in ranked]
    ends = min(SHOWN_UNITS, len(units) // 2)
    return Cuts(
        bars=bars,
        kinds=tuple(_kinds(bars)),
        stages=tuple(_stages(bars)),
        budget=tuple(_budget(plan)),
        first=tuple(units[:ends]),
        last=tuple(units[len(units) - ends :]),
        untouched=sum(bar.kept == bar.size for bar in bars),
        notes=plan.texts("notes"),
    )


def _bar(group: Document) -> Bar:
    return Bar(
        name=group.text("name") or "",
        kind=group.text("kind") or "",
        size=int(group.number("size") or 0),
        kept=len(group.each("kept")),
    )


def _kinds(bars: Sequence[Bar]) -> Iterator[tuple[str, str, int, int]]:
    """Yield kind, what it is, units kept and units in all."""
    for kind in dict.fromkeys(bar.kind for bar in bars):
        own = [bar for bar in bars if bar.kind == kind]
        yield kind, KINDS.get(kind, kind), sum(b.kept for b in own), sum(b.size for b in own)


def _stages(bars: Sequence[Bar]) -> Iterator[Stage]:
    """Fold long plans by the beginning of the names, in runs so that the order stays."""
    if len(bars) <= FOLD_OVER:
        yield Stage(name="", bars=tuple(bars))
        return
    depth = next((d for d in (3, 2, 1) if _folds(bars, d)), 1)
    for name, run in groupby(bars, key=lambda bar: _beginning(bar, depth)):
        yield Stage(name=name, bars=tuple(run))


def _folds(bars: Sequence[Bar], depth: int) -> bool:
    runs = sum(1 for _ in groupby(bars, key=lambda bar: _beginning(bar, depth)))
    return runs <= max(FOLD_OVER, len(bars) // 4)


def _beginning(bar: Bar, depth: int) -> str:
    return ".".join(bar.name.split(":")[0].split(".")[:depth])


def _budget(plan: Document) -> Iterator[BudgetLine]:
    asked = plan.at("made_from", "budget")
    for key, label in (("params", "Parameters"), ("macs", "Multiply–accumulates")):
        dense, predicted = plan.number("dense", key), plan.number("predicted", key)
        if dense and predicted is not None:
            yield BudgetLine(
                label=label,
                dense=formats.quantity(dense),
                predicted=formats.quantity(predicted),
                share=predicted / dense,
                asked=asked.number(key),
            )
    sizes = Counter[str]()
    for group in plan.each("groups"):
        sizes["size"] += int(group.number("size") or 0)
        sizes["kept"] += len(group.each("kept"))
    if sizes["size"]:
        yield BudgetLine(
            label="Units",
            dense=formats.count(sizes["size"]),
            predicted=formats.count(sizes["kept"]),
            share=sizes["kept"] / sizes["size"],
            asked=asked.number("keep"),
        )


def _ranked(plan: Document) -> Iterator[tuple[float, Unit]]:
    """Yield every removed unit under its rank; 1 went first."""
    for group in plan.each("groups"):
        for unit in group.each("removed"):
            rank = unit.number("rank")
            yield (
                rank if rank is not None else float("inf"),
                Unit(
                    group=group.text("name") or "",
                    unit=formats.count(unit.number("unit")),
                    score=formats.small(unit.number("score")),
                    most=unit.text("most") or "",
                    reason=unit.text("reason") or "",
                ),
            )
