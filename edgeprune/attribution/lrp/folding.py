"""Batch normalisation as a part of the contraction before it.

In evaluation a normalisation is y = s z + t per channel, so that a contraction
with it is one with weight s W and bias s b + t. Rules that treat positive and
negative contributions apart need them as the next layer sees them. Invariant:
the value is still computed by the two operators as they are, so that folding
changes no bit of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import torch
from torch import Tensor, fx

from edgeprune.attribution.operators import CONTRACTIONS, operation
from edgeprune.attribution.propagation import Step
from edgeprune.axes.op import bind, call
from edgeprune.gates import GatedModel

_TENSORS: Final = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """A batch normalisation in evaluation, which alone reads a contraction.

    Attributes:
        node: the normalisation.
        contraction: what it reads.
        module: where its tensors are.
    """

    node: fx.Node
    contraction: fx.Node
    module: fx.GraphModule

    def run(self, z: Tensor) -> Tensor:
        """Normalise the contraction's result as the graph does."""
        return call(self.node.target, {**self._arguments(), "input": z})  # type: ignore[no-any-return]

    def operands(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the contraction's weight and bias with the normalisation in them."""
        scale, shift = self._scale_and_shift()
        return self._scaled(weight, scale), shift if bias is None else shift + bias * scale

    def _arguments(self) -> dict[str, Any]:
        bound = bind(self.node)
        for name in _TENSORS:
            if bound[name] is not None:
                bound[name] = attrgetter(bound[name].target)(self.module)
        return bound

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return s and t of y = s z + t, each (C,)."""
        found = self._arguments()
        scale = torch.rsqrt(found["running_var"] + found["eps"])
        if found["weight"] is not None:
            scale = scale * found["weight"]
        shift = -found["running_mean"] * scale
        return scale, shift if found["bias"] is None else shift + found["bias"]

    def _scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Multiply what makes each channel."""
        name = operation(self.contraction)
        if name in ("mm", "addmm"):
            return weight * scale
        if "transpose" not in name:
            return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
        groups = bind(self.contraction)["groups"]
        parts = weight.reshape(groups, -1, *weight.shape[1:])  # in, out, … of each group
        scaled = parts * scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
        return scaled.reshape(weight.shape)


def find_folds(model: GatedModel) -> Mapping[str, Fold]:
    """Return what can be folded, by the name of the contraction that takes it over."""
    folds = (_fold(node, model) for node in model.module.graph.nodes)
    return {fold.contraction.name: fold for fold in folds if fold is not None}


def passed_on(step: Step) -> Tensor:
    """Return what is given: a normalisation's rule once a contraction has taken it over."""
    return step.first  # type: ignore[no-any-return]


def _fold(node: fx.Node, model: GatedModel) -> Fold | None:
    if operation(node) != "batch_norm":
        return None
    bound = bind(node)
    source = bound["input"]
    tensors = [bound[name] for name in _TENSORS]
    known = all(tensor is None or tensor.op == "get_attr" for tensor in tensors)
    if bound["training"] or bound["running_mean"] is None or not known:
        return None
    if len(source.users) > 1 or not _makes_channels(source, model):
        return None
    return Fold(node=node, contraction=source, module=model.module)


def _makes_channels(contraction: fx.Node, model: GatedModel) -> bool:
    """Tell whether an operator's weight makes dimension 1 of its result."""
    name = operation(contraction)
    if name not in CONTRACTIONS:
        return False
    if name.startswith("conv"):
        return True
    shape = model.analysis.shapes[contraction.name]
    weight = bind(contraction)["weight" if name == "linear" else "mat2"]
    return isinstance(shape, tuple) and len(shape) == 2 and weight.op == "get_attr"
