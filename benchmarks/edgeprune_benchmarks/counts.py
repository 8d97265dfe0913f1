"""What can be counted in an artifact without running it.

Counts are the same on every machine and in every run, so a gate can hold them to
a committed figure. Multiply-accumulates are counted as in captured models, and
after folding, as a runtime does: parameters are the numbers that are stored for
contractions and shifts, so batch normalisation that went into a convolution is
counted once. Invariant: the totals are the sums of the layers.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.counts_graph import Graph, Operator, Shape
from edgeprune_benchmarks.counts_ir import read_ir
from edgeprune_benchmarks.counts_onnx import read_onnx
from edgeprune_benchmarks.counts_rules import learned_inputs, rule_of

READERS: Final = {".onnx": read_onnx, ".xml": read_ir}
NESTED: Final = frozenset({"If", "Loop", "Scan", "TensorIterator"})  # graphs within


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """One operator of an artifact's graph, for a whole batch.

    ``weight`` names its largest weight as the file does. ``macs`` is None where it
    cannot be told: a size that is open, an operator that is not the format's own.
    Bytes are those of all inputs, weights among them, and of all outputs.
    """

    name: str
    type: str
    weight: str | None
    macs: int | None
    params: int
    bytes_read: int
    bytes_written: int
    output_shape: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class ArtifactCounts:
    """Totals of an artifact, per image; None, with the reason, where it cannot be counted."""

    macs: int | None
    params: int | None
    operators: Mapping[str, int]  # type → how many, in the order of their names
    reason: str | None = None


def layer_counts(path: Path, batch: int | None = None) -> tuple[LayerCount, ...]:
    """Count every operator that is left after folding, in the order of the graph.

    path: of an ``.onnx`` file or an OpenVINO ``.xml``. batch: images at a time; by
    default what the file fixes, else 1.

    Raises:
        MeasureError: another format, a damaged file, or one of another batch.
    """
    return _layers(_read(path, batch))


def artifact_counts(path: Path) -> ArtifactCounts:
    """Count a whole artifact, per image.

    Raises:
        MeasureError: a damaged file.
    """
    if path.suffix not in READERS:
        reason = f"operators of {path.suffix or 'such'} files are not counted"
        return ArtifactCounts(macs=None, params=None, operators={}, reason=reason)
    graph = _read(path, None)
    layers = _layers(graph)
    open_ = next((layer for layer in layers if layer.macs is None), None)
    types = Counter(operator.type for operator in graph.operators)
    return ArtifactCounts(
        macs=None if open_ else sum(layer.macs or 0 for layer in layers) // graph.batch,
        params=_params(graph),
        operators=dict(sorted(types.items())),
        reason=f"no rule or no size for {open_.type} '{open_.name}'" if open_ else None,
    )


def _read(path: Path, batch: int | None) -> Graph:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise MeasureError(f"'{path.name}' cannot be counted: {' and '.join(READERS)} files can")
    return reader(path, batch)


def _layers(graph: Graph) -> tuple[LayerCount, ...]:
    return tuple(_layer(graph, operator) for operator in graph.layers)


def _layer(graph: Graph, operator: Operator) -> LayerCount:
    tensors = graph.tensors
    learned = [name for name in learned_inputs(operator) if name in graph.constants]
    weight = max(learned, key=graph.params_of, default=None)
    stored = graph.weight_of(weight) if weight and graph.params_of(weight) else None
    output = tensors.get(operator.outputs[0])
    return LayerCount(
        name=operator.name,
        type=operator.type,
        weight=stored and graph.names.get(stored, stored),
        macs=_macs(graph, operator),
        params=sum(map(graph.params_of, dict.fromkeys(learned))),
        bytes_read=sum(tensors[name].bytes for name in operator.inputs if name in tensors),
        bytes_written=sum(tensors[name].bytes for name in operator.outputs if name in tensors),
        output_shape=output.shape if output else None,
    )


def _macs(graph: Graph, operator: Operator) -> int | None:
    rule = rule_of(operator.type)
    if rule is None:
        return None if operator.type in NESTED or "." in operator.type else 0
    shapes: list[Shape] = []
    for name in (*operator.inputs, operator.outputs[0]):
        shape = graph.tensors[name].shape if name in graph.tensors else None
        if shape is None and name:
            return None
        shapes.append(shape or ())
    return rule(operator, shapes[:-1], shapes[-1])


def _params(graph: Graph) -> int:
    """Count each constant once, however many operators share it."""
    names = {
        name
        for operator in graph.layers
        for name in learned_inputs(operator)
        if name in graph.constants
    }
    return sum(map(graph.params_of, names))
