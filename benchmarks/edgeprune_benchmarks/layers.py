"""Why is it not faster? Two models' layers side by side, and what became of the saving.

Times come from profilers, which slow what they watch, and with two layers in parallel
or gaps between them they do not add up to a whole inference: the sums are shown beside
the whole, never in its place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprune.targets import Target
from edgeprune_benchmarks.layer_causes import CAUSES, LayerPair, Roofline, judged, roofline
from edgeprune_benchmarks.layer_matching import matched
from edgeprune_benchmarks.layer_values import Layer, Profile

APART: Final = 0.15  # by which sums may miss each other before that is said
LITTLE: Final = 0.01  # of a model's time; causes of less are not spoken of


@dataclass(frozen=True, kw_only=True)
class LayersSide:
    """Totals of one model: milliseconds of an inference, and the work of a batch.

    ``spread``, ``profiled_ms`` and ``plain_ms`` are those of the ``Profile``.
    """

    name: str
    layers: int
    layers_ms: float
    spread: float | None
    profiled_ms: float | None
    plain_ms: float | None
    macs: int | None
    bytes: int


@dataclass(frozen=True, kw_only=True)
class LayerComparison:
    """Two models, layer by layer, the most time lost first.

    ``macs_saved`` and ``time_saved`` are shares of dense's, by its layers; ``realised`` is
    the share of the MAC saving that became time, None where no MACs were saved.
    """

    profiler: str
    roofline: Roofline
    block: int  # channels that kernels work on at once
    dense: LayersSide
    slim: LayersSide
    macs_saved: float | None
    time_saved: float
    realised: float | None
    summary: tuple[str, ...]  # a sentence for each cause, the costliest first
    notes: tuple[str, ...]  # what limits these figures
    layers: tuple[LayerPair, ...]


def compare_profiles(
    dense: tuple[str, Profile, Sequence[Layer]],
    slim: tuple[str, Profile, Sequence[Layer]],
    *,
    precision: str,
    block: int,
    target: Target | None = None,
) -> LayerComparison:
    """Compare two models by name, profile and layers (``layer_graph.with_work``).

    precision: that dense runs in, as "f32". block: channels that kernels work on at once.
    target: whose rates to use, if it has any.
    """
    sides = {"dense": dense[2], "slim": slim[2]}
    roof = roofline(target, precision, sides)
    pairs = [judged(before, after, roof, block) for before, after in matched(dense[2], slim[2])]
    before, after = _side(*dense), _side(*slim)
    macs_saved = 1 - after.macs / before.macs if before.macs and after.macs is not None else None
    time_saved = 1 - after.layers_ms / before.layers_ms if before.layers_ms else 0.0
    return LayerComparison(
        profiler=" and ".join(dict.fromkeys((dense[1].profiler, slim[1].profiler))),
        roofline=roof,
        block=block,
        dense=before,
        slim=after,
        macs_saved=macs_saved,
        time_saved=time_saved,
        realised=time_saved / macs_saved if macs_saved is not None and macs_saved > 0 else None,
        summary=tuple(_sentences(pairs, after)),
        notes=(*_notes(before, dense[2]), *_notes(after, slim[2])),
        layers=tuple(sorted(pairs, key=lambda pair: -pair.lost_ms)),
    )


def _side(name: str, profile: Profile, layers: Sequence[Layer]) -> LayersSide:
    works = [layer.work for layer in layers if layer.work]
    macs = [work.macs for work in works]
    known = [each for each in macs if each is not None]
    return LayersSide(
        name=name,
        layers=len(layers),
        layers_ms=profile.layers_ms,
        spread=profile.spread,
        profiled_ms=profile.profiled_ms,
        plain_ms=profile.plain_ms,
        macs=sum(known) if works and len(known) == len(macs) else None,
        bytes=sum(work.bytes for work in works),
    )


def _sentences(pairs: Sequence[LayerPair], slim: LayersSide) -> Iterator[str]:
    """Yield what each cause costs, the costliest first."""
    lost = {cause: [pair.lost_ms for pair in pairs if pair.cause == cause] for cause in CAUSES}
    for cause in sorted(CAUSES, key=lambda cause: -sum(lost[cause])):
        count, ms = len(lost[cause]), sum(lost[cause])
        if ms > LITTLE * slim.layers_ms:
            lose = "layers lose" if count > 1 else "layer loses"
            share = f"{ms:.3f} ms, {ms / slim.layers_ms:.0%} of {slim.name}'s time"
            yield f"{cause}: {count} {lose} {share}: {CAUSES[cause]}"


def _notes(side: LayersSide, layers: Sequence[Layer]) -> Iterator[str]:
    """Yield what makes a side's times doubtful."""
    wholes = [whole for whole in (side.profiled_ms, side.plain_ms) if whole]
    if any(abs(side.layers_ms / whole - 1) > APART for whole in wholes):
        yield f"{side.name}: its layers do not add up to a whole inference: see the sums"
    if side.spread is not None and side.spread > APART:
        yield (
            f"{side.name}: repeated profiles differ by {side.spread:.0%}, so small differences "
            "between layers say nothing: the machine was busy, or its clock not steady"
        )
    unknown = sum(layer.time.ms for layer in layers if layer.work is None)
    if side.layers_ms and unknown > APART * side.layers_ms:
        yield (
            f"{side.name}: {unknown / side.layers_ms:.0%} of the time is in layers for which the "
            "graph has no operator"
        )
