"""Quantisation of OpenVINO models."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from edgeprune_exporters.job import Job
from edgeprune_exporters.quantization.calibrating import (
    Calibration,
    calibrate,
    calibration_batches,
)
from edgeprune_exporters.quantization.layers import Layer, Node, quantised_layers
from edgeprune_exporters.quantization.limiting import quantize_within
from edgeprune_exporters.quantization.subject import Quantized, Run
from edgeprune_exporters.runtimes import run_openvino


def quantize_openvino(model: Any, job: Job) -> Quantized[Any]:  # noqa: ANN401 - OpenVINO has no types
    """Return an OpenVINO model in int8, with the job's largest drop held.

    Raises:
        ExportError: the model cannot be quantised, or ``--max-drop`` cannot be held.
    """
    subjects = [OpenvinoSubject(model=model, job=job, widest=each) for each in (False, True)]
    return quantize_within(subjects, job)


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenvinoSubject:
    """An OpenVINO model in float32, to be quantised with ranges of one kind."""

    model: Any
    job: Job
    widest: bool = False

    @cached_property
    def calibration(self) -> Calibration:
        """How the model is quantised."""
        kinds = {operator.get_type_name() for operator in self.model.get_ops()}
        return Calibration(
            batches=calibration_batches(self.job.images, self.job.fixed_batch or 1),
            widest=self.widest,
            attention=bool(kinds & {"Softmax", "ScaledDotProductAttention"}),
        )

    def quantize(self, keep: Collection[str] = ()) -> Any:  # noqa: ANN401
        """Quantise all but the operators of these names."""
        return calibrate(self.model.clone(), self.calibration, keep)

    def draft(self) -> Any:  # noqa: ANN401
        """Quantise everything so that quantisers can be taken out again."""
        calibration = replace(self.calibration, fold_weights=False, correct_biases=False)
        return calibrate(self.model.clone(), calibration)

    def layers(self, graph: Any) -> tuple[Layer, ...]:  # noqa: ANN401
        """Return the layers that a quantised model computes on integers."""
        return openvino_layers(graph)

    def alone(self, draft: Any, layer: Layer) -> Any:  # noqa: ANN401
        """Return the draft with no quantisers but one layer's."""
        model = draft.clone()
        for operator in model.get_ordered_ops():
            if (
                operator.get_type_name() == "FakeQuantize"
                and operator.get_friendly_name() not in layer.quantisers
            ):
                source = operator.input(0).get_source_output()
                for reader in operator.output(0).get_target_inputs():
                    reader.replace_source_output(source)
        return model

    def load(self, graph: Any) -> Run:  # noqa: ANN401
        """Return a function from images to logits, in OpenVINO."""
        return run_openvino(graph)


def openvino_layers(model: Any) -> tuple[Layer, ...]:  # noqa: ANN401
    """Return the layers that read quantised values in an OpenVINO model."""
    operators = model.get_ordered_ops()
    nodes = [
        Node(
            name=operator.get_friendly_name(),
            operator=operator.get_type_name(),
            sources=tuple(
                place.get_source_output().get_node().get_friendly_name()
                for place in operator.inputs()
            ),
        )
        for operator in operators
    ]
    quantisers = {node.name for node in nodes if node.operator == "FakeQuantize"}
    return quantised_layers(nodes, quantisers)
