"""Operators in place that have to write, because what they change is read under another name.

A rule returns a new value and writes nothing. Where nobody sees the memory
again, that is the same.
"""

from typing import Final

from torch import Tensor, fx

from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Step

MAY_SHARE: Final = frozenset(
    {
        "view", "_unsafe_view", "reshape", "view_as", "reshape_as", "flatten", "unflatten",
        "expand", "expand_as", "broadcast_to", "unsqueeze", "squeeze", "permute", "transpose", "t",
        "movedim", "swapaxes", "contiguous", "alias", "detach", "dropout", "to", "type_as",
        "select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind",
        "tensor_split", "getitem", "unfold",
    }
)  # fmt: skip
"""Operators whose result may be the memory of their first operand."""


def writing(graph: fx.Graph) -> frozenset[str]:
    """Name the operators in place whose operand's memory is read after them."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    return frozenset(
        node.name
        for node in graph.nodes
        if _in_place(node)
        and any(
            order[user] > order[node]
            for value in _sharing(node.all_input_nodes[0], node)
            for user in value.users
        )
    )


def rewritten(graph: fx.Graph, writers: frozenset[str]) -> frozenset[str]:
    """Name the values whose memory the writers change."""
    return frozenset(
        value.name
        for node in graph.nodes
        if node.name in writers
        for value in _sharing(node.all_input_nodes[0], node)
    )


def copied(step: Step) -> Step:
    """Take operands as copies, so that a rule still has them when their memory has changed."""
    found = {n: v.clone() for n, v in step.arguments.items() if isinstance(v, Tensor)}
    return step.given(found)


def apart(step: Step) -> Step:
    """Let an operator in place write into a copy of its operand, which rules still have to see."""
    if not _in_place(step.node):
        return step
    return step.given({next(iter(step.arguments)): step.first.clone()})


def _in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _sharing(value: fx.Node, writer: fx.Node) -> set[fx.Node]:
    """Return what may share memory with a value, but for what the writer returns."""
    found: set[fx.Node] = set()
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if node in found or node is writer:
            continue
        found.add(node)
        if _passes_memory(node):
            waiting.append(node.all_input_nodes[0])
        waiting += [user for user in node.users if _passes_memory(user)]
    return found


def _passes_memory(node: fx.Node) -> bool:
    return operation(node) in MAY_SHARE or _in_place(node)
