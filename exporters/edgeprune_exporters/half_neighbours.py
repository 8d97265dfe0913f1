"""Let operators follow their neighbours where another type would only cost casts.

Invariant: the set of operators in float32 only grows.
"""

from collections.abc import Collection, Iterator
from typing import Final

import onnx_ir as ir

from edgeprune_exporters.half_types import TYPELESS, is_constant, is_float, key, slots

# What float16 makes faster: it is never held back for its neighbours' sake.
HEAVY: Final = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "Attention", "GRU", "LSTM", "RNN"}
)
READ: Final = "DequantizeLinear"
WRITTEN: Final = "QuantizeLinear"
QUANTISERS: Final = frozenset({READ, WRITTEN})


def settle(model: ir.Model, opset: int, single: dict[str, str]) -> dict[str, str]:
    """Return the operators in float32, by ``key``, with those that follow, and the reasons.

    What reads or gives a value that is quantised in float32 is float32 itself: a
    cast between them would keep a runtime from fusing them. Light operators
    between operators in float32, scales of quantised values among them, stay
    in float32.
    """
    found = dict(single)
    free = [node for node in model.graph if slots(node, opset)]
    before = -1
    while len(found) != before:
        before = len(found)
        for node in model.graph:
            if key(node) in found:
                _follow_scales(node, found)
        for island in _islands(free, found):
            reason = "stands between operators that stay in float32"
            found.update({key(node): reason for node in island})
    return found


def _follow_scales(node: ir.Node, found: dict[str, str]) -> None:
    """Add what reads or gives a value that is quantised in float32."""
    if node.op_type == READ:
        value = node.outputs[0]
        for reader in _readers(value):
            found.setdefault(key(reader), f"reads '{value.name}', quantised in float32")
    elif node.op_type == WRITTEN and (given := node.inputs[0]) and (source := given.producer()):
        found.setdefault(key(source), f"gives '{given.name}', quantised in float32")


def _readers(value: ir.Value) -> list[ir.Node]:
    return [node for node in value.consumers() if node.op_type not in TYPELESS]


def _islands(free: list[ir.Node], found: dict[str, str]) -> Iterator[list[ir.Node]]:
    """Yield groups of light operators that read float32 alone and give it to float32 alone."""
    left = {node for node in free if key(node) not in found and node.op_type not in HEAVY}
    for start in free:
        if start not in left:
            continue
        island, border = _connected(start, left)
        left.difference_update(island)
        if any(border) and all(each is None or key(each) in found for each in border):
            yield list(island)


def _connected(
    start: ir.Node, light: Collection[ir.Node]
) -> tuple[Collection[ir.Node], list[ir.Node | None]]:
    """Return what hangs together with a node, and what it borders on; None is the graph's edge."""
    island, border, queue = {start: None}, list[ir.Node | None](), [start]
    while queue:
        for other in _neighbours(queue.pop()):
            if other is None or other not in light:
                border.append(other)
            elif other not in island:
                island[other] = None
                queue.append(other)
    return island, border


def _neighbours(node: ir.Node) -> Iterator[ir.Node | None]:
    for value in node.inputs:
        if value is not None and is_float(value) and not is_constant(value):
            yield value.producer()
    for value in node.outputs:
        if is_float(value):
            yield from _readers(value)
            if value.is_graph_output():
                yield None
