"""Which operands only weigh others: attention weights, outputs of a sigmoid, divisors.

Told from the graph alone. Some operands are gates by what the operator does; in
a product the one that was squashed is, or else the one with fewer values. Where
neither is, the product is one of two signals.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import fx

from edgeprune.attribution.operators import operation
from edgeprune.axes.op import bind
from edgeprune.axes.shapes import Value

Attention: TypeAlias = Literal["cp", "attnlrp"]  # weights held constant, or taken as signals

ATTENTION: Final = "scaled_dot_product_attention"
# What an operator weighs its signal by, places it with or divides it by.
WEIGHTS: Final[Mapping[str, tuple[str, ...]]] = {
    ATTENTION: ("query", "key", "attn_mask"),
    **dict.fromkeys(("div", "divide", "true_divide", "floor_divide"), ("other",)),
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "prelu", "lerp"), ("weight",)),
    **dict.fromkeys((f"conv_transpose{d}d" for d in (1, 2, 3)), ("weight",)),
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), ("weight",)),
    **dict.fromkeys(("batch_norm", "instance_norm"), ("weight", "running_mean", "running_var")),
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), ("grid",)),
    **dict.fromkeys(("reciprocal", "rsqrt"), ("self",)),
    "addcdiv": ("tensor2",),
    "pow": ("exponent",),
}
# Where weights stay weights even if nothing else depends on the image.
ALWAYS: Final = frozenset(
    {
        ATTENTION, "div", "divide", "true_divide", "floor_divide", "addcdiv", "reciprocal", "rsqrt",
    }
)  # fmt: skip
# The factors of a product, by name.
FACTORS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("mul", "multiply", "matmul", "linalg_matmul", "inner"), ("self", "other")),
    **dict.fromkeys(("baddbmm", "addbmm"), ("batch1", "batch2")),
    **dict.fromkeys(("mm", "bmm"), ("self", "mat2")),
    **dict.fromkeys(("outer", "ger"), ("self", "vec2")),
    "dot": ("self", "tensor"),
    "vdot": ("self", "other"),
    "addmm": ("mat1", "mat2"),
    "mv": ("self", "vec"),
    "addmv": ("mat", "vec"),
    "addcmul": ("tensor1", "tensor2"),
    "tensordot": ("self", "other"),
    "bilinear": ("input1", "input2"),
    "einsum": ("tensors",),
}
ELEMENTWISE: Final = frozenset({"mul", "multiply", "addcmul"})
# What makes a weight of a value: a share, or a divisor.
SQUASHING: Final = frozenset(
    {"sigmoid", "hardsigmoid", "softmax", "_softmax", "reciprocal", "rsqrt"}
)
# What a gate passes through between its squashing and its product: moved, joined,
# averaged, weighed by constants or by other gates. Talking heads mix by linear layers.
TRANSPARENT: Final = frozenset(
    {
        "view", "reshape", "reshape_as", "_unsafe_view", "flatten", "unflatten", "expand",
        "expand_as", "unsqueeze", "squeeze", "transpose", "permute", "select", "slice", "split",
        "split_with_sizes", "chunk", "unbind", "getitem", "cat", "stack", "pad", "index", "roll",
        "repeat", "repeat_interleave", "upsample_nearest2d", "upsample_bilinear2d",
        "contiguous", "clone", "alias", "dropout", "to", "type_as", "where", "masked_fill",
        "mean", "sum", "adaptive_avg_pool2d", "avg_pool2d",
        "mul", "div", "add", "sub", "rsub", "linear", "conv1d", "conv2d",
    }
)  # fmt: skip
# What takes only the shape of its operands.
SHAPED: Final = frozenset(
    {
        "zeros_like", "ones_like", "full_like", "empty_like",
        "new_zeros", "new_ones", "new_full", "new_empty", "sym_size",
    }
)  # fmt: skip


def dependent(nodes: Sequence[fx.Node], shapes: Mapping[str, Value]) -> set[fx.Node]:
    """Return what depends on the images' values, not just on their number or size."""
    found: set[fx.Node] = set()
    for node in nodes:
        read = set(node.all_input_nodes) & found if operation(node) not in SHAPED else set()
        if node.op == "placeholder" or any(_is_value(source, shapes) for source in read):
            found.add(node)
    return found


def squashed(nodes: Sequence[fx.Node], varying: set[fx.Node]) -> set[fx.Node]:
    """Return what has been through a squashing operator and nothing but ``TRANSPARENT`` since."""
    found: set[fx.Node] = set()
    for node in nodes:
        sources = set(node.all_input_nodes) & varying
        passes = operation(node) in TRANSPARENT and bool(sources) and sources <= found
        if passes or (operation(node) in SQUASHING and sources):
            found.add(node)
    return found


def factors(node: fx.Node, varying: set[fx.Node]) -> list[fx.Node]:
    """Return those factors of a product that depend on the images; none for what is none."""
    names = FACTORS.get(operation(node), ()) if _is_operator(node) else ()
    arguments = bind(node) if names else {}
    return [source for name in names for source in _nodes(arguments[name]) if source in varying]


def gates(
    node: fx.Node,
    varying: set[fx.Node],
    narrow: set[fx.Node],
    shapes: Mapping[str, Value],
    attention: Attention,
) -> set[fx.Node]:
    """Return those inputs of a node that only weigh its other ones.

    Args:
        node: an operator of the graph.
        varying: what depends on the images.
        narrow: what was squashed.
        shapes: the shape of every value.
        attention: whether attention weights are gates (``cp``) or signals.
    """
    name = operation(node)
    if attention == "attnlrp" and (name == ATTENTION or name in FACTORS.keys() - ELEMENTWISE):
        return set()
    if name in WEIGHTS and _is_operator(node):
        found = _weights(node) & varying
        alone = found == varying.intersection(node.all_input_nodes)
        return set() if alone and name not in ALWAYS else found
    parts = factors(node, varying)
    return _weaker(parts, narrow, shapes, sized=name in ELEMENTWISE) if len(parts) > 1 else set()


def _weights(node: fx.Node) -> set[fx.Node]:
    """Return what weighs the signal; an input that is signal as well is none."""
    arguments = bind(node)
    names = WEIGHTS[operation(node)]
    found = {source for name in names for source in _nodes(arguments.get(name))}
    others = {s for name in arguments.keys() - set(names) for s in _nodes(arguments[name])}
    return found - others


def _weaker(
    parts: list[fx.Node], narrow: set[fx.Node], shapes: Mapping[str, Value], *, sized: bool
) -> set[fx.Node]:
    """Return the factors that were squashed, or else those with fewer values, or none."""
    found = {part for part in parts if part in narrow}
    if found and len(found) < len(set(parts)):
        return found
    if not sized:
        return set()
    largest = max(_size(part, shapes) for part in parts)
    return {part for part in parts if _size(part, shapes) < largest}


def _nodes(argument: Any) -> Iterator[fx.Node]:  # noqa: ANN401 - as graphs have it
    match argument:
        case fx.Node():
            yield argument
        case tuple() | list():
            for item in argument:
                yield from _nodes(item)


def _is_operator(node: fx.Node) -> bool:
    """Say whether this is an operator on tensors; sizes are computed by Python's own."""
    return isinstance(node.target, torch._ops.OpOverload)


def _is_value(node: fx.Node, shapes: Mapping[str, Value]) -> bool:
    return not isinstance(shapes[node.name], int | float)


def _size(node: fx.Node, shapes: Mapping[str, Value]) -> int:
    shape = shapes[node.name]
    return math.prod(shape) if isinstance(shape, tuple) else 1
