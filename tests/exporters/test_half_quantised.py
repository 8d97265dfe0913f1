"""Float16 around quantised operators."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from .test_half import (
    FLOAT,
    HALF,
    graph,
    half,
    kept,
    number,
    operators,
    pictures,
    run,
    types,
    weight,
)

QUANTISED = """
    xq = QuantizeLinear(images, sx, zero)
    x = DequantizeLinear(xq, sx, zero)
    w = DequantizeLinear<axis=0>(w1, sw, zeros)
    a = Conv<kernel_shape=[3,3]>(x, w, bias)
    g = Sigmoid(a)
    m = Mul(a, g)
    mq = QuantizeLinear(m, sm, zero)
    n = DequantizeLinear(mq, sm, zero)
    c = Conv<kernel_shape=[3,3]>(n, w2)
    r = Relu(c)
    d = GlobalAveragePool(r)
    e = Flatten(d)
    f = MatMul(e, w3)
    s = Tanh(f)
    h = MatMul(s, w4)
    logits = Softmax(h)
"""


def quantised(opset: int, scale: float = 0.01) -> onnx.ModelProto:
    stored = np.random.default_rng(0).integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)
    return graph(
        QUANTISED,
        opset,
        w1=stored,
        sw=np.full(8, scale, np.float32),
        zeros=np.zeros(8, np.int8),
        zero=np.array(0, np.int8),
        sx=number(0.03),
        sm=number(0.02),
        bias=weight(8),
        w2=weight(8, 8, 3, 3),
        w3=weight(8, 6),
        w4=weight(6, 4),
    )


def test_scales_are_float16_where_onnx_has_them_so() -> None:
    for opset in (19, 21, 23):
        found = half(quantised(opset))
        assert not found.kept
        seen = types(found.graph)
        assert {seen[name] for name in ("sx", "sw", "x", "w", "n", "bias")} == {HALF}
        assert operators(found.graph).count("Cast") == 2


@pytest.mark.parametrize("opset", [16, 17])
def test_what_quantisation_touches_stays_in_float32_where_scales_have_to(opset: int) -> None:
    found = half(quantised(opset))
    assert set(kept(found)) == {"conv_a", "sigmoid_g", "mul_m", "conv_c"}
    assert "quantised in float32" in kept(found)["conv_a"]
    assert "between operators" in kept(found)["sigmoid_g"]
    seen = types(found.graph)
    assert (seen["a"], seen["c"], seen["f"]) == (FLOAT, FLOAT, HALF)
    # None between quantised operators, one behind them, one before the logits.
    assert operators(found.graph).count("Cast") == 2


def test_a_graph_quantised_throughout_may_have_nothing_left_for_float16() -> None:
    text = """
        xq = QuantizeLinear(images, sx, zero)
        x = DequantizeLinear(xq, sx, zero)
        a = Conv<kernel_shape=[8,8]>(x, w1)
        logits = Flatten(a)
    """
    model = graph(text, w1=weight(4, 3, 8, 8), sx=number(0.03), zero=np.array(0, np.int8))
    found = half(model)
    assert operators(found.graph) == operators(model)
    assert found.worst == 0


def test_a_half_rounded_value_may_end_on_the_next_step_of_int8() -> None:
    # No operator is to blame for such a difference, so none may be kept for it.
    text = """
        a = Conv<kernel_shape=[8,8]>(images, w1)
        b = Flatten(a)
        q = QuantizeLinear(b, step, zero)
        c = DequantizeLinear(q, step, zero)
        logits = Gemm(c, w2)
    """
    model = graph(
        text,
        19,
        w1=weight(4, 3, 8, 8),
        w2=np.eye(4, dtype=np.float32),
        step=number(0.5),
        zero=np.array(0, np.int8),
    )
    found = half(model, pictures(count=100))
    assert not found.kept
    assert 0.02 < found.worst < 0.1


def test_types_noted_before_quantisation_are_not_believed() -> None:
    model = quantised(19)
    stale = onnx.helper.make_tensor_value_info("w1", onnx.TensorProto.FLOAT, [8, 3, 3, 3])
    model.graph.value_info.append(stale)
    assert not half(model).kept


def test_scales_follow_an_operator_that_stays_in_float32() -> None:
    found = half(quantised(19, scale=40.0), pictures(scale=100))
    assert "conv_a" in kept(found)
    seen = types(found.graph)
    assert (seen["x"], seen["w"], seen["a"]) == (FLOAT, FLOAT, FLOAT)
    casts = [node.input[0] for node in found.graph.graph.node if node.op_type == "Cast"]
    assert not {"x", "w"} & set(casts)


@pytest.mark.parametrize("opset", [17, 19, 21])
def test_a_float16_graph_with_scales_runs_and_agrees(opset: int) -> None:
    model, images = quantised(opset), pictures()[0]
    np.testing.assert_allclose(run(half(model).graph, images), run(model, images), atol=0.02)
