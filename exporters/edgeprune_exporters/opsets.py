"""Bring a graph to another version of the ONNX operator set, down as well as up.

Upwards ONNX's own converter does it. Downwards that converter lacks most of what
today's exporters write, and keeps attributes that the older version does not know.
So here each operator whose definition is too new is kept where the newer definition
only allows more, and rewritten by a rule where it means something else.
Invariant: an operator without such a form is an error, never a guess.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import onnx
import onnx.inliner
import onnx_ir as ir
from onnx.defs import OpSchema
from onnx_ir.passes import common

from edgeprune.errors import ExportError
from edgeprune_exporters.opset_rules import RULES
from edgeprune_exporters.tidying import tidy

LEAST: Final = 16  # what TensorRT 8.5 can read; below, indices and shapes are written otherwise
NEW_IN: Final[Mapping[tuple[str, str, str], int]] = {
    ("Pad", "mode", "wrap"): 19,
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): 19,
    ("ScatterElements", "reduction", "min"): 18,
    ("ScatterElements", "reduction", "max"): 18,
    ("ScatterND", "reduction", "min"): 18,
    ("ScatterND", "reduction", "max"): 18,
}  # values of attributes; everything else that a definition added has a name or a type
_TYPES: Final = (
    "Cast CastLike Constant ConstantOfShape Identity If Loop Pad Reshape Scan Shape Size"
)
_LAYOUT: Final = "DequantizeLinear Flatten QuantizeLinear Squeeze Transpose Unsqueeze"
WIDENED: Final[Mapping[int, frozenset[str]]] = {
    version: frozenset(" ".join(names).split())
    for version, *names in (
        (18, "LpPool ScatterElements ScatterND"),
        (19, _TYPES, "AveragePool DequantizeLinear Equal QuantizeLinear Resize"),
        (20, "ConstantOfShape IsInf IsNaN ReduceMax ReduceMin"),
        (21, _TYPES, _LAYOUT, "QLinearMatMul"),
        (
            22,
            "Acos Acosh Asin Asinh Atan Atanh AveragePool Conv ConvTranspose Cos Cosh DeformConv",
            "Det Dropout Elu EyeLike GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample GRU",
            "HardSigmoid HardSwish InstanceNormalization LpNormalization LpPool LSTM MaxPool",
            "MaxRoiPool MaxUnpool Mish NegativeLogLikelihoodLoss RNN RoiAlign Round Selu Sin",
            "Sinh Softplus Softsign Tan ThresholdedRelu",
        ),
        (23, _TYPES, _LAYOUT),
        (24, _TYPES, _LAYOUT, "SplitToSequence TopK"),
        (25, _TYPES, _LAYOUT),
    )
}  # definitions that only take more types, or attributes that can be left out


def opset_of(graph: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that a graph imports.

    Raises:
        ExportError: it imports none.
    """
    for each in graph.opset_import:
        if each.domain in ("", "ai.onnx"):
            return int(each.version)
    raise ExportError("the graph does not say which ONNX opset its operators are of")


def at_opset(graph: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a graph that computes the same with the operators of another opset.

    Shapes within are inferred anew, and the graph claims the oldest version of the
    file format that goes with the opset, which older runtimes insist on.

    Raises:
        ExportError: an operator has no form in that opset; it is named.
    """
    source, newest = opset_of(graph), onnx.defs.onnx_opset_version()
    if not LEAST <= opset <= newest:
        raise ExportError(
            f"opset {opset} cannot be written, {LEAST} to {newest} can: set opset in the target"
        )
    if opset > source:
        graph = _raised(graph, source, opset)
    elif opset < source:
        graph = _lowered(_inferred(graph), source, opset)
    graph = _inferred(graph)
    graph.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    return graph


def _raised(graph: onnx.ModelProto, source: int, opset: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(graph, opset)
    except (
        RuntimeError,
        ValueError,
        onnx.shape_inference.InferenceError,
        onnx.version_converter.ConvertError,
    ) as error:
        raise ExportError(f"opset {source} cannot be raised to {opset}: {_first(error)}") from error


def _first(error: BaseException) -> str:
    """Return the first line of what ONNX says, without the place in its sources."""
    return next(iter(str(error).strip().splitlines()), "").rpartition("failed: ")[2]


def _lowered(graph: onnx.ModelProto, source: int, opset: int) -> onnx.ModelProto:
    graph = _inlined(graph, source, opset)
    model = ir.from_proto(graph)
    _lower(model, source, opset)
    model.opset_imports[""] = opset
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.NameFixPass()(model)
    return ir.to_proto(model)


def _inferred(graph: onnx.ModelProto) -> onnx.ModelProto:
    # Through onnx_ir, which sets large weights aside: protobuf ends at 2 GiB.
    model = ir.from_proto(graph)
    return ir.to_proto(common.ShapeInferencePass(data_prop=True)(model).model)


def _inlined(graph: onnx.ModelProto, source: int, opset: int) -> onnx.ModelProto:
    """Replace operators that are unknown to an opset and that ONNX defines by others."""
    unknown = sorted(
        {
            node.op_type
            for node in graph.graph.node
            if (schema := _schema(node.op_type, source)) is not None
            and _is_new(schema, opset)
            and (node.op_type, schema.since_version) not in RULES
            and _is_defined(schema)
        }
    )
    if not unknown:
        return graph
    inline = onnx.inliner.inline_selected_functions
    try:
        graph = inline(graph, [("", name) for name in unknown], inline_schema_functions=True)
    except RuntimeError as error:
        raise ExportError(
            f"{' and '.join(unknown)} cannot be written in opset {opset}: {_first(error)}"
        ) from error
    model = ir.from_proto(_inferred(graph))
    tidy(model)  # the definitions compute axes and sizes, which no older form can
    return ir.to_proto(model)


def _is_defined(schema: Any) -> bool:  # noqa: ANN401 - typed without these attributes
    return bool(schema.has_function or schema.has_context_dependent_function)


def _is_new(schema: OpSchema, opset: int) -> bool:
    older = _schema(schema.name, opset)
    return older is None or (
        older.since_version != schema.since_version
        and schema.name not in WIDENED.get(schema.since_version, ())
    )


def _lower(model: ir.Model, source: int, opset: int) -> None:
    waiting = [
        (node, source)
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if node.domain == ""
    ]
    while waiting:
        node, version = waiting.pop()
        schema = _schema(node.op_type, version)
        older = _schema(node.op_type, opset)
        if schema is None:
            raise ExportError(f"'{node.op_type}' is no operator of ONNX opset {version}")
        if older is not None and older.since_version == schema.since_version:
            continue
        below = schema.since_version - 1
        found = _older_form(node, schema)
        if isinstance(found, str):
            name = f"{node.op_type} '{node.name}'" if node.name else node.op_type
            raise ExportError(f"{name} has no form in opset {opset}: {found}")
        waiting.extend((each, below) for each in found)


def _older_form(node: ir.Node, schema: OpSchema) -> Iterable[ir.Node] | str:
    """Rewrite a node as it was before its definition changed, or say why it cannot be."""
    since = schema.since_version
    rule = RULES.get((node.op_type, since))
    if rule is None and node.op_type not in WIDENED.get(since, ()):
        return f"opset {since} defined it anew, and edgeprune has no rule for it"
    if rule is not None:
        tape = ir.tape.Tape()
        values = rule(node, tape)
        if isinstance(values, str):
            return values
        _replace(node, tape.nodes, values)
        return tape.nodes
    return _without_additions(node, schema) or [node]


def _without_additions(node: ir.Node, schema: OpSchema) -> str | None:
    """Drop attributes that an older definition lacks, or say which of them matters."""
    older = _schema(schema.name, schema.since_version - 1)
    if older is None:
        return f"opset {schema.since_version} introduced it"
    for name, attribute in list(node.attributes.items()):
        if name not in older.attributes:
            default = schema.attributes[name].default_value
            if not _is_default(attribute, default):
                return f"its {name} is {attribute.value!r}, which older definitions lack"
            del node.attributes[name]
        elif NEW_IN.get((node.op_type, name, str(attribute.value)), 0) == schema.since_version:
            return f"its {name} is {attribute.value!r}, which older definitions lack"
    if len(node.inputs) > older.max_input:
        return f"it has {len(node.inputs)} inputs, {older.max_input} at most before"
    return None


def _is_default(attribute: ir.Attr, default: onnx.AttributeProto) -> bool:
    if attribute.name == "dilations":  # of no definite number, so they have no default
        return set(attribute.as_ints()) == {1}
    if not default.name:
        return False
    wanted = onnx.helper.get_attribute_value(default)
    return bool(attribute.value == (wanted.decode() if isinstance(wanted, bytes) else wanted))


def _replace(node: ir.Node, nodes: Iterable[ir.Node], values: Iterable[ir.Value]) -> None:
    new = list(nodes)
    for position, each in enumerate(new):
        each.name = f"{node.name}_{position}" if len(new) > 1 else node.name
        for output in each.outputs:
            output.name = None
    graph = node.graph
    if graph is None:
        raise ValueError(f"node '{node.name}' is in no graph")
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], new, node.outputs[: len(list(values))], list(values)
    )


def _schema(name: str, version: int) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(name, version, "")
    except onnx.defs.SchemaError:
        return None
