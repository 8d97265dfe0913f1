"""From a captured model to an ONNX graph."""

from collections.abc import Mapping
from typing import Any, Final

import onnx
import torch

from edgeprune.capture import Captured
from edgeprune.errors import ExportError
from edgeprune_exporters.attention import explicit_attention
from edgeprune_exporters.folding import fold_constants
from edgeprune_exporters.opsets import at_opset, opset_of
from edgeprune_exporters.runtimes import INPUT
from edgeprune_exporters.silence import silenced
from edgeprune_exporters.stamping import stamp
from edgeprune_exporters.tidying import tidy

__all__ = ["BATCH", "OUTPUT", "lower", "opset_of", "translated"]

OUTPUT: Final = "logits"
BATCH: Final = "batch"
NATIVE: Final = 18  # the oldest opset that torch.onnx writes; for older ones it only logs that
NOISY: Final = ("torch", "torch.onnx", "onnxscript", "onnx_ir")


def lower(
    captured: Captured, *, opset: int, metadata: Mapping[str, str], batch: int | None = None
) -> onnx.ModelProto:
    """Return the model as an ONNX graph: ``images`` (N, C, H, W) → ``logits`` (N, K).

    The batch dimension is named ``batch`` where the model allows any size and none is
    asked for.

    Raises:
        ExportError: an operator has no ONNX form, or the opset or the batch size is
            not to be had.
    """
    program = translated(captured, opset, batch)
    with silenced(NOISY):
        tidy(program.model)
        graph = program.model_proto
    del program  # it holds all weights once more
    _require_standard(graph)
    graph = at_opset(graph, opset)
    stamp(graph, metadata)
    return graph


def translated(captured: Captured, opset: int, batch: int | None = None) -> torch.onnx.ONNXProgram:
    """Return the model as torch.onnx translates it, in that opset or the nearest it writes.

    Values are named as the nodes of its ``exported_program``.

    Raises:
        ExportError: an operator has no ONNX form, or the model takes another batch size only.
    """
    own = None if captured.dynamic_batch else len(captured.sample)
    if batch is not None and own not in (None, batch):
        raise ExportError(
            f"the model takes batches of {own} only: give --batch {own}, or leave --batch out"
        )
    try:
        with silenced(NOISY), torch.no_grad():
            program = _translate(captured, max(opset, NATIVE), batch or own)
    except Exception as error:  # torch.onnx raises whatever a translation met
        raise ExportError(f"the model has no ONNX form: {_reason(error)}") from error
    if program is None:
        raise ExportError("torch.onnx returned nothing")
    return program


def _translate(captured: Captured, opset: int, batch: int | None) -> torch.onnx.ONNXProgram | None:
    module, sample = captured.clone().module.cpu(), captured.sample.cpu()
    fold_constants(module)
    explicit_attention(module)
    shapes, names = None, None
    if batch is None:
        # Batch 1 would be taken for a constant, so at least two samples are shown.
        sample = sample if len(sample) > 1 else sample.repeat(2, 1, 1, 1)
        shapes, names = ({0: torch.export.Dim.DYNAMIC},), ({0: BATCH},)
    elif len(sample) != batch:
        sample = sample[:1].repeat(batch, 1, 1, 1)
    exported = torch.export.export(module, (sample,), dynamic_shapes=shapes, strict=False)
    return torch.onnx.export(
        exported,
        (),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=opset,
        dynamic_shapes=names,
        verbose=False,
        optimize=False,
    )


def _require_standard(graph: onnx.ModelProto) -> None:
    foreign = sorted({each.domain for each in graph.opset_import} - {"", "ai.onnx"})
    if foreign:
        raise ExportError(f"the graph needs operators that are not ONNX's own: {foreign}")


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: the one that names the operator."""
    innermost: Any = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    lines = [line.strip() for line in str(innermost).splitlines() if line.strip()]
    return f"{type(innermost).__name__}: {lines[0][:300]}" if lines else type(innermost).__name__
