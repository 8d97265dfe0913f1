"""A graph as JSON: stored without pickle, read without any class definition.

A captured graph holds ATen operators, integers, and references to its own
nodes. All of that has a plain JSON form, so a stored model needs neither the
Python class that it came from nor the library version that built it. Reading
accepts only the operators listed here: a file cannot name a function to run.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import fx

from edgeprune.errors import ModelError

FORMAT: Final = "edgeprune-graph"
VERSION: Final = 1

NAMESPACES: Final = frozenset({"aten", "torchvision"})
FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "getitem": operator.getitem,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "truediv": operator.truediv,
    "mod": operator.mod,
    "neg": operator.neg,
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
    "sym_float": torch.sym_float,
    "sym_int": torch.sym_int,
    "sym_not": torch.sym_not,
}
NAMES: Final = {function: name for name, function in FUNCTIONS.items()}


def target_name(target: object) -> str:
    """Name an operator as the stored graph and every message spell it."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if callable(target) and target in NAMES:
        return NAMES[target]
    return str(target)


def graph_to_json(graph: fx.Graph) -> list[dict[str, Any]]:
    """Turn a graph into JSON values, one entry per node, in order.

    Raises:
        ModelError: a node calls something that is neither an ATen operator nor
            arithmetic on sizes, so that it could not be read back.
    """
    return [
        {
            "name": node.name,
            "op": node.op,
            "target": _checked_target(node),
            "args": [_encode(value) for value in node.args],
            "kwargs": {key: _encode(value) for key, value in node.kwargs.items()},
            "module": node.meta.get("module", ""),
        }
        for node in graph.nodes
    ]


def graph_from_json(entries: list[dict[str, Any]]) -> fx.Graph:
    """Build the graph that ``graph_to_json`` described.

    Raises:
        ModelError: an entry names an operator this version does not know.
    """
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for entry in entries:
        node = graph.create_node(
            entry["op"],
            _decode_target(entry["op"], entry["target"]),
            tuple(_decode(value, nodes) for value in entry["args"]),
            {key: _decode(value, nodes) for key, value in entry["kwargs"].items()},
            name=entry["name"],
        )
        node.meta["module"] = entry["module"]
        nodes[entry["name"]] = node
    return graph


def _checked_target(node: fx.Node) -> str:
    name = target_name(node.target)
    if node.op == "call_function":
        known = name in FUNCTIONS or name.split(".")[0] in NAMESPACES
        if not known:
            raise ModelError(
                f"operator '{name}' at '{node.meta.get('module', '')}' cannot be stored: "
                "only ATen operators can; replace it in the model by torch operators"
            )
    return name


def _decode_target(op: str, name: str) -> Any:  # noqa: ANN401
    if op != "call_function":
        return name
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    if namespace in NAMESPACES:
        try:
            return getattr(getattr(getattr(torch.ops, namespace), packet), overload)
        except AttributeError:
            pass
    raise ModelError(f"the stored graph uses '{name}', which torch {torch.__version__} lacks")


def _encode(value: Any) -> Any:  # noqa: ANN401
    match value:
        case fx.Node():
            return {"node": value.name}
        case None | bool() | int() | str():
            return value
        case float():
            return {"float": value.hex()}
        case list():
            return [_encode(item) for item in value]
        case tuple():
            return {"tuple": [_encode(item) for item in value]}
        case slice():
            return {"slice": [_encode(item) for item in (value.start, value.stop, value.step)]}
        case torch.dtype() | torch.layout() | torch.memory_format():
            return {"torch": str(value).removeprefix("torch.")}
        case torch.device():
            return {"device": str(value)}
        case _:
            raise ModelError(f"a constant of type {type(value).__name__} cannot be stored")


def _decode(value: Any, nodes: Mapping[str, fx.Node]) -> Any:  # noqa: ANN401
    match value:
        case {"node": name}:
            return nodes[name]
        case {"float": text}:
            return float.fromhex(text)
        case {"tuple": items}:
            return tuple(_decode(item, nodes) for item in items)
        case {"slice": items}:
            return slice(*(_decode(item, nodes) for item in items))
        case {"torch": name}:
            return getattr(torch, name)
        case {"device": name}:
            return torch.device(name)
        case list():
            return [_decode(item, nodes) for item in value]
        case _:
            return value
