"""What was measured, and what it comes to over seeds, networks and data sets."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from criteria_curves import RANKINGS, Curve
from criteria_rows import NAMES, Table
from criteria_worker import Job

Pair: TypeAlias = tuple[str, str]  # a network and a data set

SHARES: Final = tuple(round(0.1 * tenth, 1) for tenth in range(9, 0, -1))  # of the MACs, left
DEFAULT: Final = "taylor"


class Difference(NamedTuple):
    """A paired difference of accuracies, and its standard error over pairs of network and data."""

    mean: float
    error: float
    above: int
    of: int

    @property
    def clear(self) -> bool:
        """Whether it lies outside two standard errors."""
        return abs(self.mean) > 2 * self.error

    def text(self) -> str:
        """Return it in points."""
        doubt = "" if math.isnan(self.error) else f" ± {100 * self.error:.1f}"
        return f"{100 * self.mean:+.1f}{doubt}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A row on a case: its curves, or why there are none."""

    pair: Pair
    seed: int
    row: str
    curves: dict[str, Curve] = field(default_factory=dict)
    seconds: float = math.nan
    images: int = 0
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """All rows on all cases.

    Attributes:
        found: what was measured, and what was not with the reason.
        cases: facts of the trained networks, by their pair.
        unfinished: cases that were not done to the end, of which nothing is in here.
    """

    found: tuple[Result, ...]
    cases: dict[Pair, list[dict[str, Any]]]
    unfinished: tuple[str, ...] = ()

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of network and data, in the order of the run."""
        return tuple(dict.fromkeys(result.pair for result in self.found))

    def rows(self, table: Table) -> tuple[str, ...]:
        """Name the rows of a table of which anything was measured."""
        measured = {result.row for result in self.found if result.curves}
        return tuple(
            name for name, row in NAMES.items() if table in row.tables and name in measured
        )

    @cached_property
    def complete(self) -> tuple[str, ...]:
        """Name the criteria that were measured in every case."""
        count = len({(result.pair, result.seed) for result in self.found})
        return tuple(row for row in self.rows("criteria") if len(self.of(row)) == count)

    def of(self, row: str, pair: Pair | None = None) -> list[Result]:
        """Return a row's measured results, by rising seed."""
        return [
            result
            for result in sorted(self.found, key=lambda result: result.seed)
            if result.row == row and result.curves and pair in (None, result.pair)
        ]

    def areas(self, row: str, ranking: str, pair: Pair) -> list[float]:
        """Return the mean accuracy over the rates, by seed."""
        return [r.curves[ranking].area for r in self.of(row, pair) if ranking in r.curves]

    def at_macs(self, row: str, ranking: str, pair: Pair) -> list[float]:
        """Return the mean accuracy over shares of the MACs that are left, by seed."""
        found = [r.curves[ranking] for r in self.of(row, pair) if ranking in r.curves]
        return [float(np.mean(curve.at_macs(SHARES))) for curve in found]

    def rank(self, row: str, rankings: Iterable[str] = RANKINGS) -> float:
        """Return a complete criterion's place by area among all of them, on average; 1 is best."""
        places = []
        for ranking in rankings:
            for pair in self.pairs:
                areas = {r: float(np.mean(self.areas(r, ranking, pair))) for r in self.complete}
                better = sum(area > areas[row] for area in areas.values())
                equal = sum(area == areas[row] for area in areas.values())
                places.append(better + (equal + 1) / 2)
        return float(np.mean(places))

    def against(self, row: str, other: str, ranking: str) -> Difference:
        """Compare the areas of two rows where both were measured."""
        return self._paired(
            (self._by_seed(row, pair, ranking), self._by_seed(other, pair, ranking))
            for pair in self.pairs
        )

    def rankings_against(self, row: str, ranking: str, other: str) -> Difference:
        """Compare two rankings of one row at equal MACs."""
        return self._paired(
            (
                dict(enumerate(self.at_macs(row, ranking, pair))),
                dict(enumerate(self.at_macs(row, other, pair))),
            )
            for pair in self.pairs
        )

    def _by_seed(self, row: str, pair: Pair, ranking: str) -> dict[int, float]:
        return {r.seed: r.curves[ranking].area for r in self.of(row, pair) if ranking in r.curves}

    @staticmethod
    def _paired(both: Iterable[tuple[dict[int, float], dict[int, float]]]) -> Difference:
        groups = [
            [left[seed] - right[seed] for seed in left if seed in right] for left, right in both
        ]
        means = [float(np.mean(group)) for group in groups if group]
        return Difference(
            mean=float(np.mean(means)) if means else math.nan,
            error=standard_error(means),
            above=sum(mean > 0 for mean in means),
            of=len(means),
        )


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; not a number below two values."""
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def read_results(jobs: Iterable[Job]) -> Results:
    """Collect what the work folder holds of these jobs, finished cases only."""
    found: list[Result] = []
    cases: dict[Pair, list[dict[str, Any]]] = {}
    unfinished: list[str] = []
    for job in jobs:
        pair, facts = (job.case.model, job.case.data), job.facts()
        rows = {row: job.known(row) for row in job.rows}
        if facts is None or None in rows.values():
            unfinished.append(job.case.name)
            continue
        cases.setdefault(pair, []).append(facts)
        found += [_result(pair, job.case.seed, row, known or {}) for row, known in rows.items()]
    return Results(found=tuple(found), cases=cases, unfinished=tuple(unfinished))


def _result(pair: Pair, seed: int, row: str, facts: Mapping[str, Any]) -> Result:
    return Result(
        pair=pair,
        seed=seed,
        row=row,
        curves={key: Curve.from_dict(c) for key, c in facts.get("curves", {}).items()},
        seconds=facts.get("seconds", math.nan),
        images=facts.get("images", 0),
        reason=facts.get("error") or facts.get("left_out"),
    )
