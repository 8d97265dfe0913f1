"""Which way relevance takes where two values that depend on the image meet.

In a product one operand is a gate (an attention weight, the output of a
sigmoid, a factor per channel) and the other the signal. Relevance follows the
signal, so the graph has a trunk, and branches that only compute gates. No
relevance leaves the trunk for a branch; inside a branch gradients still flow,
so that units that only serve gates (of queries and keys, of squeeze-excite)
are scored by what their removal does, where relevance alone would give them 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from edgeprune.attribution.operators import CONTRACTIONS, MATRIX_PRODUCTS, operation
from edgeprune.attribution.propagation.gating import (
    ATTENTION,
    Attention,
    dependent,
    factors,
    gates,
    squashed,
)
from edgeprune.axes.op import bind
from edgeprune.gates import GatedModel
from edgeprune.layout import sample_layouts


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where relevance goes.

    Attributes:
        trunk: nodes that relevance passes, constants among them.
        dependent: nodes that depend on the images' values.
        readers: those of the trunk whose gated operand is signal: attention
            reads its query as part of a gate.
        stopped: for each node, those of its inputs that get nothing from it.
        signals: for each node of the trunk, the arguments that relevance goes to.
        shared: products of several signals with their number: each gets that share.
        images: along which dimension of a contraction's result the images lie.
    """

    trunk: frozenset[str]
    dependent: frozenset[str]
    readers: frozenset[str]
    stopped: Mapping[str, frozenset[str]]
    signals: Mapping[str, frozenset[str]]
    shared: Mapping[str, int]
    images: Mapping[str, int]


def find_paths(model: GatedModel, *, attention: Attention = "cp") -> Paths:
    """Tell the trunk of a model from its branches.

    Under ``cp`` attention weights are gates, and what makes them is a branch;
    under ``attnlrp`` they are signals like any other.
    """
    shapes = model.analysis.shapes
    nodes = list(model.module.graph.nodes)
    varying = dependent(nodes, shapes)
    narrow = squashed(nodes, varying)
    weak = {node: gates(node, varying, narrow, shapes, attention) for node in nodes}
    trunk = _trunk(nodes, weak)
    stopped = {
        node: {s for s in node.all_input_nodes if s in trunk and (node not in trunk or s in gated)}
        for node, gated in weak.items()
    }
    live = {node: set(node.all_input_nodes) & varying & trunk - stopped[node] for node in trunk}
    contractions = {node.name for node in varying if _contracts(node, varying)}
    layouts = sample_layouts(model.captured, model.analysis, contractions)
    counts = {node.name: len(factors(node, varying)) for node in trunk if not weak[node]}
    return Paths(
        trunk=_names(trunk),
        dependent=_names(varying),
        readers=_names(
            node for node in trunk if attention == "attnlrp" or operation(node) != ATTENTION
        ),
        stopped={node.name: _names(sources) for node, sources in stopped.items() if sources},
        signals={node.name: _signals(node, sources) for node, sources in live.items()},
        shared={name: count for name, count in counts.items() if count > 1},
        images={name: layout.dim for name, layout in layouts.items()},
    )


def _contracts(node: fx.Node, varying: set[fx.Node]) -> bool:
    """Say whether an operator weighs what depends on the image by a constant."""
    by_constant = operation(node) in MATRIX_PRODUCTS and len(factors(node, varying)) == 1
    return by_constant or operation(node) in CONTRACTIONS


def _trunk(nodes: list[fx.Node], weak: Mapping[fx.Node, set[fx.Node]]) -> set[fx.Node]:
    """Return what reaches the output by another way than as a gate."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        if node.op == "output":
            found.add(node)
        if node in found:
            found.update(set(node.all_input_nodes) - weak[node])
    return found


def _signals(node: fx.Node, live: set[fx.Node]) -> frozenset[str]:
    """Name the arguments of an ATen operator that have a live node."""
    if not live or not isinstance(node.target, torch._ops.OpOverload):
        return frozenset()
    arguments = bind(node).items()
    return frozenset(name for name, value in arguments if not live.isdisjoint(_leaves(value)))


def _leaves(argument: object) -> list[object]:
    if isinstance(argument, tuple | list):
        return [leaf for item in argument for leaf in _leaves(item)]
    return [argument]


def _names(nodes: Iterator[fx.Node] | set[fx.Node]) -> frozenset[str]:
    return frozenset(node.name for node in nodes)
