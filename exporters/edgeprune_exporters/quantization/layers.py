"""Which operators of a quantised graph compute on 8-bit integers, and through which quantisers.

A quantiser rounds a value; operators that only move values hand the rounded ones
on. The first operators behind that do arithmetic are the quantised layers.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

# fmt: off
MOVERS: Final = frozenset({
    "Broadcast", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool",
    "Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "StridedSlice", "Tile",
    "Transpose", "Unsqueeze", "VariadicSplit",
})  # by their names in ONNX and in OpenVINO
SILENT: Final = frozenset({
    "DequantizeLinear", "FakeQuantize", "QuantizeLinear", "Result", "Shape", "ShapeOf",
})
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Node:
    """An operator, and the names of those whose values it reads."""

    name: str
    operator: str
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A quantised operator, and the names of the quantisers that its inputs come through."""

    name: str
    operator: str
    quantisers: frozenset[str]


def quantised_layers(nodes: Iterable[Node], quantisers: Collection[str]) -> tuple[Layer, ...]:
    """Return the layers that read quantised values, in the order of ``nodes``."""
    named = {node.name: node for node in nodes}
    found = []
    for node in named.values():
        if node.operator in MOVERS or node.operator in SILENT or node.name in quantisers:
            continue
        behind = _behind(node, named, quantisers)
        if behind:
            found.append(Layer(name=node.name, operator=node.operator, quantisers=behind))
    return tuple(found)


def _behind(node: Node, named: Mapping[str, Node], quantisers: Collection[str]) -> frozenset[str]:
    found, left = set[str](), list(node.sources)
    while left:
        name = left.pop()
        if name in quantisers:
            found.add(name)
        elif name in named and named[name].operator in MOVERS:
            left.extend(named[name].sources)
    return frozenset(found)
