"""The physical removal: smaller tensors, and a graph whose constants agree.

What is kept of every axis follows from which units go. Parameters keep those
positions, operators get the sizes, groups and ranges that the analysis noted.
Invariant: the cut model equals the dense one with the removed units' gates at
0, and a plan that removes nothing gives the dense model bit for bit.
"""

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.axes.op import Kept, Scaled, set_arguments
from edgeprune.capture import MODULE, Captured, assemble, state, trainable
from edgeprune.errors import CutError, PlanError
from edgeprune.plan import Plan


def cut(dense: Captured, plan: Plan) -> Captured:
    """Remove the units that the plan does not keep.

    Raises:
        PlanError: the plan is for another model, or leaves a tensor empty.
    """
    analysis = analyse(dense)
    kept = analysis.kept(plan.masks(analysis.groups))
    tensors = cut_tensors(analysis, kept, state(dense.module))
    graph = cut_graph(analysis, kept, dense.module.graph)
    module = assemble(graph, tensors, trainable(dense.module))
    return dense.with_module(module, plan=plan.to_dict())


def cut_tensors(analysis: Analysis, kept: Kept, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the kept positions of every dimension; tied tensors stay tied."""
    done: dict[int, Tensor] = {}
    for name, axes in analysis.parameters.items():
        tensor = tensors[name].detach()
        for dim, axis in enumerate(axes):
            if not axis.columns:
                continue
            mask = kept.mask(axis)
            if not mask.any():
                raise PlanError(f"the plan leaves nothing of '{name}' along dimension {dim}")
            if not mask.all():
                index = torch.from_numpy(mask.nonzero()[0]).to(tensor.device)
                tensor = tensor.index_select(dim, index)
        done[id(tensors[name])] = tensor.clone()
    return {name: done[id(tensor)] for name, tensor in tensors.items()}


def cut_graph(analysis: Analysis, kept: Kept, graph: fx.Graph) -> fx.Graph:
    """Copy the graph with every constant that follows the cut.

    Raises:
        CutError: a constant cannot follow, so that the copy would not be a graph.
    """
    follow = _Sizes(graph=fx.Graph(), analysis=analysis, kept=kept)
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copy = follow.graph.node_copy(node, lambda source: copies[source])
        copy.meta = {MODULE: node.meta.get(MODULE, "")}
        copies[node] = follow.dense(node, copy)
    for edit in analysis.findings.edits:
        node = follow.copies[edit.node]
        values = edit.rewrite(kept)
        if not values:
            continue
        if edit.target is not None and node.target is not edit.target:
            node.args, node.kwargs = (node.args[0],), {}
            node.target = edit.target
        with follow.graph.inserting_before(node):
            set_arguments(node, {name: follow.argument(value) for name, value in values.items()})
    follow.tidy()
    try:
        follow.graph.lint()
    except RuntimeError as error:
        raise CutError(f"the cut makes no valid graph ({error}); please report it") from error
    return follow.graph


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Turns what a rule stated into arguments of the cut graph.

    A size read off a tensor that shrinks is computed back to what it was, so
    that all arithmetic on it stays that of the dense graph, whatever the code
    used it for; where a shape is meant, the rules have stated the new one.
    """

    graph: fx.Graph
    analysis: Analysis
    kept: Kept
    copies: dict[str, fx.Node] = field(default_factory=dict)
    restored: dict[str, fx.Node] = field(default_factory=dict)

    def dense(self, node: fx.Node, copy: fx.Node) -> fx.Node:
        """Register the copy of a node; return what other nodes use in its place."""
        self.copies[node.name] = copy
        axis = self.analysis.findings.sizes.get(node.name)
        if axis is None or not self.kept.shrinks(axis):
            return copy
        self.restored[node.name] = _times(self.graph, copy, axis.size, self.kept.count(axis))
        return self.restored[node.name]

    def argument(self, value: object) -> Any:  # noqa: ANN401
        """Return numbers as they are, nodes as what stands for them, symbols scaled."""
        match value:
            case list():
                return [self.argument(item) for item in value]
            case fx.Node():
                return self.restored.get(value.name, self.copies[value.name])
            case Scaled(size=size, new=new):
                return self._scaled(size, new)
            case _:
                return value

    def _scaled(self, size: fx.Node, new: int) -> fx.Node:
        """Make ``size`` come to ``new``: one read off a tensor that shrinks may do so already."""
        axis = self.analysis.findings.sizes.get(size.name)
        if axis is not None and self.kept.count(axis) == new:
            return self.copies[size.name]
        old = self.analysis.shapes[size.name]
        if not isinstance(old, int):
            raise CutError(f"'{size}' is used as a size, and is none")
        source = self.restored.get(size.name, self.copies[size.name])
        return source if old == new else _times(self.graph, source, new, old)

    def tidy(self) -> None:
        """Drop sizes computed back that nothing uses."""
        for last in reversed(self.restored.values()):
            for node in (last, last.args[0]):
                if isinstance(node, fx.Node) and not node.users:
                    self.graph.erase_node(node)


def _times(graph: fx.Graph, size: fx.Node, over: int, under: int) -> fx.Node:
    """Compute ``size · over / under``, which is whole."""
    shared = math.gcd(over, under)
    product = graph.call_function(operator.mul, (size, over // shared))
    return graph.call_function(operator.floordiv, (product, under // shared))
