"""Which channels hang together: one pass over a captured graph.

Every dimension of every parameter starts with units of its own; the rules of
the operators tie them, and what ends up in the same places of the same
parameters is a channel group. Invariant: whatever is not understood is frozen,
so a cut is never wrong, only smaller than it could be.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

import edgeprune.axes.rules  # noqa: F401 - fills the rule table
from edgeprune.axes.frozen import FrozenAxis, find_frozen
from edgeprune.axes.groups import ChannelGroup, group_units
from edgeprune.axes.op import Findings, Kept, Op, Rule, bind, describe, rule_for
from edgeprune.axes.shapes import PROBE_BATCH, Value, infer_shapes
from edgeprune.axes.units import Axes, Axis, Units
from edgeprune.capture import Captured, state


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What is known about the axes of a captured model.

    Attributes:
        units: all units, with every tie found.
        parameters: the axes of each parameter and buffer that the graph uses, by name.
        findings: readers, costs and edits, in the order of the graph.
        groups: the channel groups, in the order of the graph.
        frozen: the dimensions of parameters that cannot, or not wholly, shrink.
        shapes: the shape of each value at ``batch`` samples, by node.
        batch: that number of samples.
    """

    units: Units
    parameters: Mapping[str, Axes]
    findings: Findings
    groups: tuple[ChannelGroup, ...]
    frozen: tuple[FrozenAxis, ...]
    shapes: Mapping[str, Value]
    batch: int

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """Position of each unit in the concatenation of all groups; their number for none."""
        total = sum(group.size for group in self.groups)
        slots = np.full(self.units.total, total)
        start = 0
        for group in self.groups:
            slots[group.units] = np.arange(start, start + group.size)
            start += group.size
        return slots

    def kept(self, keep: Mapping[str, NDArray[np.bool_]]) -> Kept:
        """Return what stays of every axis when groups keep what their masks say."""
        removed = np.zeros(self.units.total, np.bool_)
        for group in self.groups:
            if group.name in keep:
                removed[group.units] = ~keep[group.name]
        return Kept(self.units, removed)

    def count_macs(self, kept: Kept | None = None) -> int:
        """Return the multiply-accumulates of one sample, of what is kept."""
        kept = kept or self.kept({})
        total = 0
        for cost in self.findings.costs:
            product = cost.constant
            for axis in cost.axes:
                product *= kept.count(axis)
            total += product // cost.batch
        return total

    def count_parameters(self, names: frozenset[str], kept: Kept | None = None) -> int:
        """Return the number of trainable values among the named parameters."""
        kept = kept or self.kept({})
        return sum(
            int(np.prod([kept.count(axis) for axis in axes], dtype=np.int64))
            for name, axes in self.parameters.items()
            if name in names
        )


def analyse(captured: Captured) -> Analysis:
    """Find the axes, readers, costs and channel groups of a captured model."""
    module = captured.module
    batch = PROBE_BATCH if captured.dynamic_batch else len(captured.sample)
    shapes = infer_shapes(module, captured.sample, batch=batch)
    walk = _Walk(shapes, state(module), batch)
    for node in module.graph.nodes:
        walk.visit(node)
    parameters = {
        name: tuple(walk.units.resolve(a) for a in axes) for name, axes in walk.first.items()
    }
    return Analysis(
        units=walk.units,
        parameters=parameters,
        findings=walk.findings,
        groups=group_units(walk.units, parameters, walk.findings),
        frozen=find_frozen(walk.units, walk.first, parameters),
        shapes=shapes,
        batch=batch,
    )


class _Walk:
    """The state of one pass: axes of every value seen so far."""

    def __init__(
        self, shapes: Mapping[str, Value], tensors: Mapping[str, Tensor], batch: int
    ) -> None:
        self.shapes = shapes
        self.tensors = tensors
        self.batch = batch
        self.units = Units()
        self.findings = Findings()
        self.axes: dict[str, Any] = {}
        self.first: dict[str, Axes] = {}
        self.by_identity: dict[int, Axes] = {}
        self.from_input: set[str] = set()
        self.waiting: dict[str, int] = {}

    def visit(self, node: fx.Node) -> None:
        """Give the node its axes."""
        shape = self.shapes[node.name]
        if any(source.name in self.from_input for source in node.all_input_nodes):
            self.from_input.add(node.name)
        match node.op:
            case "placeholder":
                self.from_input.add(node.name)
                self.axes[node.name] = self._images(shape)
            case "get_attr":
                self.axes[node.name] = self._parameter(str(node.target))
            case "output":
                self._lock_all(self._value(node.args[0]), "model output")
            case _ if node.target is operator.getitem:
                self.axes[node.name] = self._item(node)
            case _:
                self.axes[node.name] = self._call(node, shape)
        self.waiting[node.name] = len(node.users)
        self._drop(node)

    def _drop(self, node: fx.Node) -> None:
        """Forget the axes of values that nothing later in the graph reads."""
        for source in node.all_input_nodes:
            self.waiting[source.name] -= 1
            if not self.waiting[source.name]:
                del self.axes[source.name]

    def _images(self, shape: Value) -> Axes:
        samples, channels, *space = (Axis(size) for size in cast(tuple[int, ...], shape))
        return (samples, self.units.stuck_axis(channels.size, "image channels"), *space)

    def _parameter(self, name: str) -> Axes:
        # By identity: a tied parameter has several names and one set of units.
        tensor = self.tensors[name]
        axes = self.by_identity.get(id(tensor))
        if axes is None:
            axes = tuple(self.units.fresh_axis(size) for size in tensor.shape)
            self.by_identity[id(tensor)] = axes
            self.first[name] = axes
        return axes

    def _item(self, node: fx.Node) -> Any:  # noqa: ANN401
        value, index = (self._value(argument) for argument in node.args)
        return value[index] if isinstance(value, list) else value

    def _call(self, node: fx.Node, shape: Value) -> Any:  # noqa: ANN401
        if isinstance(shape, int | float):
            return self._number(node, shape)
        several = shape if isinstance(shape, list) else [shape]
        if not all(isinstance(one, tuple) for one in several):
            return shape if shape is None else self._freeze(node, shape, "no rule for this form")
        rule = rule_for(node.target)
        if rule is None:
            return self._freeze(node, shape, "no rule")
        op = self._op(node, several)
        axes = self._apply(rule, op)
        if axes is None:
            return self._freeze(node, shape, "no rule for this form")
        self.findings.extend(op.findings)
        return axes

    def _apply(self, rule: Rule, op: Op) -> Any:  # noqa: ANN401
        """Return what a rule makes of an operator, None if that does not fit."""
        try:
            axes = rule(op, *(self._value(argument) for argument in op.arguments.values()))
            return axes if _sizes(axes) == list(op.shapes) else None
        # What a rule has not thought of must not stop the analysis; it ties too much at worst.
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return None

    def _number(self, node: fx.Node, number: float) -> float:
        """Note which axis a size is read off; no other number may depend on what goes."""
        if node.target is torch.ops.aten.sym_size.int:
            tensor, dim = (self._value(argument) for argument in node.args)
            self.findings.sizes[node.name] = tensor[dim]
        else:
            self._lock_sources(node, f"{describe(node)}: its result is used as a number")
        return number

    def _freeze(self, node: fx.Node, shape: Value, why: str) -> Any:  # noqa: ANN401
        reason = f"{describe(node)}: {why}"
        self._lock_sources(node, reason)
        return self._stuck(shape, reason)

    def _lock_sources(self, node: fx.Node, reason: str) -> None:
        for source in node.all_input_nodes:
            self._lock_all(self.axes[source.name], reason)

    def _stuck(self, shape: Value, reason: str) -> Any:  # noqa: ANN401
        """Return axes of a shape, or of each in a list, that remember why they lose nothing."""
        match shape:
            case list():
                return [self._stuck(item, reason) for item in shape]
            case tuple():
                return tuple(self.units.stuck_axis(size, reason) for size in shape)
            case _:
                return shape

    def _op(self, node: fx.Node, shapes: list[Any]) -> Op:
        arguments = bind(node)
        return Op(
            node=node,
            units=self.units,
            findings=Findings(),
            shape=shapes[0],
            shapes=tuple(shapes),
            arguments=arguments,
            batch=self.batch,
            varying=frozenset(k for k, v in arguments.items() if self._varies(v)),
        )

    def _varies(self, argument: object) -> bool:
        match argument:
            case fx.Node():
                return argument.name in self.from_input
            case list() | tuple():
                return any(self._varies(item) for item in argument)
            case _:
                return False

    def _value(self, argument: object) -> Any:  # noqa: ANN401
        """Return an argument as rules see it: axes for tensors, numbers for sizes."""
        match argument:
            case fx.Node():
                return self.axes[argument.name]
            case list() | tuple():
                return [self._value(item) for item in argument]
            case _:
                return argument

    def _lock_all(self, value: object, reason: str) -> None:
        match value:
            case Axis():
                self.units.lock(value, reason)
            case tuple() | list():
                for item in value:
                    self._lock_all(item, reason)


def _sizes(axes: Axes | list[Axes]) -> list[tuple[int, ...]]:
    several = axes if isinstance(axes, list) else [axes]
    return [tuple(axis.size for axis in one) for one in several]
