"""What an operator sums up, so that rules know who contributed how much.

A convolution sums products of pixels and weights, an addition its operands, a
mean its positions. A rule only runs the sum again on other values: on absolute
ones, or on positive and negative parts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor, fx

from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Step
from edgeprune.axes.op import bind


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """A sum of products.

    Attributes:
        run: computes the sum from its factors; linear in each, and not negative
            where none of them is.
        factors: one tensor or two, of any shapes that ``run`` takes.
        share: how much of a contribution's relevance each factor gets; 0 for constants.
    """

    run: Callable[..., Tensor]
    factors: tuple[Tensor, ...]
    share: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sum:
    """An operator's result as a sum of terms and a bias.

    Attributes:
        terms: what contributes, broadcasting to the result.
        bias: what is added to them, likewise, if anything.
    """

    terms: tuple[Term, ...]
    bias: Tensor | None = None


Reach = Mapping[str, int]  # by node: 2 where images reach it, 1 where only gates do
Build = Callable[[Step, Reach], Sum]

FACTORS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(
        ("linear", "conv1d", "conv2d", "conv3d",
         "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        ("input", "weight"),
    ),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "matmul": ("self", "other"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
}  # fmt: skip
"""The two operands of operators that sum up products."""


def products(step: Step, reach: Reach) -> Sum:
    """Take a contraction apart; where images reach both factors, each gets half."""
    names = FACTORS[operation(step.node)]
    plain, bias = _without_bias(step)

    def run(*factors: Tensor) -> Tensor:
        return plain.given(dict(zip(names, factors, strict=True))).run()  # type: ignore[no-any-return]

    factors = tuple(step.arguments[name] for name in names)
    share = evenly(*(level(step, name, reach) for name in names))
    return Sum(terms=(Term(run=run, factors=factors, share=share),), bias=bias)


def einsum(step: Step, reach: Reach) -> Sum:
    """Take an einsum apart."""

    def run(*factors: Tensor) -> Tensor:
        return step.given({"tensors": list(factors)}).run()  # type: ignore[no-any-return]

    share = evenly(*(reach.get(source.name, 0) for source in bind(step.node)["tensors"]))
    factors = tuple(step.arguments["tensors"])
    return Sum(terms=(Term(run=run, factors=factors, share=share),))


def additions(step: Step, reach: Reach) -> Sum:
    """Take an addition or a subtraction apart: tensors are terms, a number is a bias."""
    alpha = step.arguments["alpha"]
    signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[operation(step.node)]
    terms, numbers = [], []
    for name, sign in zip(("self", "other"), signs, strict=True):
        operand = step.arguments[name]
        if isinstance(operand, Tensor):
            share = float(level(step, name, reach) > 0)
            terms.append(term(operand if sign == 1 else operand * sign, share))
        else:
            numbers.append(operand * sign)
    bias = terms[0].factors[0].new_tensor(numbers[0]) if numbers else None
    return Sum(terms=tuple(terms), bias=bias)


def averages(step: Step, reach: Reach) -> Sum:
    """Take a mean, a sum or a pooling apart."""
    step = read(step)
    name = next(iter(step.arguments))

    def run(x: Tensor) -> Tensor:
        return step.given({name: x}).run()  # type: ignore[no-any-return]

    share = (float(level(step, name, reach) > 0),)
    return Sum(terms=(Term(run=run, factors=(step.first,), share=share),))


def term(x: Tensor, share: float) -> Term:
    """Return what contributes itself."""
    return Term(run=lambda x: x, factors=(x,), share=(share,))


def evenly(*levels: int) -> tuple[float, ...]:
    """Share among the factors of the highest level, which is not 0."""
    chosen = [one > 0 and one == max(levels) for one in levels]
    return tuple(one / max(sum(chosen), 1) for one in chosen)


def level(step: Step, argument: str, reach: Reach) -> int:
    """Say what reaches an argument of an operator."""
    source = bind(step.node)[argument]
    return reach.get(source.name, 0) if isinstance(source, fx.Node) else 0


def read(step: Step) -> Step:
    """Let the gates that weigh a statistic multiply its operand instead, at their value of 1."""
    if step.weights is None:
        return step
    name, weights = next(iter(step.arguments)), step.weights.detach()
    open_gates = 1 + step.weights - weights
    return replace(step.given({name: step.first * open_gates}), weights=weights)


def _without_bias(step: Step) -> tuple[Step, Tensor | None]:
    """Return a contraction without its bias, and the bias in the shape of the result."""
    if "beta" in step.arguments:
        return step.given({"beta": 0}), step.arguments["self"] * step.arguments["beta"]
    bias = step.arguments.get("bias")
    if bias is None:
        return step, None
    behind = 0 if operation(step.node) == "linear" else step.arguments["weight"].dim() - 2
    return step.given({"bias": None}), bias.reshape(-1, *[1] * behind)
