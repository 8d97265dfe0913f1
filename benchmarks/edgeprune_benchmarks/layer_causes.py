"""Why a layer that does less is not as much faster.

By the roofline model (Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009) a
layer takes the longer of its arithmetic and its traffic with memory, and never less than
what any layer takes. A cut promises the time that its share of the multiply-accumulates
took; what of that did not come is put down to the first cause that applies. A cause is an
inference from sizes and rates, not something that was seen inside the hardware.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprune.targets import Target
from edgeprune_benchmarks.layer_graph import rearranges
from edgeprune_benchmarks.layer_values import Layer

PEAKS: Final[Mapping[str, str]] = {
    "f32": "fp32", "f16": "fp16", "bf16": "fp16", "i8": "int8", "u8": "int8",
}  # fmt: skip
BITS: Final[Mapping[str, int]] = {"f64": 64, "f32": 32, "tf32": 32, "f16": 16, "bf16": 16}
CONVERTING: Final = ("quantize", "convert", "cast")
KEPT: Final = 0.1  # of the dense layer's time; a smaller loss is not looked into
SEEN: Final = 0.01  # of a model's time; shorter layers say little about rates
PART: Final = 1 / 3  # of a loss, which its cause has to account for
FLOOR: Final = 0.02  # ms; no runtime takes longer to start a layer


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """What the device does at best: 10⁹ MACs a second, 10⁹ bytes a second, ms to start a layer."""

    source: str
    gmacs: float | None
    gbs: float | None
    floor_ms: float


@dataclass(frozen=True, kw_only=True)
class LayerPair:
    """A layer before and after, and what became of its saving.

    ``expected_ms`` is what slim would take, did its time shrink as its work; ``lost_ms``
    what it takes beyond that, below 0 when it gained more. ``why`` gives the figures.
    """

    name: str
    dense: Layer | None
    slim: Layer | None
    expected_ms: float
    lost_ms: float
    cause: str  # one of CAUSES, or "saved", or "gone"
    why: str


CAUSES: Final[Mapping[str, str]] = {
    "precision": "they are computed in a wider type than before",
    "rearranging": "they only lay data out anew; widths that are whole blocks and one precision "
    "throughout need the fewest",
    "converting": "they only convert numbers from type to type, for lack of a kernel that takes "
    "them as they are",
    "new": "there was no such layer before, or it was fused into another",
    "too small": "they are so short that starting them is most of their time; a larger batch, or "
    "fewer layers, would use the device",
    "misaligned": "their widths are no whole blocks, so kernels fill up with zeros or are others; "
    "--align chooses widths that are",
    "memory-bound": "they wait for memory, and what they move shrinks less than what they compute",
    "slower kernel": "neither widths nor memory explain it: they work at a lower rate than before, "
    "as kernels do on fewer channels",
}


def roofline(
    target: Target | None, precision: str, sides: Mapping[str, Sequence[Layer]]
) -> Roofline:
    """Take the rates from the target where it has some, else from the best layers measured."""
    rates = target.rates if target else None
    peak = rates.peak(PEAKS.get(precision, "fp32")) if rates else None
    if target is not None and rates is not None and peak is not None:
        return Roofline(
            source=f"target {target.name}: {rates.source}",
            gmacs=1e3 * peak / 2 * rates.compute_share,
            gbs=rates.bandwidth_gbs * rates.bandwidth_share,
            floor_ms=rates.launch_us / 1e3,
        )
    busy = [layer for layers in sides.values() for layer in _busy(layers)]
    computed = [layer.work.macs / layer.time.ms for layer in busy if layer.work and layer.work.macs]
    moved = [layer.work.bytes / layer.time.ms for layer in busy if layer.work]
    times = [each.time.ms for layers in sides.values() for each in layers if each.time.ms > 0]
    return Roofline(
        source="estimated from the layers themselves: the best rates and the shortest time seen",
        gmacs=max(computed, default=0.0) / 1e6 or None,
        gbs=max(moved, default=0.0) / 1e6 or None,
        floor_ms=min([FLOOR, *times]),
    )


def judged(dense: Layer | None, slim: Layer | None, roof: Roofline, block: int) -> LayerPair:
    """Say what a layer was expected to take, and why it takes longer. block: channels."""
    before, after = (each.time.ms if each else 0.0 for each in (dense, slim))
    left = _left(dense, slim) if dense and slim else 0.0
    expected = before * left
    lost = after - expected
    cause, why = "saved" if slim else "gone", ""
    if slim is not None and lost > KEPT * before and lost > 0:
        cause, why = next(_causes(dense, slim, roof, block, left))
    name = next(each for each in (dense, slim) if each is not None)
    return LayerPair(
        name=name.work.anchor if name.work else name.time.name,
        dense=dense,
        slim=slim,
        expected_ms=expected,
        lost_ms=lost,
        cause=cause,
        why=why,
    )


def _busy(layers: Sequence[Layer]) -> Iterator[Layer]:
    whole = sum(layer.time.ms for layer in layers)
    yield from (layer for layer in layers if layer.time.ms > SEEN * whole)


def _left(dense: Layer, slim: Layer) -> float:
    """Return the share of a layer's work that is left: of its MACs, or else of its data."""
    a, b = dense.work, slim.work
    if a and b and a.macs and b.macs is not None:
        return b.macs / a.macs
    if a and b and a.bytes:
        return b.bytes / a.bytes
    sizes = [math.prod(each.time.shape or ()) for each in (dense, slim)]
    known = dense.time.shape and slim.time.shape and min(sizes) > 0
    return sizes[1] / sizes[0] if known else 1.0


def _causes(
    dense: Layer | None, slim: Layer, roof: Roofline, block: int, left: float
) -> Iterator[tuple[str, str]]:
    """Yield every cause that applies, the surest first."""
    if rearranges(slim.time):
        yield "rearranging", "" if dense else "not there before"
    if dense is None:
        converts = any(word in slim.time.type.lower() for word in CONVERTING)
        yield "converting" if converts else "new", "not there before"
        return
    types = dense.time.precision, slim.time.precision
    if BITS.get(types[1] or "", 8) > BITS.get(types[0] or "", 8) and None not in types:
        yield "precision", f"{types[1]}, before {types[0]}"
    computing, moving = _floors(slim, roof, block)
    if roof.floor_ms * (1 - left) >= PART * (slim.time.ms - left * dense.time.ms):
        yield "too small", f"any layer takes {1e3 * roof.floor_ms:.0f} µs to start"
    odd = _odd(dense, slim, block)
    if odd and moving < computing:
        yield "misaligned", f"{_words(odd)} no multiple of {block}"
    if moving >= computing and slim.work and dense.work and dense.work.bytes:
        share = slim.work.bytes / dense.work.bytes
        if (share - left) * dense.time.ms >= PART * (slim.time.ms - left * dense.time.ms):
            yield "memory-bound", f"moves {share:.0%} of the data for {left:.0%} of the MACs"
    if odd:
        yield "misaligned", f"{_words(odd)} no multiple of {block}"
    yield "slower kernel", _rates(dense, slim)


def _floors(layer: Layer, roof: Roofline, block: int) -> tuple[float, float]:
    """Return the milliseconds that a layer's arithmetic and its traffic take at best."""
    if layer.work is None:
        return 0.0, 0.0
    filled = (layer.work.macs or 0) * _filled(layer, block)
    return (
        filled / roof.gmacs / 1e6 if roof.gmacs else 0.0,
        layer.work.bytes / roof.gbs / 1e6 if roof.gbs else 0.0,
    )


def _filled(layer: Layer, block: int) -> float:
    """Return by how much a contraction grows when its widths are filled up to whole blocks."""
    widths = layer.work.widths if layer.work else ()
    return math.prod(-(-width // block) * block / width for width in widths)


def _odd(dense: Layer, slim: Layer, block: int) -> tuple[int, ...]:
    """Return slim's widths that are no whole blocks and were others before."""
    if not slim.work or not dense.work or _filled(slim, block) <= _filled(dense, block):
        return ()
    before = dense.work.widths
    return tuple(dict.fromkeys(w for w in slim.work.widths if w % block and w not in before))


def _words(widths: Sequence[int]) -> str:
    return f"{' and '.join(map(str, widths))} {'are' if len(widths) > 1 else 'is'}"


def _rates(dense: Layer, slim: Layer) -> str:
    """Compare what both do in a second."""
    pair = [layer for layer in (slim, dense) if layer.work and layer.time.ms > 0]
    works = [(layer.work, layer.time.ms) for layer in pair if layer.work]
    if len(works) < 2:
        return ""
    if all(work.macs for work, _ in works):
        after, before = ((work.macs or 0) / ms / 1e6 for work, ms in works)
        return f"{after:.1f} GMAC/s, before {before:.1f}"
    after, before = (work.bytes / ms / 1e6 for work, ms in works)
    return f"{after:.1f} GB/s, before {before:.1f}"
