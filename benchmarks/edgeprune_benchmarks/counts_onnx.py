"""The operators of an ONNX file with all sizes, by ONNX's own shape inference.

Weights outside the file are not read: only sizes are wanted, and where they lie
is text that may lead anywhere.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.counts_graph import Graph, Operator, Shape, Tensor

if TYPE_CHECKING:
    import onnx

INSIDE: Final = 1024  # numbers; a constant of fewer may say how something is reshaped
KNOWN: Final = ("transA", "equation")  # the attributes that counts depend on
OWN: Final = ("", "ai.onnx")  # domains whose operators need no prefix
SHARED: Final = ("QuantizeLinear", "DequantizeLinear")  # the same in ONNX Runtime's own domain


def read_onnx(path: Path, batch: int | None) -> Graph:
    """Read an ONNX file for a batch size, or for its own: the fixed one, else 1.

    Raises:
        MeasureError: it is no ONNX file, does not take that batch, or its sizes
            contradict each other.
    """
    import onnx

    model = _load(path)
    stored = {t.name: _tensor(t.data_type, tuple(t.dims)) for t in model.graph.initializer}
    batch = _fix_batch(model.graph, batch, stored, path.name)
    _lighten(model.graph)
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (RuntimeError, ValueError) as error:
        raise MeasureError(f"'{path.name}' contradicts itself: {_first_line(error)}") from error
    found = {v.name: _value(v) for v in [*graph.input, *graph.value_info, *graph.output]}
    constants = [node for node in graph.node if node.op_type == "Constant"]
    return Graph(
        batch=batch,
        operators=tuple(_operators(graph.node)),
        tensors=found | stored,
        stored=frozenset((*stored, *(node.output[0] for node in constants))),
    )


def _load(path: Path) -> "onnx.ModelProto":
    import onnx
    import onnx.inliner
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
    except (DecodeError, ValueError, RuntimeError) as error:
        raise MeasureError(f"'{path.name}' is no ONNX file, or a damaged one") from error
    except OSError as error:
        raise MeasureError(f"'{path.name}' cannot be read: {error.strerror}") from error
    if not model.graph.node:  # any bytes of the right shape are a message without content
        raise MeasureError(f"'{path.name}' is no ONNX file, or one without operators")
    return model


def _fix_batch(
    graph: "onnx.GraphProto", batch: int | None, stored: Iterable[str], file: str
) -> int:
    """Write the batch wherever the file has it by name, and return it."""
    inputs = [value for value in graph.input if value.name not in stored]
    sizes = [size for size in map(_first_size, inputs) if size is not None]
    fixed = {size.dim_value for size in sizes if size.HasField("dim_value")}
    if fixed and batch is not None and fixed != {batch}:
        raise MeasureError(f"'{file}' takes batches of {sorted(fixed)} only, not of {batch}")
    batch = batch or next(iter(fixed), 1)
    names = {size.dim_param for size in sizes} - {""}
    for size in sizes:
        size.dim_value = batch
    for value in (*graph.input, *graph.value_info, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_value = batch
    return batch


def _first_size(value: "onnx.ValueInfoProto") -> "onnx.TensorShapeProto.Dimension | None":
    sizes = value.type.tensor_type.shape.dim
    return sizes[0] if sizes else None


def _lighten(graph: "onnx.GraphProto") -> None:
    """Keep large weights as sizes only, since inference copies the graph several times."""
    import onnx

    inputs = {value.name for value in graph.input}
    for at in reversed(range(len(graph.initializer))):
        weight = graph.initializer[at]
        if math.prod(weight.dims) < INSIDE and weight.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if weight.name not in inputs:
            kind, sizes = weight.data_type, list(weight.dims)
            graph.input.append(onnx.helper.make_tensor_value_info(weight.name, kind, sizes))
        del graph.initializer[at]


def _operators(nodes: Iterable["onnx.NodeProto"]) -> Iterator[Operator]:
    for node in nodes:
        if node.op_type == "Constant":
            continue
        plain = node.domain in OWN or node.op_type in SHARED
        yield Operator(
            name=node.name or node.output[0],
            type=node.op_type if plain else f"{node.domain}.{node.op_type}",
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={
                each.name: each.s.decode() if each.s else each.i
                for each in node.attribute
                if each.name in KNOWN
            },
        )


def _value(value: "onnx.ValueInfoProto") -> Tensor:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return _tensor(kind.elem_type, None)
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    known = tuple(size for size in sizes if size is not None)
    return _tensor(kind.elem_type, known if len(known) == len(sizes) else None)


def _tensor(kind: int, shape: Shape | None) -> Tensor:
    from onnx import TensorProto

    name = TensorProto.DataType.Name(kind) if kind else "FLOAT"
    bits = {"DOUBLE": 64, "FLOAT": 32, "BOOL": 8, "STRING": 0}.get(name)
    if bits is None:
        digits = name.partition("E")[0] if name.startswith("FLOAT") else name
        bits = int("".join(letter for letter in digits if letter.isdigit()) or 32)
    weight = "FLOAT" in name or name == "DOUBLE" or (name != "BOOL" and 0 < bits <= 8)
    return Tensor(shape=shape, bits=bits, weight=weight)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
