"""One operator of the graph, as a rule sees it.

A rule is a function from the axes of an operator's inputs to the axes of its
outputs. It takes ``Op`` and then the operator's arguments in the order of its
schema, each tensor as ``Axes``, each list of tensors as a list of ``Axes``,
everything else as it is. Through ``Op`` it states ties, says where units are
read, what the operator costs, and which constants follow a cut.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from edgeprune.axes.units import Axes, Axis, Units, kept_mask

Rule = Callable[..., Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A place where the value of units is used: contracted, or part of a statistic.

    Attributes:
        node: name of the operator.
        module: path of the module that it came from.
        argument: name of the operand in the operator's schema.
        item: which one, when that argument is a list of tensors.
        dim: dimension of the operand.
        axis: that dimension, with only the columns that are used here.
    """

    node: str
    module: str
    argument: str
    item: int | None
    dim: int
    axis: Axis


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Multiply-accumulates per sample: ``constant`` times the kept sizes of axes, by ``batch``."""

    node: str
    constant: int
    axes: Axes
    batch: int


@dataclass(frozen=True)
class Scaled:
    """A symbolic size that has to be ``new`` at the batch of the analysis."""

    size: fx.Node
    new: int


class Kept:
    """Which positions of an axis stay, once it is known which units go."""

    def __init__(self, units: Units, removed: NDArray[np.bool_]) -> None:
        """Take the roots to remove as a mask over all units."""
        self._units = units
        self._removed = removed

    def mask(self, axis: Axis) -> NDArray[np.bool_]:
        """Return the kept positions of an axis, (size,) of bool."""
        return kept_mask(self._units.resolve(axis), self._removed)

    def count(self, axis: Axis) -> int:
        """Return how many positions of an axis stay."""
        return int(self.mask(axis).sum()) if axis.columns else axis.size

    def shrinks(self, axis: Axis) -> bool:
        """Say whether an axis loses anything."""
        return not bool(self.mask(axis).all())

    def before(self, axis: Axis, index: int) -> int:
        """Return the new index of what was at ``index``."""
        return int(self.mask(axis)[:index].sum())


Rewrite = Callable[[Kept], Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """How an operator changes with a cut: arguments by name, and with any the operator itself."""

    node: str
    rewrite: Rewrite
    target: Any = None


@dataclass(kw_only=True)
class Findings:
    """What rules state besides the axes themselves, in the order of the graph."""

    readers: list[Reader] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    statistics: list[Reader] = field(default_factory=list)
    marks: list[tuple[str, Axis]] = field(default_factory=list)
    producers: list[tuple[str, str, Axis]] = field(default_factory=list)
    pieces: list[Axis] = field(default_factory=list)
    sizes: dict[str, Axis] = field(default_factory=dict)

    def extend(self, other: "Findings") -> None:
        """Append what another rule stated."""
        self.readers += other.readers
        self.costs += other.costs
        self.edits += other.edits
        self.statistics += other.statistics
        self.marks += other.marks
        self.producers += other.producers
        self.pieces += other.pieces


@dataclass(frozen=True, kw_only=True)
class Op:
    """The operator under analysis: what rules may ask and state.

    ``shape`` is that of its output, ``shapes`` those of all its outputs;
    ``arguments`` are as in the graph, by name; ``varying`` names those that
    depend on the images.
    """

    node: fx.Node
    units: Units
    findings: Findings
    shape: Shape
    shapes: tuple[Shape, ...]
    arguments: Mapping[str, Any]
    batch: int
    varying: frozenset[str]

    @property
    def returns_list(self) -> bool:
        """Whether the operator returns several tensors."""
        returns = self.node.target._schema.returns  # type: ignore[union-attr]
        return len(returns) > 1 or "[]" in str(returns[0].type)

    @property
    def name(self) -> str:
        """Name of the operator, without its overload."""
        return str(self.node.target._schema.name)  # type: ignore[union-attr]

    @property
    def where(self) -> str:
        """Name the operator and the module it came from, for people."""
        return describe(self.node)

    def unify(self, a: Axis, b: Axis) -> None:
        """State that two axes lose the same positions."""
        self.units.unify(a, b, self.where)

    def lock(self, *axes: Axis, why: str = "") -> None:
        """State that axes lose nothing."""
        for axis in axes:
            self.units.lock(axis, f"{self.where} ({why})" if why else self.where)

    def stuck(self, size: int, why: str) -> Axis:
        """Make an axis that loses nothing, and hands on why to whatever it meets."""
        return self.units.stuck_axis(size, f"{self.where} ({why})")

    def fix(self, *axes: Axis) -> None:
        """State that axes are no channels by nature: tokens, space, kernels."""
        for axis in axes:
            self.units.lock(axis, "")

    def split(self, axis: Axis, sizes: Sequence[int]) -> Axes:
        """Split an axis as a reshape would."""
        return self.units.split(axis, sizes, self.where)

    def reads(self, argument: str, dim: int, axis: Axis, *, item: int | None = None) -> None:
        """State that an operand's dimension is contracted, and by which columns."""
        self.findings.readers.append(self._use(argument, item, dim, axis))

    def averages(self, argument: str, dim: int, axis: Axis) -> None:
        """State that statistics run over an operand's dimension, so that gates weigh them."""
        self.findings.statistics.append(self._use(argument, None, dim, axis))

    def _use(self, argument: str, item: int | None, dim: int, axis: Axis) -> Reader:
        return Reader(
            node=self.node.name,
            module=self.node.meta.get("module", ""),
            argument=argument,
            item=item,
            dim=dim,
            axis=axis,
        )

    def costs(self, constant: int, *axes: Axis) -> None:
        """State the multiply-accumulates: a constant times kept sizes, the batch among them."""
        batch = self.batch if self.varying else 1
        cost = Cost(node=self.node.name, constant=constant, axes=axes, batch=batch)
        self.findings.costs.append(cost)

    def produces(self, weight: str, kind: str, axis: Axis) -> None:
        """State that a weight brings forth an axis, with the kind of units that makes."""
        operand = self.arguments[weight]
        name = str(operand.target) if isinstance(operand, fx.Node) else ""
        is_parameter = isinstance(operand, fx.Node) and operand.op == "get_attr"
        self.findings.producers.append((name if is_parameter else "", kind, axis))

    def mark(self, kind: str, axis: Axis) -> None:
        """State what the units of an axis are."""
        self.findings.marks.append((kind, axis))

    def keeps_some(self, *pieces: Axis) -> None:
        """State that pieces of an axis must keep something: their units are groups of their own."""
        self.findings.pieces += pieces

    def on_cut(self, rewrite: Rewrite, target: object = None) -> None:
        """State how the operator's constants follow a cut."""
        self.findings.edits.append(Edit(node=self.node.name, rewrite=rewrite, target=target))


RULES: Final[dict[str, Rule]] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators, by their names without overload or underscore."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def rule_for(target: object) -> Rule | None:
    """Find the rule of an operator; its in-place form shares it."""
    return RULES.get(plain_name(target))


def plain_name(target: object) -> str:
    """Name an operator without overload or underscore, as in ``aten.relu``; empty for others."""
    if not isinstance(target, torch._ops.OpOverload):
        return ""
    namespace, _, name = target._schema.name.partition("::")
    return f"{namespace}.{name.rstrip('_')}"


def describe(node: fx.Node) -> str:
    """Name an operator and the module it came from, for people."""
    module = node.meta.get("module", "")
    return f"{node.target} at {module}" if module else str(node.target)


def bind(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by the names of its operator's schema, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]  # only called on ATen operators
    bound: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(node.args) and not argument.kwarg_only:
            bound[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value
    return bound


def call(target: Any, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as operators have it
    """Run an ATen operator on arguments by the names of its schema."""
    schema = target._schema.arguments
    positional = [arguments[a.name] for a in schema if not a.kwarg_only]
    return target(*positional, **{a.name: arguments[a.name] for a in schema if a.kwarg_only})


def set_arguments(node: fx.Node, values: Mapping[str, Any]) -> None:
    """Set arguments of an ATen node by the names of its schema."""
    bound = bind(node) | dict(values)
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    node.args = tuple(bound[a.name] for a in arguments if not a.kwarg_only)
    changed = {a.name: bound[a.name] for a in arguments if a.kwarg_only}
    node.kwargs = {k: v for k, v in changed.items() if k in node.kwargs or k in values}
