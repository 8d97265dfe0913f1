"""Compute once, with torch, whatever depends on weights alone.

Resized position embeddings and standardised weights are such values. Left in
the graph they cost time on every image, or torch.onnx folds them with ONNX's
reference implementation, which gets the last row and column of a 10 × 10 grid
resized to 14 × 14 wrong, as in a ViT captured at 224 pixels and trained at 160.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.module import CapturedModule
from edgeprune.tensors import state


def fold_constants(module: CapturedModule) -> None:
    """Replace, in the given module, every value that no image reaches by a buffer."""
    values = _constants(module)
    computed = [node for node in values if node.op != "get_attr"]
    for position, node in enumerate(computed):
        value = values[node]
        if isinstance(value, Tensor) and any(user not in values for user in node.users):
            name = f"folded_{position}"
            module.register_buffer(name, value.detach().clone())
            with module.graph.inserting_before(node):
                buffer = module.graph.get_attr(name)
            node.replace_all_uses_with(buffer, lambda user: user not in values)
    for node in reversed(list(values)):
        if not node.users:
            module.graph.erase_node(node)
    module.recompile()


def _constants(module: CapturedModule) -> dict[fx.Node, Any]:
    """Return the value of every node that depends on weights and on nothing else."""
    tensors = state(module)
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "get_attr":
                values[node] = tensors[str(node.target)]
            elif _is_pure(node) and set(node.all_input_nodes) <= values.keys():
                args = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args[0], **args[1])
    return values


def _is_pure(node: fx.Node) -> bool:
    # Without inputs (zeros, arange) nothing is saved, and the file would grow.
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return not node.target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in (
            node.target.tags
        )
    return node.target is operator.getitem
