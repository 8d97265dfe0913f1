"""Layer-wise relevance propagation over the graph.

Patents: LRP is patented in some jurisdictions. Its authors permit personal,
educational and scientific use; for anything else ask them first. It is not the
default criterion.
"""

from dataclasses import dataclass

from torch import Tensor

from edgeprune.attribution.criterion import Attributor, Explained, Run
from edgeprune.attribution.lrp.contractions import epsilon_rule
from edgeprune.attribution.lrp.table import rules
from edgeprune.attribution.propagation import RuleInterpreter, find_paths
from edgeprune.attribution.taylor import gate_times_gradient
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Lrp:
    """Relevance of each unit under the epsilon rule.

    LRP is patented in some jurisdictions; its authors permit personal,
    educational and scientific use, and other uses need their licence. It is
    therefore not the default.

    Contractions use the epsilon rule, attention holds its weights constant (the
    CP rule), normalisations their deviation, and a product passes everything to
    its signal and nothing to its gate. Relevance of image, biases and other
    added parameters sums to what is explained, but for what ``epsilon``
    absorbs; 0 absorbs nothing and is LRP-0, which in a ReLU network equals
    gradient × input. Units that only serve gates (queries, squeeze-excite)
    get the first-order effect of their removal instead of 0. In nats (loss)
    or logits (evidence). Cost: one forward and one backward per batch, each
    somewhat dearer than plain ones.

    Sources: Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier
    Decisions by Layer-Wise Relevance Propagation, PLoS ONE 2015, equation 58
    (epsilon); Ali et al., XAI for Transformers: Better Explanations through
    Conservative Propagation, ICML 2022 (attention and LayerNorm). To units:
    Yeom et al., Pruning by Explaining, Pattern Recognition 2021.

    Attributes:
        explained: what relevance starts from: the loss, or the evidence.
        epsilon: stabiliser, as a share of each layer's mean |z|.
    """

    explained: Explained = "loss"
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a stabiliser that would turn signs."""
        if not self.epsilon >= 0:
            raise UsageError(f"lrp's epsilon is {self.epsilon:g}: use 0 or more")

    def per_sample(self, model: GatedModel, seed: int) -> Attributor:
        """Return what gives the relevance that reaches each unit, (N, U); no seed is used."""
        propagated = propagation(model, self)
        return lambda batch: gate_times_gradient(
            propagated, model.ones(len(batch)), batch, self.explained
        )


def propagation(model: GatedModel, settings: Lrp) -> Run:
    """Return what runs images with gates so that gradient × value is relevance."""
    paths = find_paths(model)
    found = rules(model, paths, epsilon_rule(settings.epsilon))

    def run(images: Tensor, gates: Tensor) -> Tensor:
        logits: Tensor = RuleInterpreter(model, gates, paths, found).run(images)
        return logits

    return run


__all__ = ["Lrp", "propagation"]
