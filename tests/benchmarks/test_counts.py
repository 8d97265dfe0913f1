"""Counts of artifact files: known networks, both formats, and what cannot be counted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.counts import LayerCount, artifact_counts, layer_counts
from edgeprune_exporters.runtimes import import_openvino

from .conftest import CHANNELS, CLASSES, SIZE, Tiny, random_weight, write_network

FLOAT = TensorProto.FLOAT


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: dict[str, Sequence[int | str]],
    weights: dict[str, np.ndarray] | None = None,
    output: str = "out",
    opset: int = 18,
) -> Path:
    """Write a graph whose only known shapes are those of its inputs."""
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def as_ir(path: Path, *, half: bool = False) -> Path:
    ov = import_openvino()
    target = path.with_suffix(".xml")
    ov.save_model(ov.Core().read_model(path), target, compress_to_fp16=half)
    return target


def macs(path: Path) -> int | None:
    return artifact_counts(path).macs


def only(layers: Sequence[LayerCount], type_: str) -> LayerCount:
    (found,) = (layer for layer in layers if layer.type == type_)
    return found


# --- what operators take --------------------------------------------------------------

CONV = {"pads": [1, 1, 1, 1], "strides": [2, 2]}


@pytest.mark.parametrize(
    ("operator", "attributes", "weight", "expected"),
    [
        ("Conv", CONV, (8, 6, 3, 3), 4 * 4 * 8 * 6 * 9),
        ("Conv", {"group": 6}, (12, 1, 3, 3), 6 * 6 * 12 * 9),
        ("Conv", {"group": 2}, (8, 3, 1, 1), 8 * 8 * 8 * 3),
        ("ConvTranspose", {"strides": [2, 2]}, (6, 5, 2, 2), 8 * 8 * 6 * 5 * 4),
        ("ConvTranspose", {"group": 3}, (6, 4, 3, 3), 8 * 8 * 6 * 4 * 9),
        ("MatMul", {}, (8, 7), 6 * 8 * 8 * 7),
    ],
)
def test_an_operator_takes_the_same_multiply_accumulates_in_both_formats(
    operator: str,
    attributes: dict[str, object],
    weight: Sequence[int],
    expected: int,
    tmp_path: Path,
) -> None:
    node = helper.make_node(operator, ["image", "weight"], ["out"], **attributes)
    path = write(
        tmp_path / "one.onnx",
        [node],
        inputs={"image": ["batch", 6, 8, 8]},
        weights={"weight": ones(*weight)},
    )
    assert macs(path) == expected
    assert macs(as_ir(path)) == expected


@pytest.mark.parametrize("turned", [0, 1])
def test_a_gemm_counts_its_inner_size_whichever_way_it_is_stored(
    turned: int, tmp_path: Path
) -> None:
    shape = (9, 4) if turned else (4, 9)
    path = write(
        tmp_path / "gemm.onnx",
        [helper.make_node("Gemm", ["x", "w"], ["out"], transA=turned)],
        inputs={"x": shape},
        weights={"w": ones(9, 5)},
    )
    assert sum(layer.macs or 0 for layer in layer_counts(path)) == 4 * 9 * 5


def test_einsum_counts_the_product_of_its_letters(tmp_path: Path) -> None:
    node = helper.make_node("Einsum", ["x", "y"], ["out"], equation="...ij,...jk->...ik")
    shapes = {"x": (1, 3, 4, 5), "y": (1, 3, 5, 6)}
    assert macs(write(tmp_path / "e.onnx", [node], inputs=shapes)) == 3 * 4 * 5 * 6


def test_attention_counts_both_of_its_products(tmp_path: Path) -> None:
    node = helper.make_node("Attention", ["q", "k", "v"], ["out"])
    shapes = {"q": (1, 2, 10, 8), "k": (1, 2, 12, 8), "v": (1, 2, 12, 16)}
    path = write(tmp_path / "a.onnx", [node], inputs=shapes, opset=23)
    assert macs(path) == 2 * 10 * 12 * (8 + 16)


def test_a_recurrent_layer_counts_every_step_of_every_gate(tmp_path: Path) -> None:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["out"], hidden_size=5)
    weights = {"w": ones(1, 20, 3), "r": ones(1, 20, 5)}
    path = write(tmp_path / "l.onnx", [node], inputs={"x": (7, 2, 3)}, weights=weights)
    assert sum(layer.macs or 0 for layer in layer_counts(path)) == 7 * 2 * 4 * 5 * (3 + 5)


@pytest.mark.parametrize("half", [False, True])
def test_counts_of_an_ir_are_those_of_the_onnx_file_it_was_made_from(
    half: bool, tmp_path: Path
) -> None:
    path = write_network(tmp_path / "net.onnx", random_weight(), layers=3)
    ours, theirs = artifact_counts(path), artifact_counts(as_ir(path, half=half))
    expected = 3 * SIZE * SIZE * CHANNELS * CHANNELS * 9 + CHANNELS * CLASSES
    assert ours.macs == theirs.macs == expected
    # The three convolutions share one weight.
    assert ours.params == theirs.params == CHANNELS * CHANNELS * 9 + CHANNELS * CLASSES


def test_operators_are_counted_by_type(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", random_weight(), layers=2)
    assert dict(artifact_counts(path).operators) == {
        **{"Cast": 1, "Conv": 2, "Flatten": 1},
        **{"GlobalAveragePool": 1, "MatMul": 1},
    }


# --- layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["onnx", "ir"])
def test_a_layer_has_its_sizes_for_the_whole_batch(form: str, tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", random_weight(), layers=1)
    layers = layer_counts(path if form == "onnx" else as_ir(path), batch=5)
    conv = only(layers, "Conv" if form == "onnx" else "Convolution")
    pixels = 5 * CHANNELS * SIZE * SIZE
    assert conv.output_shape == (5, CHANNELS, SIZE, SIZE)
    assert conv.macs == pixels * CHANNELS * 9
    assert conv.params == CHANNELS * CHANNELS * 9
    assert conv.bytes_read == 4 * (pixels + conv.params)
    assert conv.bytes_written == 4 * pixels
    assert conv.weight == "same"


def test_totals_are_per_image_whatever_batch_a_file_is_fixed_to(tmp_path: Path) -> None:
    free = write_network(tmp_path / "free.onnx", random_weight(), layers=2)
    fixed = write_network(tmp_path / "fixed.onnx", random_weight(), layers=2, batch=4)
    assert macs(free) == macs(fixed) == macs(as_ir(fixed))
    assert sum(layer.macs or 0 for layer in layer_counts(fixed)) == 4 * (macs(free) or 0)


@pytest.mark.parametrize("form", ["onnx", "ir"])
def test_a_batch_that_a_file_does_not_take_is_refused(form: str, tmp_path: Path) -> None:
    path = write_network(tmp_path / "fixed.onnx", random_weight(), batch=4)
    with pytest.raises(MeasureError, match=r"takes batches of \[4\] only, not of 2"):
        layer_counts(path if form == "onnx" else as_ir(path), batch=2)


@pytest.mark.parametrize("form", ["onnx", "ir"])
def test_an_open_batch_is_followed_through_windows_and_back(form: str, tmp_path: Path) -> None:
    """As in windowed attention: (N, 8, 8, C) → (4 N, 16, C) → heads in front → back."""
    shapes = {
        "split": [-1, 2, 4, 2, 4, 6],
        "windows": [-1, 16, 6],
        "heads": [-1, 16, 3, 2, 4],
        "image": [-1, 64, 6],
    }
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", ["b", "windows"], ["c"]),
        helper.make_node("MatMul", ["c", "qkv"], ["d"]),
        helper.make_node("Reshape", ["d", "heads"], ["e"]),
        helper.make_node("Transpose", ["e"], ["f"], perm=[2, 0, 3, 1, 4]),
        helper.make_node("Gather", ["f", "zero"], ["q"], axis=0),
        helper.make_node("Gather", ["f", "one"], ["k"], axis=0),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["out"]),
    ]
    weights = {name: np.array(shape, np.int64) for name, shape in shapes.items()}
    weights |= {"zero": np.array(0), "one": np.array(1), "qkv": ones(6, 24)}
    path = write(tmp_path / "w.onnx", nodes, inputs={"x": ["n", 8, 8, 6]}, weights=weights)
    layers = layer_counts(path if form == "onnx" else as_ir(path), batch=3)
    products = [layer.macs for layer in layers if layer.macs]
    windows = 3 * 4
    assert products == [windows * 16 * 6 * 24, windows * 2 * 16 * 16 * 4]


def test_a_token_that_is_repeated_counts_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Expand", ["token", "shape"], ["tokens"]),
        helper.make_node("Add", ["x", "tokens"], ["out"]),
    ]
    weights = {"token": ones(1, 1, 6), "shape": np.array([1, 9, 6])}
    path = write(tmp_path / "t.onnx", nodes, inputs={"x": [1, 9, 6]}, weights=weights)
    assert artifact_counts(path).params == 6


def test_sizes_that_inference_cannot_tell_are_taken_from_the_file(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Secret", ["x"], ["hidden"], domain="com.microsoft"),
        helper.make_node("MatMul", ["hidden", "w"], ["out"]),
    ]
    weights = {"w": ones(6, 5)}
    path = write(tmp_path / "s.onnx", nodes, inputs={"x": ["n", 6]}, weights=weights)
    assert only(layer_counts(path), "MatMul").macs is None
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("hidden", FLOAT, ["n", 6]))
    onnx.save(model, path)
    assert only(layer_counts(path, batch=7), "MatMul").macs == 7 * 6 * 5


def test_constants_among_the_nodes_are_weights_not_operators(tmp_path: Path) -> None:
    value = numpy_helper.from_array(ones(6, 5))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=value),
        helper.make_node("MatMul", ["x", "w"], ["out"]),
    ]
    counts = artifact_counts(write(tmp_path / "c.onnx", nodes, inputs={"x": [2, 6]}))
    assert (dict(counts.operators), counts.params, counts.macs) == ({"MatMul": 1}, 30, 30)


# --- quantised files ----------------------------------------------------------------------


def quantised(path: Path) -> Path:
    """An activation and a weight in int8, each between a pair of Q and DQ or behind a DQ."""
    weights = {
        "scale": np.array(0.1, np.float32),
        "zero": np.array(0, np.int8),
        "packed": np.ones((8, 6, 3, 3), np.int8),
        "scales": ones(8),
        "zeros": np.zeros(8, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["packed", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["out"]),
    ]
    return write(path, nodes, inputs={"image": ["n", 6, 8, 8]}, weights=weights)


@pytest.mark.parametrize("form", ["onnx", "ir"])
def test_quantised_weights_count_once_and_their_scales_not(form: str, tmp_path: Path) -> None:
    path = quantised(tmp_path / "q.onnx")
    counts = artifact_counts(path if form == "onnx" else as_ir(path))
    assert counts.params == 8 * 6 * 9
    assert counts.macs == 6 * 6 * 8 * 6 * 9


def test_scales_of_activations_are_no_parameters(tmp_path: Path) -> None:
    weights = {"scales": np.linspace(0.1, 0.6, 6, dtype=np.float32)}
    weights |= {"zeros": np.zeros(6, np.int8), "w": ones(8, 6, 1, 1)}
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scales", "zeros"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "scales", "zeros"], ["x"], axis=1),
        helper.make_node("Conv", ["x", "w"], ["out"]),
    ]
    path = write(tmp_path / "q.onnx", nodes, inputs={"image": ["n", 6, 8, 8]}, weights=weights)
    assert artifact_counts(path).params == 48


def test_ranges_of_a_fake_quantisation_are_no_parameters(tmp_path: Path) -> None:
    ov = import_openvino()
    from openvino import opset13 as ops

    image = ops.parameter([1, 6, 8, 8], np.float32)
    ranges = [ops.constant(ones(1, 6, 1, 1) * end) for end in (-1, 1, -1, 1)]
    limited = ops.fake_quantize(image, *ranges, 256)
    zeros = [0, 0]
    product = ops.convolution(limited, ops.constant(ones(8, 6, 1, 1)), [1, 1], zeros, zeros, [1, 1])
    ov.save_model(ov.Model([product], [image]), tmp_path / "q.xml", compress_to_fp16=False)
    assert artifact_counts(tmp_path / "q.xml").params == 48


def test_a_weight_is_named_by_what_is_stored_not_by_what_is_computed_from_it(
    tmp_path: Path,
) -> None:
    conv = only(layer_counts(quantised(tmp_path / "q.onnx")), "Conv")
    assert conv.weight == "packed"


def test_integer_convolutions_count_like_others(tmp_path: Path) -> None:
    int8 = np.ones((8, 6, 3, 3), np.int8)
    scalars = {f"s{i}": np.array(0.1, np.float32) for i in range(3)}
    zeros = {f"z{i}": np.array(0, np.int8) for i in range(3)}
    names = ["q", "s0", "z0", "w", "s1", "z1", "s2", "z2"]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s0", "z0"], ["q"]),
        helper.make_node("QLinearConv", names, ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s2", "z2"], ["out"]),
    ]
    weights = {"w": int8, **scalars, **zeros}
    path = write(tmp_path / "i.onnx", nodes, inputs={"image": [1, 6, 8, 8]}, weights=weights)
    counts = artifact_counts(path)
    assert (counts.macs, counts.params) == (6 * 6 * 8 * 6 * 9, int8.size)


# --- what cannot be counted -----------------------------------------------------------


def test_an_operator_that_is_not_onnx_s_own_leaves_the_total_open(tmp_path: Path) -> None:
    node = helper.make_node(
        "FusedMatMul", ["x", "w"], ["out"], name="fused", domain="com.microsoft"
    )
    weights = {"w": ones(6, 5)}
    path = write(tmp_path / "f.onnx", [node], inputs={"x": [1, 6]}, weights=weights)
    counts = artifact_counts(path)
    assert counts.macs is None
    assert counts.reason is not None
    assert "com.microsoft.FusedMatMul 'fused'" in counts.reason
    assert counts.params == 30


def test_an_image_of_open_size_leaves_the_total_open(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["image", "w"], ["out"], name="stem")
    weights = {"w": ones(4, 3, 3, 3)}
    path = write(tmp_path / "o.onnx", [node], inputs={"image": ["n", 3, "h", "w"]}, weights=weights)
    counts = artifact_counts(path)
    assert (counts.macs, counts.params) == (None, 108)


def test_a_format_without_rules_says_so(tmp_path: Path) -> None:
    counts = artifact_counts(tmp_path / "engine.plan")
    assert (counts.macs, counts.params, dict(counts.operators)) == (None, None, {})
    with pytest.raises(MeasureError, match=r"\.onnx and \.xml files can"):
        layer_counts(tmp_path / "engine.plan")


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe nonsense", b"<net/>"])
def test_a_damaged_file_is_an_error_that_names_it(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MeasureError, match=f"'{name}' is no"):
        artifact_counts(tmp_path / name)


def test_a_file_cut_short_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    for source in (tiny.onnx, tiny.ir):
        short = tmp_path / source.name
        short.write_bytes(source.read_bytes()[:-40])
        with pytest.raises(MeasureError, match="is no"):
            artifact_counts(short)


def test_weights_outside_the_file_are_never_read(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", random_weight(), layers=1)
    expected = artifact_counts(path)
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="away.bin", size_threshold=0
    )
    (tmp_path / "away.bin").unlink()
    assert artifact_counts(path) == expected


def test_a_shape_outside_the_file_leaves_the_total_open(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["out"]),
    ]
    weights = {"shape": np.array([-1, 12]), "w": ones(12, 5)}
    path = write(tmp_path / "s.onnx", nodes, inputs={"x": [1, 3, 4]}, weights=weights)
    assert macs(path) == 60
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="away.bin", size_threshold=0
    )
    assert macs(path) is None
