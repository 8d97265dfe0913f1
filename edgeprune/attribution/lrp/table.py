"""Which rule each operator follows: an ordered table, the first entry that fits counts.

Relevance is gradient × value. An operator conserves it when its operands, and
what it adds to them by itself (its result where all signals are 0: a bias, the
shift of a batch normalisation, exp(0) = 1), get together what its result has.
An operator in no entry keeps its own gradient, as those of the last one do.
"""

from collections.abc import Mapping
from typing import Final

from edgeprune.attribution.lrp.activations import SHIFTED, THROUGH_ZERO, chord, chord_through_zero
from edgeprune.attribution.lrp.attention import constant_weights, shared_weights
from edgeprune.attribution.lrp.normalisations import NORMALISATIONS, detached_deviation
from edgeprune.attribution.lrp.plain import (
    DIVISORS,
    FALLBACK,
    GATED,
    LENGTHS,
    LINEAR,
    PIECEWISE,
    SOFTMAX,
    WITHOUT_SIGNAL,
)
from edgeprune.attribution.lrp.products import (
    even_shares,
    gated_linear_unit,
    product,
    running_product,
    variance,
)
from edgeprune.attribution.lrp.recurrent import CELLS, one_step, sequence
from edgeprune.attribution.operators import CONTRACTIONS
from edgeprune.attribution.propagation import Attention, Entry, Paths, Rule, Table, assign
from edgeprune.attribution.propagation.gating import ATTENTION
from edgeprune.gates import GatedModel

BY_ATTENTION: Final[Mapping[Attention, Entry]] = {
    "cp": Entry(
        operators=frozenset({ATTENTION}),
        rule=constant_weights,
        why="attention weights are constant (CP): relevance goes to values alone",
    ),
    "attnlrp": Entry(
        operators=frozenset({ATTENTION}),
        rule=shared_weights,
        why="even shares in both products (AttnLRP); softmax keeps its own gradient, and what "
        "it is without one is lost: from nothing to 0.4 of the logit in families of timm",
        conserves=False,
    ),
}

TABLE: Final[Table] = (
    Entry(
        operators=CONTRACTIONS,
        rule=None,
        why="the rule that was chosen; by default epsilon, which absorbs what it stabilises with",
    ),
    Entry(
        operators=NORMALISATIONS,
        rule=detached_deviation,
        why="the deviation is constant, mean and affine part keep their own gradient; with stored "
        "statistics it is linear",
    ),
    Entry(
        operators=THROUGH_ZERO,
        rule=chord_through_zero,
        why="one value in, one value out: relevance passes on as it is",
    ),
    Entry(
        operators=SHIFTED,
        rule=chord,
        why="relevance passes on but for what f(0) adds; of two signals under a maximum or "
        "minimum, the one that wins gets all",
    ),
    Entry(
        operators=frozenset({"glu"}),
        rule=gated_linear_unit,
        why="the squashed half is a gate: relevance goes to the other one",
    ),
    Entry(
        operators=frozenset({"var", "var_mean"}),
        rule=variance,
        why="of degree 2: half of its own gradient",
    ),
    Entry(operators=frozenset({"prod"}), rule=product, why="an even share for each factor"),
    Entry(
        operators=frozenset({"cumprod"}),
        rule=running_product,
        why="an even share for each factor so far",
    ),
    Entry(
        operators=frozenset(CELLS),
        rule=sequence,
        why="step by step: gates are constant, tanh passes relevance on, contractions are LRP-0; "
        "packed and projected forms keep their own gradient",
    ),
    Entry(
        operators=frozenset(f"{name}_cell" for name in CELLS),
        rule=one_step,
        why="gates are constant, tanh passes relevance on, contractions are LRP-0",
    ),
    Entry(
        operators=GATED,
        rule=None,
        why="linear in its signal: its own gradient, and nothing to gates and divisors; factors "
        "that are all signals get even shares, and matrix products by a constant follow the rule "
        "of contractions",
    ),
    Entry(operators=LINEAR, rule=None, why="linear in its signals: its own gradient"),
    Entry(
        operators=PIECEWISE,
        rule=None,
        why="picks a value or scales it by its sign: its own gradient",
    ),
    Entry(operators=LENGTHS, rule=None, why="of degree 1: its own gradient"),
    Entry(
        operators=WITHOUT_SIGNAL,
        rule=None,
        why="constants, numbers of positions, truth values: no signal passes",
    ),
    Entry(operators=DIVISORS, rule=None, why="makes a divisor: nothing passes"),
    Entry(
        operators=SOFTMAX,
        rule=None,
        why="its own gradient, its first-order Taylor expansion (AttnLRP): what it is without one "
        "is lost; as attention weights under CP it is off the trunk",
        conserves=False,
    ),
    Entry(
        operators=FALLBACK,
        rule=None,
        why="fallback, its own gradient: there is no value at 0 to measure shares from, or it is "
        "of several signals and no degree",
        conserves=False,
    ),
)


def table(attention: Attention) -> Table:
    """Return the entries in force."""
    return (BY_ATTENTION[attention], *TABLE)


def operators(attention: Attention) -> dict[str, str]:
    """Say for every operator with an entry, in the order of the alphabet, what it follows."""
    found: dict[str, str] = {}
    for entry in table(attention):
        for name in entry.operators:
            found.setdefault(name, entry.why)
    return dict(sorted(found.items()))


def rules(
    model: GatedModel,
    paths: Paths,
    contraction: Mapping[str, Rule] | Rule,
    *,
    attention: Attention = "cp",
) -> dict[str, Rule]:
    """Return the rule of each node on the trunk that has one, by name.

    Off the trunk operators keep their own gradient, so that what only serves
    gates is scored by the first-order effect of its removal.

    Args:
        model: what is run.
        paths: found for the same ``attention``.
        contraction: the rule of all contractions, or one by name of node, which
            goes before the table whatever the node's operator is.
        attention: whether attention weights are constant (``cp``) or signals.
    """
    passed = paths.trunk & paths.dependent
    nodes = [node for node in model.module.graph.nodes if node.name in passed]
    entries = table(attention)
    if isinstance(contraction, Mapping):
        chosen = {name: rule for name, rule in contraction.items() if name in passed}
    else:
        chosen = assign((Entry(operators=CONTRACTIONS, rule=contraction),), nodes)
    shared = {name: even_shares(count) for name, count in paths.shared.items()}
    return assign(entries, nodes) | chosen | shared
