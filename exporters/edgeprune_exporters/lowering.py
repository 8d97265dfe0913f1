"""From a captured model to an ONNX graph that tells nothing about where it was made.

torch stores source lines, file paths and module names in every node. All of it
is dropped and only what the caller hands over is put in, so the same model
gives the same bytes wherever it is exported.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final

import onnx
import torch
from google.protobuf.message import Message  # type: ignore[import-untyped]

from edgeprune.capture import Captured
from edgeprune.errors import ExportError
from edgeprune_exporters.attention import four_dimensional_attention
from edgeprune_exporters.folding import fold_constants
from edgeprune_exporters.runtimes import INPUT
from edgeprune_exporters.tidying import tidy

OUTPUT: Final = "logits"
BATCH: Final = "batch"
FREE_TEXT: Final = frozenset({"doc_string", "metadata_props"})
NOISY: Final = ("torch", "torch.onnx", "onnxscript", "onnx_ir")


def lower(captured: Captured, *, opset: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Return the model as an ONNX graph: ``images`` (N, C, H, W) → ``logits`` (N, K).

    The batch dimension is named ``batch`` where the model allows any size.

    Raises:
        ExportError: an operator has no ONNX form, or the opset is not to be had.
    """
    try:
        with _quiet(), torch.no_grad():
            graph = _translate(captured, opset)
    except Exception as error:  # torch.onnx raises whatever a translation met
        raise ExportError(f"the model has no ONNX form: {_reason(error)}") from error
    _require_opset(graph, opset)
    _drop_free_text(graph)
    graph.producer_name, graph.producer_version = "edgeprune", version("edgeprune")
    onnx.helper.set_model_props(graph, dict(sorted(metadata.items())))
    return graph


def opset_of(graph: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that a graph imports."""
    return next(int(each.version) for each in graph.opset_import if each.domain == "")


def _translate(captured: Captured, opset: int) -> onnx.ModelProto:
    module, sample = captured.clone().module.cpu(), captured.sample.cpu()
    fold_constants(module)
    four_dimensional_attention(module)
    shapes, names = None, None
    if captured.dynamic_batch:
        # Batch 1 would be taken for a constant, so at least two samples are shown.
        sample = sample if len(sample) > 1 else sample.repeat(2, 1, 1, 1)
        shapes, names = ({0: torch.export.Dim.DYNAMIC},), ({0: BATCH},)
    exported = torch.export.export(module, (sample,), dynamic_shapes=shapes, strict=False)
    program = torch.onnx.export(
        exported,
        (),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=opset,
        dynamic_shapes=names,
        verbose=False,
        optimize=False,
    )
    if program is None:
        raise ExportError("torch.onnx returned nothing")
    tidy(program.model)
    return program.model_proto


def _require_opset(graph: onnx.ModelProto, opset: int) -> None:
    # torch falls back to an opset of its own choice and only logs it.
    written = opset_of(graph)
    if written != opset:
        raise ExportError(
            f"the target reads opset {opset} and torch.onnx wrote opset {written}: "
            f"set opset = {written} in the target if its runtime can read that"
        )
    foreign = sorted({each.domain for each in graph.opset_import} - {"", "ai.onnx"})
    if foreign:
        raise ExportError(f"the graph needs operators that are not ONNX's own: {foreign}")


def _drop_free_text(message: Message) -> None:
    """Clear documentation and metadata in a message and everything below it."""
    for entry, value in message.ListFields():
        if entry.name in FREE_TEXT:
            message.ClearField(entry.name)
        elif isinstance(value, Message):
            _drop_free_text(value)
        elif entry.message_type is not None:
            for each in value:
                _drop_free_text(each)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: the one that names the operator."""
    innermost: Any = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    lines = [line.strip() for line in str(innermost).splitlines() if line.strip()]
    return f"{type(innermost).__name__}: {lines[0][:300]}" if lines else type(innermost).__name__
