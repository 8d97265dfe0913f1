"""Runs a captured model forwards as it is and backwards by rules.

Invariant: values are those of the gated model, only gradients differ.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.attribution.propagation.paths import Paths
from edgeprune.attribution.propagation.step import Rule, Step
from edgeprune.gates import GatedInterpreter, GatedModel, named_arguments


class RuleInterpreter(GatedInterpreter):
    """A gated run whose gradient times value is relevance."""

    def __init__(
        self, model: GatedModel, gates: Tensor, paths: Paths, rules: Mapping[str, Rule]
    ) -> None:
        """Take gates (S, U), S being 1 or the number of images, and rules by node."""
        super().__init__(model, gates)
        self.paths = paths
        self.rules = rules
        self._trunk_gates = self.gates
        self._branch_gates = torch.where(self._read_on_trunk(), self.gates.detach(), self.gates)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        """Run one node; units that the trunk reads get nothing from branches."""
        on_trunk = n.name in self.paths.readers
        self.gates = self._trunk_gates if on_trunk else self._branch_gates
        return super().run_node(n)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        """Fetch a node's arguments, detached where relevance would leave the trunk."""
        stopped = self.paths.stopped.get(n.name, frozenset())

        def value(source: fx.Node) -> Any:  # noqa: ANN401
            found = self.env[source]
            return _detached(found) if source.name in stopped else found

        return fx.map_arg(n.args, value), fx.map_arg(n.kwargs, value)

    def compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Run an operator, by its rule if it has one."""
        rule = self.rules.get(node.name)
        if rule is None:
            return super().compute(node, args, kwargs)
        return rule(self._step(node, named_arguments(node, args, kwargs)))

    def weigh(self, node: fx.Node, arguments: dict[str, Any], weights: Tensor) -> Any:  # noqa: ANN401
        """Run an operator with weighted statistics, by its rule if it has one."""
        rule = self.rules.get(node.name)
        if rule is None:
            return super().weigh(node, arguments, weights)
        return rule(self._step(node, arguments, weights))

    def _step(
        self, node: fx.Node, arguments: Mapping[str, Any], weights: Tensor | None = None
    ) -> Step:
        return Step(
            node=node,
            arguments=arguments,
            weights=weights,
            images=self.paths.images.get(node.name, 0),
            signals=self.paths.signals.get(node.name, frozenset()),
        )

    def _read_on_trunk(self) -> Tensor:
        """Tell which gates something on the trunk reads, (U + 1,) of bool."""
        found = torch.zeros(self.gates.shape[1], dtype=torch.bool)
        for name, operands in self.model.operands.items():
            if name in self.paths.readers:
                for gated in operands:
                    for column in gated.slots:
                        found[column] = True
        return found.to(self.gates.device)


def _detached(value: object) -> object:
    match value:
        case Tensor():
            return value.detach()
        case tuple() | list():
            return type(value)(_detached(item) for item in value)
        case _:
            return value
