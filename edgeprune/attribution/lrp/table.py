"""Which rule each operator follows, but for contractions.

The first entry that fits counts. What is in no entry keeps its own gradient:
that is conservative already for everything linear (additions, pools,
concatenations, batch normalisation as the affine map it is in evaluation) and
for ReLU and max-pooling.
"""

from typing import Final

from edgeprune.attribution.lrp.activations import ACTIVATIONS, proportional
from edgeprune.attribution.lrp.normalisations import NORMALISATIONS, detached_deviation
from edgeprune.attribution.lrp.products import halved
from edgeprune.attribution.operators import CONTRACTIONS
from edgeprune.attribution.propagation import Entry, Paths, Rule, Table, assign
from edgeprune.gates import GatedModel

TABLE: Final[Table] = (
    Entry(operators=NORMALISATIONS, rule=detached_deviation),
    Entry(operators=ACTIVATIONS, rule=proportional),
)


def rules(model: GatedModel, paths: Paths, contraction: Rule) -> dict[str, Rule]:
    """Return the rule of each node that has one; contractions follow the one given."""
    table = (Entry(operators=CONTRACTIONS, rule=contraction), *TABLE)
    return assign(table, model.module.graph.nodes) | dict.fromkeys(paths.shared, halved)
