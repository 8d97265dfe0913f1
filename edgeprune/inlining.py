"""A graph without graphs inside it.

``torch.export`` puts code under ``torch.no_grad``, ``torch.autocast`` and the like
into a graph of its own, run by one node of the outer graph. Here its nodes take
that node's place. Invariant: what is computed stays the same, except that an
autocast no longer applies: everything is computed in the types of its operands.
"""

from typing import Any, Final

import torch
from torch import fx

from edgeprune.errors import CaptureError

# Regions that run their graph once, on their last arguments: names, because
# torch keeps most of them private and not every version has each.
REGIONS: Final = frozenset(
    {
        "wrap_with_set_grad_enabled",
        "wrap_with_autocast",
        "wrap",
        "wrap_activation_checkpoint",
        "tag_activation_checkpoint",
        "invoke_subgraph",
    }
)
AUTOCAST: Final = "wrap_with_autocast"


def inlined(module: fx.GraphModule) -> fx.Graph:
    """Return a copy of the graph in which every region's nodes stand among the others.

    Tensors that belong to a region are named by their path from ``module``.
    """
    graph = fx.Graph()
    graph.output(_copy_into(graph, module, "", None))
    return graph


def autocasts(module: fx.GraphModule, device: str) -> tuple[str, ...]:
    """Name the types, other than float32, that autocast regions compute in on a device."""
    found: dict[str, None] = {}
    for inner in module.modules():
        for node in inner.graph.nodes if isinstance(inner, fx.GraphModule) else ():
            if _region_name(node) != AUTOCAST:
                continue
            kind, dtype, enabled, *_ = node.args
            if enabled and kind == device and dtype is not torch.float32:
                found[str(dtype).removeprefix("torch.")] = None
    return tuple(found)


def _copy_into(
    graph: fx.Graph, module: fx.GraphModule, prefix: str, operands: list[Any] | None
) -> Any:  # noqa: ANN401
    """Copy nodes to the end of a graph; return what the module's output becomes there."""
    copies: dict[fx.Node, Any] = {}
    waiting = iter(operands or ())

    def copy_of(node: fx.Node) -> Any:  # noqa: ANN401
        return copies[node]

    for node in module.graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder" and operands is not None:
            copies[node] = next(waiting)
        elif node.op == "get_attr" and isinstance(_inner(module, node), fx.GraphModule):
            _require_known(node)
            copies[node] = None  # the node that runs it looks it up by itself
        elif (found := _region(module, node)) is not None:
            path, region = found
            given = [fx.map_arg(value, copy_of) for value in node.args]
            count = sum(1 for inner in region.graph.nodes if inner.op == "placeholder")
            inside = f"{prefix}{path}."
            copies[node] = _copy_into(graph, region, inside, given[len(given) - count :])
        elif _is_item_of(node, copies):
            copies[node] = copies[node.args[0]][node.args[1]]
        else:
            copies[node] = graph.node_copy(node, copy_of)
            if node.op == "get_attr":
                copies[node].target = f"{prefix}{node.target}"
    return fx.map_arg(module.graph.output_node().args[0], copy_of)


def _require_known(inner: fx.Node) -> None:
    unknown = next(
        (name for user in inner.users if (name := _region_name(user)) not in REGIONS), ""
    )
    if unknown:
        raise CaptureError(
            f"the model uses torch's '{unknown}', which decides at run time what is computed; "
            "edgeprune takes models that compute the same for all images"
        )


def _region_name(node: fx.Node) -> str:
    return str(getattr(node.target, "_name", "")) if node.op == "call_function" else ""


def _region(module: fx.GraphModule, node: fx.Node) -> tuple[str, fx.GraphModule] | None:
    """Return the graph that a node runs, and its name in the module."""
    if _region_name(node) not in REGIONS:
        return None
    for argument in node.args:
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            inner = _inner(module, argument)
            if isinstance(inner, fx.GraphModule):
                return str(argument.target), inner
    return None


def _inner(module: fx.GraphModule, node: fx.Node) -> object:
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _is_item_of(node: fx.Node, copies: dict[fx.Node, Any]) -> bool:
    """Say whether a node takes one of the results of a region."""
    source = node.args[0] if node.args else None
    return isinstance(source, fx.Node) and isinstance(copies.get(source), tuple | list)
