"""What a runtime launches for a captured model: operators, each with what is fused into it.

Every operator that neither moves nor only rescales values starts a kernel.
Pointwise operators join the latest kernel that they read from, as runtimes fuse
them, and views cost nothing. What a kernel reads of others, and writes for
others, is what goes through memory. Constants are folded before.
"""

import math
import operator
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from torch import fx

from edgeprune.axes.analysis import Analysis
from edgeprune.axes.op import bind, plain_name
from edgeprune.axes.rules.pointwise import BINARY, UNARY
from edgeprune.axes.shapes import Value
from edgeprune.capture import Captured

FOLDED: Final = frozenset({"batch_norm"})  # into the weights before it
POINTWISE: Final = frozenset({*UNARY, *BINARY, *FOLDED, "add", "prelu", "glu"})
VIEWS: Final = frozenset({
    "view", "reshape", "_unsafe_view", "view_as", "reshape_as", "flatten", "unflatten", "ravel",
    "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "mT", "adjoint",
    "matrix_H", "numpy_T", "unsqueeze", "squeeze", "expand", "expand_as", "broadcast_to",
    "broadcast_tensors", "slice", "select", "narrow", "split", "split_with_sizes", "chunk",
    "unsafe_chunk", "unsafe_split_with_sizes", "unbind", "cat", "concat", "concatenate", "stack",
    # identities in evaluation mode, and copies that only settle a layout
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous", "clone",
    "to", "type_as", "alias", "detach", "lift_fresh", "lift_fresh_copy", "_to_copy",
})  # fmt: skip
CONVOLUTIONS: Final = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED: Final = frozenset({f"conv_transpose{d}d" for d in (1, 2, 3)})
PRODUCTS: Final[Mapping[str, str]] = {
    "matmul": "other", "linalg_matmul": "other", "bmm": "mat2", "mm": "mat2",
    "addmm": "mat2", "baddbmm": "batch2",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Work that is launched at once, per image where nothing else is said.

    Attributes:
        name: path of the module that its first operator came from, or the operator's own.
        operator: its first operator, as ``conv2d``.
        fused: the pointwise operators that follow in it.
        macs: multiply-accumulates.
        widths: channel counts that its contraction runs over, each of which is
            rounded up to what the hardware works on.
        depthwise: whether it contracts no channels: nothing for matrix units.
        moved: values read from and written to memory.
        weights: constant values read, whatever the batch.
    """

    name: str
    operator: str
    fused: tuple[str, ...]
    macs: int
    widths: tuple[int, ...]
    depthwise: bool
    moved: Fraction
    weights: int


def kernels(model: Captured, analysis: Analysis) -> tuple[Kernel, ...]:
    """Return the kernels of a model in the order of its graph. analysis: of that model."""
    fusion = _Fusion(analysis)
    for node in model.module.graph.nodes:
        fusion.visit(node)
    macs: dict[str, int] = defaultdict(int)
    for cost in analysis.findings.costs:
        macs[cost.node] += cost.constant * math.prod(a.size for a in cost.axes) // cost.batch
    return tuple(fusion.kernel(group, macs) for group in fusion.groups)


@dataclass(kw_only=True, eq=False)
class _Group:
    """A kernel in the making: its operators, and the values it reads by name of the node."""

    index: int
    first: fx.Node
    fused: list[str] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)
    weights: set[str] = field(default_factory=set)


class _Fusion:
    """The state of one pass.

    ``origins`` has for each value the values of which it is a view; ``made`` by
    which group a value is made, if it depends on the images at all.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.groups: list[_Group] = []
        self.origins: dict[str, frozenset[str]] = {}
        self.made: dict[str, _Group | None] = {}
        self.written: set[str] = set()

    def visit(self, node: fx.Node) -> None:
        """Put a node into a group."""
        sources = [s.name for s in node.all_input_nodes if s.name in self.origins]
        varying = [s for s in sources if self._varies(s)]
        if node.op == "output":
            self.written |= {origin for s in varying for origin in self.origins[s]}
        elif not isinstance(self.analysis.shapes[node.name], tuple | list):
            return  # a number, such as a size
        elif node.op == "placeholder":
            self.made[node.name] = None
            self.origins[node.name] = frozenset({node.name})
        elif _is_view(node):
            self.origins[node.name] = frozenset().union(*(self.origins[s] for s in sources))
        else:
            self.origins[node.name] = frozenset({node.name})
            if varying:
                self._compute(node, sources, varying)

    def _varies(self, name: str) -> bool:
        return any(origin in self.made for origin in self.origins[name])

    def _compute(self, node: fx.Node, sources: list[str], varying: list[str]) -> None:
        group = self._group(node, varying)
        self.made[node.name] = group
        for source in sources:
            if source not in varying:
                if _short(node) not in FOLDED:
                    group.weights |= self.origins[source]
                continue
            outside = {o for o in self.origins[source] if self.made.get(o, group) is not group}
            if outside:
                group.reads.add(source)
                self.written |= outside

    def _group(self, node: fx.Node, varying: list[str]) -> _Group:
        makers = [self.made.get(o) for source in varying for o in self.origins[source]]
        latest = max((m for m in makers if m is not None), key=lambda m: m.index, default=None)
        if latest is not None and _short(node) in POINTWISE:
            latest.fused.append(_short(node))
            return latest
        group = _Group(index=len(self.groups), first=node)
        self.groups.append(group)
        return group

    def kernel(self, group: _Group, macs: Mapping[str, int]) -> Kernel:
        """Return a finished group, once all have been seen."""
        written = (n for n, maker in self.made.items() if maker is group and n in self.written)
        moved = sum(map(self._seen, group.reads)) + sum(map(self._size, written))
        node = group.first
        widths, depthwise = _contracted(node, self.analysis.shapes)
        return Kernel(
            name=node.meta.get("module") or node.name,
            operator=_short(node),
            fused=tuple(group.fused),
            macs=macs.get(node.name, 0),
            widths=widths,
            depthwise=depthwise,
            moved=Fraction(moved, self.analysis.batch),
            weights=sum(map(self._size, group.weights)),
        )

    def _seen(self, name: str) -> int:
        """Count what is read of a view, which an expanded one shows more than once."""
        return min(self._size(name), sum(map(self._size, self.origins[name])))

    def _size(self, name: str) -> int:
        return sum(math.prod(shape) for shape in _shapes(self.analysis.shapes[name]))


def _short(node: fx.Node) -> str:
    return plain_name(node.target).partition(".")[2] or str(node.target)


def _is_view(node: fx.Node) -> bool:
    return node.target is operator.getitem or _short(node) in VIEWS


def _shapes(value: Value) -> Iterator[tuple[int, ...]]:
    match value:
        case list():
            for item in value:
                yield from _shapes(item)
        case tuple():
            yield value
        case _:
            return


def _contracted(node: fx.Node, shapes: Mapping[str, Value]) -> tuple[tuple[int, ...], bool]:
    """Return the channel counts of a contraction, and whether it is depthwise."""

    def shape(argument: str) -> Any:  # noqa: ANN401 - a tuple wherever the operator is one of these
        return shapes[bind(node)[argument].name]

    name, out = _short(node), shapes[node.name]
    if name in CONVOLUTIONS:
        weight = shape("weight")
        groups = shape("input")[1 - len(weight)] // weight[1]
        return _grouped(weight[1], weight[0] // groups, groups)
    if name in TRANSPOSED:
        weight = shape("weight")
        groups = out[1 - len(weight)] // weight[1]  # type: ignore[index]
        return _grouped(weight[0] // groups, weight[1], groups)
    if name == "linear":
        return shape("weight"), False
    if name in PRODUCTS:
        return shape(PRODUCTS[name])[-2:], False
    if name == "scaled_dot_product_attention":
        return shape("query")[-1:], False
    return (), False


def _grouped(read: int, made: int, groups: int) -> tuple[tuple[int, ...], bool]:
    return ((groups * made,), True) if read == 1 and groups > 1 else ((read, made), False)
