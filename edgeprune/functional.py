"""A graph that writes nothing that anyone else can see.

Models write into their input, into buffers, and into values in place. A graph
that is analysed, differentiated with gates, and run any number of times on the
same images must not. Invariant: what the graph returns stays the same.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import fx

from edgeprune.module import BATCH_NORM, DROPOUTS


def without_unused(graph: fx.Graph) -> None:
    """Remove what the output does not depend on, and what only checks types and sizes.

    A cut or another device changes what such checks expect.
    """
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and not _writes(node.target):
            graph.erase_node(node)


def keep_input(graph: fx.Graph) -> None:
    """Let the graph work on a copy of its input if it writes into it."""
    for images in _nodes(graph, "placeholder"):
        if any(_writes(sharing.target) for sharing in _sharing(images)):
            _copy_first(graph, images)


def keep_tensors(graph: fx.Graph) -> tuple[str, ...]:
    """Let no run change a parameter or buffer.

    Returns:
        the names of those whose change would show in the output: their captured
        values are used in every run.
    """
    changed: list[str] = []
    for tensor in _nodes(graph, "get_attr"):
        written = _sharing(tensor)
        if not any(_writes(value.target) for value in written):
            continue
        if {user for value in (tensor, *written) for user in value.users} <= set(written):
            for value in reversed([node for node in graph.nodes if node in written]):
                graph.erase_node(value)
        else:
            _copy_first(graph, tensor)
            changed.append(str(tensor.target))
    _forget_unused_statistics(graph)
    return tuple(changed)


def out_of_place(graph: fx.Graph) -> None:
    """Replace in-place operators whose operand nobody sees again.

    Attribution needs an operator's input after the operator has run. Where the
    operand may share its memory with a value that is read later, the in-place
    form has a meaning and stays.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        functional = _functional_form(node.target)
        operand = node.args[0] if node.args else None
        if functional is None or not isinstance(operand, fx.Node) or _may_share(operand):
            continue
        shares = [operand, *(s for s in _sharing(operand) if order[s] < order[node])]
        if not any(order[user] > order[node] for value in shares for user in value.users):
            node.target = functional


def _forget_unused_statistics(graph: fx.Graph) -> None:
    """Let a normalisation by its own batch own no running statistics: it only writes them."""
    for node in graph.nodes:
        if node.target is BATCH_NORM and node.args[5] is True:
            node.update_arg(3, None)
            node.update_arg(4, None)


def _copy_first(graph: fx.Graph, value: fx.Node) -> None:
    with graph.inserting_after(value):
        own = graph.call_function(torch.ops.aten.clone.default, (value,))
    value.replace_all_uses_with(own, delete_user_cb=lambda user: user is not own)


def _functional_form(target: object) -> torch._ops.OpOverload[..., Any] | None:
    if not _writes(target):
        return None
    target = cast("torch._ops.OpOverload[..., Any]", target)
    namespace, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    return getattr(packet, target._overloadname, None)


def _writes(target: object) -> bool:
    """Say whether this is the in-place form of an operator."""
    return _name(target).endswith("_") and not _name(target).startswith("_")


def _name(target: object) -> str:
    """Return the name of an ATen operator without its library, or nothing."""
    if not isinstance(target, torch._ops.OpOverload):
        return ""
    return target._schema.name.partition("::")[2]


def _may_share(node: fx.Node) -> bool:
    """Say whether a value may share its memory with another one, seen from its producer."""
    if node.op == "placeholder":
        return False  # the graph works on a copy wherever it matters
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    if node.target in DROPOUTS:  # the identity in evaluation mode
        return True
    return any(returned.alias_info is not None for returned in node.target._schema.returns)


def _sharing(node: fx.Node) -> list[fx.Node]:
    """List every value downstream that may share memory with this one."""
    found: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        value = waiting.pop()
        for user in value.users:
            if user.args and user.args[0] is value and user not in found and _may_share(user):
                found[user] = None
                waiting.append(user)
    return list(found)


def _nodes(graph: fx.Graph, op: str) -> Iterable[fx.Node]:
    return [node for node in graph.nodes if node.op == op]
