"""Which operators of an artifact's graph each executed layer stands for, and their work.

Profilers name a layer after an operator, after its output, or after several, with
additions of their own: ``relu_3_nchwc``, ``PWN(/act/Mul)``, ``conv1/WithoutBiases``.
An operator that no layer names was fused into one that it feeds or is fed by.
Invariant: an operator belongs to one layer at most, so work is never counted twice.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeprune_benchmarks.counts import READERS, LayerCount, layer_counts
from edgeprune_benchmarks.counts_graph import Graph, Operator
from edgeprune_benchmarks.layer_values import Layer, LayerTime, Work

RANGE: Final = re.compile(r"\[(?P<first>\S+?)\.\.\.(?P<last>\S+?)\]")  # of a TensorRT ForeignNode
MOVING: Final = ("reorder", "reformat")  # types of layers that only lay data out anew
FUSED: Final = frozenset({  # operators, of ONNX and OpenVINO, that kernels apply to their result
    "add", "batchnormalization", "clamp", "clip", "elu", "gelu", "hardsigmoid", "hardswish",
    "hsigmoid", "hswish", "leakyrelu", "mish", "mul", "multiply", "prelu", "relu", "sigmoid",
    "softplus", "sub", "subtract", "swish", "tanh",
})  # fmt: skip
COPY: Final = "Reformatting CopyNode"  # and how TensorRT names them


@dataclass(frozen=True, kw_only=True)
class Part:
    """One operator with what it costs, and the layers' tensors that it touches."""

    operator: Operator
    count: LayerCount
    widths: tuple[int, ...]


def rearranges(layer: LayerTime) -> bool:
    """Say whether a layer only changes the layout of a tensor between two others."""
    kind = layer.type.lower()
    return any(word in kind for word in MOVING) or layer.name.startswith(COPY)


def with_work(path: Path, layers: Sequence[LayerTime], batch: int) -> tuple[Layer, ...]:
    """Find out what each layer of an artifact does, from its ``.onnx`` or ``.xml``.

    Graphs in other files are not read, and what their layers do is not known. Raises
    ``MeasureError`` as ``layer_counts`` does.
    """
    if path.suffix not in READERS:
        return tuple(Layer(time=layer, work=None) for layer in layers)
    graph = READERS[path.suffix](path, batch)
    counts = layer_counts(path, batch)
    parts = [
        Part(operator=operator, count=count, widths=_widths(graph, operator, count))
        for operator, count in zip(graph.layers, counts, strict=True)
    ]
    owners = _owners(parts, layers)
    mine: dict[int, list[Part]] = defaultdict(list)
    for at, part in enumerate(parts):
        if at in owners:
            mine[owners[at]].append(part)
    return tuple(
        Layer(time=layer, work=_work(graph, mine[at]) if mine[at] else None)
        for at, layer in enumerate(layers)
    )


def _owners(parts: Sequence[Part], layers: Sequence[LayerTime]) -> dict[int, int]:
    """Return the layer of each operator, by number, for those that have one."""
    named: dict[str, int] = {}
    for at, part in enumerate(parts):
        for name in (*part.operator.outputs, part.operator.name):
            named[name] = at
    owners: dict[int, int] = {}
    for number, layer in enumerate(layers):
        if not rearranges(layer):
            for at in _claimed(layer, named):
                owners.setdefault(at, number)
    _absorb(parts, owners)
    return owners


def _claimed(layer: LayerTime, named: Mapping[str, int]) -> Iterable[int]:
    """Yield the operators that a layer names."""
    texts = layer.origins or (layer.name,)
    for text in texts:
        if text in named:
            yield named[text]
            continue
        ends = RANGE.search(text)
        if ends and {ends["first"], ends["last"]} <= named.keys():
            yield from range(named[ends["first"]], named[ends["last"]] + 1)
            continue
        yield from (named[name] for name in _within(text, named))


def _within(text: str, named: Mapping[str, int]) -> Iterable[str]:
    """Yield the names that a text contains, the longest first and none inside another."""
    for name in sorted((n for n in named if n and n in text), key=len, reverse=True):
        found = re.search(rf"(?<![\w./]){re.escape(name)}(?![0-9])", text)
        if found:
            text = text[: found.start()] + "\n" + text[found.end() :]
            yield name


def _absorb(parts: Sequence[Part], owners: dict[int, int]) -> None:
    """Give operators that no layer names to a neighbour.

    What multiplies goes to the layer that applies pointwise operators to what it gives,
    since a fused kernel is often named after its last one; everything else goes along
    with what feeds it, if it can.
    """
    made = {name: at for at, part in enumerate(parts) for name in part.operator.outputs}
    applied = _ahead(parts, owners, made, FUSED)
    heavy = {owner for at, owner in owners.items() if parts[at].count.macs}
    for at in reversed(range(len(parts))):
        if at not in owners and parts[at].count.macs and applied.get(at, -1) not in {-1, *heavy}:
            owners[at] = applied[at]
            heavy.add(applied[at])
    ahead = _ahead(parts, owners, made, None)
    for at, part in enumerate(parts):
        if at in owners or part.count.macs:
            continue
        makers = (owners.get(made[name]) for name in part.operator.inputs if name in made)
        owner = next((each for each in makers if each is not None), ahead.get(at))
        if owner is not None:
            owners[at] = owner


def _ahead(
    parts: Sequence[Part],
    owners: Mapping[int, int],
    made: Mapping[str, int],
    types: frozenset[str] | None,
) -> dict[int, int]:
    """Return for each operator the one layer that all it gives ends up in, if it is one.

    types: of the operators that may lie on the way, in lower case; None for all.
    """
    readers: dict[int, list[int]] = defaultdict(list)
    for at, part in enumerate(parts):
        for name in part.operator.inputs:
            if name in made:
                readers[made[name]].append(at)
    ahead = dict(owners)
    for at in reversed(range(len(parts))):
        on = [reader for reader in readers[at] if _is(parts[reader], types)]
        fed = {ahead.get(reader, -1) for reader in on}
        if at not in ahead and len(on) == len(readers[at]) and len(fed) == 1 and fed != {-1}:
            ahead[at] = fed.pop()
    return ahead


def _is(part: Part, types: frozenset[str] | None) -> bool:
    return types is None or part.operator.type.lower() in types


def _work(graph: Graph, parts: Sequence[Part]) -> Work:
    """Add up what a layer's operators do; what they hand to each other is not moved."""
    chief = max(parts, key=lambda part: (part.count.macs or 0, part.count.params))
    made = {name for part in parts for name in part.operator.outputs}
    read = {name for part in parts for name in part.operator.inputs if name} - made
    inside = {id(part.operator) for part in parts}
    wanted = {name for other in graph.layers if id(other) not in inside for name in other.inputs}
    kept = {name for name in made if name in wanted} or set(parts[-1].operator.outputs[:1])
    macs = [part.count.macs for part in parts]
    known = [each for each in macs if each is not None]
    return Work(
        anchor=chief.count.weight or chief.operator.name,
        operator=chief.operator.name,
        operators=tuple(part.operator.name for part in parts),
        macs=sum(known) if len(known) == len(macs) else None,
        bytes=sum(graph.tensors[name].bytes for name in read | kept if name in graph.tensors),
        widths=chief.widths,
    )


def _widths(graph: Graph, operator: Operator, count: LayerCount) -> tuple[int, ...]:
    """Return the channels that a contraction runs over, per group, and those it makes."""
    if not count.macs or not count.output_shape:
        return ()
    each = count.macs // math.prod(count.output_shape)
    weight = graph.tensors.get(operator.inputs[1]) if len(operator.inputs) > 1 else None
    rank = len(count.output_shape)
    if "conv" in operator.type.lower() and weight is not None and weight.shape and rank > 2:
        window = math.prod(weight.shape[2 - rank :])  # as many as the output has beside N and C
        contracted, made = each // window, count.output_shape[1]
    else:
        contracted, made = each, count.output_shape[-1]
    return tuple(width for width in (contracted, made) if width > 1)
