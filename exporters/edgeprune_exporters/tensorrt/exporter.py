"""TensorRT: an ONNX graph that holds the precision, and a recipe to build the engine from it.

Engines are built where they run. Precision is in the graph's own types, which
strongly typed networks (from TensorRT 10 on) follow; older versions are told by
builder flags as well.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnx

from edgeprune.errors import ExportError
from edgeprune.targets import Target
from edgeprune.targets.tensorrt_versions import Version
from edgeprune_exporters.artifact import Artifact, Kept
from edgeprune_exporters.converting import converted
from edgeprune_exporters.external_data import save_graph
from edgeprune_exporters.job import Job
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.onnx import check_file
from edgeprune_exporters.parity import ParityProof
from edgeprune_exporters.proving import is_multi_label, prove_artifact
from edgeprune_exporters.runtimes import load_onnxruntime, missing
from edgeprune_exporters.tensorrt.building import build_here
from edgeprune_exporters.tensorrt.limits import graph_refusal, least_version, version_text
from edgeprune_exporters.tensorrt.recipe import Golden, Recipe, write_recipe
from edgeprune_exporters.tensorrt.settings import FILE, engine_of, version_of

STRONG_TYPING: Final[Version] = (10, 0)  # the first that runs a graph in the types it has
# What kernels of a GPU may add to the error: Winograd's in float32, other orders of rounding.
GPU_ERROR: Final = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}


class TensorrtExporter:
    """Write ``model.onnx`` and the recipe; build the engine too where this is the device."""

    @property
    def takes(self) -> frozenset[str]:
        """Names of the options that mean something to this format."""
        return frozenset({"batch", "simplify", "max_drop", "dla_core", "workspace_mb"})

    def refusal(self, model: Exportable, target: Target, precision: str) -> str | None:
        """Say why this model cannot be exported for the target, or None."""
        del model
        if version_of(target) is None:
            return (
                "it names no version of TensorRT: take a target that does, or give "
                'tensorrt = "10.3", say, in [device]'
            )
        if precision == "int8" and (reason := missing("nncf", "NNCF, which quantises,")):
            return reason
        return missing("onnxruntime", "ONNX Runtime")

    def export(self, job: Job, precision: str, folder: Path) -> Artifact:
        """Write, check and prove the files.

        Raises:
            UsageError: an option that the device cannot meet.
            ExportError: TensorRT cannot read the graph, or no engine can be built here.
            ParityError: the engine that was built here does not compute what the model does.
        """
        engine = engine_of(job, precision)
        graph = converted(job, precision, "tensorrt")
        least = _readable(graph.graph, job.target)
        files = save_graph(graph.graph, folder / FILE)
        notes = (*graph.notes, *_weakly_typed(graph.kept, job.target))
        opset = check_file(folder / FILE, job.target.opset)
        proof = prove_artifact(load_onnxruntime(folder / FILE, as_written=True), job, precision)
        if proof.ok:
            recipe = Recipe(
                target=job.target,
                engine=engine,
                opset=opset,
                precision=precision,
                least=least,
                golden=_golden(job, proof, precision),
            )
            files = write_recipe(recipe, files, folder)
            built = build_here(job.target, folder, job.reporter)
            files, notes = (*files, *built.files), (*notes, built.note)
        return Artifact(
            format="tensorrt",
            runtime="tensorrt",
            precision=precision,
            files=files,
            opset=opset,
            proof=proof,
            kept=graph.kept,
            notes=notes,
        )


def _weakly_typed(kept: Sequence[Kept], target: Target) -> tuple[str, ...]:
    version = version_of(target)
    if not kept or version is None or version >= STRONG_TYPING:
        return ()
    return (
        f"TensorRT {version_text(version)} takes types for suggestions and may run in float16 "
        "what stayed in float32: the comparison on the device decides",
    )


def _golden(job: Job, proof: ParityProof, precision: str) -> Golden:
    """Return the largest batch, and how near to the model's logits the engine has to come.

    That is measured from what the file itself lost here, twice of which may be lost
    by the engine, and one call more: an engine that loses much more was built wrong.
    """
    batch, lost = job.batches[-1], proof.batches[-1]
    multi_label = is_multi_label(job) or batch.logits.shape[1] == 1  # one logit: by its sign
    calls = batch.logits.size if multi_label else len(batch.logits)
    return Golden(
        batch=batch,
        tolerance=max(2 * lost.max_rel, GPU_ERROR[precision]),
        agreement=max(lost.agreement - 1 / calls, 0.0),
        multi_label=multi_label,
    )


def _readable(graph: onnx.ModelProto, target: Target) -> Version:
    """Return the oldest version that can read the graph.

    Raises:
        ExportError: the target's cannot.
    """
    version = version_of(target)
    if version is None:
        raise ExportError(f"target '{target.name}' names no version of TensorRT")
    if reason := graph_refusal(graph, version):
        raise ExportError(f"no tensorrt for target '{target.name}': {reason}")
    return least_version(graph, target.opset)
