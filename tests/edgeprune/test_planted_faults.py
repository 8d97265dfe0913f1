"""A rule with a fault is found by random graphs: what finds nothing proves nothing."""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import nn

from edgeprune.axes import analyse
from edgeprune.axes.op import RULES, Op, Rewrite, Rule
from edgeprune.axes.units import Axis, concatenate, take
from edgeprune.capture import Captured, capture

from .graph_invariants import (
    check_against_zeroed_weights,
    check_counts,
    check_cuts,
    check_free_units,
    check_gates_by_sample,
)
from .random_graphs import Program, build, images, programs_around

TRIES: Final = 20


class Untied(Op):
    """A rule's view that forgets every tie."""

    def unify(self, a: Axis, b: Axis) -> None: ...


class Unread(Op):
    """A rule's view that forgets where units are read."""

    def reads(self, argument: str, dim: int, axis: Axis, *, item: int | None = None) -> None: ...


class Unaveraged(Op):
    """A rule's view that forgets statistics over units."""

    def averages(self, argument: str, dim: int, axis: Axis) -> None: ...


class Unedited(Op):
    """A rule's view that forgets constants that follow a cut."""

    def on_cut(self, rewrite: Rewrite, target: object = None) -> None: ...


class Unlocked(Op):
    """A rule's view that forgets what must stay."""

    def lock(self, *axes: Axis, why: str = "") -> None: ...


class Uncounted(Op):
    """A rule's view that forgets what an operator costs."""

    def costs(self, constant: int, *axes: Axis) -> None: ...


def seen_as(view: type[Op]) -> Callable[[Rule], Rule]:
    """Let a rule work on a view of its operator that forgets something."""

    def plant(right: Rule) -> Rule:
        return lambda op, *arguments: right(view(**vars(op)), *arguments)

    return plant


def turned(right: Rule) -> Rule:
    """Lay the pieces of a concatenation down the wrong way round."""

    def wrong(op: Op, tensors: list[Any], dim: int = 0) -> Any:
        out = right(op, tensors, dim)
        pieces = [op.units.resolve(tensor[dim]) for tensor in reversed(tensors)]
        return (*out[:dim], concatenate(pieces), *out[dim % len(out) + 1 :])

    return wrong


def shifted(right: Rule) -> Rule:
    """Take each piece of a split one position too early."""

    def wrong(op: Op, x: Any, how: object, dim: int = 0) -> Any:
        axis = op.units.resolve(x[dim])
        moved = take(axis, np.roll(np.arange(axis.size), 1))
        return right(op, (*x[:dim], moved, *x[dim % len(x) + 1 :]), how, dim)

    return wrong


def unturned(right: Rule) -> Rule:
    """Leave the order of positions as it was."""
    return lambda op, x, *rest: x


def inside_out(right: Rule) -> Rule:
    """Merge two axes as if the inner were the outer."""

    def wrong(op: Op, x: Any, *rest: object) -> Any:
        return tuple(_inside_out(op.units.resolve(axis)) for axis in right(op, x, *rest))

    return wrong


def _inside_out(axis: Axis) -> Axis:
    order = np.arange(axis.size)
    half = axis.size // 2
    if axis.size % 2 or half < 2:
        return axis
    return take(axis, order.reshape(half, 2).T.reshape(-1))


def astray(right: Rule) -> Rule:
    """Lose the units of an axis when it moves."""
    return lambda op, *inputs: tuple(Axis(axis.size) for axis in right(op, *inputs))


def one_for_all(right: Rule) -> Rule:
    """Tie all outputs of a layer to its first: a tie too many."""

    def wrong(op: Op, x: Any, weight: Any, *rest: object) -> Any:
        own = op.units.resolve(weight[0])
        op.unify(own, take(own, np.zeros(own.size, np.int64)))
        return right(op, x, weight, *rest)

    return wrong


class Fault(NamedTuple):
    """A wrong rule in place of a right one, and a form of a block that uses the operator."""

    operator: str
    plant: Callable[[Rule], Rule]
    block: str
    form: int = 0


FAULTS: Final = {
    "a sum ties nothing": Fault("aten.add", seen_as(Untied), "scale"),
    "a product ties nothing": Fault("aten.mul", seen_as(Untied), "branches_joined", 1),
    "a linear map ties nothing": Fault("aten.linear", seen_as(Untied), "mlp"),
    "a convolution ties nothing": Fault("aten.conv2d", seen_as(Untied), "convolution"),
    "a batch norm ties nothing": Fault("aten.batch_norm", seen_as(Untied), "batch_norm"),
    "a transposed convolution ties nothing": Fault(
        "aten.conv_transpose2d", seen_as(Untied), "transposed_convolution"
    ),
    "fused attention ties nothing": Fault(
        "aten.scaled_dot_product_attention", seen_as(Untied), "attention_of_three"
    ),
    "a matrix product ties nothing": Fault("aten.matmul", seen_as(Untied), "attention_of_three"),
    "a linear map reads nothing": Fault("aten.linear", seen_as(Unread), "mlp"),
    "a convolution reads nothing": Fault("aten.conv2d", seen_as(Unread), "bottleneck"),
    "a layer norm averages nothing": Fault("aten.layer_norm", seen_as(Unaveraged), "norm"),
    "a group norm averages nothing": Fault(
        "aten.group_norm", seen_as(Unaveraged), "norm_over_channels"
    ),
    "a softmax averages nothing": Fault("aten.softmax", seen_as(Unaveraged), "statistic", 2),
    "a mean averages nothing": Fault("aten.mean", seen_as(Unaveraged), "spatial_attention"),
    "a group norm keeps its number of groups": Fault(
        "aten.group_norm", seen_as(Unedited), "norm_over_channels"
    ),
    "a convolution keeps its number of groups": Fault(
        "aten.conv2d", seen_as(Unedited), "convolution"
    ),
    "attention takes its scale from what is left": Fault(
        "aten.scaled_dot_product_attention", seen_as(Unedited), "attention"
    ),
    "a view keeps its sizes": Fault("aten.view", seen_as(Unedited), "shuffle"),
    "a slice keeps its ends": Fault("aten.slice", seen_as(Unedited), "rearrange"),
    "a split keeps its sizes": Fault(
        "aten.split_with_sizes", seen_as(Unedited), "rearrange", 3
    ),
    "a selected position may go": Fault("aten.select", seen_as(Unlocked), "grouped_axis", 5),
    "a linear map costs nothing": Fault("aten.linear", seen_as(Uncounted), "mlp"),
    "a concatenation is laid down the wrong way round": Fault("aten.cat", turned, "concatenation"),
    "a split is off by one": Fault("aten.split_with_sizes", shifted, "rearrange", 3),
    "a flip does not turn": Fault("aten.flip", unturned, "rearrange", 1),
    "a roll does not move": Fault("aten.roll", unturned, "rearrange", 8),
    "a reshape tracks the wrong factor": Fault("aten.flatten", inside_out, "shuffle", 1),
    "a transposition loses units": Fault("aten.transpose", astray, "linear"),
    "a permutation loses units": Fault("aten.permute", astray, "attention"),
    "a linear map ties its outputs to each other": Fault("aten.linear", one_for_all, "mlp"),
}  # fmt: skip


def candidates(fault: Fault) -> Iterator[tuple[Program, nn.Module, Captured]]:
    """Draw programs around a block, the same every time, and capture those with the operator."""
    found: dict[Program, None] = {}

    @settings(
        derandomize=True, database=None, deadline=None, max_examples=TRIES,
        phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(programs_around(fault.block, fault.form))
    def draw(program: Program) -> None:
        found[program] = None

    draw()
    for program in found:
        model = build(program)
        dense = capture(model, images(2))
        if any(_name(node) == fault.operator for node in dense.module.graph.nodes):
            yield program, model, dense


def _name(node: torch.fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.name.replace("::", ".").rstrip("_") if schema else ""


def broken(program: Program, model: nn.Module, dense: Captured) -> str | None:
    """Say what does not hold of a program, as the property test would find it."""
    try:
        analysis = analyse(dense)
        if not analysis.groups:
            return None
        check_free_units(model, analysis)
        plan, slim = check_cuts(dense, analysis, program.seed)
        check_counts(dense, analysis, plan, slim)
        check_gates_by_sample(dense, analysis)
        if not program.entangled:
            check_against_zeroed_weights(build(program), dense, slim)
    except Exception as error:  # a fault may break anything on its way
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    for program, model, dense in candidates(fault):
        with monkeypatch.context() as patch:
            patch.setitem(RULES, fault.operator, fault.plant(RULES[fault.operator]))
            found = broken(program, model, dense)
        if found:
            assert broken(program, model, dense) is None  # it is the fault that was found
            return
    pytest.fail(f"{name}: not found on {TRIES} graphs")
