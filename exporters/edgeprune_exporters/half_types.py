"""Which tensors of an operator may be float16, as ONNX itself defines it.

There is no list of operators here: the schema of each, at the graph's opset,
says which inputs and outputs may be float16, and which outputs share a type
with which inputs. Invariant: an operator whose type has to be guessed stays in
float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir
from onnx import defs

SINGLE: Final = ir.DataType.FLOAT
HALF: Final = ir.DataType.FLOAT16
TYPELESS: Final = frozenset({"Shape", "Size"})  # they read no value, so whatever its type


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The places of an operator's float32 tensors that turn float16 with it."""

    inputs: frozenset[int]
    outputs: frozenset[int]

    def __bool__(self) -> bool:
        """Whether there is any: only then is the operator's precision a question."""
        return bool(self.inputs or self.outputs)


NONE: Final = Slots(inputs=frozenset(), outputs=frozenset())


def key(node: ir.Node) -> str:
    """Return what identifies a node: names are optional in ONNX, those of results are unique."""
    return next(value.name for value in node.outputs if value.name)


def slots(node: ir.Node, opset: int) -> Slots:
    """Say which tensors of a node turn float16 when it runs in float16."""
    if node.domain not in {"", "ai.onnx"} or node.op_type in TYPELESS or has_graph(node):
        return NONE
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return NONE
    inputs = list(_float_places(list(node.inputs), list(schema.inputs)))
    taken = {name for _, name in inputs}
    outputs = [
        (place, name)
        for place, name in _float_places(list(node.outputs), list(schema.outputs))
        if name in taken or _type_follows(node)
    ]
    return Slots(
        inputs=frozenset(place for place, _ in inputs),
        outputs=frozenset(place for place, _ in outputs),
    )


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is a tensor of float32 or float16."""
    return value is not None and value.dtype in {SINGLE, HALF}


def is_constant(value: ir.Value) -> bool:
    """Whether a value is stored in the graph."""
    return value.is_initializer()


def has_graph(node: ir.Node) -> bool:
    """Whether a node holds a graph of its own, as If does."""
    return any(
        each.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
        for each in node.attributes.values()
    )


def _float_places(
    values: list[ir.Value | None], formal: list[defs.OpSchema.FormalParameter]
) -> Iterator[tuple[int, str]]:
    """Yield the place, and the name of the type, of each tensor that may be float16."""
    for place, value in enumerate(values):
        declared = formal[min(place, len(formal) - 1)]  # the last one may repeat
        if is_float(value) and "tensor(float16)" in declared.types:
            yield place, declared.type_str


def _type_follows(node: ir.Node) -> bool:
    # The type of these outputs is no input's type by name: an attribute says it, or the scale.
    attributes = node.attributes
    return node.op_type == "Cast" or (
        node.op_type == "DequantizeLinear" and "output_dtype" not in attributes
    )
