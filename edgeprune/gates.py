"""Run a captured model with a number per unit that multiplies its value.

A gate sits wherever its unit is read: at the operand of each contraction, and
in every statistic taken over an axis that carries it. All gates 1: the dense
model. Gate 0: exactly the model without the unit, whatever bias or
normalisation does upstream. In between everything is smooth, so attribution to
a unit is attribution to an input like any other.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.axes.op import bind
from edgeprune.axes.units import Axis
from edgeprune.capture import Captured
from edgeprune.errors import EdgepruneError
from edgeprune.layout import Layout, sample_layouts

LAYER_NORM: Final = torch.ops.aten.layer_norm.default
GROUP_NORM: Final = torch.ops.aten.group_norm.default

Slots = tuple[Tensor, ...]  # per column, the gate of each position: (size,) of int64


class GatedModel(nn.Module):
    """A captured model that takes gates beside images.

    Attributes:
        total: number of gates, those of all channel groups one after the other.
    """

    def __init__(self, captured: Captured, analysis: Analysis | None = None) -> None:
        """Find out where each unit is read."""
        super().__init__()
        self.captured = captured
        self.analysis = analysis or analyse(captured)
        self.module = captured.module
        self.total = sum(group.size for group in self.analysis.groups)
        self.operands = self._operands()
        self.statistics = self._statistics()

    def forward(self, images: Tensor, gates: Tensor) -> Tensor:
        """Run images (N, C, H, W) with gates (1, U) for all or (N, U), one row per image."""
        if len(gates) not in (1, len(images)):
            raise EdgepruneError(
                f"{len(gates)} rows of gates for {len(images)} images; give one row, or one each"
            )
        return self.interpreter(gates).run(images)  # type: ignore[no-any-return]

    def interpreter(self, gates: Tensor) -> "GatedInterpreter":
        """Return what runs the graph under these gates."""
        if gates.dim() != 2 or gates.shape[1] != self.total:
            raise EdgepruneError(
                f"gates of shape {tuple(gates.shape)}; this model takes (samples, {self.total})"
            )
        return GatedInterpreter(self, gates)

    def ones(self, samples: int = 1) -> Tensor:
        """Return the gates of the dense model, (samples, U)."""
        parameter = next(self.module.parameters())
        return torch.ones(samples, self.total, dtype=parameter.dtype, device=parameter.device)

    def from_masks(self, keep: Mapping[str, NDArray[np.bool_]]) -> Tensor:
        """Return gates (1, U) of 1 for what masks by group keep and 0 for the rest."""
        gates = self.ones()
        for name, part in self.by_group(gates).items():
            if name in keep:
                part.copy_(torch.from_numpy(keep[name]))
        return gates

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """Split the last dimension, (…, U), into one view per channel group."""
        sizes = [group.size for group in self.analysis.groups]
        parts = torch.split(values, sizes, dim=-1)
        return {g.name: part for g, part in zip(self.analysis.groups, parts, strict=True)}

    def _operands(self) -> dict[str, list[tuple[str, int, Slots]]]:
        found: dict[str, list[tuple[str, int, Slots]]] = {}
        for reader in self.analysis.findings.readers:
            slots = self._slots(reader.axis)
            if slots:
                found.setdefault(reader.node, []).append((reader.argument, reader.dim, slots))
        return found

    def _statistics(self) -> dict[str, Slots]:
        """Slots of the channels of every normalisation whose statistics span units."""
        found: dict[str, Slots] = {}
        for node, axis in self.analysis.findings.statistics:
            slots = self._slots(axis)
            if slots:
                found[node] = slots
        return found

    @cached_property
    def layouts(self) -> Mapping[str, Layout]:
        """How samples lie in each operand that carries gates, by the node that makes it."""
        graph = self.module.graph
        gated = {node: bind(node) for node in graph.nodes if node.name in self.operands}
        read = {
            bound[argument].name
            for node, bound in gated.items()
            for argument, _, _ in self.operands[node.name]
        }
        normalised = {node.args[0].name for node in graph.nodes if node.name in self.statistics}
        return sample_layouts(self.captured, self.analysis, read | normalised)

    def _slots(self, axis: Axis) -> Slots:
        columns = self.analysis.units.resolve(axis).columns
        # Position ``total`` is a gate of 1, for positions without a unit.
        return tuple(
            torch.from_numpy(np.where(c >= 0, self.analysis.slots[c], self.total)) for c in columns
        )


class GatedInterpreter(fx.Interpreter):
    """Runs a graph operator by operator, gates in place.

    Attribution methods with their own backward override ``compute``.
    """

    def __init__(self, model: GatedModel, gates: Tensor) -> None:
        """Take gates (S, U); S is 1 or the number of images."""
        super().__init__(model.module)
        self.model = model
        self.gates = torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        """Run one node, its operands gated."""
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.name in self.model.operands:
            args, kwargs = self._gated(n, args, kwargs)
        if n.name in self.model.statistics:
            weights = self.weights(self.model.statistics[n.name])
            return self.normalise(n, _named(n, args, kwargs), weights)
        return self.compute(n, args, kwargs)

    def compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Run an operator on operands that already carry their gates."""
        return self.call_function(node.target, args, kwargs)

    def normalise(self, node: fx.Node, arguments: dict[str, Any], weights: Tensor) -> Tensor:
        """Normalise with statistics weighted by gates, (S, C)."""
        x = arguments["input"]
        if node.target is GROUP_NORM:
            return _group_norm(arguments, self.along(weights, node, "input", x, 1))
        gate = self.along(weights, node, "input", x, x.dim() - 1)
        return _layer_norm(arguments, gate, centred=node.target is LAYER_NORM)

    def weights(self, slots: Slots) -> Tensor:
        """Return the product of the gates of each position, (S, size)."""
        product = self.gates[:, slots[0].to(self.gates.device)]
        for column in slots[1:]:
            product = product * self.gates[:, column.to(self.gates.device)]
        return product

    def along(
        self, weights: Tensor, node: fx.Node, argument: str, value: Tensor, dim: int
    ) -> Tensor:
        """Shape weights (S, size) so that they multiply an operand along ``dim`` by sample."""
        shape = [1] * value.dim()
        shape[dim] = value.shape[dim]
        if len(weights) == 1:
            return weights.reshape(shape)
        layout = self.model.layouts.get(bind(node)[argument].name)
        if layout is None or layout.dim == dim or value.shape[layout.dim] % len(weights):
            raise EdgepruneError(
                f"gates for {len(weights)} samples meet a tensor of shape {tuple(value.shape)} at "
                f"'{node.name}' that is not laid out by sample; score one sample at a time"
            )
        shape[layout.dim] = value.shape[layout.dim]
        weights = layout.spread(weights, value.shape[layout.dim])
        return (weights if layout.dim < dim else weights.T).reshape(shape)

    def _gated(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = _named(node, args, kwargs)
        for argument, dim, slots in self.model.operands[node.name]:
            value = named[argument]
            named[argument] = value * self.along(self.weights(slots), node, argument, value, dim)
        positional = tuple(named[key] for key in list(named)[: len(args)])
        return positional, {key: named[key] for key in kwargs}


def _named(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    bound = bind(node)
    bound.update(zip(names, args, strict=False))
    return bound | kwargs


def _layer_norm(arguments: dict[str, Any], gate: Tensor, *, centred: bool) -> Tensor:
    """LayerNorm or RMSNorm over the last axis, (…, C), with weighted statistics."""
    x = arguments["input"]
    total = _not_zero(gate.sum(-1, keepdim=True))
    if centred:
        x = x - (x * gate).sum(-1, keepdim=True) / total
    variance = (x.square() * gate).sum(-1, keepdim=True) / total
    eps = arguments["eps"]
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(x * torch.rsqrt(variance + eps), arguments, -1)


def _group_norm(arguments: dict[str, Any], gate: Tensor) -> Tensor:
    """GroupNorm over channels within each group and all positions, weighted."""
    x, groups = arguments["input"], arguments["num_groups"]
    parts = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    gate = gate.reshape(-1, groups, x.shape[1] // groups, 1)
    total = _not_zero(gate.sum(2, keepdim=True) * parts.shape[-1])
    parts = parts - (parts * gate).sum((2, 3), keepdim=True) / total
    variance = (parts.square() * gate).sum((2, 3), keepdim=True) / total
    normal = parts * torch.rsqrt(variance + arguments["eps"])
    return _affine(normal.reshape(x.shape), arguments, 1)


def _not_zero(total: Tensor) -> Tensor:
    """Spare a division by 0 what has lost all its units: nobody reads it."""
    return total.where(total != 0, 1)


def _affine(x: Tensor, arguments: dict[str, Any], dim: int) -> Tensor:
    shape = [1] * x.dim()
    shape[dim] = -1
    weight, bias = arguments.get("weight"), arguments.get("bias")
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)
