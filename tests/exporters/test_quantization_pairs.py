"""Every pair of a quantised graph obeys the rules, and one that does not is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import Tensor

from edgeprune.capture import Captured
from edgeprune.errors import ExportError
from edgeprune.targets import load_target
from edgeprune_exporters import Images, Job, TorchModel
from edgeprune_exporters.quantization import quantize_graph
from edgeprune_exporters.quantization.layers import Layer
from edgeprune_exporters.quantization.onnx_subject import OnnxSubject
from edgeprune_exporters.quantization.pairs import Pair, check_pairs, read_pairs


@pytest.fixture(scope="module")
def cnn_job(cnn: Captured, images: Tensor) -> Job:
    return Job(
        model=TorchModel(cnn),
        target=load_target("cpu"),
        images=Images(parity=images, calibration=images),
    )


@pytest.fixture(scope="module")
def runtime_pairs(cnn_job: Job) -> onnx.ModelProto:
    return quantize_graph(cnn_job, "runtime").graph


@pytest.fixture(scope="module")
def cnn_pairs(cnn_job: Job) -> onnx.ModelProto:
    return quantize_graph(cnn_job, "tensorrt").graph


@pytest.fixture(scope="module")
def vit_pairs(vit: Captured, cnn_job: Job) -> onnx.ModelProto:
    return quantize_graph(replace(cnn_job, model=TorchModel(vit)), "tensorrt").graph


def test_tensorrt_gets_signed_centred_pairs_with_weights_along_axis_0(
    cnn_pairs: onnx.ModelProto, vit_pairs: onnx.ModelProto
) -> None:
    for graph in (cnn_pairs, vit_pairs):
        pairs = read_pairs(graph)
        assert {str(pair.zero.dtype) for pair in pairs} == {"int8"}
        assert not any(pair.zero.any() for pair in pairs)
        weights = [pair for pair in pairs if pair.weight is not None]
        assert weights
        assert {pair.axis for pair in weights} == {0}
        assert all(pair.scale.shape == pair.weight.shape[:1] for pair in weights)  # type: ignore[union-attr]


def test_every_product_with_weights_is_quantised(
    cnn_pairs: onnx.ModelProto, vit_pairs: onnx.ModelProto
) -> None:
    for graph in (cnn_pairs, vit_pairs):
        stored = {each.name for each in graph.graph.initializer}
        products = [n for n in graph.graph.node if n.op_type in {"Conv", "Gemm", "MatMul"}]
        assert products
        for node in products:
            assert node.input[1] not in stored, f"{node.name} has weights in float"


def test_biases_stay_float(cnn_pairs: onnx.ModelProto) -> None:
    stored = {each.name: each for each in cnn_pairs.graph.initializer}
    biases = [node.input[2] for node in cnn_pairs.graph.node if node.op_type in {"Conv", "Gemm"}]
    assert len(biases) == 4
    assert {stored[name].data_type for name in biases} == {onnx.TensorProto.FLOAT}


def test_a_residual_sum_gets_one_summand_in_full(
    cnn_pairs: onnx.ModelProto, runtime_pairs: onnx.ModelProto
) -> None:
    def summands(graph: onnx.ModelProto) -> list[str]:
        makers = {name: node.op_type for node in graph.graph.node for name in node.output}
        (addition,) = (node for node in graph.graph.node if node.op_type == "Add")
        return sorted(makers[name] for name in addition.input)

    assert summands(runtime_pairs) == ["DequantizeLinear"] * 2
    assert summands(cnn_pairs) == ["Conv", "DequantizeLinear"]


def test_runtime_graphs_may_drop_the_sign_of_activations_only(
    runtime_pairs: onnx.ModelProto,
) -> None:
    kinds = {(pair.weight is None, str(pair.zero.dtype)) for pair in read_pairs(runtime_pairs)}
    assert (True, "uint8") in kinds
    assert (False, "uint8") not in kinds
    with pytest.raises(ExportError, match=r"rounds an activation to uint8: TensorRT takes int8"):
        check_pairs(runtime_pairs, signed=True)


def _activation(pairs: tuple[Pair, ...]) -> Pair:
    return next(pair for pair in pairs if pair.weight is None)


def _weight(pairs: tuple[Pair, ...]) -> Pair:
    return next(pair for pair in pairs if pair.weight is not None)


def _store(graph: onnx.ModelProto, name: str, value: Any) -> None:
    tensor = next(each for each in graph.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def asymmetric_zero(graph: onnx.ModelProto) -> None:
    _store(graph, _activation(read_pairs(graph)).dequantizer.input[2], np.int8(3))


def wrong_scale_in_one_half(graph: onnx.ModelProto) -> None:
    pair = _activation(read_pairs(graph))
    assert pair.quantizer is not None
    graph.graph.initializer.append(numpy_helper.from_array(pair.scale * 2, "planted"))
    pair.quantizer.input[1] = "planted"


def negative_scale(graph: onnx.ModelProto) -> None:
    pair = _weight(read_pairs(graph))
    _store(graph, pair.dequantizer.input[1], -pair.scale)


def wrong_axis(graph: onnx.ModelProto) -> None:
    pair = next(
        each for each in read_pairs(graph) if each.weight is not None and each.weight.ndim == 4
    )
    assert pair.weight is not None
    shape = pair.weight.shape[1]
    _store(graph, pair.dequantizer.input[1], np.full(shape, 0.1, np.float32))
    _store(graph, pair.dequantizer.input[2], np.zeros(shape, np.int8))
    next(each for each in pair.dequantizer.attribute if each.name == "axis").i = 1


def too_few_scales(graph: onnx.ModelProto) -> None:
    pair = _weight(read_pairs(graph))
    _store(graph, pair.dequantizer.input[1], pair.scale[:2])


def quantised_bias(graph: onnx.ModelProto) -> None:
    node = next(each for each in graph.graph.node if each.op_type == "Conv")
    node.input[2] = _activation(read_pairs(graph)).dequantizer.output[0]


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (asymmetric_zero, r"has zero point 3: TensorRT takes 0 only"),
        (wrong_scale_in_one_half, r"does not restore with the scale that it rounds with"),
        (negative_scale, r"has a scale that is not a positive number"),
        (wrong_axis, r"scales a weight along axis 1: TensorRT takes axis 0 only"),
        (too_few_scales, r"has 2 scales for a weight of shape"),
        (quantised_bias, r"the bias of 'node_Conv_\d+' is quantised"),
    ],
)
def test_a_planted_fault_is_named(
    plant: Callable[[onnx.ModelProto], None], message: str, cnn_pairs: onnx.ModelProto
) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(cnn_pairs)
    check_pairs(graph, signed=True)
    plant(graph)
    with pytest.raises(ExportError, match=message):
        check_pairs(graph, signed=True)


def test_a_layer_alone_is_the_only_one_that_rounds(cnn_job: Job) -> None:
    subject = OnnxSubject(job=cnn_job, scheme="runtime")
    draft = subject.draft()
    layers = subject.layers(draft)
    assert [layer.operator for layer in layers].count("Conv") == 3
    for layer in layers:
        left = subject.layers(subject.alone(draft, layer))
        assert layer.name in {each.name for each in left}
        assert all(each.quantisers <= layer.quantisers for each in left)
    nothing = Layer(name="", operator="", quantisers=frozenset())
    run, batch = subject.load(subject.alone(draft, nothing)), cnn_job.batches[0]
    np.testing.assert_allclose(run(batch.images), batch.logits, rtol=1e-4, atol=1e-5)
