"""The runtimes in which artifacts are checked, loaded as a device would load them."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import numpy as np

from edgeprune.errors import ExportError
from edgeprune_exporters.parity import Array, Runtime

THREADS: Final = 2  # parity is not a measurement: enough to be quick, few enough to share
INPUT: Final = "images"


def missing(module: str, title: str) -> str | None:
    """Say what to install if a runtime is absent, or None."""
    if find_spec(module) is not None:
        return None
    return f"{title} is not installed: pip install {module}"


def last_line(error: BaseException) -> str:
    """Return the last line of a runtime's message, where the cause stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def load_onnxruntime(path: Path) -> Runtime:
    """Load an ONNX file on the processor."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # builds for Windows have some
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.log_severity_level = 3  # errors; they come as exceptions as well
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base
        raise ExportError(f"ONNX Runtime cannot load '{path.name}': {last_line(error)}") from error

    def run(images: Array) -> Array:
        return cast(Array, session.run(None, {INPUT: images})[0])

    declared = session.get_outputs()[0].type
    return Runtime(
        name="onnxruntime",
        version=onnxruntime.__version__,
        precision="f32" if declared == "tensor(float)" else declared,
        run=run,
    )


def load_openvino(path: Path) -> Runtime:
    """Load an OpenVINO file on the processor, in float32 whatever it prefers.

    Processors with bfloat16 run float32 files in bfloat16 unless told otherwise.
    """
    openvino = import_openvino()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    try:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot load '{path.name}': {last_line(error)}") from error
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if precision != "f32":
        raise ExportError(f"OpenVINO was asked to run in f32 and runs in {precision}")

    def run(images: Array) -> Array:
        return cast(Array, np.asarray(compiled([images])[0]))

    return Runtime(
        name="openvino",
        version=openvino.__version__.split("-")[0],
        precision=precision,
        run=run,
    )


def import_openvino() -> Any:  # noqa: ANN401 - OpenVINO has no types
    """Import OpenVINO without its telemetry.

    Importing it reports the import over the network, from a process of its own,
    unless the telemetry package is absent. So it is made absent: for the whole
    process and for good, since its other tools start telemetry the same way.
    """
    cast(dict[str, ModuleType | None], sys.modules).setdefault("openvino_telemetry", None)
    import openvino

    return openvino
