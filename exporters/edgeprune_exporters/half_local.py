"""How much an operator itself loses in float16, whatever comes before and after it."""

from collections.abc import Collection, Sequence

import onnx_ir as ir

from edgeprune_exporters.half_types import HALF, SINGLE, is_float, key
from edgeprune_exporters.half_values import observe
from edgeprune_exporters.parity import Array


def local_errors(
    model: ir.Model, images: Sequence[Array], names: Collection[str]
) -> dict[str, float]:
    """Return the largest error of each operator's result, relative to its largest magnitude.

    The operator reads exact values rounded once, and its result is rounded: the
    rounding of others, which it may pass on, is none of its own.
    """
    probe = model.clone()
    for node in [each for each in probe.graph if key(each) in names]:
        _add_twin(probe.graph, node)
    watched = [each for name in names for each in (name, _named(name))]
    reached = observe(probe, images, watched).reached
    return {
        name: reached[_named(name)].largest / max(reached[name].largest, 1e-30) for name in names
    }


def _named(name: str) -> str:
    return f"{name}/lost"


def _add_twin(graph: ir.Graph, node: ir.Node) -> None:
    """Put a twin behind a node that reads and gives rounded values, and their difference."""
    added: list[ir.Node] = []

    def rounded(value: ir.Value) -> ir.Value:
        for to in (HALF, SINGLE):
            cast = ir.node("Cast", [value], {"to": int(to)})
            added.append(cast)
            value = cast.outputs[0]
        return value

    inputs = [
        rounded(each) if each is not None and is_float(each) else each for each in node.inputs
    ]
    twin = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        node.attributes.values(),
        num_outputs=len(node.outputs),
    )
    added.append(twin)
    lost = ir.node("Sub", [rounded(twin.outputs[0]), node.outputs[0]])
    lost.outputs[0].name = _named(key(node))
    graph.insert_after(node, [*added, lost])
