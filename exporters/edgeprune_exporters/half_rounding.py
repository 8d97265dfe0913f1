"""A float16 graph as a float32 graph that rounds as the float16 graph does.

ONNX Runtime has hardly any float16 operator for processors: it runs them in
float32 and takes the casts between two of them out, at every level of
optimisation, so that a value beyond 65504 passes between them unseen. It does
not touch a float32 value that is cast to float16 and back. So each float16
value becomes such a pair, and each operator computes in float32 in between, as
accelerators accumulate.
"""

import onnx_ir as ir

from edgeprune_exporters.half_types import HALF, SINGLE, key


def rounding(half: ir.Model) -> ir.Model:
    """Return the float32 graph whose values, named as before, are those of the float16 graph."""
    model = half.clone()
    graph = model.graph
    for stored in [each for each in graph.initializers.values() if each.dtype == HALF]:
        for use in list(stored.uses()):  # each for itself, so that none is held for another
            wide, cast = _cast(stored, SINGLE, f"{stored.name}/{key(use.node)}/{use.idx}")
            use.node.replace_input_with(use.idx, wide)
            graph.insert_before(use.node, cast)
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes["to"].as_int() == HALF:
            node.attributes["to"] = ir.AttrInt64("to", int(SINGLE))
        for value in node.outputs:
            if value.dtype == HALF:
                _round(graph, node, value)
    return model


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Put a cast to float16 and back behind a value; what leaves has the value's name."""
    name = str(value.name)
    value.name, value.type = f"{name}_exact", ir.TensorType(SINGLE)
    narrow, down = _cast(value, HALF, f"{name}_rounded")
    wide, up = _cast(narrow, SINGLE, name)
    wide.shape = value.shape
    ir.convenience.replace_all_uses_with(value, wide)
    down.replace_input_with(0, value)
    graph.insert_after(node, [down, up])


def _cast(value: ir.Value, to: ir.DataType, name: str) -> tuple[ir.Value, ir.Node]:
    result = ir.Value(name=name, type=ir.TensorType(to), shape=value.shape)
    return result, ir.node("Cast", [value], {"to": int(to)}, outputs=[result], name=f"{name}/cast")
