"""What the numbers say, in sentences that follow from them alone."""

from collections.abc import Iterator, Sequence

import numpy as np

from criteria_curves import RANKINGS
from criteria_results import DEFAULT, Difference, Results
from criteria_rows import PEERS


def sentences(results: Results) -> list[str]:
    """Return one item per question; none where nothing was measured for it."""
    found = [
        *_best(results),
        *_order(results),
        *_rankings(results),
        *_peer(results),
    ]
    return ["\n".join(f"- {sentence}" for sentence in found)] if found else []


def _best(results: Results) -> Iterator[str]:
    """Say which criterion wins, under each ranking and over all, and where the default stands."""
    if len(results.complete) < 2:
        return
    for ranking in RANKINGS:
        order = sorted(results.complete, key=lambda name: results.rank(name, [ranking]))
        areas = ", ".join(f"`{n}` ({results.rank(n, [ranking]):.1f})" for n in order[:3])
        yield f"Best mean ranks under `{ranking}` ranking: {areas}."
    if DEFAULT not in results.complete:
        return
    order = sorted(results.complete, key=results.rank)
    place = order.index(DEFAULT) + 1
    best = next(name for name in order if name != DEFAULT)
    lead = {r: results.against(best, DEFAULT, r) for r in RANKINGS}
    said = "; ".join(f"{_against(d)} under `{r}`" for r, d in lead.items())
    verb = "wins" if place == 1 else f"is {place} of {len(order)}"
    other = "the next is" if place == 1 else "the best is"
    yield (
        f"Over all rankings the default, `{DEFAULT}`, {verb}; {other} `{best}`, against the "
        f"default {said}."
    )


def _against(difference: Difference) -> str:
    clear = "" if difference.clear else ", not distinguishable"
    return f"{difference.text()} points{clear}"


def _order(results: Results) -> Iterator[str]:
    """Say how often the papers' order shows: LRP over integrated gradients over the rest."""
    for lrp in ("lrp", "lrp:explained=evidence"):
        rest = ("taylor", "activation", "magnitude", "random")
        if not all(results.of(name) for name in (lrp, "ig", *rest)):
            continue
        places = [
            {name: _area(results, name, ranking, pair) for name in (lrp, "ig", *rest)}
            for pair in results.pairs
            for ranking in RANKINGS
        ]
        shows = sum(p[lrp] >= p["ig"] >= max(p[name] for name in rest) for p in places)
        above = {
            f"`{lrp}` is above `ig` in": sum(p[lrp] > p["ig"] for p in places),
            "`ig` above `taylor` in": sum(p["ig"] > p["taylor"] for p in places),
            f"`{lrp}` above `taylor` in": sum(p[lrp] > p["taylor"] for p in places),
        }
        said = ", ".join(f"{what} {count}" for what, count in above.items())
        verdict = "shows" if shows > len(places) / 2 else "does not show"
        yield (
            f"The papers' order, LRP over integrated gradients over the rest, {verdict} with "
            f"`{lrp}`: it holds in {shows} of {len(places)} pairs of network and ranking; {said}."
        )


def _area(results: Results, name: str, ranking: str, pair: tuple[str, str]) -> float:
    areas = results.areas(name, ranking, pair)
    return float(np.mean(areas)) if areas else float("nan")


def _rankings(results: Results) -> Iterator[str]:
    """Say whether ranking by score per cost beats the others where MACs are equal."""
    for other in ("global", "group"):
        found = {n: results.rankings_against(n, "cost", other) for n in results.complete}
        if DEFAULT not in found:
            continue
        ours = found[DEFAULT]
        verb = "beats" if ours.clear and ours.mean > 0 else "does not clearly beat"
        if ours.clear and ours.mean < 0:
            verb = "loses to"
        gains = [difference.mean for difference in found.values()]
        yield (
            f"At equal MACs `cost` {verb} `{other}` with `{DEFAULT}`: {ours.text()} points, above "
            f"in {ours.above} of {ours.of} networks; over all criteria {100 * np.mean(gains):+.1f} "
            f"points, above with {sum(gain > 0 for gain in gains)} of {len(gains)}."
        )


def _peer(results: Results) -> Iterator[str]:
    """Compare the default with Torch-Pruning at equal MACs."""
    rows = [(peer, scope) for peer in PEERS for scope in ("global", "local") if results.of(peer)]
    if not rows or not results.of(DEFAULT):
        return
    means = {key: _mean_at_macs(results, *key) for key in rows}
    best = max(means, key=lambda key: means[key])
    ours = {ranking: _mean_at_macs(results, DEFAULT, ranking) for ranking in RANKINGS}
    said = ", ".join(f"{100 * mean:.1f} under `{ranking}`" for ranking, mean in ours.items())
    yield (
        f"At equal MACs `{DEFAULT}` keeps {said} on average; the best of Torch-Pruning, "
        f"`{best[0]}` {best[1]}, keeps {100 * means[best]:.1f}."
    )


def _mean_at_macs(results: Results, row: str, ranking: str) -> float:
    found: Sequence[list[float]] = [results.at_macs(row, ranking, pair) for pair in results.pairs]
    return float(np.mean([np.mean(values) for values in found if values]))
