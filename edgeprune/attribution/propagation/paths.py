"""Which way relevance takes where two values that depend on the image meet.

In a product one operand is a gate (an attention weight, the output of a
sigmoid, a factor per channel) and the other the signal. Relevance follows the
signal, so the graph has a trunk, and branches that only compute gates. No
relevance leaves the trunk for a branch; inside a branch gradients still flow,
so that units that only serve gates (of queries and keys, of squeeze-excite)
are scored by what their removal does, where relevance alone would give them 0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from torch import fx

from edgeprune.attribution.operators import CONTRACTIONS, operation
from edgeprune.axes.op import bind
from edgeprune.axes.shapes import Value
from edgeprune.gates import GatedModel
from edgeprune.layout import sample_layouts

Attention: TypeAlias = Literal["cp", "attnlrp"]  # weights held constant, or taken as signals

ATTENTION: Final = "scaled_dot_product_attention"
PRODUCTS: Final = frozenset({"mul", "matmul", "bmm"})
SQUASHING: Final = frozenset({"sigmoid", "hardsigmoid", "softmax", "_softmax"})
# What a gate passes through between its squashing and its product.
TRANSPARENT: Final = frozenset(
    {
        "view", "reshape", "_unsafe_view", "flatten", "unflatten", "expand", "unsqueeze", "squeeze",
        "transpose", "permute", "select", "slice", "split", "chunk", "unbind", "getitem",
        "contiguous", "clone", "dropout", "to", "mean",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where relevance goes.

    Attributes:
        trunk: nodes that relevance passes.
        readers: those of them whose gated operand is signal: attention reads
            its query as part of a gate.
        stopped: for each node, those of its inputs that get nothing from it.
        shared: products of two signals, which get half each.
        images: along which dimension of a contraction's result the images lie.
    """

    trunk: frozenset[str]
    readers: frozenset[str]
    stopped: Mapping[str, frozenset[str]]
    shared: frozenset[str]
    images: Mapping[str, int]


def find_paths(model: GatedModel, *, attention: Attention = "cp") -> Paths:
    """Tell the trunk of a model from its branches.

    Under ``cp`` attention weights are gates, and what makes them is a branch;
    under ``attnlrp`` they are signals like any other.
    """
    shapes = model.analysis.shapes
    nodes = list(model.module.graph.nodes)
    dependent = _dependent(nodes)
    gates = {node: _gates(node, dependent, shapes, attention) for node in nodes}
    trunk: set[fx.Node] = set()
    for node in reversed(nodes):
        if node.op == "output":
            trunk.add(node)
        if node in trunk:
            trunk.update(set(node.all_input_nodes) - gates[node])
    stopped = {
        node.name: frozenset(
            source.name
            for source in node.all_input_nodes
            if source in trunk and (node not in trunk or source in gates[node])
        )
        for node in nodes
    }
    contractions = {node.name for node in dependent if operation(node) in CONTRACTIONS}
    layouts = sample_layouts(model.captured, model.analysis, contractions)
    return Paths(
        trunk=frozenset(node.name for node in trunk),
        readers=frozenset(
            node.name for node in trunk if attention == "attnlrp" or operation(node) != ATTENTION
        ),
        stopped={name: sources for name, sources in stopped.items() if sources},
        shared=frozenset(n.name for n in trunk if _is_product(n, dependent) and not gates[n]),
        images={name: layout.dim for name, layout in layouts.items()},
    )


def _dependent(nodes: list[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _is_product(node: fx.Node, dependent: set[fx.Node]) -> bool:
    operands = [a for a in node.args if isinstance(a, fx.Node) and a in dependent]
    return operation(node) in PRODUCTS and len(operands) == 2


def _gates(
    node: fx.Node, dependent: set[fx.Node], shapes: Mapping[str, Value], attention: Attention
) -> set[fx.Node]:
    """Return those inputs of a node that only weigh the others."""
    name = operation(node)
    if attention == "attnlrp" and name in (ATTENTION, "matmul", "bmm"):
        return set()
    if name == ATTENTION:
        arguments = bind(node)
        sources = {arguments[key] for key in ("query", "key", "attn_mask")}
        # Without projections the value can be the query itself: the edge is then shared.
        return {s for s in sources if isinstance(s, fx.Node)} - {arguments["value"]}
    if name == "div":
        divisor = node.args[1]
        if isinstance(divisor, fx.Node) and divisor in dependent and divisor is not node.args[0]:
            return {divisor}
        return set()
    if _is_product(node, dependent):
        return _gate_of_product(node, shapes)
    return set()


def _gate_of_product(node: fx.Node, shapes: Mapping[str, Value]) -> set[fx.Node]:
    """Return the operand that was squashed, or else has fewer values, or none."""
    first, second = (operand for operand in node.args[:2] if isinstance(operand, fx.Node))
    squashed = [_is_squashed(operand) for operand in (first, second)]
    if squashed[0] != squashed[1]:
        return {first if squashed[0] else second}
    if operation(node) == "mul" and _size(first, shapes) != _size(second, shapes):
        return {min(first, second, key=lambda operand: _size(operand, shapes))}
    return set()


def _is_squashed(node: fx.Node) -> bool:
    while operation(node) in TRANSPARENT:
        node = node.all_input_nodes[0]
    return operation(node) in SQUASHING


def _size(node: fx.Node, shapes: Mapping[str, Value]) -> int:
    shape = shapes[node.name]
    return math.prod(shape) if isinstance(shape, tuple) else 1
