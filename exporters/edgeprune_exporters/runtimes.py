"""The runtimes in which artifacts are checked, loaded as a device would load them."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import numpy as np
import onnx

from edgeprune.errors import ExportError
from edgeprune_exporters.parity import Array, Runtime

THREADS: Final = 2  # parity is not a measurement: enough to be quick, few enough to share
INPUT: Final = "images"
TYPES: Final[Mapping[int, str]] = {
    onnx.TensorProto.FLOAT: "f32",
    onnx.TensorProto.FLOAT16: "f16",
    onnx.TensorProto.INT8: "i8",
    onnx.TensorProto.UINT8: "u8",
}


def missing(module: str, title: str) -> str | None:
    """Say what to install if a runtime is absent, or None."""
    if find_spec(module) is not None:
        return None
    return f"{title} is not installed: pip install {module}"


def last_line(error: BaseException) -> str:
    """Return the last line of a runtime's message, where the cause stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def load_onnxruntime(path: Path, *, as_written: bool = False) -> Runtime:
    """Load an ONNX file on the processor.

    Args:
        path: of the file.
        as_written: leave pairs of QuantizeLinear and DequantizeLinear alone, as where
            another runtime will run the file. Fused with scales of float16 they give
            wrong results in ONNX Runtime (1.31: convolutions thousands of times off).

    Raises:
        ExportError: ONNX Runtime cannot load it.
    """
    onnxruntime = import_onnxruntime()
    session = _onnxruntime_session(path, path.name, as_written=as_written)
    return Runtime(
        name="onnxruntime",
        version=onnxruntime.__version__,
        precision=_stored_types(path),
        run=_runner(session),
        path=path,
    )


def run_graph(graph: onnx.ModelProto) -> Callable[[Array], Array]:
    """Return a function from images (N, C, H, W) to logits (N, K), in ONNX Runtime."""
    return _runner(_onnxruntime_session(graph.SerializeToString(), "graph"))


def load_openvino(path: Path) -> Runtime:
    """Load an OpenVINO file on the processor, in float32 whatever it prefers.

    Raises:
        ExportError: OpenVINO cannot load it, or does not run in float32.
    """
    openvino = import_openvino()
    compiled = _compile(path, path.name)
    return Runtime(
        name="openvino",
        version=openvino.__version__.split("-")[0],
        precision=compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        run=partial(_infer, compiled),
        path=path,
    )


def run_openvino(model: Any) -> Callable[[Array], Array]:  # noqa: ANN401 - OpenVINO has no types
    """Return a function from images (N, C, H, W) to logits (N, K), in OpenVINO in float32."""
    return partial(_infer, _compile(model, "model"))


def _stored_types(path: Path) -> str:
    """Return the types of a file's weights, as ``f16+f32``: operators compute in them."""
    weights = onnx.load(path, load_external_data=False).graph.initializer
    found = {TYPES[each.data_type] for each in weights if each.data_type in TYPES}
    return "+".join(sorted(found)) or "f32"


def _onnxruntime_session(source: Path | bytes, name: str, *, as_written: bool = False) -> Any:  # noqa: ANN401 - it has no types
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.log_severity_level = 3  # errors; they come as exceptions as well
    options.add_session_config_entry("session.disable_quant_qdq", "1" if as_written else "0")
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base
        raise ExportError(f"ONNX Runtime cannot load '{name}': {last_line(error)}") from error


def _runner(session: Any) -> Callable[[Array], Array]:  # noqa: ANN401
    def run(images: Array) -> Array:
        return cast(Array, session.run(None, {INPUT: images})[0])

    return run


def _compile(source: Any, name: str) -> Any:  # noqa: ANN401
    # Processors with bfloat16 run float32 files in bfloat16 unless told otherwise.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    try:
        compiled = import_openvino().Core().compile_model(source, "CPU", settings)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot load '{name}': {last_line(error)}") from error
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if precision != "f32":
        raise ExportError(f"OpenVINO was asked to run in f32 and runs in {precision}")
    return compiled


def _infer(compiled: Any, images: Array) -> Array:  # noqa: ANN401
    return cast(Array, np.array(compiled([images])[0]))  # copied: its memory is used again


def import_onnxruntime() -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    """Import ONNX Runtime without its telemetry.

    From 1.31 on, importing it starts threads that write an identity and a database
    below the user's folders; a call after the import comes too late for these.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # older builds for Windows know only this
    return onnxruntime


def import_openvino() -> Any:  # noqa: ANN401 - OpenVINO has no types
    """Import OpenVINO without its telemetry.

    Importing it reports the import over the network, from a process of its own,
    unless the telemetry package is absent. So it is made absent: for the whole
    process and for good, since its other tools start telemetry the same way.
    """
    cast(dict[str, ModuleType | None], sys.modules).setdefault("openvino_telemetry", None)
    import openvino

    return openvino
