"""Recurrent layers, step by step: gates are constant, what they gate is signal.

One operator runs the whole sequence, so its rule runs it again as the sums and
products it consists of. The parts of a cell that are squashed to (0, 1) only
weigh; tanh and ReLU pass relevance on as it is; the contractions within are
LRP-0.

Source: Arras et al., Explaining Recurrent Neural Network Predictions in Sentiment
Analysis, WASSA 2017, section 3.1 (signal takes all).
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Step, rescaled

State: TypeAlias = tuple[Tensor, ...]
# Input (N, I) and state through a cell's parameters to the next state; the first is its result.
Cell: TypeAlias = Callable[[Tensor, State, Sequence[Tensor]], State]


def lstm_cell(x: Tensor, state: State, parameters: Sequence[Tensor]) -> State:
    """c' = f c + i tanh(g), h' = o tanh(c'), with the gates i, f and o constant."""
    hidden, memory = state
    parts = _read(x, parameters, 0) + _read(hidden, parameters, 1)
    enter, keep, new, leave = parts.chunk(4, -1)
    memory = _gate(keep) * memory + _gate(enter) * _tanh(new)
    return _gate(leave) * _tanh(memory), memory


def gru_cell(x: Tensor, state: State, parameters: Sequence[Tensor]) -> State:
    """h' = (1 - z) tanh(W x + r U h) + z h, with the gates r and z constant."""
    (hidden,) = state
    given, known = _read(x, parameters, 0), _read(hidden, parameters, 1)
    (reset, update, new), (reset_h, update_h, new_h) = given.chunk(3, -1), known.chunk(3, -1)
    keep = _gate(update + update_h)
    fresh = _tanh(new + _gate(reset + reset_h) * new_h)
    return ((1 - keep) * fresh + keep * hidden,)


def tanh_cell(x: Tensor, state: State, parameters: Sequence[Tensor]) -> State:
    """h' = tanh(W x + U h)."""
    (hidden,) = state
    return (_tanh(_read(x, parameters, 0) + _read(hidden, parameters, 1)),)


def relu_cell(x: Tensor, state: State, parameters: Sequence[Tensor]) -> State:
    """h' = relu(W x + U h)."""
    (hidden,) = state
    return ((_read(x, parameters, 0) + _read(hidden, parameters, 1)).relu(),)


CELLS: Final[dict[str, Cell]] = {
    "lstm": lstm_cell,
    "gru": gru_cell,
    "rnn_tanh": tanh_cell,
    "rnn_relu": relu_cell,
}


def one_step(step: Step) -> Any:  # noqa: ANN401 - one tensor or a tuple, as the operators have it
    """Run a cell once."""
    given = step.arguments
    state = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    parameters = [given[name] for name in names if given[name] is not None]
    cell = CELLS[operation(step.node).removesuffix("_cell")]
    found = cell(given["input"], tuple(state), parameters)
    first, *memory = found
    return found if memory else first


def sequence(step: Step) -> Any:  # noqa: ANN401 - a tuple of tensors
    """Run all layers and directions over all steps; packed and projected forms as they are."""
    given = step.arguments
    cell = CELLS[operation(step.node)]
    if "batch_first" not in given or _is_projected(given):
        return step.run()
    hx = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    x = given["input"].movedim(1, 0) if given["batch_first"] else given["input"]
    directions = 2 if given["bidirectional"] else 1
    each = 4 if given["has_biases"] else 2
    last: list[State] = []
    for _ in range(given["num_layers"]):
        results = []
        for backwards in range(directions):
            place = len(last)
            start = tuple(state[place] for state in hx)
            parameters = given["params"][place * each : (place + 1) * each]
            result, end = _over_time(cell, x, start, parameters, backwards=bool(backwards))
            results.append(result)
            last.append(end)
        x = torch.cat(results, -1)
    states = [torch.stack(state) for state in zip(*last, strict=True)]
    return (x.movedim(0, 1) if given["batch_first"] else x, *states)


def _over_time(
    cell: Cell, x: Tensor, state: State, parameters: Sequence[Tensor], *, backwards: bool
) -> tuple[Tensor, State]:
    """Run a cell over x, (T, N, I), to its results, (T, N, H), and its last state."""
    results = []
    for part in x.flip(0) if backwards else x:
        state = cell(part, state, parameters)
        results.append(state[0])
    return torch.stack(results[::-1] if backwards else results), state


def _is_projected(given: Any) -> bool:  # noqa: ANN401 - a mapping of arguments
    each = 4 if given["has_biases"] else 2
    directions = 2 if given["bidirectional"] else 1
    return bool(len(given["params"]) != given["num_layers"] * directions * each)


def _read(x: Tensor, parameters: Sequence[Tensor], which: int) -> Tensor:
    """Contract an input (0) or a state (1) with a cell's own parameters."""
    bias = parameters[2 + which] if len(parameters) > 2 else None
    return F.linear(x, parameters[which], bias)


def _gate(x: Tensor) -> Tensor:
    return x.detach().sigmoid()


def _tanh(x: Tensor) -> Tensor:
    value = x.detach().tanh()
    return rescaled(x, value, (value / x.detach()).nan_to_num_(nan=0.0))
