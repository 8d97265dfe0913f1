"""Which layer of one model is which layer of the other.

Both come from the same model, but their runtimes fuse, reorder and name on their own.
What stays is the weight that a layer multiplies by; where quantisation has renamed that,
the operator that does it; then the layer's name; and for what is left, such as a softmax
or a layout change, its type and its place between layers that are matched. Invariant:
every layer occurs once, matched or alone.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from edgeprune_benchmarks.layer_values import Layer

SPLIT: Final = "/WithoutBiases"  # what OpenVINO adds to an ONNX operator that it splits
Pairs = list[tuple[Layer | None, Layer | None]]


def matched(dense: Sequence[Layer], slim: Sequence[Layer]) -> Pairs:
    """Pair the layers of dense with those of slim, in the order of slim, then what is left."""
    partners: dict[int, int] = {}
    for key in (_weight, _operator, _name):
        taken = set(partners.values())
        partners |= _by_key(
            [None if at in taken else key(layer) for at, layer in enumerate(dense)],
            [None if at in partners else key(layer) for at, layer in enumerate(slim)],
        )
    partners |= _by_place(dense, slim, partners)
    alone = [layer for at, layer in enumerate(dense) if at not in partners.values()]
    return [
        *((dense[partners[at]] if at in partners else None, each) for at, each in enumerate(slim)),
        *((layer, None) for layer in alone),
    ]


def _weight(layer: Layer) -> str | None:
    return layer.work.anchor if layer.work else None


def _operator(layer: Layer) -> str | None:
    return layer.work.operator.removesuffix(SPLIT) if layer.work else None


def _name(layer: Layer) -> str:
    return layer.time.name


def _by_key(dense: Sequence[str | None], slim: Sequence[str | None]) -> dict[int, int]:
    """Return slim number → dense number for keys that occur once on either side."""
    counts = Counter(dense), Counter(slim)
    where = {key: at for at, key in enumerate(dense)}
    return {
        at: where[key]
        for at, key in enumerate(slim)
        if key is not None and counts[0][key] == counts[1][key] == 1
    }


def _by_place(
    dense: Sequence[Layer], slim: Sequence[Layer], partners: Mapping[int, int]
) -> dict[int, int]:
    """Pair what is left of one type, in order, between the same two matched layers."""
    waiting: dict[tuple[int, str], list[int]] = defaultdict(list)
    last, taken = -1, set(partners.values())
    for at, layer in enumerate(dense):
        if at in taken:
            last = at
        else:
            waiting[last, layer.time.type].append(at)
    found: dict[int, int] = {}
    last = -1
    for at, layer in enumerate(slim):
        last = partners.get(at, last)
        left = waiting[last, layer.time.type]
        if at not in partners and left:
            found[at] = left.pop(0)
    return found
