"""What ``bench --layers`` prints: where the time went, and what kept a saving from being one."""

import textwrap
from collections.abc import Iterator
from typing import Final

from edgeprune.columns import columns
from edgeprune.console import quantity
from edgeprune_benchmarks.layer_causes import LayerPair
from edgeprune_benchmarks.layer_values import Layer
from edgeprune_benchmarks.layers import LayerComparison, LayersSide

MOST: Final = 20  # layers in the table
NAME: Final = 40  # characters of a layer's name
SUMS: Final = (
    "",
    "layers",
    "MACs",
    "MB moved",
    "sum of layers",
    "inference, profiled",
    "inference",
)
HEAD: Final = ("layer", "widths", "MACs", "ms before", "ms after", "ms lost", "cause")


def layer_lines(comparison: LayerComparison, width: int | None = None) -> list[str]:
    """Return the comparison as text. width: of the terminal; None for lines of any length."""
    found = comparison
    lines = [
        f"{found.slim.name} against {found.dense.name} by layers, as {found.profiler} times them",
        "",
        *columns(SUMS, [_side(side) for side in (found.dense, found.slim)], left=1),
        "",
        _saving(found),
        "",
    ]
    shown = [_row(pair) for pair in found.layers[:MOST]]
    last = max(len(row[-1]) for row in (HEAD, *shown))  # so that it begins below its heading
    table = [(*row[:-1], row[-1].ljust(last)) for row in (HEAD, *shown)]
    lines += columns(table[0], table[1:], left=1)
    if len(found.layers) > MOST:
        rest = found.layers[MOST:]
        lost = sum(pair.lost_ms for pair in rest)
        more = "1 layer more, which loses"
        if len(rest) > 1:
            more = f"{len(rest)} layers more, which together lose"
        lines.append(f"and {more} {_ms(lost)} ms")
    lines += ["", *found.summary] if found.summary else ["", "no layer lost much of its saving"]
    lines += [f"note: {note}" for note in found.notes]
    lines.append(f"rates: {_rates(found)}")
    tables = {number for number, line in enumerate(lines) if "  " in line}
    return [
        piece
        for number, line in enumerate(lines)
        for piece in ([line] if number in tables else _wrapped(line, width))
    ]


def _side(side: LayersSide) -> tuple[str, ...]:
    return (
        side.name,
        str(side.layers),
        "?" if side.macs is None else quantity(side.macs),
        f"{side.bytes / 1e6:.2f}",
        _ms(side.layers_ms),
        "?" if side.profiled_ms is None else _ms(side.profiled_ms),
        "?" if side.plain_ms is None else _ms(side.plain_ms),
    )


def _saving(found: LayerComparison) -> str:
    time = f"the layers' time {_change(found.time_saved)}"
    if found.macs_saved is None:
        return f"{time}; the MACs of these files are not known"
    macs = f"MACs {_change(found.macs_saved)}, {time}"
    if found.realised is None:
        return macs
    if found.realised <= 0:
        return f"{macs}: nothing of the saving in MACs became time"
    return f"{macs}: {found.realised:.0%} of the saving in MACs became time"


def _change(saved: float) -> str:
    return f"{0.0 - 100 * saved:+.1f} %"  # which is never -0.0


def _row(pair: LayerPair) -> tuple[str, ...]:
    cause = f"{pair.cause}: {pair.why}" if pair.why else pair.cause
    return (
        pair.name if len(pair.name) <= NAME else f"…{pair.name[1 - NAME :]}",
        f"{_widths(pair.dense)} → {_widths(pair.slim)}",
        quantity(pair.slim.work.macs or 0) if pair.slim and pair.slim.work else "",
        _ms(pair.dense.time.ms) if pair.dense else "",
        _ms(pair.slim.time.ms) if pair.slim else "",
        _ms(pair.lost_ms),
        cause,
    )


def _widths(layer: Layer | None) -> str:
    if layer is None:
        return "none"
    widths = layer.work.widths if layer.work else ()
    return "×".join(map(str, widths)) or "–"


def _ms(value: float) -> str:
    return f"{value:.3f}"


def _rates(found: LayerComparison) -> str:
    roof = found.roofline
    figures = (
        None if roof.gmacs is None else f"{roof.gmacs:.1f} GMAC/s",
        None if roof.gbs is None else f"{roof.gbs:.1f} GB/s",
        f"{1e3 * roof.floor_ms:.1f} µs to start a layer",
        f"blocks of {found.block} channels",
    )
    return f"{', '.join(filter(None, figures))}; {roof.source}"


def _wrapped(text: str, width: int | None) -> Iterator[str]:
    yield from [text] if width is None or not text else textwrap.wrap(text, max(width, 24))
