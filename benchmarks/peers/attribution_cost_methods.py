"""What is timed: ways to score units, ours and those of peers.

A method is made once for a model and then takes batches of images with labels;
what it returns per batch is a score per unit, so that every method does the
whole work and none gets away with a map of the input.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.attribution import Batch, Integrated, Lrp, SampleCriterion, Taylor
from edgeprune.attribution.backtrace import Backtrace
from edgeprune.capture import capture
from edgeprune.gates import GatedModel
from peers.attribution_cost_models import CLASSES

Scoring: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # images, labels → a score per unit
BASELINE: Final = "forward and backward"


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model and a batch of its images."""

    model: nn.Module
    images: Tensor

    @cached_property
    def gated(self) -> GatedModel:
        """The model with gates; one for all criteria, so that its weights are held once."""
        return GatedModel(capture(self.model, self.images))


Making: TypeAlias = Callable[[Subject], Scoring]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to score units.

    Attributes:
        whose: the package.
        make: prepares it for a model.
    """

    whose: str
    make: Making


def plain(subject: Subject) -> Scoring:
    """Run what training runs: the loss and the gradients of all parameters."""
    parameters = list(subject.model.parameters())

    def run(images: Tensor, labels: Tensor) -> Tensor:
        return torch.autograd.grad(F.cross_entropy(subject.model(images), labels), parameters)[0]

    return run


def input_gradient(subject: Subject) -> Scoring:
    """Run forwards and backwards to the images only."""

    def run(images: Tensor, labels: Tensor) -> Tensor:
        images = images.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(subject.model(images), labels), images)[0]

    return run


def ours(criterion: SampleCriterion) -> Making:
    """Score all units of all channel groups with one of our criteria."""

    def make(subject: Subject) -> Scoring:
        score = criterion.per_sample(subject.gated, 0)

        def run(images: Tensor, labels: Tensor) -> Tensor:
            return score(Batch(images=images, labels=labels, multi_label=False)).abs().sum(0)

        return run

    return make


def captum_layers(kind: str) -> Making:
    """Score the outputs of all convolutions and linear layers with a layer method of captum."""

    def make(subject: Subject) -> Scoring:
        from captum import attr

        own = copy.deepcopy(subject.model)
        method = getattr(attr, kind)(own, contractions(own))

        def run(images: Tensor, labels: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says that it sets requires_grad
                found = method.attribute(images, target=labels)
            return torch.cat(
                [per_channel(one if isinstance(one, Tensor) else one[0]) for one in found]
            )

        return run

    return make


def zennit(kind: str) -> Making:
    """Score the outputs of all convolutions and linear layers with a composite of zennit."""

    def make(subject: Subject) -> Scoring:
        # Only in the extra for peers.
        from zennit import canonizers, composites  # pyright: ignore[reportMissingImports]
        from zennit.attribution import Gradient  # pyright: ignore[reportMissingImports]

        own = copy.deepcopy(subject.model)
        least, most = subject.images.aminmax()
        pixels = {"low": least, "high": most} if kind.endswith("Box") else {}
        composite = getattr(composites, kind)(
            canonizers=[canonizers.SequentialMergeBatchNorm()], **pixels
        )
        outputs = _kept_outputs(own)

        def run(images: Tensor, labels: Tensor) -> Tensor:
            outputs.clear()
            with Gradient(model=own, composite=composite) as attributor:
                attributor(images, torch.eye(CLASSES, device=images.device)[labels])
            return torch.cat([per_channel(_gradient(one)) for one in outputs])

        return run

    return make


def contractions(model: nn.Module) -> list[nn.Module]:
    """List a model's convolutions and linear layers."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def per_channel(relevance: Tensor) -> Tensor:
    """Sum relevance (N, C, H, W) or (N, …, C) over positions, and |that| over images."""
    relevance = relevance.detach()
    channel = 1 if relevance.dim() == 4 else relevance.dim() - 1
    rest = tuple(dim for dim in range(1, relevance.dim()) if dim != channel)
    return (relevance.sum(rest) if rest else relevance).abs().sum(0)


def _kept_outputs(model: nn.Module) -> list[Tensor]:
    """Keep the output of every convolution and linear layer, with its gradient."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ANN401
        output.retain_grad()
        kept.append(output)

    for module in contractions(model):
        module.register_forward_hook(keep)
    return kept


def _gradient(output: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an output that got no gradient
        return torch.zeros_like(output) if output.grad is None else output.grad


METHODS: Final[Mapping[str, Method]] = {
    BASELINE: Method(whose="torch", make=plain),
    "the same to the image only": Method(whose="torch", make=input_gradient),
    "taylor": Method(whose="edgeprune", make=ours(Taylor())),
    "lrp epsilon": Method(whose="edgeprune", make=ours(Lrp())),
    "lrp zplus": Method(whose="edgeprune", make=ours(Lrp(rule="zplus"))),
    "lrp epsilon_plus": Method(whose="edgeprune", make=ours(Lrp(rule="epsilon_plus"))),
    "lrp gamma": Method(whose="edgeprune", make=ours(Lrp(rule="gamma"))),
    "backtrace default": Method(whose="edgeprune", make=ours(Backtrace())),
    "backtrace contrast": Method(whose="edgeprune", make=ours(Backtrace(mode="contrast"))),
    "ig, 16 steps": Method(whose="edgeprune", make=ours(Integrated(steps=16))),
    "LayerGradientXActivation": Method(
        whose="captum", make=captum_layers("LayerGradientXActivation")
    ),
    "LayerLRP": Method(whose="captum", make=captum_layers("LayerLRP")),
    "EpsilonPlus": Method(whose="zennit", make=zennit("EpsilonPlus")),
    "EpsilonGammaBox": Method(whose="zennit", make=zennit("EpsilonGammaBox")),
}
"""Every method by its name; the first is what the others are compared with."""
