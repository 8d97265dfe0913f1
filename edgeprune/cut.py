"""The physical removal: smaller tensors, and a graph whose constants agree.

What is kept of every axis follows from which units go. Parameters keep those
positions, operators get the sizes, groups and ranges that the analysis noted.
Invariant: the cut model equals the dense one with the removed units' gates at
0, and a plan that removes nothing gives the dense model bit for bit.
"""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.axes.op import Kept, Scaled, set_arguments
from edgeprune.axes.units import Axis
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
    """Copy the graph with every constant that follows the cut."""
    smaller = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = smaller.node_copy(node, lambda source: copies[source])
        copies[node].meta = {MODULE: node.meta.get(MODULE, "")}
    by_name = {node.name: copy for node, copy in copies.items()}
    follow = _Sizes(graph=smaller, copies=by_name, kept=kept, sizes=analysis.findings.sizes)
    for edit in analysis.findings.edits:
        node = by_name[edit.node]
        values = edit.rewrite(kept)
        if not values:
            continue
        if edit.target is not None and node.target is not edit.target:
            node.args, node.kwargs = (node.args[0],), {}
            node.target = edit.target
        with smaller.inserting_before(node):
            set_arguments(node, {name: follow.argument(value) for name, value in values.items()})
    return smaller


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Turns what a rule stated into arguments of the cut graph."""

    graph: fx.Graph
    copies: Mapping[str, fx.Node]
    kept: Kept
    sizes: Mapping[str, Axis]

    def argument(self, value: object) -> Any:  # noqa: ANN401
        """Return numbers as they are, nodes as their copies, symbols scaled."""
        match value:
            case list():
                return [self.argument(item) for item in value]
            case fx.Node():
                return self.copies[value.name]
            case Scaled(size=size, new=new):
                return self._scaled(size, new)
            case _:
                return value

    def _scaled(self, size: fx.Node, new: int) -> fx.Node:
        """Make ``size`` come to ``new``: a size read off a cut tensor may do so already."""
        old = self._after(size)
        if old == new:
            return self.copies[size.name]
        shared = math.gcd(new, old)
        product = self.graph.call_function(operator.mul, (self.copies[size.name], new // shared))
        return self.graph.call_function(operator.floordiv, (product, old // shared))

    def _after(self, size: object) -> int:
        """Return the value of a symbolic size in the cut graph."""
        match size:
            case fx.Node(op="call_function", name=name) if name in self.sizes:
                return self.kept.count(self.sizes[name])
            case fx.Node(op="call_function", target=target, args=args) if callable(target):
                return int(target(*(self._after(argument) for argument in args)))
            case int():
                return size
            case _:
                raise CutError(f"'{size}' is used as a size, and is none")
