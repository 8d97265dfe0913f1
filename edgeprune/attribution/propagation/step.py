"""One operator on its way through the graph, and the rule that it follows.

A rule takes a step and returns what the operator returns, equal in value, with
a gradient such that gradient × value is the relevance of each operand.
Operators without a rule keep their own gradient.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor, fx

from edgeprune.attribution.operators import operation
from edgeprune.axes.op import call
from edgeprune.weighted import run_weighted


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One operator with its operands.

    Attributes:
        node: the operator in the graph.
        arguments: what it is given, by name, in the order of its schema; gates are in.
        weights: what its statistics are weighted by, broadcasting to its first
            operand; None where they are not.
        images: dimension of the result along which images lie.
        signals: the names of those arguments that relevance goes to.
    """

    node: fx.Node
    arguments: Mapping[str, Any]
    weights: Tensor | None = None
    images: int = 0
    signals: frozenset[str] = frozenset()

    @property
    def first(self) -> Any:  # noqa: ANN401 - a tensor, a list of them, or a number
        """The first operand."""
        return next(iter(self.arguments.values()))

    def run(self) -> Any:  # noqa: ANN401 - as operators have it
        """Run the operator as it is, with its own gradient."""
        if self.weights is not None:
            return run_weighted(self.node.target, dict(self.arguments), self.weights)
        return call(self.node.target, self.arguments)

    def given(self, changed: Mapping[str, Any]) -> "Step":
        """Return the step with other operands, by name."""
        return replace(self, arguments={**self.arguments, **changed})


Rule: TypeAlias = Callable[[Step], Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Operators and the rule that they follow.

    Attributes:
        operators: their names, as ``operation`` gives them.
        rule: what takes the place of their gradient; None leaves them their own.
        why: what becomes of relevance there, for people.
        conserves: whether operands, and what the operator adds to them by itself,
            get all the relevance that its result has.
    """

    operators: frozenset[str]
    rule: Rule | None
    why: str = ""
    conserves: bool = True


Table: TypeAlias = tuple[Entry, ...]


def assign(table: Table, nodes: Iterable[fx.Node]) -> dict[str, Rule]:
    """Return the rule of each node that has one, by name: that of the first entry that fits."""
    found: dict[str, Rule] = {}
    for node in nodes:
        entry = entry_for(table, operation(node))
        if entry is not None and entry.rule is not None:
            found[node.name] = entry.rule
    return found


def entry_for(table: Table, operator: str) -> Entry | None:
    """Return the first entry that has an operator."""
    return next((entry for entry in table if operator in entry.operators), None)
