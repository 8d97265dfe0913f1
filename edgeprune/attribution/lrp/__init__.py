"""Layer-wise relevance propagation over the graph.

Patents: LRP is patented in some jurisdictions. Its authors permit personal,
educational and scientific use; for anything else ask them first. It is not the
default criterion.
"""

import math
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from edgeprune.attribution.criterion import Attributor, Explained, Run
from edgeprune.attribution.lrp.composites import (
    Composite,
    CompositeName,
    Part,
    Place,
    built_in,
    contraction_rules,
    convolutions,
    everywhere,
    up_to,
)
from edgeprune.attribution.lrp.contractions import Epsilon, Gamma, ZPlus
from edgeprune.attribution.lrp.table import rules
from edgeprune.attribution.propagation import Attention, RuleInterpreter, find_paths
from edgeprune.attribution.settings import require_target
from edgeprune.attribution.taylor import gate_times_gradient
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Lrp:
    """Relevance of each unit under the rules of LRP.

    LRP is patented in some jurisdictions; its authors permit personal,
    educational and scientific use, and other uses need their licence. It is
    therefore not the default.

    Contractions use the epsilon rule unless told otherwise, attention holds its
    weights constant (the CP rule), normalisations their deviation, and a
    product passes everything to its signal and nothing to its gate. Relevance
    of image, biases and other added parameters sums to what is explained, but
    for what ``epsilon`` absorbs; 0 absorbs nothing and is LRP-0, which in a
    ReLU network equals gradient × input. Units that only serve gates (queries,
    squeeze-excite) get the first-order effect of their removal instead of 0. In
    nats (loss) or logits (evidence, margin). Cost: one forward and one backward
    per batch, up to a third dearer than plain ones with ``epsilon``, and two to
    four times as dear with rules that treat signs apart.

    Sources: Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier
    Decisions by Layer-Wise Relevance Propagation, PLoS ONE 2015, equation 58
    (epsilon); Ali et al., XAI for Transformers: Better Explanations through
    Conservative Propagation, ICML 2022 (attention and LayerNorm); Achtibat et
    al., AttnLRP, ICML 2024. To units: Yeom et al., Pruning by Explaining,
    Pattern Recognition 2021; with rules by depth: Hatefi et al., Pruning by
    Explaining Revisited, 2024.

    Attributes:
        explained: what relevance starts from: the loss, the evidence or the margin.
        rule: which contractions follow which rule, a composite or the name of
            one. ``epsilon``, ``zplus`` and ``gamma`` are for all alike.
            ``epsilon_plus`` is z+ for convolutions and epsilon for the rest,
            ``epsilon_gamma`` likewise with gamma. ``low_middle_high`` is gamma in
            the third next to the image, epsilon in the middle, and LRP-0 next to
            the logits (Montavon et al., Layer-Wise Relevance Propagation: An
            Overview, 2019, section 10.2.2).
        epsilon: stabiliser of the epsilon rule, as a share of each layer's mean |z|.
        absolute: whether ``epsilon`` is a number to add to |z| instead.
        gamma: how much more the gamma rule counts what has the sign of the result.
        attention: ``cp``, weights constant; or ``attnlrp``, which passes
            relevance on to queries and keys as well.
    """

    explained: Explained = "loss"
    rule: CompositeName | Composite = "epsilon"
    epsilon: float = 0.1
    absolute: bool = False
    gamma: float = 0.25
    attention: Attention = "cp"

    def __post_init__(self) -> None:
        """Refuse settings that would turn signs, and names that nothing has."""
        require_target(self.explained)
        for name, value in (("epsilon", self.epsilon), ("gamma", self.gamma)):
            if not 0 <= value < math.inf:
                raise UsageError(f"lrp's {name} is {value:g}: use 0 or a positive number")
        known = get_args(CompositeName)
        if not isinstance(self.rule, Composite) and self.rule not in known:
            raise UsageError(f"lrp has no rule '{self.rule}'; there are {', '.join(known)}")
        if self.attention not in get_args(Attention):
            raise UsageError(f"lrp's attention is '{self.attention}': use cp or attnlrp")

    @property
    def composite(self) -> Composite:
        """Which contractions follow which rule."""
        if isinstance(self.rule, Composite):
            return self.rule
        epsilon = Epsilon(epsilon=self.epsilon, absolute=self.absolute)
        return built_in(self.rule, epsilon, Gamma(gamma=self.gamma))

    def per_sample(self, model: GatedModel, seed: int) -> Attributor:
        """Return what gives the relevance that reaches each unit, (N, U); no seed is used."""
        propagated = propagation(model, self)
        return lambda batch: gate_times_gradient(
            propagated, model.ones(len(batch)), batch, self.explained
        )


def propagation(model: GatedModel, settings: Lrp) -> Run:
    """Return what runs images with gates so that gradient × value is relevance."""
    paths = find_paths(model, attention=settings.attention)
    contractions = contraction_rules(model, paths, settings.composite)
    found = rules(model, paths, contractions, attention=settings.attention)

    def run(images: Tensor, gates: Tensor) -> Tensor:
        logits: Tensor = RuleInterpreter(model, gates, paths, found).run(images)
        return logits

    return run


__all__ = [
    "Composite",
    "CompositeName",
    "Epsilon",
    "Gamma",
    "Lrp",
    "Part",
    "Place",
    "ZPlus",
    "convolutions",
    "everywhere",
    "propagation",
    "up_to",
]
