"""Runs with one map of relevance, or with two that split together.

Two maps are two runs of the graph side by side, of the same values and each
with gates of its own. Where relevance is split, one operator serves both, so
one backward through it sees both maps.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, fx

from edgeprune.attribution.backtrace.sums import Reach
from edgeprune.attribution.backtrace.table import Rules, Split
from edgeprune.attribution.propagation import Paths, Rule, RuleInterpreter, Step, find_paths
from edgeprune.axes.op import bind
from edgeprune.gates import GatedModel, named_arguments


def whole(model: GatedModel) -> Paths:
    """Let relevance take every way: operators split it, none is only a gate."""
    names = frozenset(node.name for node in model.module.graph.nodes)
    return replace(find_paths(model, attention="attnlrp"), trunk=names, readers=names, stopped={})


def reached(model: GatedModel, paths: Paths) -> Reach:
    """Tell what reaches each value: images, or only gates (of networks that compute positions)."""
    shapes = model.analysis.shapes
    gated = {
        place.of(bind(node)).name
        for node in model.module.graph.nodes
        for place in (*model.operands.get(node.name, ()), *model.statistics.get(node.name, ()))
    }
    found: dict[str, int] = {}
    for node in model.module.graph.nodes:
        if node.name in paths.dependent:
            found[node.name] = 2
        elif isinstance(shapes.get(node.name), tuple | list) and (
            node.name in gated or any(source.name in found for source in node.all_input_nodes)
        ):
            found[node.name] = 1
    return found


def one_map(model: GatedModel, gates: Tensor, paths: Paths, rules: Rules) -> RuleInterpreter:
    """Return what runs with one map."""
    found = {name: _alone(split) for name, split in rules.splits.items()}
    return RuleInterpreter(model, gates, paths, {**rules.alone, **found})


def _alone(split: Split) -> Rule:
    return lambda step: split((step,))[0]


def two_maps(
    model: GatedModel, gates: tuple[Tensor, ...], images: Tensor, paths: Paths, rules: Rules
) -> tuple[Tensor, ...]:
    """Run images and return the logits (N, K) of both maps, equal in value."""
    second = _Second(model, gates[1], paths, rules.alone, frozenset(rules.splits))
    first = _First(model, gates[0], paths, rules, second)
    logits: Tensor = first.run(images)
    return logits, second.env[next(reversed(model.module.graph.nodes))]


class _Second(RuleInterpreter):
    """The run that stops at each split and leaves its step there for the first."""

    def __init__(
        self,
        model: GatedModel,
        gates: Tensor,
        paths: Paths,
        rules: Mapping[str, Rule],
        waits: frozenset[str],
    ) -> None:
        super().__init__(model, gates, paths, rules)
        self.waits = waits

    def start(self, images: Tensor) -> None:
        """Begin with images, before any node runs."""
        self.env: dict[fx.Node, Any] = {}
        self.args_iter = iter([images])

    def compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Run an operator, or leave its step."""
        if node.name in self.waits:
            return self._step(node, named_arguments(node, args, kwargs))
        return super().compute(node, args, kwargs)

    def weigh(self, node: fx.Node, arguments: dict[str, Any], weights: Tensor) -> Any:  # noqa: ANN401
        """Run an operator with weighted statistics, or leave its step."""
        if node.name in self.waits:
            return self._step(node, arguments, weights)
        return super().weigh(node, arguments, weights)


class _First(RuleInterpreter):
    """The run that takes the second along, node by node."""

    def __init__(
        self, model: GatedModel, gates: Tensor, paths: Paths, rules: Rules, second: _Second
    ) -> None:
        super().__init__(model, gates, paths, rules.alone)
        self.splits = rules.splits
        self.second = second

    def run(self, images: Tensor) -> Any:  # type: ignore[override]  # noqa: ANN401
        """Run both on the same images."""
        self.second.start(images)
        return super().run(images)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        """Run a node of the second, then the same of the first."""
        self.second.env[n] = self.second.run_node(n)
        value = super().run_node(n)
        for done in self.user_to_last_uses.get(n, []):
            del self.second.env[done]
        return value

    def compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Run an operator, for both if it splits."""
        if node.name in self.splits:
            return self._both(node, self._step(node, named_arguments(node, args, kwargs)))
        return super().compute(node, args, kwargs)

    def weigh(self, node: fx.Node, arguments: dict[str, Any], weights: Tensor) -> Any:  # noqa: ANN401
        """Run an operator with weighted statistics, for both if it splits."""
        if node.name in self.splits:
            return self._both(node, self._step(node, arguments, weights))
        return super().weigh(node, arguments, weights)

    def _both(self, node: fx.Node, step: Step) -> Tensor:
        first, self.second.env[node] = self.splits[node.name]((step, self.second.env[node]))
        return first
