"""What the values within a graph reach on real images, measured in ONNX Runtime.

Each value is reduced to two numbers inside the graph, so that no value has to be
held longer than the graph itself holds it. Weights are handed over in place, not
written into a file for the runtime to read, which for large models takes longer
than running them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import onnx_ir as ir

from edgeprune.errors import ExportError
from edgeprune_exporters.half_types import is_float
from edgeprune_exporters.half_weights import take_weights
from edgeprune_exporters.parity import Array, distance
from edgeprune_exporters.runtimes import THREADS, import_onnxruntime, last_line

REDUCTIONS: Final = ("ReduceMax", "ReduceSum")


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far a value goes: its largest magnitude, and whether it is finite everywhere."""

    largest: float
    finite: bool

    def __or__(self, other: "Reach") -> "Reach":
        """Return what two batches reach together."""
        return Reach(largest=max(self.largest, other.largest), finite=self.finite and other.finite)


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """What a graph gave for batches of images: logits, and what its values reached."""

    logits: tuple[Array, ...]
    reached: Mapping[str, Reach]


def observe(model: ir.Model, images: Sequence[Array], names: Iterable[str] = ()) -> Observed:
    """Run a float32 graph on batches (B, C, H, W) and watch the named values.

    Raises:
        ExportError: ONNX Runtime cannot run it.
    """
    watched = list(dict.fromkeys(names))
    loaded = _load(_with_reach(model, watched))
    logits: list[Array] = []
    reached: dict[str, Reach] = {}
    for batch in images:
        first, *rest = loaded.run(batch)
        logits.append(first)
        for name, (largest, total) in zip(watched, _pairs(rest), strict=True):
            found = Reach(largest=float(largest), finite=bool(np.isfinite(total)))
            reached[name] = reached[name] | found if name in reached else found
    return Observed(logits=tuple(logits), reached=reached)


def difference(actual: Sequence[Array], wanted: Sequence[Array]) -> float:
    """Return the largest difference of a logit relative to the largest logit of its batch."""
    return max(distance(a, b)[1] for a, b in zip(actual, wanted, strict=True))


def float_values(model: ir.Model) -> list[str]:
    """Return the names of the floating-point values, of the input and of operators, in order."""
    given = [value for node in model.graph for value in node.outputs]
    return [
        str(each.name) for each in (*model.graph.inputs, *given) if each.name and is_float(each)
    ]


def _pairs(values: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(values[::2], values[1::2], strict=True)


def _with_reach(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return the graph with the largest magnitude and the sum of magnitudes of each value."""
    model = model.clone()
    graph = model.graph
    values = ir.convenience.create_value_mapping(graph)
    for name in names:
        size = ir.node("Abs", [values[name]])
        # A maximum may pass over a NaN, a sum cannot.
        peak, total = (ir.node(op, size.outputs, {"keepdims": 0}) for op in REDUCTIONS)
        for node in (peak, total):
            result = node.outputs[0]
            result.name = f"{name}/{node.op_type}"
            result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
            graph.outputs.append(result)
        producer = values[name].producer()
        if producer is None:
            graph.insert_before(graph[0], [size, peak, total])
        else:
            graph.insert_after(producer, [size, peak, total])
    return model


@dataclass(frozen=True, kw_only=True, eq=False)
class _Loaded:
    """A session, and the weights that it reads in place."""

    session: Any
    weights: Mapping[str, Any]

    def run(self, images: Array) -> list[Any]:
        name = self.session.get_inputs()[0].name
        try:
            return cast(list[Any], self.session.run(None, {name: images}))
        except Exception as error:  # its exceptions share no public base
            raise ExportError(f"ONNX Runtime cannot run the graph: {last_line(error)}") from error


def _load(model: ir.Model) -> _Loaded:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.log_severity_level = 4
    # What is run is what is written.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Reductions run right behind what they reduce: else every value is held to the end.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.disable_prepacking", "1")  # a copy of all weights
    weights = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(array)
        for name, array in take_weights(model).items()
    }
    options.add_external_initializers(list(weights), list(weights.values()))
    data = ir.to_proto(model).SerializeToString()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot load the graph: {last_line(error)}") from error
    return _Loaded(session=session, weights=weights)
