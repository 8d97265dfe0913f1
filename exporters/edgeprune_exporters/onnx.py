"""ONNX files: for ONNX Runtime, for TensorRT, and the form others are converted from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from edgeprune.errors import ExportError
from edgeprune.targets import Target
from edgeprune_exporters.artifact import Artifact
from edgeprune_exporters.job import Job
from edgeprune_exporters.lowering import opset_of
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.proving import prove_artifact
from edgeprune_exporters.runtimes import load_onnxruntime, missing

FILE: Final = "model.onnx"
SINGLE_FILE_BYTES: Final = 2**31 - 2**20  # protobuf ends at 2 GiB; the rest is for the graph


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
        if precision != "fp32":
            return f"precision {precision} cannot be written; fp32 can"
        return missing("onnxruntime", "ONNX Runtime")

    def export(self, job: Job, precision: str, folder: Path) -> Artifact:
        """Write, check and prove the files."""
        path = folder / FILE
        files = save_graph(job.graph, path, self.single_file_bytes)
        opset = check_file(path, job.target.opset)
        return Artifact(
            format="onnx",
            runtime="onnxruntime",
            precision=precision,
            files=files,
            opset=opset,
            proof=prove_artifact(load_onnxruntime(path), job, precision),
        )


def save_graph(
    graph: onnx.ModelProto, path: Path, single_file_bytes: int = SINGLE_FILE_BYTES
) -> tuple[str, ...]:
    """Write a graph, equal graphs as equal bytes, and return the names of its files."""
    weights = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    if weights <= single_file_bytes:
        path.write_bytes(graph.SerializeToString(deterministic=True))
        return (path.name,)
    copy = onnx.ModelProto()  # saving moves the weights out of the graph it is given
    copy.CopyFrom(graph)
    beside = f"{path.name}.data"
    onnx.save_model(
        copy, path, save_as_external_data=True, all_tensors_to_one_file=True, location=beside
    )
    return (path.name, beside)


def check_file(path: Path, opset: int) -> int:
    """Check a written file as ONNX defines it, and return the opset it imports.

    Raises:
        ExportError: it breaks ONNX's rules, strict shape inference fails, or the
            opset is not the one that was asked for.
    """
    written = opset_of(onnx.load(path, load_external_data=False))
    if written != opset:
        raise ExportError(f"'{path.name}' imports opset {written}; opset {opset} was asked for")
    try:
        onnx.checker.check_model(str(path), full_check=True)  # shapes are inferred strictly
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).splitlines()[0]
        raise ExportError(f"'{path.name}' is not valid ONNX: {reason}") from error
    return written
