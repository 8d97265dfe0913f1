"""ONNX files: for ONNX Runtime, for TensorRT, and the form others are converted from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from edgeprune.errors import ExportError
from edgeprune.targets import Target
from edgeprune_exporters.artifact import Artifact, Kept
from edgeprune_exporters.external_data import SINGLE_FILE_BYTES, load_graph, save_graph
from edgeprune_exporters.half import to_half
from edgeprune_exporters.job import Job
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.opsets import opset_of
from edgeprune_exporters.parity import Array
from edgeprune_exporters.proving import prove_artifact
from edgeprune_exporters.quantization import quantize_graph
from edgeprune_exporters.runtimes import load_onnxruntime, missing
from edgeprune_exporters.stamping import stamp

__all__ = ["FILE", "OnnxExporter", "check_file", "save_graph"]

FILE: Final = "model.onnx"
HALF_IMAGES: Final = 16  # for the ranges of values; more find little that these do not
HALF_BATCH: Final = 4


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
        del model, target, precision
        return missing("onnxruntime", "ONNX Runtime")

    def export(self, job: Job, precision: str, folder: Path) -> Artifact:
        """Write, check and prove the files."""
        converted = _converted(job, precision)
        path = folder / FILE
        files = save_graph(converted.graph, path, self.single_file_bytes)
        opset = check_file(path, job.target.opset)
        return Artifact(
            format="onnx",
            runtime="onnxruntime",
            precision=precision,
            files=files,
            opset=opset,
            proof=prove_artifact(load_onnxruntime(path), job, precision),
            kept=converted.kept,
            notes=(*job.prepared.notes, *converted.notes),
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


@dataclass(frozen=True, kw_only=True)
class _Converted:
    graph: onnx.ModelProto
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = ()


def _converted(job: Job, precision: str) -> _Converted:
    """Return the graph at a precision, with no text in it but ours."""
    if precision == "fp32":
        return _Converted(graph=job.graph)
    if precision == "fp16":
        half = to_half(job.graph, _samples(job), reporter=job.reporter)
        converted = _Converted(graph=half.graph, kept=half.kept)
    else:
        quantized = quantize_graph(job, "runtime")
        converted = _Converted(graph=quantized.graph, kept=quantized.kept, notes=quantized.notes)
    stamp(converted.graph, job.metadata)
    return converted


def _samples(job: Job) -> tuple[Array, ...]:
    """Return the first calibration images, or those of parity, in small batches."""
    images = job.images.parity if job.images.calibration is None else job.images.calibration
    pool = np.ascontiguousarray(images[:HALF_IMAGES].detach().cpu().float().numpy())
    size = job.fixed_batch or HALF_BATCH
    places = np.arange(-(-len(pool) // size) * size) % len(pool)  # a fixed batch is filled up
    return tuple(pool[each] for each in places.reshape(-1, size))
