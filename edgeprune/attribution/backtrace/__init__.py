"""DL-Backtrace over the graph: relevance in proportion to contributions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from edgeprune.attribution.backtrace.contrast import by_dominance
from edgeprune.attribution.backtrace.default import in_proportion
from edgeprune.attribution.backtrace.maps import one_map, reached, two_maps, whole
from edgeprune.attribution.backtrace.starts import starts
from edgeprune.attribution.backtrace.table import rules
from edgeprune.attribution.criterion import Attributor, Batch
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel

Maps: TypeAlias = Callable[[Batch], Tensor]
Run: TypeAlias = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Backtrace:
    """Relevance of each unit under DL-Backtrace, in logits.

    Relevance starts at a logit and goes, operator by operator, to what
    contributed, in proportion to |contribution|; a bias keeps its share. A sum
    of two signals and a mean split in the same way, max-pooling gives to its
    winners, ties evenly, and activations, softmax and normalisations pass on
    position by position. The contrast mode carries two maps, for the decision
    and against it, and scores their difference. Cost: one to two plain forwards
    and backwards per batch in default mode, four in contrast mode behind ReLU
    and ten or more where signals have both signs.

    Source: Sankarapu et al., DLBacktrace: A Model Agnostic Explainability for
    any Deep Learning Models, arXiv 2411.12643. What differs from its code, and why:

    - Attention follows the same rule: half to each operand of its two products,
      in proportion to |contribution|, and through the projections like through
      any linear layer. The code spreads relevance over the whole attention
      matrix and skips the projections, so that all tokens get alike.
    - A product of a signal and a constant gives all to the signal; of two
      signals each gets half, as there.
    - Relevance has its operator's shape and is never tiled or padded to fit.
    - Where P or N is 0 the code counts 1 in its place, which loses relevance;
      here what is there shares everything.
    - Two maps start with the explained logit and with the positive ones of
      other classes; raw logits, as there, would start with negative relevance.
    - A value of 0 carries no relevance, also where a normalisation follows.

    Attributes:
        mode: one map, or two. In default mode no score is negative.
        explained: the logit of the true class, or the highest one. Of findings
            it is all of them.
        gating: ``paper`` leaves out contributions that the activation right
            behind a layer saturates: positive ones below its range, negative
            ones above, for ReLU (from 0), sigmoid (±4), tanh (±2), softmax
            (-1 to 2) and SiLU (from -6). ``off`` is what the published code
            amounts to in convolutional networks: its test for ReLU's bound of
            0 never fires, and a ReLU that gives 0 has no relevance to pass on.
    """

    mode: Literal["default", "contrast"] = "default"
    explained: Literal["true", "predicted"] = "true"
    gating: Literal["off", "paper"] = "off"

    def __post_init__(self) -> None:
        """Refuse gates in the mode that has none."""
        if self.mode == "contrast" and self.gating == "paper":
            raise UsageError("backtrace gates activations in default mode only: use gating=off")

    @property
    def needs_labels(self) -> bool:
        """Whether the explained logit is that of a label."""
        return self.explained == "true"

    def per_sample(self, model: GatedModel, seed: int) -> Attributor:
        """Return what gives the relevance that reaches each unit, (N, U); no seed is used.

        In contrast mode it is that for the decision less that against it.
        """
        maps = relevance_maps(model, self)
        if self.mode == "default":
            return lambda batch: maps(batch)[0]
        return lambda batch: torch.sub(*maps(batch))


def relevance_maps(model: GatedModel, settings: Backtrace) -> Maps:
    """Return what gives the relevance of each unit, none negative: (1, N, U), or (2, N, U).

    The second map is that of what is against the decision.
    """
    count = 1 if settings.mode == "default" else 2
    run = _run(model, settings)

    def maps(batch: Batch) -> Tensor:
        gates = tuple(model.ones(len(batch)).requires_grad_() for _ in range(count))
        logits = run(batch.images, gates)
        begin = starts(logits[0].detach(), batch, settings.explained, maps=count)
        return torch.stack(torch.autograd.grad(logits, gates, begin))

    return maps


def _run(model: GatedModel, settings: Backtrace) -> Run:
    """Return what runs images (N, C, H, W) with gates (N, U) per map, to logits (N, K) per map."""
    paths = whole(model)
    graph, reach = model.module.graph, reached(model, paths)
    if settings.mode == "contrast":
        found = rules(graph, reach, by_dominance, gated=False)
        return lambda images, gates: two_maps(model, gates, images, paths, found)
    found = rules(graph, reach, in_proportion, gated=settings.gating == "paper")
    return lambda images, gates: (one_map(model, gates[0], paths, found).run(images),)


__all__ = ["Backtrace", "relevance_maps"]
