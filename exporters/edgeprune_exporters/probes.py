"""Look into an artifact: any values that it computes, under their names in the ONNX graph.

The file is loaded with these values as more outputs. Nothing else changes, so a
fault that comes from how the runtime merges layers stays as long as no value
asked for lies within the merged ones.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from edgeprune_exporters.parity import Array

SCRATCH: Final = "probe.onnx"  # beside the file, where its external data is


@dataclass(frozen=True, kw_only=True)
class Value:
    """A value in an artifact.

    Attributes:
        name: as the ONNX graph has it.
        operator: kind of operator that computes it, as ``Conv``.
        inputs: the values that it is computed from; unknown ones are weights.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An artifact that can be looked into.

    Attributes:
        values: all of them by name, each after those it is computed from; the last is the
            logits.
        read: values by name for images (N, C, H, W); what cannot be had is left out.
    """

    values: Mapping[str, Value]
    read: Callable[[Array, Sequence[str]], Mapping[str, Array]]


def open_probe(path: Path) -> Probe:
    """Open a written ONNX or OpenVINO file."""
    return _onnx_probe(path) if path.suffix == ".onnx" else _openvino_probe(path)


def _onnx_probe(path: Path) -> Probe:
    model = onnx.load(path, load_external_data=False)
    values = {
        name: Value(name=name, operator=node.op_type, inputs=tuple(filter(None, node.input)))
        for node in model.graph.node
        for name in node.output
        if name
    }
    logits = values.pop(model.graph.output[0].name)

    def read(images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        from edgeprune_exporters.runtimes import import_onnxruntime

        onnxruntime = import_onnxruntime()
        wider = onnx.ModelProto()
        wider.CopyFrom(model)
        wider.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n != logits.name)
        scratch = path.with_name(SCRATCH)
        try:
            scratch.write_bytes(wider.SerializeToString())
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            options.add_session_config_entry("session.disable_quant_qdq", "1")
            session = onnxruntime.InferenceSession(
                scratch, options, providers=["CPUExecutionProvider"]
            )
            feeds = {session.get_inputs()[0].name: images}
            found = map(np.asarray, session.run(list(names), feeds))
            return dict(zip(names, found, strict=True))
        finally:
            scratch.unlink(missing_ok=True)

    return Probe(values={**values, logits.name: logits}, read=read)


def _openvino_probe(path: Path) -> Probe:
    from edgeprune_exporters.runtimes import import_openvino

    openvino = import_openvino()
    core = openvino.Core()
    values: dict[str, Value] = {}
    for operator in core.read_model(path).get_ordered_ops():
        if operator.get_type_name() not in {"Constant", "Result"}:
            for output in operator.outputs():
                value = _openvino_value(operator, output)
                values[value.name] = value

    def read(images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        model = core.read_model(path)
        own, added = len(model.outputs), []
        for name in names:
            with contextlib.suppress(RuntimeError):  # OpenVINO's own values have no names
                model.add_outputs(name)
                added.append(name)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        found = core.compile_model(model, "CPU", settings)([images])
        return {name: np.array(found[own + at]) for at, name in enumerate(added)}

    return Probe(values=values, read=read)


def _openvino_value(operator: Any, output: Any) -> Value:  # noqa: ANN401 - it has no types
    sources = (place.get_source_output() for place in operator.inputs())
    return Value(
        name=_openvino_name(output),
        operator=operator.get_type_name(),
        inputs=tuple(_openvino_name(source) for source in sources),
    )


def _openvino_name(output: Any) -> str:  # noqa: ANN401
    # The frontend may give one output several names: the one of the ONNX graph sorts like any.
    names = sorted(output.get_names())
    node = output.get_node()
    return names[0] if names else f"{node.get_friendly_name()}:{output.get_index()}"
