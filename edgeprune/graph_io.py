"""A graph as JSON: stored without pickle, read without any class definition.

A captured graph holds ATen operators, integers, and references to its own
nodes. All of that has a plain JSON form, so a stored model needs neither the
Python class that it came from nor the library version that built it. Reading
accepts only the operators listed here: a file cannot name a function to run.
"""

import keyword
import operator
import re
from collections.abc import Callable, Collection, Mapping
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
NAME_PART: Final = re.compile(r"[\w\-+/: ]+")  # nothing that ends a string in generated code
FORBIDDEN: Final = frozenset({"from_file"})  # the one ATen operator that opens files
NAMES: Final = {function: name for name, function in FUNCTIONS.items()}


def is_plain_name(name: str) -> bool:
    """Say whether code can be generated for a tensor of this dotted name."""
    parts = name.split(".")
    return all(NAME_PART.fullmatch(part) and not keyword.iskeyword(part) for part in parts)


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


def graph_from_json(entries: list[dict[str, Any]], tensors: Collection[str]) -> fx.Graph:
    """Build the graph that ``graph_to_json`` described.

    Its code is generated from names in the file, so none is taken on trust.

    Args:
        entries: the description.
        tensors: the names that the graph may refer to.

    Raises:
        ModelError: an entry names an operator or a tensor that is not known, or
            is nothing that a captured graph holds.
    """
    for name in tensors:
        if not is_plain_name(name):
            raise ModelError(f"a tensor's name is {name!r}: no captured model has such a name")
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for entry in entries:
        target = _decode_target(entry["op"], entry["target"], tensors)
        kwargs = {key: _decode(value, nodes) for key, value in entry["kwargs"].items()}
        _check_keywords(target, kwargs)
        arguments = tuple(_decode(value, nodes) for value in entry["args"])
        node = graph.create_node(entry["op"], target, arguments, kwargs, name=entry["name"])
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


def _decode_target(op: str, name: str, tensors: Collection[str]) -> Any:  # noqa: ANN401
    match op:
        case "call_function":
            return _decode_function(name)
        case "get_attr" if name in tensors:
            return name
        case "placeholder" | "output" if name.isidentifier():
            return name
        case _:
            raise ModelError(f"the stored graph holds {op} {name!r}, which no captured model has")


def _decode_function(name: str) -> Callable[..., Any]:
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    if namespace in NAMESPACES and packet not in FORBIDDEN:
        found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
        if isinstance(found, torch._ops.OpOverload):
            return found
    raise ModelError(f"the stored graph uses {name!r}, which torch {torch.__version__} lacks")


def _check_keywords(target: object, kwargs: Mapping[str, Any]) -> None:
    known = (
        {argument.name for argument in target._schema.arguments}
        if isinstance(target, torch._ops.OpOverload)
        else set()
    )
    if unknown := kwargs.keys() - known:
        raise ModelError(f"the stored graph gives {target_name(target)} {sorted(unknown)}")


def _encode(value: Any) -> Any:  # noqa: ANN401, PLR0911 - one return per form
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


def _decode(  # noqa: PLR0911 - one return per form
    value: Any,  # noqa: ANN401
    nodes: Mapping[str, fx.Node],
) -> Any:  # noqa: ANN401
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
            constant = getattr(torch, name)
            if not isinstance(constant, torch.dtype | torch.layout | torch.memory_format):
                raise ModelError(f"the stored graph holds the constant 'torch.{name}'")
            return constant
        case {"device": name}:
            return torch.device(name)
        case list():
            return [_decode(item, nodes) for item in value]
        case _:
            return value
