"""Which rule each operator follows.

What splits relevance among several is a sum, and the mode says how; everything
else treats each map of relevance alike, on its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import torch
from torch import Tensor, fx

from edgeprune.attribution.backtrace.attention import Spread, attend
from edgeprune.attribution.backtrace.default import Bounds, in_proportion
from edgeprune.attribution.backtrace.passing import passed, product, quotient, unsigned
from edgeprune.attribution.backtrace.pools import shared_by_winners
from edgeprune.attribution.backtrace.sums import (
    FACTORS,
    Build,
    Reach,
    additions,
    averages,
    einsum,
    products,
)
from edgeprune.attribution.backtrace.writing import apart, copied, rewritten, writing
from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Entry, Rule, Step, Table, entry_for

Split: TypeAlias = Callable[[tuple[Step, ...]], tuple[Tensor, ...]]  # one step per map

SUMS: Final[Mapping[str, Build]] = {
    **dict.fromkeys(FACTORS, products),
    "einsum": einsum,
    **dict.fromkeys(("add", "sub", "rsub"), additions),
    **dict.fromkeys(
        ("mean", "sum", "cumsum", "avg_pool1d", "avg_pool2d", "avg_pool3d",
         "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
         "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"),
        averages,
    ),
}  # fmt: skip
"""How operators that sum up are taken apart."""

ATTENTION: Final = "scaled_dot_product_attention"
PASSING: Final = frozenset(
    {
        "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm",
        "softmax", "_softmax", "log_softmax", "sigmoid", "hardsigmoid", "tanh", "erf",
        "gelu", "silu", "hardswish", "mish", "elu", "selu", "celu", "softplus", "log_sigmoid",
        "softsign", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "threshold",
        "pow", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log", "log1p", "log2",
        "sin", "cos",
    }
)  # fmt: skip
SELECTING: Final = frozenset(
    {
        "relu", "leaky_relu", "prelu", "abs", "neg", "maximum", "minimum", "where", "masked_fill",
        "view", "_unsafe_view", "reshape", "view_as", "reshape_as", "flatten", "unflatten",
        "expand", "expand_as", "broadcast_to", "unsqueeze", "squeeze", "permute", "transpose", "t",
        "movedim", "swapaxes", "contiguous", "clone", "alias", "detach", "dropout", "to",
        "_to_copy", "type_as", "lift_fresh_copy", "select", "slice", "narrow", "split",
        "split_with_sizes", "chunk", "unbind", "tensor_split", "getitem", "cat", "concat",
        "concatenate", "stack", "index", "index_select", "gather", "roll", "flip", "pad",
        "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "repeat", "tile",
        "repeat_interleave", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold",
        "im2col", "tril", "triu", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
        "_upsample_nearest_exact2d",
    }
)  # fmt: skip
MAX_POOLS: Final = frozenset({"max_pool1d", "max_pool2d", "max_pool3d"})

SATURATION: Final[Mapping[str, Bounds]] = {
    "relu": Bounds(low=0.0, high=torch.inf),
    "sigmoid": Bounds(low=-4.0, high=4.0),
    "tanh": Bounds(low=-2.0, high=2.0),
    "softmax": Bounds(low=-1.0, high=2.0),
    "silu": Bounds(low=-6.0, high=torch.inf),
}
"""Where the published algorithm takes activations to be saturated."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What each node follows that images or gates reach.

    Attributes:
        alone: rules for one map, by node.
        splits: those that need all maps at once.
    """

    alone: Mapping[str, Rule]
    splits: Mapping[str, Split]


def table(reach: Reach) -> Table:
    """Return the rules of operators that do not split, the first that fits counting."""
    return (
        Entry(operators=PASSING, rule=passed, why="passes on, as it is"),
        Entry(operators=SELECTING, rule=None, why="every value comes from one operand"),
        Entry(operators=MAX_POOLS, rule=shared_by_winners, why="to the winner, ties evenly"),
        Entry(
            operators=frozenset({"mul", "multiply"}),
            rule=partial(product, reach=reach),
            why="half to each of two signals, all to one that meets a constant",
        ),
        Entry(
            operators=frozenset({"div", "divide", "true_divide"}),
            rule=partial(quotient, reach=reach),
            why="all to what is divided",
        ),
    )


def rules(graph: fx.Graph, reach: Reach, spread: Spread, *, gated: bool) -> Rules:
    """Return what each operator follows.

    Args:
        graph: that of the model.
        reach: what reaches each node.
        spread: how a sum's relevance goes to its terms.
        gated: whether contractions before a saturating activation leave out
            what it saturates; default mode only.
    """
    kept = writing(graph)  # these keep their own gradient
    changed = rewritten(graph, kept)
    nodes = [n for n in graph.nodes if n.name in reach and operation(n) and n.name not in kept]
    entries = table(reach)
    alone: dict[str, Rule] = {}
    splits: dict[str, Split] = {}
    for node in nodes:
        name = operation(node)
        if name in SUMS:
            bounds = _bounds(node) if gated else None
            chosen = partial(in_proportion, bounds=bounds) if bounds else spread
            splits[node.name] = _split(SUMS[name], chosen, reach)
        elif name == ATTENTION:
            splits[node.name] = partial(attend, spread=spread, reach=reach)
        else:
            entry = entry_for(entries, name)
            rule = unsigned if entry is None else entry.rule
            if rule is not None:
                alone[node.name] = rule
        if any(source.name in changed for source in node.all_input_nodes):
            _copy_first(node.name, alone, splits)
    return Rules(alone=alone, splits=splits)


def _copy_first(name: str, alone: dict[str, Rule], splits: dict[str, Split]) -> None:
    """Let the rule of a node work on copies of its operands."""
    if name in alone:
        rule = alone[name]
        alone[name] = lambda step: rule(copied(step))
    if name in splits:
        split = splits[name]
        splits[name] = lambda steps: split(tuple(copied(step) for step in steps))


def _split(build: Build, spread: Spread, reach: Reach) -> Split:
    def split(steps: tuple[Step, ...]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            value = apart(steps[0]).run()
        return spread(tuple(build(step, reach) for step in steps), value)

    return split


def _bounds(node: fx.Node) -> Bounds | None:
    """Return the bounds of the activation that a contraction feeds and nothing else."""
    users = list(node.users)
    if operation(node) not in FACTORS or len(users) != 1:
        return None
    return SATURATION.get(operation(users[0]))
