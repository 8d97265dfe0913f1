"""Which operators have to stay in float32, whatever the logits of a few images say.

Invariant: a reason says what was measured, in the units of the value itself.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeprune_exporters.half_neighbours import QUANTISERS
from edgeprune_exporters.half_types import TYPELESS, is_constant, is_float, key, slots
from edgeprune_exporters.half_values import Reach

LARGEST: Final = 65504.0
SMALLEST: Final = 2.0**-14  # below it, float16 loses digits
NOTHING: Final = 2.0**-25  # below it, float16 has 0
DIGITS: Final = 2.0**11  # a summand so many times smaller than the sum leaves no trace in it
TRACELESS: Final = 2.0**-10  # channels with weights so many times smaller than others
SCALE_ERROR: Final = 0.02  # a quarter of a step of int8 at half of its range
SHARE: Final = 0.25  # of the range: other images than these may reach further
# Operators that square their input inside, or add up what they take the mean of.
SQUARING: Final = frozenset(
    {"LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"}
)
AVERAGING: Final = frozenset({"ReduceMean", "GlobalAveragePool"})
MOVING: Final = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
# What guards against division by zero with a small constant, or divides by one.
GUARDING: Final = frozenset({"Add", "Clip", "Div", "Max"})
# What hands a guard against division by zero on to the division.
GUARDED: Final = frozenset({"Sqrt", "Pow", "Expand", "Reciprocal", "Div", "Log"})


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A typed graph, and what its values reach."""

    model: ir.Model
    opset: int
    reached: Mapping[str, Reach]

    def largest(self, value: ir.Value) -> float:
        """Return the largest magnitude of a value, 0 if it was not watched."""
        found = self.reached.get(str(value.name))
        return found.largest if found else 0.0


def unfit(facts: Facts) -> dict[str, str]:
    """Return the reason of each operator, named by ``key``, that has to stay in float32."""
    found: dict[str, str] = {}
    for node in facts.model.graph:
        for reason in _reasons(node, facts):
            found.setdefault(key(node), reason)
        if constant := _vanishing(node):
            found.setdefault(key(node), f"its constant {constant}, which is 0 in float16")
            for each in _guarded(node):
                found.setdefault(key(each), f"its divisor is guarded by {constant}")
    return found


def _reasons(node: ir.Node, facts: Facts) -> Iterator[str]:
    floats = [value for value in (*node.inputs, *node.outputs) if value and is_float(value)]
    if floats and node.op_type not in TYPELESS and not slots(node, facts.opset):
        yield f"ONNX has no float16 form of it at opset {facts.opset}"
    for value in floats:
        if is_constant(value):
            yield from _constant(value)
        else:
            yield from _value(value, facts)
    if node.op_type in QUANTISERS:
        yield from _scales(node)
    yield from _inside(node, facts)


def _constant(value: ir.Value) -> Iterator[str]:
    largest = _finite_largest(value)
    if largest > LARGEST:
        yield f"its constant '{value.name}' is {largest:.1e}; float16 ends at {LARGEST:.0f}"


def _scales(node: ir.Node) -> Iterator[str]:
    """Say that a quantised value would be another: its numbers are multiples of its scales."""
    scale = node.inputs[1]
    if scale is None or scale.const_value is None:
        return
    exact = np.abs(scale.const_value.numpy()).astype(np.float64)
    counts = exact > TRACELESS * exact.max()
    rounded = exact.astype(np.float16).astype(np.float64)
    error = float(np.max(np.abs(rounded / np.where(counts, exact, 1) - 1), initial=0, where=counts))
    if error > SCALE_ERROR:
        yield f"its scales '{scale.name}' are up to {100 * error:.0f} % off in float16"


def _value(value: ir.Value, facts: Facts) -> Iterator[str]:
    largest = facts.largest(value)
    if largest > SHARE * LARGEST:
        yield f"'{value.name}' reaches {largest:.1e}; float16 ends at {LARGEST:.0f}"
    elif 0 < largest < SMALLEST and _matters(value, largest, facts):
        yield f"'{value.name}' is {largest:.1e} at most; float16 loses digits below {SMALLEST:.1e}"


def _matters(value: ir.Value, largest: float, facts: Facts) -> bool:
    """Say whether the digits of a small value arrive anywhere."""
    if value.is_graph_output():
        return True
    for node in value.consumers():
        result = node.outputs[0]
        if node.op_type in MOVING:
            arrives = _matters(result, largest, facts)
        elif node.op_type in {"Add", "Sub"}:
            arrives = facts.largest(result) < DIGITS * largest
        else:
            arrives = node.op_type not in TYPELESS
        if arrives:
            return True
    return False


def _inside(node: ir.Node, facts: Facts) -> Iterator[str]:
    """Say what an operator computes on its way, where its kernel does not widen."""
    if node.op_type in SQUARING and node.inputs[0] is not None:
        squared = facts.largest(node.inputs[0]) ** 2
        if squared > SHARE * LARGEST:
            yield f"the squares inside reach {squared:.1e}; float16 ends at {LARGEST:.0f}"
    if node.op_type in AVERAGING and node.inputs[0] is not None:
        total = facts.largest(node.outputs[0]) * _count(node)
        if total > SHARE * LARGEST:
            yield f"the sums inside reach {total:.1e}; float16 ends at {LARGEST:.0f}"


def _count(node: ir.Node) -> float:
    """Return how many elements make one of the result, 1 where shapes do not tell."""
    before, after = _size(node.inputs[0]), _size(node.outputs[0])
    return before / after if before and after else 1.0


def _size(value: ir.Value | None) -> int:
    # Dimensions of any size, as the batch, are the same on both sides.
    if value is None or value.shape is None:
        return 0
    return math.prod(size for size in value.shape if isinstance(size, int))


def _vanishing(node: ir.Node) -> str | None:
    """Say which number that a node guards a division with would be 0, as an epsilon."""
    if node.op_type not in GUARDING:
        return None
    for value in node.inputs:
        if value is not None and is_float(value) and is_constant(value) and _is_number(value):
            largest = _finite_largest(value)
            if 0 < largest < NOTHING:
                return f"'{value.name}' = {largest:.1e}"
    return None


def _is_number(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size == 1


def _guarded(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the operators that carry what a node gives to a division."""
    for value in node.outputs:
        for reader in value.consumers():
            if reader.op_type in GUARDED:
                yield reader
                if reader.op_type not in {"Reciprocal", "Div", "Log"}:
                    yield from _guarded(reader)


def _finite_largest(value: ir.Value) -> float:
    if value.const_value is None:
        return 0.0
    magnitudes = np.abs(value.const_value.numpy())
    return float(np.max(magnitudes, initial=0.0, where=np.isfinite(magnitudes)))
