"""How many multiply-accumulates an operator takes, in ONNX's and in OpenVINO's terms.

The same definition as that of captured models: products with a weight and
products of two activations count, biases and pointwise operators do not, and a
convolution counts its whole kernel also where that hangs over the edge.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edgeprune_benchmarks.counts_graph import Operator, Shape

Rule = Callable[[Operator, Sequence[Shape], Shape], int]


def _kernel(first: int, weight: int = 1) -> Rule:
    """Each output takes the weight's sizes from ``first`` on."""

    def rule(operator: Operator, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(output) * math.prod(inputs[weight][first:])

    return rule


def _transposed(first: int) -> Rule:
    """Each input is spread over the weight's sizes from ``first`` on."""

    def rule(operator: Operator, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(inputs[0]) * math.prod(inputs[1][first:])

    return rule


def _product(operator: Operator, inputs: Sequence[Shape], output: Shape) -> int:
    flags = (operator.attributes.get(name) for name in ("transA", "transpose_a"))
    turned = any(flag in (1, "1", "true") for flag in flags) and len(inputs[0]) > 1
    return math.prod(output) * inputs[0][-2 if turned else -1]


def _attention(operator: Operator, inputs: Sequence[Shape], output: Shape) -> int:
    """Queries with keys, and weights with values: (…, N, D), (…, M, D), (…, M, E) → (…, N, E)."""
    return (math.prod(inputs[0]) + math.prod(output)) * inputs[1][-2]


def _recurrent(first: int) -> Rule:
    """Each step of a sequence takes both matrices of all gates: X, …, W, R."""

    def rule(operator: Operator, inputs: Sequence[Shape], output: Shape) -> int:
        steps = math.prod(inputs[0][:2])
        return steps * sum(math.prod(weight) for weight in inputs[first : first + 2])

    return rule


def _einsum(operator: Operator, inputs: Sequence[Shape], output: Shape) -> int:
    terms = str(operator.attributes["equation"]).replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        before, _, after = term.partition("...")
        dots = [str(k) for k in reversed(range(len(shape) - len(before) - len(after)))]
        for letter, size in zip([*before, *dots, *after], shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


_MACS: Final[Mapping[str, Rule]] = {
    "Conv": _kernel(1),
    "ConvInteger": _kernel(1),
    "QLinearConv": _kernel(1, weight=3),
    "DeformConv": _kernel(1),
    "ConvTranspose": _transposed(1),
    "Gemm": _product,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Einsum": _einsum,
    "Attention": _attention,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent(1)),
    "Convolution": _kernel(1),
    "BinaryConvolution": _kernel(1),
    "GroupConvolution": _kernel(2),
    "DeformableConvolution": _kernel(1, weight=2),
    "ConvolutionBackpropData": _transposed(1),
    "GroupConvolutionBackpropData": _transposed(2),
    "ScaledDotProductAttention": _attention,
    "LSTMSequence": _recurrent(4),
    **dict.fromkeys(("GRUSequence", "RNNSequence"), _recurrent(3)),
}

# Inputs that are numbers of a format, not of the network.
_SCALES: Final[Mapping[str, tuple[int, ...]]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "FakeQuantize": (1, 2, 3, 4),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
}


def rule_of(type_: str) -> Rule | None:
    """Return how an operator's multiply-accumulates are counted; None where it has none."""
    return _MACS.get(type_)


def learned_inputs(operator: Operator) -> tuple[str, ...]:
    """Return the inputs of an operator that can hold what was learned."""
    scales = _SCALES.get(operator.type, ())
    return tuple(name for at, name in enumerate(operator.inputs) if name and at not in scales)
