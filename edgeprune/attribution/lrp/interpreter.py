"""Runs a captured model forwards as it is and backwards by the rules of LRP.

Invariant: values are those of the gated model, only gradients differ.
"""

from typing import Any, Final

import torch
from torch import Tensor, fx

from edgeprune.attribution.lrp.paths import Paths
from edgeprune.attribution.lrp.rules import RULES, halved, normalised
from edgeprune.attribution.operators import operation
from edgeprune.axes.op import bind
from edgeprune.gates import GatedInterpreter, GatedModel
from edgeprune.weighted import affine

NORMALISATIONS: Final = frozenset({"layer_norm", "rms_norm", "group_norm"})


class LrpInterpreter(GatedInterpreter):
    """A gated run whose gradient times value is relevance."""

    def __init__(self, model: GatedModel, gates: Tensor, paths: Paths, epsilon: float) -> None:
        """Take gates (S, U); S is 1 or the number of images."""
        super().__init__(model, gates)
        self.paths = paths
        self.epsilon = epsilon
        self._trunk_gates = self.gates
        self._branch_gates = torch.where(self._read_on_trunk(), self.gates.detach(), self.gates)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        """Run one node; units that the trunk reads get nothing from branches."""
        on_trunk = n.name in self.paths.readers
        self.gates = self._trunk_gates if on_trunk else self._branch_gates
        return super().run_node(n)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        """Fetch a node's arguments, detached where relevance would leave the trunk."""
        stopped = self.paths.stopped.get(n.name, frozenset())

        def value(source: fx.Node) -> Any:  # noqa: ANN401
            found = self.env[source]
            return _detached(found) if source.name in stopped else found

        return fx.map_arg(n.args, value), fx.map_arg(n.kwargs, value)

    def compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Run an operator and give it the backward of its rule."""
        name = operation(node)
        if name in NORMALISATIONS:
            arguments = _by_name(node, args, kwargs)
            ones = torch.ones([1] * arguments["input"].dim()).to(arguments["input"])
            return _normalise(name, arguments, ones)
        result = super().compute(node, args, kwargs)
        if node.name in self.paths.shared:
            return halved(args[0], result, self.epsilon, 0)
        rule = RULES.get(name)
        if rule is None or not isinstance(args[0], Tensor):  # 2 ** x has no signal to pass on to
            return result
        return rule(args[0], result, self.epsilon, self.paths.images.get(node.name, 0))

    def weigh(self, node: fx.Node, arguments: dict[str, Any], weights: Tensor) -> Any:  # noqa: ANN401
        """Normalise with the deviation held constant; other statistics keep their gradient."""
        name = operation(node)
        if name in NORMALISATIONS:
            return _normalise(name, arguments, weights)
        return super().weigh(node, arguments, weights)

    def _read_on_trunk(self) -> Tensor:
        """Tell which gates something on the trunk reads, (U + 1,) of bool."""
        found = torch.zeros(self.gates.shape[1], dtype=torch.bool)
        for name, operands in self.model.operands.items():
            if name in self.paths.readers:
                for gated in operands:
                    for column in gated.slots:
                        found[column] = True
        return found.to(self.gates.device)


def _normalise(name: str, arguments: dict[str, Any], gates: Tensor) -> Tensor:
    """Run layer_norm, rms_norm or group_norm, statistics weighted by what broadcasts to x."""
    x, eps = arguments["input"], arguments["eps"]
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    if name == "group_norm":
        split = (arguments["num_groups"], x.shape[1] // arguments["num_groups"], -1)
        parts, gates = x.reshape(len(x), *split), gates.expand_as(x).reshape(len(x), *split)
        normal = normalised(parts, gates, (2, 3), epsilon=eps, centred=True).reshape(x.shape)
        return affine(normal, arguments, (-1, *[1] * (x.dim() - 2)))
    shape = tuple(arguments["normalized_shape"])
    dims = tuple(range(x.dim() - len(shape), x.dim()))
    normal = normalised(x, gates, dims, epsilon=eps, centred=name == "layer_norm")
    return affine(normal, arguments, shape)


def _by_name(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return bind(node) | dict(zip(names, args, strict=False)) | kwargs


def _detached(value: object) -> object:
    match value:
        case Tensor():
            return value.detach()
        case tuple() | list():
            return type(value)(_detached(item) for item in value)
        case _:
            return value
