"""Faults between the proven graph and the file: each caught, its layer named, no folder left.

They are planted in the call that writes the file, so that whatever an exporter does
before it is as it always is, and the comparison is the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from edgeprune import Captured
from edgeprune.errors import ParityError
from edgeprune.targets import load_target
from edgeprune_exporters import Images, TorchModel, export
from edgeprune_exporters.runtimes import import_openvino

Weights = NDArray[Any]
PRODUCTS = ("Conv", "Convolution", "GroupConvolution", "Gemm", "MatMul")
TARGETS = {
    "onnx": load_target("cpu"),
    "openvino": load_target("cpu"),
    "tensorrt": load_target("jetson-orin-nano"),
}


def wrong_constant(weights: Weights) -> Weights:
    changed = weights.copy()
    changed[0] = -changed[0]
    return changed


def swapped_inputs(weights: Weights) -> Weights:
    return weights[:, ::-1].copy()


def swapped_outputs(weights: Weights) -> Weights:
    return weights[::-1].copy()


@dataclass(frozen=True)
class Fault:
    """A change to the weights of the product at a position in the graph.

    Attributes:
        change: new weights from old ones.
        position: of the product, in order.
        deviates: how the message names the layer.
    """

    change: Callable[[Weights], Weights]
    position: int
    deviates: str


CNN_FAULTS = {
    "the input's channels swapped": Fault(swapped_inputs, 0, r"in stem\.0 and stem\.1\)"),
    "a weight's channels swapped": Fault(swapped_outputs, 2, r"'conv2d_2' \(\w+, in body\.3\)"),
    "a wrong constant": Fault(wrong_constant, 2, r"'conv2d_2' \(\w+, in body\.3\)"),
}


def into_graph(fault: Fault, graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of an ONNX graph with the fault."""
    faulty = onnx.ModelProto()
    faulty.CopyFrom(graph)
    products = [node for node in faulty.graph.node if node.op_type in PRODUCTS]
    makers = {name: node for node in faulty.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in faulty.graph.initializer}
    name = products[fault.position].input[1]
    while name not in tensors:  # behind Q and DQ
        name = makers[name].input[0]
    changed = fault.change(numpy_helper.to_array(tensors[name]))
    tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), name))
    return faulty


def into_openvino(fault: Fault, model: Any) -> None:
    """Plant the fault in an OpenVINO model."""
    products = [op for op in model.get_ordered_ops() if op.get_type_name() in PRODUCTS]
    place = products[fault.position].input(1)
    while place.get_source_output().get_node().get_type_name() != "Constant":
        place = place.get_source_output().get_node().input(0)
    old = place.get_source_output().get_node()
    changed = np.ascontiguousarray(fault.change(old.data))
    constant = import_openvino().opset1.constant(changed, dtype=old.get_element_type())
    place.replace_source_output(constant.output(0))


def plant(
    monkeypatch: pytest.MonkeyPatch,
    into_onnx: Callable[[onnx.ModelProto], onnx.ModelProto],
    into_ir: Callable[[Any], None],
) -> None:
    """Let every exporter write a changed graph."""
    import edgeprune_exporters.onnx as onnx_module
    import edgeprune_exporters.tensorrt.exporter as tensorrt_module

    openvino = import_openvino()
    save_graph, save_model = onnx_module.save_graph, openvino.save_model

    def write(graph: onnx.ModelProto, *args: Any) -> tuple[str, ...]:
        return save_graph(into_onnx(graph), *args)

    def write_model(model: Any, *args: Any, **options: Any) -> None:
        into_ir(model)
        save_model(model, *args, **options)

    monkeypatch.setattr(onnx_module, "save_graph", write)
    monkeypatch.setattr(tensorrt_module, "save_graph", write)
    monkeypatch.setattr(openvino, "save_model", write_model)


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(5))


class Remembering(TorchModel):
    """Lowers once, whatever is exported from it."""

    def graph(self, **settings: Any) -> onnx.ModelProto:
        known = self.__dict__.setdefault("graphs", {})
        if settings["opset"] not in known:
            known[settings["opset"]] = super().graph(**settings)
        return known[settings["opset"]]


@pytest.fixture(scope="module")
def model(cnn: Captured) -> TorchModel:
    return Remembering(cnn)


def exported(model: TorchModel, wanted: str, folder: Path) -> None:
    form = wanted.partition(":")[0]
    inputs = Images(parity=images(12), calibration=images(32))
    export(model, TARGETS[form], folder, inputs, formats=[wanted])


@pytest.fixture(
    params=[f"{form}:{precision}" for form in TARGETS for precision in ("fp32", "int8")]
)
def wanted(request: pytest.FixtureRequest) -> str:
    """Every exporter, in float32 and quantised."""
    return str(request.param)


@pytest.mark.parametrize("name", CNN_FAULTS)
def test_a_wrong_weight_is_caught_and_its_layer_is_named(
    wanted: str, name: str, model: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = CNN_FAULTS[name]
    plant(monkeypatch, lambda g: into_graph(fault, g), lambda m: into_openvino(fault, m))
    with pytest.raises(ParityError, match=f"file differs.* deviates at .*{fault.deviates}"):
        exported(model, wanted, tmp_path / "out")
    assert list((tmp_path / "out").rglob("*")) == []


def fixed_batch(graph: onnx.ModelProto) -> onnx.ModelProto:
    faulty = onnx.ModelProto()
    faulty.CopyFrom(graph)
    del faulty.graph.value_info[:]
    for value in (faulty.graph.input[0], faulty.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return faulty


def test_a_fixed_batch_is_caught(
    wanted: str, model: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, fixed_batch, lambda model: model.reshape({"images": [1, 3, 32, 32]}))
    with pytest.raises(ParityError, match="loads the file but cannot run it at batch 3"):
        exported(model, wanted, tmp_path / "out")
    assert list((tmp_path / "out").rglob("*")) == []
