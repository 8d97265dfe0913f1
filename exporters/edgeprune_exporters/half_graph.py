"""An ONNX graph in which all but some operators compute in float16.

Every value has the type of the operator that gives it; where an operator of the
other type reads it, one Cast stands behind the value, however many read it so.
Two neighbours in float32 exchange float32. Weights are stored in the type they
are read in. Inputs and outputs of the graph stay as they are.
"""

from collections.abc import Collection
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeprune.errors import ExportError
from edgeprune_exporters.half_types import (
    HALF,
    SINGLE,
    TYPELESS,
    is_constant,
    is_float,
    key,
    slots,
)
from edgeprune_exporters.half_weights import inferred

SUFFIX: Final = {HALF: "fp16", SINGLE: "fp32"}


def typed(model: ir.Model) -> ir.Model:
    """Return a copy with the type of every value, inferred strictly, and constants as weights.

    Raises:
        ExportError: the graph is not valid.
    """
    copy = model.clone()
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    _forget_types(copy)
    known = ir.convenience.create_value_mapping(inferred(copy).graph)
    for name, value in ir.convenience.create_value_mapping(copy.graph).items():
        value.type, value.shape = known[name].type, known[name].shape
    return copy


def _forget_types(model: ir.Model) -> None:
    """Drop the types that are noted within a graph: whoever changed it may have left old ones."""
    for node in model.graph:
        for value in node.outputs:
            if not node.domain and not value.is_graph_output():
                value.type, value.shape = None, None
    for name, stored in model.graph.initializers.items():
        if stored.const_value is not None:
            array = stored.const_value.numpy()  # once: protobuf copies at every look
            stored.const_value = ir.tensor(array, name=name)
            stored.type = ir.TensorType(stored.const_value.dtype)
            stored.shape = ir.Shape(array.shape)


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard operator set that a model imports."""
    return model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 1))


def halve(model: ir.Model, single: Collection[str]) -> ir.Model:
    """Return a typed model in float16, but for the operators named by ``key`` in ``single``."""
    model = model.clone()
    opset = opset_of(model)
    nodes = list(model.graph)
    # Slots first: they are told by float32 types, which change in the next step.
    reads = {
        node: found.inputs
        for node in nodes
        if key(node) not in single and (found := slots(node, opset))
    }
    writes = {node: slots(node, opset).outputs for node in reads}
    for node, places in writes.items():
        for place in places:
            node.outputs[place].type = ir.TensorType(HALF)
        if node.op_type == "Cast" and places:
            node.attributes["to"] = ir.AttrInt64("to", int(HALF))
    _Casts(model.graph).insert(reads)
    return model


class _Casts:
    """Bring every reader the type it wants; each value is converted once per type."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.names = {value.name for value in ir.convenience.create_value_mapping(graph).values()}
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def insert(self, reads: dict[ir.Node, frozenset[int]]) -> None:
        for node in list(self.graph.all_nodes()):
            if node.op_type in TYPELESS:
                continue
            for place, value in enumerate(node.inputs):
                wanted = HALF if place in reads.get(node, ()) else SINGLE
                if value is not None and is_float(value) and value.dtype != wanted:
                    node.replace_input_with(place, self.of(value, wanted))
        self._outputs()
        self._forget_unread()

    def of(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        if (value, wanted) not in self.made:
            make = self._stored if is_constant(value) else self._cast
            self.made[value, wanted] = make(value, wanted)
        return self.made[value, wanted]

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name = self._fresh(f"{value.name}_{SUFFIX[wanted]}")
        result = ir.Value(name=name, type=ir.TensorType(wanted), shape=value.shape)
        node = ir.node("Cast", [value], {"to": int(wanted)}, outputs=[result], name=f"{name}_cast")
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        return result

    def _stored(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name = self._fresh(f"{value.name}_{SUFFIX[wanted]}")
        stored = ir.Value(name=name, type=ir.TensorType(wanted), shape=value.shape)
        with np.errstate(over="ignore"):  # infinite bounds are kept out by whoever chose
            array = _array(value).astype(np.float16)
        stored.const_value = ir.tensor(array, name=name)
        self.graph.register_initializer(stored)
        return stored

    def _outputs(self) -> None:
        """Give each output of the graph its old name and type back."""
        for place, value in enumerate(self.graph.outputs):
            if value.dtype == HALF:
                name = str(value.name)
                value.name = self._fresh(f"{name}_{SUFFIX[HALF]}")
                self.names.discard(name)
                result = self._cast(value, SINGLE)
                result.name, cast = name, result.producer()
                if cast is not None:
                    cast.name = f"{name}_cast"
                self.graph.outputs[place] = result

    def _forget_unread(self) -> None:
        """Drop weights that nobody reads in float32 any more; the others take their names."""
        for (value, _), stored in self.made.items():
            if is_constant(value) and not value.uses() and not value.is_graph_output():
                del self.graph.initializers[str(value.name)]
                stored.name = value.name

    def _fresh(self, name: str) -> str:
        free = name
        while free in self.names:
            free += "_"
        self.names.add(free)
        return free


def _array(value: ir.Value) -> np.ndarray:
    if value.const_value is None:
        raise ExportError(f"weight '{value.name}' has no value in the graph")
    return value.const_value.numpy()
