"""Run a captured model with a number per unit that multiplies its value.

A gate sits wherever its unit is read: at the operand of each contraction, and
in every statistic taken over an axis that carries it. All gates 1: the dense
model. Gate 0: exactly the model without the unit, whatever bias or
normalisation does upstream. In between everything is smooth, so attribution to
a unit is attribution to an input like any other.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.axes.op import Reader, bind
from edgeprune.axes.units import Axis
from edgeprune.capture import Captured
from edgeprune.errors import EdgepruneError
from edgeprune.layout import Layout, sample_layouts
from edgeprune.weighted import run_weighted

Slots = tuple[Tensor, ...]  # per column, the gate of each position: (size,) of int64
Watch = Callable[[fx.Node, Any], None]  # sees each node's value as it is made


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A dimension of an operand that gates go to; ``item`` tells which of a list of tensors."""

    argument: str
    item: int | None
    dim: int
    slots: Slots

    def of(self, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a tensor or its node
        """Pick the operand out of an operator's arguments."""
        found = arguments[self.argument]
        return found if self.item is None else found[self.item]


class GatedModel(nn.Module):
    """A captured model that takes gates beside images.

    Attributes:
        total: number of gates, those of all channel groups one after the other.
        watch: sees each node with its value in every run, of rules as well.
    """

    def __init__(self, captured: Captured, analysis: Analysis | None = None) -> None:
        """Find out where each unit is read."""
        super().__init__()
        self.captured = captured
        self.analysis = analysis or analyse(captured)
        self.module = captured.module
        self.total = sum(group.size for group in self.analysis.groups)
        self.operands = self._gated(self.analysis.findings.readers)
        self.statistics = self._gated(self.analysis.findings.statistics)
        self.watch: Watch | None = None

    def forward(self, images: Tensor, gates: Tensor) -> Tensor:
        """Run images (N, C, H, W) with gates (1, U) for all or (N, U), one row per image."""
        if len(gates) not in (1, len(images)):
            raise EdgepruneError(
                f"{len(gates)} rows of gates for {len(images)} images; give one row, or one each"
            )
        if len(gates) == 1 or self.by_sample:
            return self.interpreter(gates).run(images)  # type: ignore[no-any-return]
        rows = zip(torch.split(images, 1), torch.split(gates, 1), strict=True)
        return torch.cat([self._alone(image, row) for image, row in rows])

    def _alone(self, image: Tensor, gates: Tensor) -> Tensor:
        """Run one image, as often as a batch must hold it."""
        count = 1 if self.captured.dynamic_batch else len(self.captured.sample)
        out: Tensor = self.interpreter(gates).run(image.expand(count, -1, -1, -1))
        return out[:1]

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

    def _gated(self, places: Iterable[Reader]) -> dict[str, list[Gated]]:
        """List by operator what gates go to, where any unit can be removed."""
        found: dict[str, list[Gated]] = {}
        for place in places:
            if slots := self._slots(place.axis):
                gated = Gated(argument=place.argument, item=place.item, dim=place.dim, slots=slots)
                found.setdefault(place.node, []).append(gated)
        return found

    @cached_property
    def layouts(self) -> Mapping[str, Layout]:
        """How samples lie in each operand that carries gates, by the node that makes it."""
        return sample_layouts(self.captured, self.analysis, {n for n, _ in self._carriers()})

    @cached_property
    def by_sample(self) -> bool:
        """Whether every operand that carries gates holds one part per image.

        A weight that is standardised, or the recurrent weight of an LSTM, is
        the same for all images, so it takes one row of gates at a time.
        """
        return all(
            node in self.layouts and self.layouts[node].dim != gated.dim
            for node, gated in self._carriers()
        )

    def _carriers(self) -> list[tuple[str, Gated]]:
        """List what carries gates with the node that makes it."""
        return [
            (gated.of(bind(node)).name, gated)
            for node in self.module.graph.nodes
            for gated in (*self.operands.get(node.name, ()), *self.statistics.get(node.name, ()))
        ]

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
        value = self._run_gated(n)
        if self.model.watch is not None:
            self.model.watch(n, value)
        return value

    def _run_gated(self, n: fx.Node) -> Any:  # noqa: ANN401
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.name in self.model.operands:
            args, kwargs = self._gated(n, args, kwargs)
        if n.name in self.model.statistics:
            named = named_arguments(n, args, kwargs)
            return self.weigh(n, named, self._statistic_weights(n, named))
        return self.compute(n, args, kwargs)

    def compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Run an operator on operands that already carry their gates."""
        result = self.call_function(node.target, args, kwargs)
        if node.target is torch.ops.aten.batch_norm.default and result.requires_grad:
            # Of one image, torch 2.15 takes gradients of other strides for contiguous ones.
            result.register_hook(Tensor.contiguous)
        return result

    def weigh(self, node: fx.Node, arguments: dict[str, Any], weights: Tensor) -> Any:  # noqa: ANN401
        """Run an operator with its statistics weighted by what broadcasts to its first operand."""
        return run_weighted(node.target, arguments, weights)

    def _statistic_weights(self, node: fx.Node, arguments: dict[str, Any]) -> Tensor:
        product: Tensor | None = None
        for gated in self.model.statistics[node.name]:
            weights = self.along(node, gated, gated.of(arguments))
            product = weights if product is None else product * weights
        assert product is not None  # noqa: S101 - no entry is empty
        return product

    def weights(self, slots: Slots) -> Tensor:
        """Return the product of the gates of each position, (S, size)."""
        product = self.gates[:, slots[0].to(self.gates.device)]
        for column in slots[1:]:
            product = product * self.gates[:, column.to(self.gates.device)]
        return product

    def along(self, node: fx.Node, gated: Gated, value: Tensor) -> Tensor:
        """Shape the weights of an operand's dimension so that they multiply it by sample."""
        weights = self.weights(self._fitted(gated.slots, value.shape[gated.dim]))
        shape = [1] * value.dim()
        shape[gated.dim] = value.shape[gated.dim]
        if len(weights) == 1:
            return weights.reshape(shape)
        layout = self.model.layouts.get(gated.of(bind(node)).name)
        if layout is None or layout.dim == gated.dim or value.shape[layout.dim] % len(weights):
            raise EdgepruneError(
                f"gates for {len(weights)} samples meet a tensor of shape {tuple(value.shape)} at "
                f"'{node.name}' that is not laid out by sample; score one sample at a time"
            )
        shape[layout.dim] = value.shape[layout.dim]
        weights = layout.spread(weights, value.shape[layout.dim])
        return (weights if layout.dim < gated.dim else weights.T).reshape(shape)

    def _fitted(self, slots: Slots, size: int) -> Slots:
        """Lay slots out anew where a dimension holds all images, as many as there are now."""
        if len(slots[0]) == size:
            return slots
        batch = self.model.analysis.batch
        each = len(slots[0]) // batch
        for inner in (n for n in range(1, each + 1) if each % n == 0):
            blocks = [column.reshape(-1, batch, inner) for column in slots]
            if all((block == block[:, :1]).all() for block in blocks):
                images = size // each
                return tuple(block[:, :1].expand(-1, images, -1).reshape(-1) for block in blocks)
        raise EdgepruneError(f"units differ between images along a dimension of size {size}")

    def _gated(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = named_arguments(node, args, kwargs)
        for gated in self.model.operands[node.name]:
            value = gated.of(named)
            value = value * self.along(node, gated, value)
            if gated.item is None:
                named[gated.argument] = value
            else:
                operands = list(named[gated.argument])
                operands[gated.item] = value
                named[gated.argument] = operands
        positional = tuple(named[key] for key in list(named)[: len(args)])
        return positional, {key: named[key] for key in kwargs}


def named_arguments(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return values given to a node by the names of its operator's schema, in its order."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    bound = bind(node)
    bound.update(zip(names, args, strict=False))
    return bound | kwargs
