"""The tables of the comparison, and what they say in words, as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from criteria_curves import RANKINGS
from criteria_results import DEFAULT, Pair, Results
from criteria_rows import PEERS, Table
from criteria_verdict import sentences

NAMED: Final = 3  # cases in a note of what was not measured
EXPLAINED: Final = """\
Accuracy is balanced, on test images, and nothing is trained after a cut. *Area* is the mean
accuracy in percent over the rates; ± is the standard deviation over seeds. Rates of `cost` are of
MACs, those of the others of units. *Harmless* is the largest rate up to which accuracy stays within
5 points of the dense model. A curve ends where two rates in a row are within 3 points of chance,
and counts as chance from there on. Measured with gates on the dense model, which equals the cut:
checked by a cut of every network."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one run found.

    Attributes:
        results: all rows on all cases.
        setting: how the run was made, as a sentence.
    """

    results: Results
    setting: str

    def text(self) -> str:
        """Return the whole section."""
        if not any(result.curves for result in self.results.found):
            return "\n\n".join(("Nothing was measured.", *self.absent()))
        parts = [
            EXPLAINED,
            *sentences(self.results),
            "### Networks",
            self.networks(),
            "### Criteria over all networks",
            self.overall(),
            "### At equal MACs, against Torch-Pruning",
            self.equal_macs(),
            *self.small_tables(),
            *self.each_pair(),
            *self.absent(),
        ]
        return "\n\n".join(parts)

    def networks(self) -> str:
        """Return how good the dense networks are, and that gates stand for cuts."""
        rows = []
        for pair in self.results.pairs:
            facts = self.results.cases[pair]
            rows.append([
                *pair,
                str(facts[0]["pixels"]),
                f"{facts[0]['units']:,}",
                f"{facts[0]['macs'] / 1e6:.0f} M",
                _spread([f["accuracy"] for f in facts]),
                str(facts[0]["test_images"]),
                f"{max(f['proof']['max_rel'] for f in facts):.0e}",
                f"{np.mean([f['training_seconds'] for f in facts]):.0f}",
            ])  # fmt: skip
        head = (
            "network", "images", "pixels", "units", "MACs", "dense accuracy", "test images",
            "cut = masked", "training, CPU s",
        )  # fmt: skip
        return _table(head, rows)

    def overall(self) -> str:
        """Return mean ranks, and differences to the default criterion in points of area."""
        results = self.results
        names = sorted(results.rows("criteria"), key=self._order)
        rows = []
        for name in names:
            whole = name in results.complete
            ranks = [f"{results.rank(name, [r]):.1f}" if whole else "–" for r in RANKINGS]
            differences = [results.against(name, DEFAULT, ranking) for ranking in RANKINGS]
            rows.append([
                f"`{name}`",
                f"{results.rank(name):.1f}" if whole else "–",
                *ranks,
                *(d.text() if name != DEFAULT else "0" for d in differences),
                f"{differences[-1].of} of {len(results.pairs)}",
            ])  # fmt: skip
        head = (
            "criterion", "mean rank", *RANKINGS,
            *(f"{ranking}, points against {DEFAULT}" for ranking in RANKINGS), "networks",
        )  # fmt: skip
        note = (
            f"Ranks are by area, among the {len(results.complete)} criteria that were measured "
            "everywhere; ± is the standard error over pairs of network and images."
        )
        return f"{_table(head, rows)}\n\n{note}"

    def _order(self, name: str) -> tuple[bool, float]:
        """Sort by mean rank; criteria that were not measured everywhere come last."""
        if name in self.results.complete:
            return False, self.results.rank(name)
        return True, -self.results.against(name, DEFAULT, "cost").mean

    def equal_macs(self) -> str:
        """Return the mean accuracy over shares of MACs, for the peer and for us."""
        results = self.results
        best = [min(results.complete, key=results.rank)] if results.complete else []
        ours = [name for name in dict.fromkeys(("magnitude", DEFAULT, *best)) if results.of(name)]
        lines = [(peer, scope) for peer in PEERS for scope in ("local", "global")]
        lines += [(name, ranking) for name in ours for ranking in ("group", "global", "cost")]
        rows = []
        for name, ranking in lines:
            found = [results.at_macs(name, ranking, pair) for pair in results.pairs]
            means = [float(np.mean(values)) for values in found if values]
            if means:
                cells = [_spread(values) if values else "–" for values in found]
                rows.append([f"`{name}`", ranking, f"{100 * np.mean(means):.1f}", *cells])
        head = ("", "ranking", "mean", *(" ".join(pair) for pair in results.pairs))
        note = (
            "Mean accuracy in percent where 90, 80, … 10 % of the MACs are left, on straight lines "
            "between what was measured; without MACs a model guesses. For everyone a point counts "
            "only if none has more accuracy for no more MACs. Torch-Pruning prunes its model by "
            "itself, and its MACs are counted on what it returns."
        )
        return f"{_table(head, rows)}\n\n{note}"

    def small_tables(self) -> list[str]:
        """Return the tables of samplers and of aggregations."""
        samplers = "Area, by how the images were chosen that are scored; the default is `cluster`."
        sums = "Area, by how the attributions of images are summed; the default is `absolute`."
        return [
            *self._small("Samplers", "samplers", samplers),
            *self._small("Aggregation over images", "aggregations", sums),
        ]

    def _small(self, title: str, table: Table, note: str) -> list[str]:
        results = self.results
        names = results.rows(table)
        pairs = [p for p in results.pairs if len([n for n in names if results.of(n, p)]) > 1]
        columns = [(pair, ranking) for pair in pairs for ranking in RANKINGS]
        if len(names) < 2 or not columns:
            return []
        rows = [
            [f"`{name}`", *(_spread(results.areas(name, r, pair)) for pair, r in columns)]
            for name in names
        ]
        head = ("", *(f"{' '.join(pair)}, {ranking}" for pair, ranking in columns))
        return [f"### {title}", note, _table(head, rows)]

    def each_pair(self) -> list[str]:
        """Return a table per network and data set, best criterion first."""
        return [
            part
            for pair in self.results.pairs
            for part in (f"### {pair[0]} on {pair[1]}", self._pair(pair))
        ]

    def _pair(self, pair: Pair) -> str:
        results = self.results
        names = [name for name in results.rows("criteria") if results.of(name, pair)]
        names.sort(key=lambda name: -sum(np.mean(results.areas(name, r, pair)) for r in RANKINGS))
        rows = [self._line(name, pair, RANKINGS) for name in names]
        peers = [peer for peer in PEERS if results.of(peer, pair)]
        rows += [self._line(peer, pair, ("global", "local", None)) for peer in peers]
        head = (
            "criterion", *(f"{ranking}: area" for ranking in RANKINGS), "harmless to, %",
            "images", "CPU s", *(f"{r}: accuracy at {self._rates()} %" for r in RANKINGS),
        )  # fmt: skip
        return _table(head, rows)

    def _rates(self) -> str:
        points = next(curve for r in self.results.found for curve in r.curves.values()).points
        return f"{100 * points[0].rate:.0f}…{100 * points[-1].rate:.0f}"

    def _line(self, name: str, pair: Pair, rankings: Sequence[str | None]) -> list[str]:
        """Return a row: areas, largest harmless rates, images, seconds, accuracies."""
        found = self.results.of(name, pair)
        areas, harmless, accuracies = [], [], []
        for ranking in rankings:
            curves = [result.curves[ranking] for result in found] if ranking else []
            areas.append(_spread([curve.area for curve in curves]))
            harmless.append(_mean([curve.harmless for curve in curves]))
            means = np.mean([curve.accuracies for curve in curves], axis=0) if curves else []
            accuracies.append(" ".join(f"{100 * accuracy:.0f}" for accuracy in means) or "–")
        seconds = np.mean([result.seconds for result in found])
        images = sorted({result.images for result in found})
        return [
            f"`{name}`",
            *areas,
            " / ".join(harmless),
            "–".join(map(str, images)) if any(images) else "none",
            f"{seconds:.1f}",
            *accuracies,
        ]

    def absent(self) -> list[str]:
        """Say what was not measured, and why."""
        reasons: dict[tuple[str, str], list[str]] = {}
        for result in self.results.found:
            if result.reason is not None:
                name = f"{' '.join(result.pair)} {result.seed}"
                reasons.setdefault((result.row, result.reason), []).append(name)
        lines = [
            f"- `{row}` ({len(names)}: {', '.join(names[:NAMED])}{' …' * (len(names) > NAMED)}): "
            f"{reason.replace('|', '/')}"
            for (row, reason), names in reasons.items()
        ]
        if self.results.unfinished:
            lines.append(f"- not finished, and left out: {', '.join(self.results.unfinished)}")
        return ["Not measured:", "\n".join(lines)] if lines else []


def _mean(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.0f}" if values else "–"


def _spread(values: Sequence[float]) -> str:
    """Return the mean in percent, with the standard deviation of several."""
    if not values:
        return "–"
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{deviation}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
