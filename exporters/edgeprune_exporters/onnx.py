"""ONNX files: for ONNX Runtime, for TensorRT, and the form others are converted from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from edgeprune.errors import ExportError
from edgeprune.targets import Target
from edgeprune_exporters.artifact import Artifact
from edgeprune_exporters.converting import converted
from edgeprune_exporters.external_data import SINGLE_FILE_BYTES, load_graph, save_graph
from edgeprune_exporters.job import Job
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.opsets import opset_of
from edgeprune_exporters.proving import prove_artifact
from edgeprune_exporters.runtimes import load_onnxruntime, missing

__all__ = ["FILE", "OnnxExporter", "check_file", "save_graph"]

FILE: Final = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class OnnxExporter:
    """Write one ``model.onnx``, with ``model.onnx.data`` beside it where it exceeds 2 GB.

    Attributes:
        single_file_bytes: up to which size weights stay inside the file.
    """

    single_file_bytes: int = SINGLE_FILE_BYTES

    @property
    def takes(self) -> frozenset[str]:
        """Names of the options that mean something to this format."""
        return frozenset({"batch", "simplify", "max_drop"})

    def refusal(self, model: Exportable, target: Target, precision: str) -> str | None:
        """Say why this model cannot be exported for the target, or None.

        A target with TensorRT is no reason: its engine is built on the device,
        from this file.
        """
        del model, target
        absent = missing("nncf", "NNCF, which quantises,") if precision == "int8" else None
        return absent or missing("onnxruntime", "ONNX Runtime")

    def export(self, job: Job, precision: str, folder: Path) -> Artifact:
        """Write, check and prove the files."""
        found = converted(job, precision, "runtime")
        path = folder / FILE
        files = save_graph(found.graph, path, self.single_file_bytes)
        opset = check_file(path, job.target.opset)
        return Artifact(
            format="onnx",
            runtime="onnxruntime",
            precision=precision,
            files=files,
            opset=opset,
            proof=prove_artifact(load_onnxruntime(path), job, precision),
            kept=found.kept,
            notes=found.notes,
        )


def check_file(path: Path, opset: int) -> int:
    """Check a written file as ONNX defines it, and return the opset it imports.

    Raises:
        ExportError: it breaks ONNX's rules, strict shape inference fails, or the
            opset is not the one that was asked for.
    """
    graph = load_graph(path, weights=False)
    written = opset_of(graph)
    if written != opset:
        raise ExportError(f"'{path.name}' imports opset {written}; opset {opset} was asked for")
    try:
        onnx.checker.check_model(str(path), full_check=True)
        onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"'{path.name}' is not valid ONNX: {reason}") from error
    return written
