"""Operators without a choice: the signal gets all relevance, on whatever map it comes."""

from typing import Any

import torch
from torch import Tensor

from edgeprune.attribution.backtrace.parts import ratio, scaled_gradient
from edgeprune.attribution.backtrace.sums import Reach, evenly, level, read
from edgeprune.attribution.backtrace.writing import apart
from edgeprune.attribution.propagation import Step, rescaled


def passed(step: Step) -> Any:  # noqa: ANN401 - as operators have it
    """R(x) = R(f(x)) position by position: activations, softmax, normalisations."""
    if not isinstance(step.first, Tensor):  # a number to the power of the signal
        return unsigned(step)
    with torch.no_grad():
        value = apart(step).run()
    return passed_on(step.first, value)


def passed_on(x: Tensor, value: Tensor) -> Tensor:
    """Return ``value``, all of whose relevance goes to x of the same shape; none where x is 0."""
    return rescaled(x, value, ratio(value, x.detach()))


def product(step: Step, reach: Reach) -> Any:  # noqa: ANN401
    """Multiply; of two operands that images reach, each gets half."""
    names = ("self", "other")
    shares = zip(names, evenly(*(level(step, name, reach) for name in names)), strict=True)
    given = {name: _shared(step.arguments[name], share) for name, share in shares}
    return apart(step.given(given)).run()


def quotient(step: Step, reach: Reach) -> Any:  # noqa: ANN401
    """Divide; what is reached above the line gets everything."""
    if level(step, "self", reach) == 0:
        return unsigned(step)
    return apart(step.given({"other": _shared(step.arguments["other"], 0)})).run()


def unsigned(step: Step) -> Any:  # noqa: ANN401
    """R(x) = |x · ∂f/∂x · R(f) / f|: what has no rule of its own takes no sign either."""
    step = apart(read(step))
    return step.given({name: _without_sign(value) for name, value in step.arguments.items()}).run()


class _Unsigned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x)
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return torch.sign(x) * gradients[0].abs()


def _without_sign(value: object) -> object:
    match value:
        case Tensor() if value.requires_grad and value.is_floating_point():
            return _Unsigned.apply(value)
        case tuple() | list():
            return type(value)(_without_sign(item) for item in value)
        case _:
            return value


def _shared(value: object, share: float) -> object:
    return scaled_gradient(value, share) if isinstance(value, Tensor) else value
