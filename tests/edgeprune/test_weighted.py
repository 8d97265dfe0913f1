"""Each weighted operator against the operator itself on what is left."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.axes.op import plain_name
from edgeprune.weighted import WEIGHTED, run_weighted

aten = torch.ops.aten
KEPT = torch.tensor([0, 2, 3, 5])
CHANNELS = torch.linspace(0.5, 1.5, 6)  # one parameter for each position of the weighted dimension
ROWS = torch.linspace(-1, 1, 2)  # one for each of the first dimension

Case = tuple[Any, dict[str, Any]]

# Operators on x (2, 6, 5) with the middle dimension weighted, and the rest of their arguments.
OPERATORS: dict[str, Case] = {
    "mean": (aten.mean.dim, {"dim": [1], "keepdim": True}),
    "mean of all": (aten.mean.default, {}),
    "mean over two": (aten.mean.dim, {"dim": [1, -1]}),
    "var": (aten.var.correction, {"dim": [1], "correction": 1}),
    "var by default": (aten.var.correction, {"dim": [1]}),
    "var, old form": (aten.var.dim, {"dim": [1], "unbiased": False, "keepdim": True}),
    "std": (aten.std.correction, {"dim": [1, 2], "correction": 2}),
    "var and mean": (aten.var_mean.correction, {"dim": [1], "correction": 0, "keepdim": True}),
    "std and mean": (aten.std_mean.correction, {"dim": [1], "correction": 1}),
    "softmax": (aten.softmax.int, {"dim": 1}),
    "_softmax": (aten._softmax.default, {"dim": 1, "half_to_float": False}),
    "log_softmax": (aten.log_softmax.int, {"dim": -2}),
    "logsumexp": (aten.logsumexp.default, {"dim": [1]}),
    "amax": (aten.amax.default, {"dim": [1], "keepdim": True}),
    "amin": (aten.amin.default, {"dim": [1]}),
    "max": (aten.max.default, {}),
    "min": (aten.min.default, {}),
    "prod": (aten.prod.dim_int, {"dim": 1}),
    "cumprod": (aten.cumprod.default, {"dim": 1}),
    "layer_norm": (
        aten.layer_norm.default,
        {"normalized_shape": [6, 5], "weight": CHANNELS[:, None].expand(6, 5)},
    ),
    "rms_norm": (aten.rms_norm.default, {"normalized_shape": [6, 5]}),
    "group_norm": (aten.group_norm.default, {"num_groups": 1, "weight": CHANNELS}),
    "group_norm of two": (aten.group_norm.default, {"num_groups": 2, "bias": CHANNELS}),
    "_weight_norm": (aten._weight_norm.default, {"g": ROWS.abs()[:, None, None], "dim": 0}),
}  # fmt: skip

# The same with the last dimension weighted.
LAST: dict[str, Case] = {
    name: (
        target,
        {
            "weight": torch.rand(3), "bias": torch.rand(3), "running_mean": None,
            "running_var": None, flag: True, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": False,
        },
    )
    for name, target, flag in [
        ("batch_norm", aten.batch_norm.default, "training"),
        ("instance_norm", aten.instance_norm.default, "use_input_stats"),
    ]
}  # fmt: skip


def by_name(target: Any, given: dict[str, Any], x: Tensor) -> dict[str, Any]:
    """Return all arguments of an operator in the order of its schema."""
    arguments = target._schema.arguments
    return {a.name: given.get(a.name, a.default_value) for a in arguments} | {arguments[0].name: x}


def run(target: Any, arguments: dict[str, Any]) -> Tensor:
    """Run an operator; of several results, the sum, so that none is left out."""
    keyword = {a.name for a in target._schema.arguments if a.kwarg_only}
    positional = [value for name, value in arguments.items() if name not in keyword]
    result = target(*positional, **{k: v for k, v in arguments.items() if k in keyword})
    return sum(result) if isinstance(result, tuple) else result


def weighted(target: Any, arguments: dict[str, Any], gates: Tensor) -> Tensor:
    result = run_weighted(target, arguments, gates)
    return sum(result) if isinstance(result, tuple) else result


def values() -> Tensor:
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))


def shortened(given: dict[str, Any]) -> dict[str, Any]:
    """Return what is left of the arguments when only KEPT is."""

    def short(value: Any) -> Any:
        match value:
            case Tensor() if value.shape[0] == 6:
                return value[KEPT]
            case [6, 5]:
                return [4, 5]
            case _:
                return value

    return {name: short(value) for name, value in given.items()}


def gates_of(kept: Tensor) -> Tensor:
    return torch.zeros(1, 6, 1).index_fill_(1, kept, 1.0)


@pytest.mark.parametrize("name", OPERATORS)
def test_with_gates_of_one_it_is_the_operator(name: str) -> None:
    target, given = OPERATORS[name]
    arguments = by_name(target, given, values())
    torch.testing.assert_close(
        weighted(target, arguments, torch.ones(1, 6, 1)), run(target, arguments)
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_with_gates_of_zero_it_is_the_operator_on_what_is_left(name: str) -> None:
    target, given = OPERATORS[name]
    x = values()
    x[:, [1, 4]] += 50  # what goes would show
    expected = run(target, by_name(target, shortened(given), x[:, KEPT]))
    actual = weighted(target, by_name(target, given, x), gates_of(KEPT))
    if actual.dim() == 3 and actual.shape[1] == 6:
        actual = actual[:, KEPT]
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize("kept", [range(5), [0, 3, 4]])
def test_a_standardisation_over_the_last_dimension_counts_what_is_left(
    name: str, kept: list[int]
) -> None:
    target, given = LAST[name]
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    gates = torch.zeros(1, 1, 5).index_fill_(2, torch.tensor(kept), 1.0)
    actual = weighted(target, by_name(target, given, x), gates)[..., kept]
    torch.testing.assert_close(actual, run(target, by_name(target, given, x[..., kept])))


@pytest.mark.parametrize("name", OPERATORS)
def test_it_is_differentiable_by_its_gates_as_far_as_zero(name: str) -> None:
    target, given = OPERATORS[name]
    arguments = by_name(target, given, values())
    for start in (1.0, 0.0):
        gates = torch.full((1, 6, 1), start)
        gates[:, 0] = 1
        gates.requires_grad_()
        weighted(target, arguments, gates).square().sum().backward()
        assert gates.grad is not None
        assert gates.grad.isfinite().all()
    half = torch.full((1, 6, 1), 0.5, dtype=torch.float64, requires_grad=True)
    double = {k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    assert torch.autograd.gradcheck(lambda gates: weighted(target, double, gates), half)


@pytest.mark.parametrize("name", OPERATORS)
def test_with_nothing_left_it_still_gives_numbers(name: str) -> None:
    target, given = OPERATORS[name]
    assert weighted(target, by_name(target, given, values()), torch.zeros(1, 6, 1)).isfinite().all()


def test_a_softmax_is_exact_when_what_goes_dwarfs_what_stays() -> None:
    x = values()
    x[:, [1, 4]] += 500
    arguments = by_name(aten.softmax.int, {"dim": 1}, x)
    actual = weighted(aten.softmax.int, arguments, gates_of(KEPT))
    torch.testing.assert_close(actual[:, KEPT], F.softmax(x[:, KEPT], 1))


def test_a_softmax_keeps_positions_that_a_mask_excludes_at_zero() -> None:
    x = values()
    x[:, 2] = -torch.inf
    gates = gates_of(KEPT).requires_grad_()
    actual = weighted(aten.softmax.int, by_name(aten.softmax.int, {"dim": 1}, x), gates)
    torch.testing.assert_close(actual[:, KEPT], F.softmax(x[:, KEPT], 1))
    actual.square().sum().backward()
    assert gates.grad is not None
    assert gates.grad.isfinite().all()


def test_every_entry_of_the_table_is_tested() -> None:
    tested = {plain_name(target) for target, _ in (OPERATORS | LAST).values()}
    assert tested == set(WEIGHTED)
