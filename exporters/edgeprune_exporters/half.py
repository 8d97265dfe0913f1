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


def to_half(
    graph: onnx.ModelProto,
    images: Sequence[Array],
    *,
    reporter: Reporter,
    most: float | None = None,
) -> Half:
    """Return a float32 graph in float16; graphs with quantised operators are taken too.

    Args:
        graph: of any opset; it is not changed.
        images: a few batches (B, C, H, W) of a few real images: every decision is
            measured on them.
        reporter: hears how long work goes on.
        most: how far a logit may be off, relative to the largest of its batch; None for
            what is usual.

    Raises:
        ExportError: the graph is not valid, gives NaN or infinite logits in float32, or
            nothing in it can be float16.
    """
    model = typed(ir.from_proto(graph))
    opset = opset_of(model)
    exact = observe(model, images, float_values(model))
    if not all(np.isfinite(logits).all() for logits in exact.logits):
        raise ExportError(f"{_first_infinite(model, exact)} in float32 for the given images")
    trial = Trial(model=model, opset=opset, images=images, logits=exact.logits, most=most)
    unable = unfit(Facts(model=model, opset=opset, reached=exact.reached))
    single = search(trial, _finite(trial, trial.settled(unable), exact), reporter)
    if not _is_quantised(model) and all(
        key(node) in single for node in model.graph if slots(node, opset)
    ):
        raise ExportError("nothing in the model can be float16 on these images: export fp32")
    half = halve(model, single)
    inferred(half)  # its types are right; the written file is checked in full
    rounded = observe(rounding(half), images)
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


def _finite(trial: Trial, single: dict[str, str], exact: Observed) -> dict[str, str]:
    """Return ``single`` with what has to join it so that no value is NaN or infinite.

    That ends: an operator that reads float32 from end to end is as finite as it was.
    """
    while True:
        half = halve(trial.model, single)
        rounded = observe(rounding(half), trial.images, float_values(half))
        node = _spoilt(trial.model, rounded, exact)
        if node is None:
            return single
        reason = f"'{key(node)}' is NaN or infinite in float16"
        joining = {key(each): reason for each in _last_half(node, single)}
        single = trial.settled(single | joining)


def _spoilt(model: ir.Model, rounded: Observed, exact: Observed) -> ir.Node | None:
    """Return the first operator that is finite in float32 alone."""
    for node in model.graph:
        for name in (str(value.name) for value in node.outputs):
            seen, wanted = rounded.reached.get(name), exact.reached.get(name)
            if seen and wanted and wanted.finite and not seen.finite:
                return node
    return None


def _last_half(node: ir.Node, single: Mapping[str, str]) -> list[ir.Node]:
    """Return the operators in float16 whose results arrive at a node, and itself if it is one.

    One that divides by what another rounded to 0 is helped by both in float32.
    """
    queue, seen, found = [node], {node}, [node] if key(node) not in single else []
    while queue:
        for value in queue.pop().inputs:
            source = value.producer() if value is not None else None
            if source is not None and source not in seen:
                seen.add(source)
                (queue if key(source) in single else found).append(source)
    return found


def _is_quantised(model: ir.Model) -> bool:
    return any(node.op_type in QUANTISERS for node in model.graph)


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
