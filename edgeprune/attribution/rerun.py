"""Run again only what the gates of one group change.

A dense run keeps the values that later parts of the graph read. To close a
gate, or to turn it, the graph is then run from the group's first reader on.
Invariant: the logits are those of a whole run with the same gates.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from edgeprune.gates import Gated, GatedInterpreter, GatedModel

Nodes: TypeAlias = tuple[fx.Node, ...]  # in the order of the graph


class Rerun(GatedInterpreter):
    """Runs on the same images under changing gates, one group's at a time.

    Attributes:
        logits: those of the dense model, (N, K).
    """

    def __init__(self, model: GatedModel, later: Mapping[str, Nodes], images: Tensor) -> None:
        """Run the dense model once on images (N, C, H, W).

        Args:
            model: the model.
            later: what ``readers_onwards`` finds in it.
            images: of which every later run is.
        """
        super().__init__(model, model.ones())
        self.later = later
        self._kept: dict[fx.Node, Any] = {}
        with torch.no_grad():
            self.logits: Tensor = self.run(images)

    def under(self, gates: Tensor, group: str) -> Tensor:
        """Return logits (N, K) under gates (1, U) or (N, U) that are 1 outside the group."""
        nodes = self.later[group]
        if not nodes:
            return self.logits  # nobody reads it
        self.gates = torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1)
        self.env = dict(self._kept)
        for node in nodes[:-1]:
            self.env[node] = self.run_node(node)
            for read in self.user_to_last_uses.get(node, ()):
                self.env.pop(read, None)
        return self.run_node(nodes[-1])  # type: ignore[no-any-return]

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        """Run one node; the first time, which is the dense run, keep what others start from."""
        value = super().run_node(n)
        if n in self._wanted:
            self._kept.setdefault(n, value)
        return value

    @cached_property
    def _wanted(self) -> frozenset[fx.Node]:
        """What runs from a group's readers on take from the dense run."""
        return frozenset[fx.Node]().union(*map(_sources, self.later.values()))


def readers_onwards(model: GatedModel) -> dict[str, Nodes]:
    """Return for each group what has to run again when its gates change; last the output.

    It is the whole graph where an operator still writes in place, which could
    write into what the dense run has left.
    """
    nodes: Nodes = tuple(model.module.graph.nodes)
    whole = tuple(node for node in nodes if node.op != "placeholder")
    in_place = any(_writes(node) for node in nodes)
    found: dict[str, Nodes] = {}
    for name, slots in model.by_group(torch.arange(model.total)[None]).items():
        first = {node.name for node in nodes if _reads(model, node, slots[0])}
        found[name] = whole if in_place else _downstream(nodes, first)
    return found


def _reads(model: GatedModel, node: fx.Node, slots: Tensor) -> bool:
    places: list[Gated] = [
        *model.operands.get(node.name, ()),
        *model.statistics.get(node.name, ()),
    ]
    return any(bool(torch.isin(c, slots).any()) for place in places for c in place.slots)


def _downstream(nodes: Nodes, first: set[str]) -> Nodes:
    found: dict[fx.Node, None] = {}
    for node in nodes:
        if node.name in first or any(source in found for source in node.all_input_nodes):
            found[node] = None
    return tuple(found)


def _sources(nodes: Nodes) -> set[fx.Node]:
    """Return what these nodes read from outside themselves."""
    read = {source for node in nodes for source in node.all_input_nodes}
    return read.difference(nodes)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
