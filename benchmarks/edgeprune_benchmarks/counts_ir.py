"""The operators of an OpenVINO IR with all sizes, from its XML alone.

The file states every size but those that follow from an open batch. These are
filled in on the way from the input: what only moves numbers keeps their count,
and everything else carries the open size of its input along.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.counts_graph import Graph, Operator, Shape, Tensor

OPEN: Final = -1
MOVING: Final = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Convert"})
BITS: Final[Mapping[str, int]] = {"BOOL": 8, "BOOLEAN": 8}
KNOWN: Final = ("transpose_a", "equation")  # the attributes that counts depend on


def read_ir(path: Path, batch: int | None) -> Graph:
    """Read an IR for a batch size, or for its own: the fixed one, else 1.

    Raises:
        MeasureError: it is no IR, or does not take that batch.
    """
    try:
        net = ET.parse(path).getroot()  # noqa: S314 - expat bounds what entities grow to
        layers, edges = net.findall("layers/layer"), net.findall("edges/edge")
        if not layers:
            raise MeasureError(f"'{path.name}' is no OpenVINO IR, or one without operators")
        batch = _batch(layers, batch, path.name)
        return _Reader(edges, batch).read(layers)
    except (ET.ParseError, KeyError, ValueError) as error:
        raise MeasureError(f"'{path.name}' is no OpenVINO IR, or a damaged one: {error}") from error
    except OSError as error:
        raise MeasureError(f"'{path.name}' cannot be read: {error.strerror}") from error


def _batch(layers: Sequence[ET.Element], batch: int | None, file: str) -> int:
    sources = [layer for layer in layers if layer.get("type") == "Parameter"]
    shapes = [_sizes(port) for layer in sources for port in layer.findall("output/port")]
    fixed = {shape[0] for shape in shapes if shape and shape[0] != OPEN}
    if fixed and batch is not None and fixed != {batch}:
        raise MeasureError(f"'{file}' takes batches of {sorted(fixed)} only, not of {batch}")
    return batch or next(iter(fixed), 1)


class _Reader:
    """The state of one pass: tensors by ``layer:port``, and which of their sizes were open."""

    def __init__(self, edges: Sequence[ET.Element], batch: int) -> None:
        self.batch = batch
        self.sources = {
            (e.attrib["to-layer"], e.attrib["to-port"]): f"{e.attrib['from-layer']}:"
            f"{e.attrib['from-port']}"
            for e in edges
        }
        self.tensors: dict[str, Tensor] = {}
        self.open: dict[str, tuple[int, ...]] = {}

    def read(self, layers: Sequence[ET.Element]) -> Graph:
        """Read all layers, which the file lists in an order in which they can run."""
        operators, names = [], {}
        for layer in layers:
            operator = self._operator(layer)
            if operator.type == "Const":
                names[operator.outputs[0]] = operator.name
            elif operator.type not in ("Parameter", "Result"):
                operators.append(operator)
        return Graph(
            batch=self.batch,
            operators=tuple(operators),
            tensors=self.tensors,
            stored=frozenset(names),
            names=names,
        )

    def _operator(self, layer: ET.Element) -> Operator:
        number, type_ = layer.attrib["id"], layer.attrib["type"]
        ports = [port.attrib["id"] for port in layer.findall("input/port")]
        inputs = tuple(self.sources.get((number, port), "") for port in ports)
        outputs = []
        for port in layer.findall("output/port"):
            name = f"{number}:{port.attrib['id']}"
            outputs.append(name)
            declared = _sizes(port)
            self.open[name] = tuple(d for d, size in enumerate(declared) if size == OPEN)
            shape = self._closed(type_, declared, [each for each in inputs if each])
            self.tensors[name] = _tensor(port.get("precision", "FP32"), shape)
        data = layer.find("data")
        return Operator(
            name=layer.get("name", number),
            type=type_,
            inputs=inputs,
            outputs=tuple(outputs),
            attributes={
                k: v for k, v in (data.attrib if data is not None else {}).items() if k in KNOWN
            },
        )

    def _closed(self, type_: str, declared: Shape, inputs: Sequence[str]) -> Shape:
        """Fill in the open sizes of an output."""
        unknown = [d for d, size in enumerate(declared) if size == OPEN]
        if len(unknown) == 1 and type_ in MOVING and inputs:
            known = math.prod(size for size in declared if size != OPEN)
            fill = self.tensors[inputs[0]].size // max(known, 1)
            return tuple(fill if size == OPEN else size for size in declared)
        shapes = {name: self.tensors[name].shape or () for name in inputs}
        carried = {shape[d] for name, shape in shapes.items() for d in self.open[name]}
        if len(carried) == 1:
            (fill,) = carried
            return tuple(fill if size == OPEN else size for size in declared)
        first = next((s for s in shapes.values() if len(s) == len(declared)), None)
        fills = first if first is not None else (self.batch,) * len(declared)
        return tuple(
            fill if size == OPEN else size for size, fill in zip(declared, fills, strict=True)
        )


def _sizes(port: ET.Element) -> Shape:
    return tuple(int(dim.text or OPEN) for dim in port.findall("dim"))


def _tensor(precision: str, shape: Shape) -> Tensor:
    bits = BITS.get(precision) or int("".join(c for c in precision if c.isdigit()) or 32)
    floating = "F" in precision
    return Tensor(shape=shape, bits=bits, weight=floating or (bits <= 8 and precision not in BITS))
