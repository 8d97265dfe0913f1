"""A user's own ONNX file as something to export.

ONNX Runtime's logits for the file as it is are the reference, so whatever is made
of its graph here is held against it. What the file says about itself is kept apart,
and nothing that is written from it repeats it unasked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir

from edgeprune.errors import ExportError
from edgeprune_exporters.external_data import load_graph
from edgeprune_exporters.lowering import BATCH, OUTPUT
from edgeprune_exporters.onnx_shape import image_shape, refusal
from edgeprune_exporters.opsets import at_opset, opset_of
from edgeprune_exporters.parity import Array, Batch
from edgeprune_exporters.runtimes import INPUT, THREADS, import_onnxruntime, last_line
from edgeprune_exporters.stamping import stamp
from edgeprune_exporters.tidying import tidy

NAME: Final = "ONNX Runtime"
LEAST_FORMAT: Final = 4  # the first version of the file format whose weights need not be inputs


def open_onnx(path: Path) -> "OnnxModel":
    """Open an ONNX file: a classifier of images, with one input and one output.

    Raises:
        ExportError: it is damaged, its weights are missing or lie elsewhere, its
            operators are not all ONNX's own, or it is something else than a
            classifier of images in float32.
    """
    graph = load_graph(path)
    try:
        onnx.checker.check_model(str(path))
        graph = onnx.inliner.inline_local_functions(graph) if graph.functions else graph
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ExportError(f"'{path.name}' is not valid ONNX: {first}") from error
    if reason := refusal(graph):
        raise ExportError(f"'{path.name}' cannot be exported: {reason}")
    return OnnxModel(path=path, original=graph)


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxModel:
    """An ONNX file that was checked.

    Attributes:
        path: the file.
        original: its graph, with weights.
    """

    path: Path
    original: onnx.ModelProto

    @property
    def reference(self) -> str:
        """Say what its logits come from."""
        return NAME

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return image_shape(self.original)[1]

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that it takes, or None for any."""
        return image_shape(self.original)[0]

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says about itself, such as labels."""
        return {each.key: each.value for each in self.original.metadata_props}

    def logits(self, images: Array) -> Array:
        """Return logits (N, K) of images (N, C, H, W), by the file as it is.

        Raises:
            ExportError: ONNX Runtime cannot load it, or cannot run it at this batch size.
        """
        name = self._session.get_inputs()[0].name
        try:
            logits: Array = self._session.run(None, {name: images})[0]
        except Exception as error:  # its exceptions share no public base
            raise ExportError(
                f"{NAME} cannot run '{self.path.name}' at batch {len(images)}: "
                f"{last_line(error)}; a file that works at one size only can be exported with "
                "--batch"
            ) from error
        if logits.ndim != 2 or len(logits) != len(images):
            raise ExportError(
                f"'{self.path.name}' gives {logits.shape} for {len(images)} images; logits are "
                "(images, classes)"
            )
        return logits

    def graph(
        self, *, opset: int, batch: int | None, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Return it as an ONNX graph of that opset, ``images`` → ``logits``."""
        own = self.fixed_batch
        if batch is not None and own not in (None, batch):
            raise ExportError(
                f"'{self.path.name}' takes batches of {own} only: give --batch {own}, or leave "
                "--batch out"
            )
        graph = self._sized(batch or own)
        # Up first: what folds and tidies writes operators of today's opsets.
        model = ir.from_proto(at_opset(graph, max(opset, opset_of(graph))))
        tidy(model)
        graph = at_opset(ir.to_proto(model), opset)
        stamp(graph, metadata)
        return graph

    def values(self, images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        """Return values within, by their names in the graph; unknown ones are left out."""
        onnxruntime = import_onnxruntime()
        known = [name for name in names if name in self.value_names]
        if not known:
            return {}
        wider = onnx.ModelProto()
        wider.CopyFrom(self._named)
        wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in known)
        session = onnxruntime.InferenceSession(
            wider.SerializeToString(), self._options, providers=["CPUExecutionProvider"]
        )
        found = cast(list[Array], session.run(known, {INPUT: images}))
        return dict(zip(known, found, strict=True))

    @cached_property
    def value_names(self) -> frozenset[str]:
        """Names of the values that ``values`` can return."""
        made = {name for node in self._named.graph.node for name in node.output if name}
        return frozenset(made - {OUTPUT})

    def place(self, name: str, known: frozenset[str]) -> str:
        """Name the modules that make a value: a file knows none."""
        del name, known
        return ""

    def rounding(self, batches: Sequence[Batch]) -> float | None:
        """Say how far its logits are from those in float64: a file in float32 cannot tell."""
        del batches
        return None

    @cached_property
    def _session(self) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
        onnxruntime = import_onnxruntime()
        try:
            return onnxruntime.InferenceSession(
                self.path, self._options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no public base
            raise ExportError(
                f"{NAME} cannot load '{self.path.name}': {last_line(error)}"
            ) from error

    @property
    def _options(self) -> Any:  # noqa: ANN401
        options = import_onnxruntime().SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        options.log_severity_level = 3  # errors; they come as exceptions as well
        return options

    @cached_property
    def _named(self) -> onnx.ModelProto:
        """The graph with our names for its input and output, and none that looks like a path."""
        model = ir.from_proto(self.original)
        graph = model.graph
        given = [value for value in graph.inputs if value.name not in graph.initializers]
        graph.inputs[:] = given  # old files list their weights as inputs, and have to
        model.ir_version = max(model.ir_version or 0, LEAST_FORMAT)
        wanted = {given[0]: INPUT, graph.outputs[0]: OUTPUT}
        taken = set(wanted.values())
        for value in _values(graph):
            name = wanted.get(value) or _free((value.name or "").strip("/"), taken)
            value.name = name
            taken.add(name)
        for node in graph:
            node.name = (node.name or "").strip("/")
        return ir.to_proto(model)

    def _sized(self, batch: int | None) -> onnx.ModelProto:
        """Return the named graph for one batch size, or any, without shapes that contradict it."""
        sized = onnx.ModelProto()
        sized.CopyFrom(self._named)
        del sized.graph.value_info[:]
        classes = self.logits(np.zeros((batch or 1, *self.shape), np.float32)).shape[1]
        kind = onnx.TensorProto.FLOAT
        make = onnx.helper.make_tensor_value_info
        sized.graph.input[0].CopyFrom(make(INPUT, kind, [batch or BATCH, *self.shape]))
        sized.graph.output[0].CopyFrom(make(OUTPUT, kind, [batch or BATCH, classes]))
        return sized


def _values(graph: ir.Graph) -> list[ir.Value]:
    inside = [
        output
        for node in ir.traversal.RecursiveGraphIterator(graph)
        for output in node.outputs
        if output.name
    ]
    return list(dict.fromkeys([*graph.inputs, *graph.initializers.values(), *inside]))


def _free(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken."""
    found, number = name, 1
    while found in taken or not found:
        found, number = f"{name}_{number}", number + 1
    return found
