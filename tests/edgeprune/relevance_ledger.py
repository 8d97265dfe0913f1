"""Keeps the books of a run backwards by rules: what each operator took and passed on.

The relevance of a value is gradient × value. An operator that relevance passes
gives what its result has to its operands; what it adds by itself (a bias, a
position, the shift of a batch normalisation, exp(0) = 1) is what it returns
where all its signals are 0, and gets relevance as well. So for every operator

    Σ R(operand) + Σ gradient × f(0) = Σ R(result),

and over the graph R(image) and all that was added sum to what is explained.
Nothing here looks at names of parameters or at rules: f(0) is computed by
running the operator on zeros.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.attribution.lrp import Lrp
from edgeprune.attribution.lrp.composites import contraction_rules
from edgeprune.attribution.lrp.recurrent import CELLS
from edgeprune.attribution.lrp.table import rules
from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Paths, Rule, RuleInterpreter, find_paths
from edgeprune.axes.op import bind
from edgeprune.gates import GatedModel
from edgeprune.weighted import run_weighted


@dataclass(kw_only=True)
class Ledger:
    """Relevance by node, summed over images and positions.

    Attributes:
        result: what an operator's result has.
        operands: what it passed on to its operands.
        added: what it added by itself.
    """

    result: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    operands: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    added: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def leaks(self) -> dict[str, float]:
        """Return what each operator lost, or made out of nothing where it is negative."""
        return {n: r - self.operands[n] - self.added[n] for n, r in self.result.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Account:
    """One run's books, and both ends of them."""

    ledger: Ledger
    explained: float
    image: float

    @property
    def total(self) -> float:
        """What image and operators' additions have together."""
        return self.image + sum(self.ledger.added.values())


def account(model: GatedModel, images: Tensor, settings: Lrp) -> Account:
    """Explain the class that the first image is taken for, with the books kept.

    In float64, so that what is missing is missing and no rounding error; the
    model stays so.
    """
    paths = find_paths(model, attention=settings.attention)
    contractions = contraction_rules(model, paths, settings.composite)
    found = rules(model, paths, contractions, attention=settings.attention)
    in_double(model.module)
    images = images.double().requires_grad_()
    run = Bookkeeper(model, model.ones(), paths, found)
    logits = run.run(images)
    explained = logits[:, logits[0].argmax()].sum()
    gradients = torch.autograd.grad(explained, [images, *(bias for _, bias in run.biases)])
    image = float((gradients[0] * images).detach().sum())
    for (name, bias), gradient in zip(run.biases, gradients[1:], strict=True):
        run.ledger.added[name] += float((gradient * bias).detach().sum())
    return Account(ledger=run.ledger, explained=float(explained.detach()), image=image)


class Bookkeeper(RuleInterpreter):
    """A run by rules that writes a ledger when it goes backwards."""

    def __init__(
        self, model: GatedModel, gates: Tensor, paths: Paths, rules: Mapping[str, Rule]
    ) -> None:
        """Take what a run by rules takes."""
        super().__init__(model, gates, paths, rules)
        self.ledger = Ledger()
        self.biases: list[tuple[str, Tensor]] = []
        self.copies = any(_writes(node) for node in model.module.graph.nodes)

    def compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator on operands that are watched."""
        if node.name not in self.paths.trunk or _writes(node):
            return super().compute(node, args, kwargs)
        live, biases = self._live(node), self._biases(node)
        with torch.no_grad():
            zeros = _mapped(args, node.args, live, _zero)
            zeros = tuple(_mapped(zeros, node.args, biases, torch.zeros_like))
            named = _named(kwargs, node.kwargs, live, _zero)
            at_zero = self.call_function(node.target, zeros, named)
        watch = self._watcher(node)
        args = tuple(_mapped(args, node.args, live, watch))
        args = tuple(_mapped(args, node.args, biases, lambda bias: self._leaf(node, bias)))
        kwargs = _named(kwargs, node.kwargs, live, watch)
        return self._booked(node, super().compute(node, args, kwargs), at_zero)

    def weigh(self, node: fx.Node, arguments: dict[str, Any], weights: Tensor) -> Any:
        """Run an operator with weighted statistics on operands that are watched."""
        if node.name not in self.paths.trunk:
            return super().weigh(node, arguments, weights)
        live, nodes = self._live(node), bind(node)
        with torch.no_grad():
            zeros = _named(arguments, nodes, live, _zero)
            at_zero = run_weighted(node.target, zeros, weights)
        watched = _named(arguments, nodes, live, self._watcher(node))
        return self._booked(node, super().weigh(node, watched, weights), at_zero)

    def _live(self, node: fx.Node) -> set[fx.Node]:
        """Return those inputs that relevance may go to."""
        stopped = self.paths.stopped.get(node.name, frozenset())
        trunk = self.paths.trunk & self.paths.dependent
        return {n for n in node.all_input_nodes if n.name in trunk and n.name not in stopped}

    def _biases(self, node: fx.Node) -> set[fx.Node]:
        """Return what a recurrent layer adds at every step, which one run on zeros cannot tell."""
        if operation(node).removesuffix("_cell") not in CELLS:
            return set()
        return {n for n in node.all_input_nodes if n.op == "get_attr" and self.env[n].dim() == 1}

    def _leaf(self, node: fx.Node, bias: Tensor) -> Tensor:
        self.biases.append((node.name, bias.detach().requires_grad_()))
        return self.biases[-1][1]

    def _watcher(self, node: fx.Node) -> Callable[[Tensor], Tensor]:
        def watch(value: Tensor) -> Tensor:
            if not value.requires_grad:
                return value
            edge, kept = value.view_as(value), self._kept(value)
            edge.register_hook(lambda gradient: self._book("operands", node, gradient, kept))
            return edge

        return watch

    def _booked(self, node: fx.Node, result: Any, at_zero: Any) -> Any:
        if isinstance(result, tuple | list):
            return [self._booked(node, *pair) for pair in zip(result, at_zero, strict=True)]
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        kept = self._kept(result)

        def book(gradient: Tensor | None) -> None:
            self._book("result", node, gradient, kept)
            self._book("added", node, gradient, at_zero)

        seen = result.view_as(result)  # one result may be made of another
        seen.register_hook(book)
        return seen

    def _kept(self, value: Tensor) -> Tensor:
        """Keep a value, as a copy only where an operator in place might follow."""
        return value.detach().clone() if self.copies else value.detach()

    def _book(self, column: str, node: fx.Node, gradient: Tensor | None, value: Tensor) -> None:
        if gradient is not None:  # none reaches a part that nobody uses
            # A maximum pool may be padded with -inf, which gets nothing.
            relevance = torch.where(gradient == 0, 0.0, gradient * value)
            getattr(self.ledger, column)[node.name] += float(relevance.sum())


def in_double(module: fx.GraphModule) -> None:
    """Let a graph compute in float64 throughout."""
    module.double().requires_grad_(requires_grad=False)
    for node in module.graph.nodes:
        node.args = _wider(node.args)
        node.kwargs = _wider(node.kwargs)
    module.recompile()


def _wider(value: Any) -> Any:
    match value:
        case torch.float32:
            return torch.float64
        case tuple() | list():
            return type(value)(_wider(item) for item in value)
        case dict():
            return {key: _wider(item) for key, item in value.items()}
        case _:
            return value


def _writes(node: fx.Node) -> bool:
    """Say whether an operator changes what others hold, so that no books can be kept of it."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _named(
    values: Mapping[str, Any],
    sources: Mapping[str, Any],
    live: set[fx.Node],
    change: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    return {key: _mapped(value, sources[key], live, change) for key, value in values.items()}


def _mapped(value: Any, source: Any, live: set[fx.Node], change: Callable[[Tensor], Tensor]) -> Any:
    """Change the tensors of an argument that come from live nodes."""
    match source:
        case fx.Node():
            return _changed(value, change) if source in live else value
        case tuple() | list():
            return [_mapped(v, s, live, change) for v, s in zip(value, source, strict=True)]
        case _:
            return value


def _zero(signal: Tensor) -> Tensor:
    """Put a signal to 0; places and truth values are none."""
    return torch.zeros_like(signal) if signal.requires_grad else signal


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    match value:
        case Tensor():
            return change(value)
        case tuple() | list():
            return [_changed(item, change) for item in value]
        case _:
            return value
