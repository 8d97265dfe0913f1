"""Float16 ONNX: tensors of float16 wherever measurement allows them.

A graph says the type of every tensor, so a runtime that keeps to it, as
TensorRT's strongly typed networks do, runs each operator in that type. What
overflows, what loses its digits and what moves the logits is found on real
images and stays in float32, with the figure that kept it there.

There are two converters for this, in onnxruntime.transformers and in
onnxconverter-common. Neither can be told to keep two neighbours in float32: they
exchange float16 all the same, so what overflowed still does. The first leaves
graphs unsorted and names nodes twice, the second cannot keep one of two readers
of a weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from edgeprune.errors import ExportError
from edgeprune.progress import Reporter
from edgeprune_exporters.artifact import Kept
from edgeprune_exporters.half_graph import halve, opset_of, typed
from edgeprune_exporters.half_neighbours import QUANTISERS
from edgeprune_exporters.half_rounding import rounding
from edgeprune_exporters.half_rules import Facts, unfit
from edgeprune_exporters.half_search import Trial, search
from edgeprune_exporters.half_types import key, slots
from edgeprune_exporters.half_values import Observed, difference, float_values, observe
from edgeprune_exporters.half_weights import inferred
from edgeprune_exporters.parity import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Half:
    """A graph in float16.

    Attributes:
        graph: its inputs and outputs are float32.
        kept: the operators that stayed in float32, and why.
        worst: largest difference of a logit from the float32 graph's, relative to the
            largest logit of its batch, with every float16 value rounded as such.
    """

    graph: onnx.ModelProto
    kept: tuple[Kept, ...]
    worst: float


def to_half(graph: onnx.ModelProto, images: Sequence[Array], *, reporter: Reporter) -> Half:
    """Return a float32 graph in float16; graphs with quantised operators are taken too.

    Args:
        graph: of any opset; it is not changed.
        images: a few batches (B, C, H, W) of a few real images: every decision is
            measured on them.
        reporter: hears how long work goes on.

    Raises:
        ExportError: the graph is not valid, gives NaN or infinite logits in float32, or
            nothing in it can be float16.
    """
    model = typed(ir.from_proto(graph))
    opset = opset_of(model)
    exact = observe(model, images, float_values(model))
    if not all(np.isfinite(logits).all() for logits in exact.logits):
        raise ExportError(f"{_first_infinite(model, exact)} in float32 for the given images")
    trial = Trial(model=model, opset=opset, images=images, logits=exact.logits)
    found = unfit(Facts(model=model, opset=opset, reached=exact.reached))
    while True:
        single = search(trial, found, reporter)
        _require_any(model, opset, single)
        half = halve(model, single)
        rounded = observe(rounding(half), images, float_values(half))
        spoilt = _spoilt(model, rounded, exact)
        if spoilt.keys() <= single.keys():
            break
        found = single | spoilt
    inferred(half)  # the types are right; the written file is checked in full
    worst = difference(rounded.logits, exact.logits)
    return Half(graph=ir.to_proto(half), kept=_kept(model, single), worst=worst)


def _first_infinite(model: ir.Model, seen: Observed) -> str:
    """Name the first operator that gives NaN or infinite values."""
    for node in model.graph:
        for value in node.outputs:
            reach = seen.reached.get(str(value.name))
            if reach is not None and not reach.finite:
                return f"'{node.name or key(node)}' ({node.op_type}) gives NaN or infinite values"
    return "the input gives NaN or infinite values"


def _spoilt(model: ir.Model, rounded: Observed, exact: Observed) -> dict[str, str]:
    """Return the first operator that is finite in float32 alone, with those that it reads.

    One that divides by what another rounded to 0 is helped by both.
    """
    for node in model.graph:
        for name in (str(value.name) for value in node.outputs):
            seen, wanted = rounded.reached.get(name), exact.reached.get(name)
            if seen and wanted and wanted.finite and not seen.finite:
                sources = [value.producer() for value in node.inputs if value is not None]
                reason = f"'{name}' is NaN or infinite in float16"
                return {key(each): reason for each in (node, *sources) if each is not None}
    return {}


def _require_any(model: ir.Model, opset: int, single: Mapping[str, str]) -> None:
    """Raise where nothing is float16, unless something is int8."""
    if any(node.op_type in QUANTISERS for node in model.graph):
        return
    if all(key(node) in single for node in model.graph if slots(node, opset)):
        raise ExportError("nothing in the model can be float16 on these images: export fp32")


def _kept(model: ir.Model, single: Mapping[str, str]) -> tuple[Kept, ...]:
    """List what stayed in float32; scales of quantised operators are no operators of their own."""
    return tuple(
        Kept(
            name=node.name or key(node),
            operator=node.op_type,
            precision="fp32",
            reason=single[key(node)],
        )
        for node in model.graph
        if key(node) in single and node.op_type not in QUANTISERS
    )
