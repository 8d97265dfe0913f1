"""A graph and its tensors as an ordinary trainable module.

Parameters keep their original dotted names. In an exported graph the mode is a
constant of each operator; here it follows ``train`` and ``eval``.
"""

from collections.abc import Mapping
from typing import Final, cast

import torch
from torch import Tensor, fx, nn

MODULE: Final = "module"  # key of a node's meta: the path of the module it came from
BATCH_NORM: Final = torch.ops.aten.batch_norm.default
DROPOUTS: Final = (
    torch.ops.aten.dropout.default,
    torch.ops.aten.dropout_.default,
    torch.ops.aten.feature_dropout.default,
    torch.ops.aten.feature_dropout_.default,
    torch.ops.aten.alpha_dropout.default,
    torch.ops.aten.alpha_dropout_.default,
    torch.ops.aten.feature_alpha_dropout.default,
)
TRAINING_ARGUMENT: Final = {BATCH_NORM: 5} | dict.fromkeys(DROPOUTS, 2)


class CapturedModule(fx.GraphModule):
    """A captured graph as a module whose ``train`` and ``eval`` really switch.

    The mode reaches dropout and those batch normalisations that own running
    statistics (one without them always normalises by its batch). Stochastic
    depth and dropout within attention are the identity in evaluation mode and
    therefore not part of a captured graph.
    """

    def train(self, mode: bool = True) -> "CapturedModule":
        """Set the mode of the module and of every operator that depends on it."""
        super().train(mode)
        for node in self.graph.nodes:
            position = TRAINING_ARGUMENT.get(node.target)
            if position is not None and _follows_mode(node):
                node.update_arg(position, mode)
        self.recompile()
        return self


def assemble(
    graph: fx.Graph, tensors: Mapping[str, Tensor], trainable: frozenset[str]
) -> CapturedModule:
    """Put a graph and its tensors together, tensors under their dotted names.

    Names that share one tensor object share one parameter afterwards.
    """
    root = nn.Module()
    owners: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = _submodule(root, path)
        if name in trainable:
            shared = owners.setdefault(id(tensor), nn.Parameter(tensor))
            owner.register_parameter(leaf, cast(nn.Parameter, shared))
        else:
            owner.register_buffer(leaf, owners.setdefault(id(tensor), tensor))
    module = CapturedModule(root, graph)
    module.eval()
    return module


def _follows_mode(node: fx.Node) -> bool:
    return node.target is not BATCH_NORM or node.args[3] is not None


def _submodule(root: nn.Module, path: str) -> nn.Module:
    module = root
    for part in path.split(".") if path else []:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = cast(nn.Module, module._modules[part])
    return module
