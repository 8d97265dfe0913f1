"""Quantisation of ONNX graphs, for ONNX Runtime and for TensorRT."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

import onnx

from edgeprune.errors import ExportError
from edgeprune_exporters.job import Job
from edgeprune_exporters.opsets import opset_of
from edgeprune_exporters.quantization.calibrating import (
    Calibration,
    calibrate,
    calibration_batches,
)
from edgeprune_exporters.quantization.layers import Layer, Node, quantised_layers
from edgeprune_exporters.quantization.limiting import quantize_within
from edgeprune_exporters.quantization.pairs import check_pairs
from edgeprune_exporters.quantization.subject import Quantized, Run
from edgeprune_exporters.quantization.tensorrt_scheme import for_tensorrt
from edgeprune_exporters.runtimes import run_graph

Scheme = Literal["runtime", "tensorrt"]

FOLDED_FROM: Final = 19  # opset: TensorRT 8 reads 18 at most, and wants weights as floats
NEWEST: Final = (
    20  # opset: ONNX Runtime changes int8 to uint8 on x86, and from 21 on forgets half of it
)


def quantize_graph(job: Job, scheme: Scheme) -> Quantized[onnx.ModelProto]:
    """Return the job's graph in int8, with quantisers as one runtime likes them.

    ``runtime``: activations may have a zero point and no sign, as processors take
    them. ``tensorrt``: every quantiser is signed, with its zero point at 0; weights
    are quantised per output channel along axis 0. Inputs, outputs and biases stay
    float32.

    Raises:
        ExportError: the graph cannot be quantised, ``--max-drop`` cannot be held, or a
            quantiser breaks the rules of its scheme.
    """
    opset = opset_of(job.graph)
    if opset > NEWEST:
        raise ExportError(
            f"int8 at opset {opset} cannot be checked, since ONNX Runtime fails on it: set "
            f"opset = {NEWEST} or lower in the target"
        )
    subjects = [OnnxSubject(job=job, scheme=scheme, widest=each) for each in (False, True)]
    quantized = quantize_within(subjects, job)
    check_pairs(quantized.graph, signed=scheme == "tensorrt")
    return quantized


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxSubject:
    """A job's graph, to be quantised under a scheme, with ranges of one kind."""

    job: Job
    scheme: Scheme
    widest: bool = False

    @cached_property
    def calibration(self) -> Calibration:
        """How the graph is quantised."""
        graph, tensorrt = self.job.graph, self.scheme == "tensorrt"
        return Calibration(
            batches=calibration_batches(self.job.images, self.job.fixed_batch or 1),
            attention=any(node.op_type in {"Softmax", "Attention"} for node in graph.graph.node),
            widest=self.widest,
            per_tensor=True,  # more than one is neither fused by ONNX Runtime nor read by TensorRT
            half_range=not tensorrt,
            fold_weights=not tensorrt or opset_of(graph) >= FOLDED_FROM,
        )

    def quantize(self, keep: Collection[str] = ()) -> onnx.ModelProto:
        """Quantise all but the operators of these names."""
        return self._quantize(self.calibration, keep)

    def draft(self) -> onnx.ModelProto:
        """Quantise everything so that quantisers can be taken out again."""
        return self._quantize(replace(self.calibration, fold_weights=False, correct_biases=False))

    def layers(self, graph: onnx.ModelProto) -> tuple[Layer, ...]:
        """Return the layers that a quantised graph computes on integers."""
        makers = {name: node.name for node in graph.graph.node for name in node.output}
        weights = {each.name for each in graph.graph.initializer}
        nodes = [
            Node(
                name=node.name,
                operator=node.op_type,
                sources=tuple(makers[name] for name in node.input if name in makers),
            )
            for node in graph.graph.node
        ]
        quantisers = {
            node.name
            for node in graph.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] not in weights
        }
        return quantised_layers(nodes, quantisers)

    def alone(self, draft: onnx.ModelProto, layer: Layer) -> onnx.ModelProto:
        """Return the draft with no quantisers but one layer's."""
        graph = onnx.ModelProto()
        graph.CopyFrom(draft)
        remove_pairs(
            graph,
            [
                node.name
                for node in graph.graph.node
                if node.op_type == "DequantizeLinear" and node.name not in layer.quantisers
            ],
        )
        return graph

    def load(self, graph: onnx.ModelProto) -> Run:
        """Return a function from images to logits, in ONNX Runtime."""
        return run_graph(graph)

    def _quantize(self, calibration: Calibration, keep: Collection[str] = ()) -> onnx.ModelProto:
        graph = calibrate(self.job.graph, calibration, keep)
        graph = for_tensorrt(graph) if self.scheme == "tensorrt" else graph
        del graph.graph.value_info[:]  # NNCF leaves shapes and types from before
        return graph


def remove_pairs(graph: onnx.ModelProto, names: Iterable[str]) -> None:
    """Let values pass these dequantisers, and the quantisers before them, unrounded, in place."""
    gone = set(names)
    makers = {name: node for node in graph.graph.node for name in node.output}
    passed = {
        node.output[0]: makers[node.input[0]].input[0]
        for node in graph.graph.node
        if node.name in gone
    }
    for node in graph.graph.node:
        node.input[:] = [_before(name, passed) for name in node.input]


def _before(name: str, passed: Mapping[str, str]) -> str:
    while name in passed:
        name = passed[name]
    return name
