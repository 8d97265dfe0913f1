"""Which numbers of a graph changed with a cut, and in which module's code they stand.

A captured graph and its cut have the same nodes under the same names; a cut
changes only sizes, ranges, groups and scales. The dense number beside the cut
one is what an attribute of the module may have given.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch import fx

from edgeprune.axes.op import bind
from edgeprune.axes.shapes import PROBE_BATCH, Value, infer_shapes
from edgeprune.capture import MODULE, Captured
from edgeprune.errors import CutError

ATTENTION: Final = torch.ops.aten.scaled_dot_product_attention.default

Number = int | float | None
Numbers = tuple[Number, ...]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One number of the dense graph, or several, beside what the cut graph has.

    Attributes:
        module: path of the module whose code the operator stands in.
        place: position of the operator among those of its module, and which argument.
        operator: its name.
        argument: name of the argument in the operator's schema.
        written: whether the graph states it; otherwise it is a size that came out.
        dense: in the dense graph.
        slim: in the cut graph.
    """

    module: str
    place: tuple[int, str]
    operator: str
    argument: str
    written: bool
    dense: Numbers
    slim: Numbers

    @property
    def changed(self) -> bool:
        """Whether the cut changed it."""
        return self.dense != self.slim

    def __str__(self) -> str:
        """Say it for people: ``view size (…, 3, 64) → (…, 2, 40)``."""
        return f"{self.operator} {self.argument} {_shown(self.dense)} → {_shown(self.slim)}"


def constants(dense: Captured, slim: Captured) -> dict[str, list[Constant]]:
    """List the numbers of both graphs side by side, by module path, in the order of the graph.

    Raises:
        CutError: the graphs are not those of one model.
    """
    found: dict[str, list[Constant]] = {}
    counts: dict[str, int] = {}
    shapes, cut_shapes = _shapes(dense), _shapes(slim)
    copies = {node.name: node for node in slim.module.graph.nodes}
    for node in dense.module.graph.nodes:
        copy = copies.get(node.name)
        if copy is None or copy.op != node.op or copy.meta[MODULE] != node.meta[MODULE]:
            raise CutError(
                f"the model is not the one that was cut: its '{node.name}'"
                f"{_at(node.meta[MODULE])} has no counterpart in the cut graph; give the same "
                "class and configuration that was captured"
            )
        if node.op != "call_function":
            continue
        module = node.meta[MODULE]
        order = counts[module] = counts.get(module, -1) + 1
        several = (*_written(node, copy), *_came_out(node, shapes, cut_shapes))
        found.setdefault(module, []).extend(
            Constant(
                module=module,
                place=(order, argument),
                operator=_name(node),
                argument=argument,
                written=written,
                dense=before,
                slim=after,
            )
            for argument, written, before, after in several
        )
    return found


def own_scales(dense: Captured, slim: Captured) -> frozenset[str]:
    """Return the paths of modules whose attention has to keep the scale of its dense size.

    Fused attention divides by the root of the size it finds, which a cut changes.
    """
    implicit = {
        node.name
        for node in dense.module.graph.nodes
        if node.target is ATTENTION and bind(node)["scale"] is None
    }
    shapes = _shapes(slim)
    found: set[str] = set()
    for node in slim.module.graph.nodes:
        if node.name not in implicit:
            continue
        scale, size = bind(node)["scale"], shapes[node.args[0].name]
        if scale is not None and isinstance(size, tuple) and abs(scale - size[-1] ** -0.5) > 1e-9:
            found.add(node.meta[MODULE])
    return frozenset(found)


def _shapes(captured: Captured) -> Mapping[str, Value]:
    batch = PROBE_BATCH if captured.dynamic_batch else len(captured.sample)
    return infer_shapes(captured.module, captured.sample, batch=batch)


def _written(node: fx.Node, copy: fx.Node) -> Iterator[tuple[str, bool, Numbers, Numbers]]:
    if node.target is not copy.target or not isinstance(node.target, torch._ops.OpOverload):
        return
    after = bind(copy)
    for argument, before in bind(node).items():
        if isinstance(before, bool | torch.dtype | str):
            continue
        pair = _numbers(before), _numbers(after[argument])
        if pair[0] and len(pair[0]) == len(pair[1]) and pair[0] != (sys.maxsize,):
            yield argument, True, *pair


def _came_out(
    node: fx.Node, shapes: Mapping[str, Value], cut_shapes: Mapping[str, Value]
) -> Iterator[tuple[str, bool, Numbers, Numbers]]:
    """Yield the sizes of what an operator returns, and products of neighbours, as code forms them.

    Sizes that hold the batch are given without it too.
    """
    before, after = shapes[node.name], cut_shapes[node.name]
    several = [before] if isinstance(before, tuple) else before
    cut = [after] if isinstance(after, tuple) else after
    if not isinstance(several, list) or not isinstance(cut, list) or len(several) != len(cut):
        return
    for index, (a, b) in enumerate(zip(several, cut, strict=True)):
        if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            yield f"output {index}", False, a, b
            yield f"output {index} by sample", False, _by_sample(a), _by_sample(b)
            yield f"output {index} merged", False, _merged(a), _merged(b)


def _by_sample(shape: tuple[int, ...]) -> Numbers:
    return tuple(size // PROBE_BATCH if size % PROBE_BATCH == 0 else size for size in shape)


def _merged(shape: tuple[int, ...]) -> Numbers:
    return tuple(a * b for a, b in pairwise(shape))


def _numbers(value: Any) -> Numbers:  # noqa: ANN401 - any argument of any operator
    match value:
        case None | int() | float():
            return (value,)
        case list() | tuple():
            return tuple(item if isinstance(item, int | float) else None for item in value)
        case _:
            return ()


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).partition("::")[2] if schema else getattr(node.target, "__name__", "")


def _at(module: str) -> str:
    return f" at '{module}'" if module else ""


def _shown(numbers: Numbers) -> str:
    if numbers == (None,):
        return "unset"
    shown = ", ".join("…" if number is None else str(number) for number in numbers)
    return shown if len(numbers) == 1 else f"({shown})"
