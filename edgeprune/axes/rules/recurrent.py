"""Recurrent layers: one set of hidden units for all parts of a cell, directions and layers.

One operator runs the whole sequence, so that its own reading of a hidden unit is
out of reach; the unit's column of the recurrent weight carries the gate instead.
"""

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import fx

from edgeprune.axes.op import Edit, Kept, Op, rule
from edgeprune.axes.units import Axes, Axis

PARTS: Final = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}  # of a cell, one on the other

PROJECTED: Final = "projected or packed"


@rule("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")
def recurrent(
    op: Op, x: Axes, state: list[Axes] | Axes, weights: list[Axes], *settings: object
) -> list[Axes]:
    """Tie the hidden units of all cells: (…, I) → (…, directions · H), and the last states."""
    initial = state if isinstance(state, list) else [state]
    directions = 2 if op.arguments.get("bidirectional") else 1
    cells = _cells(op, weights, directions)
    if not cells:
        op.lock(*(axis for value in (x, *initial, *weights) for axis in value), why=PROJECTED)
        return [tuple(op.stuck(size, PROJECTED) for size in shape) for shape in op.shapes]
    hidden = cells[0][1][1]
    both = op.units.join([hidden] * directions)
    op.fix(*x[:-1])
    op.reads("input", len(x) - 1, x[-1])
    for place, cell in enumerate(cells):
        first = place * len(cell)
        source = x[-1] if place < directions else both
        _tie(op, cell, source, hidden)
        if place >= directions:
            op.reads("params", 1, source, item=first)
        op.reads("params", 1, hidden, item=first + 1)
        for read in (source, hidden):
            op.costs(_parts(op), *x[:-1], hidden, read)
    op.findings.producers.append((op.node.meta.get("module", ""), "hidden", hidden))
    for value, node in zip(initial, _nodes(op.arguments["hx"]), strict=True):
        _start(op, value[-1], node, hidden)
    last = [(*value[:-1], hidden) for value in initial]
    return [(*x[:-1], both), *last]


@rule("aten.lstm_cell", "aten.gru_cell", "aten.rnn_tanh_cell", "aten.rnn_relu_cell")
def cell(op: Op, x: Axes, state: list[Axes] | Axes, *weights: Axes | None) -> list[Axes] | Axes:
    """Take one step: (…, I) and (…, H) → (…, H)."""
    initial = state if isinstance(state, list) else [state]
    parameters = [weight for weight in weights if weight is not None]
    hidden = parameters[1][1]
    _tie(op, parameters, x[-1], hidden)
    op.reads("input", len(x) - 1, x[-1])
    op.reads("hx", len(x) - 1, hidden, item=0 if isinstance(state, list) else None)
    for read in (x[-1], hidden):
        op.costs(_parts(op), *x[:-1], hidden, read)
    op.findings.producers.append((op.node.meta.get("module", ""), "hidden", hidden))
    for value, node in zip(initial, _nodes(op.arguments["hx"]), strict=True):
        _start(op, value[-1], node, hidden)
    out = (*x[:-1], hidden)
    return [out for _ in op.shapes] if op.returns_list else out


def _parts(op: Op) -> int:
    return PARTS[op.name.removeprefix("aten::").removesuffix("_cell")]


def _cells(op: Op, weights: list[Axes], directions: int) -> list[list[Axes]]:
    """Return the parameters of each cell, by layer and direction; none for forms without a rule."""
    if "params" not in op.arguments or "input" not in op.arguments:
        return []
    count = op.arguments["num_layers"] * directions
    each = 4 if op.arguments["has_biases"] else 2
    if len(weights) != count * each:  # a projection is one more
        return []
    return [weights[place * each : (place + 1) * each] for place in range(count)]


def _tie(op: Op, parameters: Sequence[Axes], source: Axis, hidden: Axis) -> None:
    """Tie one cell's parameters, (parts · H, I), (parts · H, H) and biases, to its units."""
    op.unify(source, parameters[0][1])
    op.unify(hidden, parameters[1][1])
    for parameter in parameters:
        part, unit = op.split(parameter[0], (_parts(op), hidden.size))
        op.fix(part)
        op.unify(unit, hidden)


def _nodes(argument: fx.Node | list[fx.Node]) -> list[fx.Node]:
    return [argument] if isinstance(argument, fx.Node) else argument


def _start(op: Op, state: Axis, node: fx.Node, hidden: Axis) -> None:
    """Tie the first state to the units, or let zeros that only this operator uses follow them."""
    alone = set(node.users) == {op.node}
    free = not op.units.resolve(state).frozen
    if free or node.target is not torch.ops.aten.zeros.default or not alone:
        op.unify(state, hidden)
        return
    size = cast(list[object], node.args[0])

    def rewrite(kept: Kept) -> dict[str, object]:
        return {"size": [*size[:-1], kept.count(hidden)]} if kept.shrinks(hidden) else {}

    op.findings.edits.append(Edit(node=node.name, rewrite=rewrite))


__all__ = ["cell", "recurrent"]
