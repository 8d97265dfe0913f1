"""Rules of operators on each element, and of constants beside them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.axes import analyse

from .probe import Body, channels, check, probe, reasons

Function = Callable[[Tensor], Tensor]
ACTIVATIONS: tuple[Function, ...] = (
    F.relu, F.relu6, F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.leaky_relu, torch.sigmoid,
    F.hardsigmoid, F.hardswish, F.hardtanh, F.hardshrink, F.softshrink, F.tanhshrink, F.softsign,
    F.softplus, torch.tanh, F.logsigmoid, F.rrelu,
)  # fmt: skip
FUNCTIONS: tuple[Function, ...] = (
    torch.exp, torch.exp2, torch.expm1, torch.sin, torch.cos, torch.atan, torch.asinh, torch.sinc,
    torch.abs, torch.neg, torch.square, torch.erf, torch.erfc, torch.floor, torch.ceil, torch.round,
    torch.trunc, torch.frac, torch.sign, torch.nan_to_num, torch.deg2rad,
)  # fmt: skip

PASSING: dict[str, Body] = {
    "threshold": lambda m, x: F.threshold(x, 0.1, -1.0),
    "logit of a share": lambda m, x: x.sigmoid().logit(1e-6) + x.sigmoid().reciprocal().sqrt(),
    "logarithms": lambda m, x: x.sigmoid().log() + x.abs().log1p() + x.square().add(1).log2(),
    "power": lambda m, x: x.abs().pow(1.5) + x.abs() ** m.per_channel,
    "reversed subtraction": lambda m, x: 1 - x,
    "clamp by numbers": lambda m, x: x.clamp(-0.5, 0.5),
    "clamp by a tensor": lambda m, x: x.clamp(min=m.per_channel - 1),
    "times parameter": lambda m, x: x * m.per_channel,
    "division in two modes": (
        lambda m, x: torch.div(x, m.per_channel.abs() + 1, rounding_mode="floor")
    ),
    "sum of two": lambda m, x: x + m.mix(F.relu(x)),
    "weighted sum of products": lambda m, x: torch.addcmul(x, m.mix(x), m.per_channel, value=0.5),
    "weighted sum of quotients": lambda m, x: torch.addcdiv(x, m.mix(x), m.per_channel.exp()),
    "interpolation": lambda m, x: torch.lerp(x, m.mix(x), m.per_channel),
    "larger of two": lambda m, x: torch.maximum(x, m.mix(x)),
    "angle": lambda m, x: torch.atan2(x, m.mix(x)),
    "where": lambda m, x: torch.where(x > 0, x, m.mix(x)),
    "logic": lambda m, x: x * ((x > 0) & ~(m.mix(x) > 0) | x.isnan()),
    "masked fill": lambda m, x: x.masked_fill(x > 0.3, 0.3),
    "prelu": lambda m, x: F.prelu(x, m.slopes),
    "prelu of one slope": lambda m, x: F.prelu(x, m.slope),
    "copy in place": lambda m, x: torch.empty_like(x).copy_(x),
    "copy into a part": lambda m, x: _copied(x, m),
    "bucketize": lambda m, x: x * torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
    "triangle in space": lambda m, x: x.tril() + x.triu(1),
    "dropout": lambda m, x: F.dropout2d(F.dropout(x, 0.5, m.training), 0.5, m.training),
    "type": lambda m, x: x.to(torch.float64).type_as(x).detach() + x,
    "zeros of its shape": lambda m, x: x + torch.zeros_like(x) + torch.full_like(x, 2.0),
    "ones": lambda m, x: x * torch.ones(8, 1, 1) + torch.full((8, 1, 1), 3.0),
    "new zeros": lambda m, x: x * x.new_ones(8, 6, 6) + x.new_zeros(len(x), 8, 1, 1),
    "grid in space": lambda m, x: x * _grid(x),
    "one hot by sample": (
        lambda m, x: x * F.one_hot((x.mean((1, 2)) > 0).long(), 2).sum(-1)[:, None, None]
    ),
}  # fmt: skip


def _copied(x: Tensor, m: object) -> Tensor:
    out = torch.zeros(len(x), 8, 6, 6)
    out[:, 2:6].copy_(x[:, 2:6])
    return out + x


def _grid(x: Tensor) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.linspace(0, 1, 6), indexing="xy")
    return rows * columns + torch.eye(6)


STUCK: dict[str, tuple[Body, str]] = {
    "numbered": (
        lambda m, x: x * torch.arange(8.0)[:, None, None], "a constant: aten.arange.default",
    ),
    "grid": (
        lambda m, x: (
            x * torch.meshgrid(torch.arange(8.0), torch.ones(6), indexing="ij")[0][..., None]
        ),
        "a constant: aten.arange.default",
    ),
    "grid by columns": (
        lambda m, x: (
            x * torch.meshgrid(torch.ones(6), torch.arange(8.0), indexing="xy")[1][..., None]
        ),
        "a constant: aten.arange.default",
    ),
    "class numbers": (
        lambda m, x: x * F.one_hot((x.mean((1, 2, 3)) > 0).long(), 8)[..., None, None],
        "classes counted: aten.one_hot.default",
    ),
    "triangle": (
        lambda m, x: x.movedim(1, -1).tril().movedim(-1, 1),
        "aten.tril.default (positions compared)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("functions", [ACTIVATIONS, FUNCTIONS], ids=["activations", "functions"])
def test_functions_of_each_element_pass_all_channels(functions: tuple[Function, ...]) -> None:
    dense = probe(lambda m, x: sum((f(x) for f in functions), start=x))
    analysis = analyse(dense)
    assert channels(analysis) == 8
    assert reasons(analysis) == {"image channels", "model output"}
    check(dense)


@pytest.mark.parametrize("name", PASSING)
def test_operands_lose_the_same_channels(name: str) -> None:
    dense = probe(PASSING[name])
    analysis = analyse(dense)
    assert channels(analysis) == 8
    assert reasons(analysis) == {"image channels", "model output"}
    check(dense)


def test_a_gate_of_halves_cuts_both_alike() -> None:
    dense = probe(lambda m, x: F.glu(x, 1), 4)
    (group,) = (g for g in analyse(dense).groups if g.name == "conv")
    assert group.size == 4
    assert {o.positions for o in group.parameters if o.parameter == "conv.weight"} == {2}
    check(dense)


@pytest.mark.parametrize("name", STUCK)
def test_a_constant_that_differs_by_channel_is_named(name: str) -> None:
    body, reason = STUCK[name]
    dense = probe(body)
    analysis = analyse(dense)
    assert channels(analysis) == 0
    assert reasons(analysis, "conv.weight") == {"image channels", reason}
    check(dense, vacuous=True)
