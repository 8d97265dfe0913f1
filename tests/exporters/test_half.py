"""Float16 where it holds, float32 where measurement says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeprune.capture import Captured
from edgeprune.errors import ExportError
from edgeprune.progress import Silent
from edgeprune_exporters.half import Half, to_half
from edgeprune_exporters.lowering import lower

Images = NDArray[np.float32]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def pictures(count: int = 2, seed: int = 0, scale: float = 1.0) -> list[Images]:
    generator = np.random.default_rng(seed)
    images = scale * generator.standard_normal((count, 3, 8, 8))
    return [images.astype(np.float32), images[:1].astype(np.float32)]


def weight(*shape: int, seed: int = 1, scale: float = 0.2) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def number(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def graph(
    text: str, opset: int = 17, width: str = "4", **weights: NDArray[np.generic]
) -> onnx.ModelProto:
    """Build a graph of nodes written as ``name: output = Operator(inputs)``."""
    nodes = onnx.parser.parse_graph(f"""
        main (float[batch, 3, 8, 8] images) => (float[batch, {width}] logits) {{ {text} }}
    """)
    for stored, value in weights.items():
        nodes.initializer.append(numpy_helper.from_array(value, stored))
    for node in nodes.node:
        node.name = f"{node.op_type.lower()}_{node.output[0]}"
    model = helper.make_model(nodes, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"labels": "a, b"})
    return model


def half(model: onnx.ModelProto, images: Sequence[Images] | None = None) -> Half:
    return to_half(model, images or pictures(), reporter=Silent())


def kept(found: Half) -> dict[str, str]:
    return {each.name: each.reason for each in found.kept}


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value and weight, as strict inference finds it."""
    inferred = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    ).graph
    values = {each.name: each.type.tensor_type.elem_type for each in inferred.value_info}
    return values | {each.name: each.data_type for each in inferred.initializer}


def run(model: onnx.ModelProto, images: Images) -> Images:
    """Return the logits that ONNX Runtime gives, with nothing optimised."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"images": images})[0])


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


PLAIN = """
    a = Conv<kernel_shape=[3,3]>(images, w1)
    b = Relu(a)
    c = Conv<kernel_shape=[3,3]>(b, w2)
    d = GlobalAveragePool(c)
    e = Flatten(d)
    logits = Gemm(e, w3, bias)
"""


def plain(opset: int = 17, scale: float = 0.2) -> onnx.ModelProto:
    return graph(
        PLAIN,
        opset,
        w1=weight(8, 3, 3, 3, scale=scale),
        w2=weight(8, 8, 3, 3),
        w3=weight(8, 4),
        bias=weight(4),
    )


@pytest.mark.parametrize("opset", [16, 17, 19, 21, 23])
def test_a_plain_net_is_float16_throughout_between_two_casts(opset: int) -> None:
    found = half(plain(opset))
    assert operators(found.graph) == [
        "Cast", "Conv", "Relu", "Conv", "GlobalAveragePool", "Flatten", "Gemm", "Cast"
    ]  # fmt: skip
    assert set(types(found.graph).values()) == {HALF}
    assert found.kept == ()
    assert 0 < found.worst < 2e-3


def test_inputs_outputs_names_and_metadata_stay() -> None:
    before, after = plain(), half(plain()).graph
    for end in ("input", "output"):
        assert list(getattr(after.graph, end)) == list(getattr(before.graph, end))
    stored = [tensor.name for tensor in before.graph.initializer]
    assert [tensor.name for tensor in after.graph.initializer] == stored
    inner = [node.name for node in after.graph.node[1:-1]]
    assert inner == [node.name for node in before.graph.node]
    assert list(after.metadata_props) == list(before.metadata_props)
    assert after.opset_import == before.opset_import
    assert after.ir_version == before.ir_version


def test_the_given_graph_is_not_changed() -> None:
    model = plain()
    before = model.SerializeToString(deterministic=True)
    half(model)
    assert model.SerializeToString(deterministic=True) == before


OVERFLOWING = """
    a = Conv<kernel_shape=[3,3]>(images, w1)
    big = Mul(a, up)
    small = Mul(big, down)
    c = Conv<kernel_shape=[3,3]>(small, w2)
    d = GlobalAveragePool(c)
    e = Flatten(d)
    logits = Gemm(e, w3)
"""


def overflowing() -> onnx.ModelProto:
    return graph(
        OVERFLOWING,
        w1=weight(8, 3, 3, 3),
        w2=weight(8, 8, 3, 3),
        w3=weight(8, 4),
        up=number(60000),
        down=number(1e-5),
    )


def test_a_planted_overflow_is_found_and_only_those_who_meet_it_stay_in_float32() -> None:
    found = half(overflowing())
    reasons = kept(found)
    assert set(reasons) == {"mul_big", "mul_small"}
    assert "'big' reaches" in reasons["mul_big"]
    assert "65504" in reasons["mul_big"]
    assert types(found.graph)["big"] == FLOAT  # nothing in float16 lies between the two
    assert operators(found.graph).count("Cast") == 4
    assert found.worst < 2e-3


def test_weights_read_in_both_types_are_stored_in_both() -> None:
    text = OVERFLOWING.replace("d = Global", "c2 = Mul(c, down2) d = Global").replace("(c)", "(c2)")
    model = graph(
        text,
        w1=weight(8, 3, 3, 3),
        w2=weight(8, 8, 3, 3),
        w3=weight(8, 4),
        up=number(60000),
        down=number(0.01),
        down2=number(0.01),
    )
    model.graph.node[4].input[1] = "down"
    del model.graph.initializer[-1]
    found = types(half(model).graph)
    assert (found["down"], found["down_fp16"]) == (FLOAT, HALF)


def test_a_value_that_several_read_is_cast_once() -> None:
    model = graph(
        """
        a = Conv<kernel_shape=[3,3]>(images, w1)
        big = Mul(a, up)
        small = Mul(big, down)
        c = Conv<kernel_shape=[3,3]>(small, w2)
        d = Conv<kernel_shape=[3,3]>(small, w2)
        s = Sub(c, d)
        t = Add(s, c)
        e = GlobalAveragePool(t)
        f = Flatten(e)
        logits = Gemm(f, w3)
        """,
        w1=weight(8, 3, 3, 3),
        w2=weight(8, 8, 3, 3),
        w3=weight(8, 4),
        up=number(60000),
        down=number(1e-5),
    )
    readers = [node.input[0] for node in half(model).graph.graph.node if node.op_type == "Cast"]
    assert readers == ["images", "a", "small", "logits_fp16"]


NORMALISED = """
    p = Conv<kernel_shape=[3,3]>(images, w1)
    x = Mul(p, up)
    mean = ReduceMean<axes=[1], keepdims=1>(x)
    centred = Sub(x, mean)
    squared = Mul(centred, centred)
    variance = ReduceMean<axes=[1], keepdims=1>(squared)
    guarded = Add(variance, epsilon)
    deviation = Sqrt(guarded)
    norm = Div(centred, deviation)
    d = GlobalAveragePool(norm)
    e = Flatten(d)
    logits = Gemm(e, w3)
"""


def normalised(up: float, epsilon: float = 1e-5) -> onnx.ModelProto:
    return graph(
        NORMALISED,
        w1=weight(8, 3, 3, 3),
        w3=weight(8, 4),
        up=number(up),
        epsilon=number(epsilon),
    )


def test_a_layernorm_stays_in_float32_where_its_variance_overflows() -> None:
    reasons = kept(half(normalised(up=200)))
    assert {"mul_squared", "reducemean_variance", "add_guarded", "sqrt_deviation"} <= set(reasons)
    assert "'squared' reaches" in reasons["mul_squared"]
    assert "conv_p" not in reasons
    assert not half(normalised(up=1)).kept


def test_the_squares_inside_a_layernorm_operator_count() -> None:
    text = """
        p = Conv<kernel_shape=[8,8]>(images, w1)
        f = Flatten(p)
        x = Mul(f, up)
        norm = LayerNormalization<axis=-1>(x, scale)
        logits = Gemm(norm, w3)
    """

    def net(up: float) -> onnx.ModelProto:
        return graph(
            text,
            w1=weight(8, 3, 8, 8),
            w3=weight(8, 4),
            up=number(up),
            scale=np.ones(8, np.float32),
        )

    reasons = kept(half(net(200)))
    assert list(reasons) == ["layernormalization_norm"]
    assert "the squares inside reach" in reasons["layernormalization_norm"]
    assert not half(net(1)).kept


def test_an_epsilon_that_float16_has_not_keeps_the_division_in_float32() -> None:
    reasons = kept(half(normalised(up=1, epsilon=1e-12)))
    assert set(reasons) == {"add_guarded", "sqrt_deviation", "div_norm"}
    assert "'epsilon' = 1.0e-12, which is 0 in float16" in reasons["add_guarded"]


def test_values_that_are_all_too_small_for_float16_stay_in_float32() -> None:
    text = OVERFLOWING.replace("big", "tiny").replace("small", "back")

    def net(down: float) -> onnx.ModelProto:
        return graph(
            text,
            w1=weight(8, 3, 3, 3),
            w2=weight(8, 8, 3, 3),
            w3=weight(8, 4),
            up=number(down),
            down=number(1 / down),
        )

    reasons = kept(half(net(1e-6)))
    assert set(reasons) == {"mul_tiny", "mul_back"}
    assert "'tiny' is" in reasons["mul_tiny"]
    assert not half(net(1e-2)).kept


def test_small_values_may_be_float16_where_their_sum_has_no_digit_of_them() -> None:
    text = """
        p = Conv<kernel_shape=[8,8]>(images, w1)
        f = Flatten(p)
        branch = Mul(f, gamma)
        moved = Reshape(branch, shape)
        y = Add(f, moved)
        logits = Gemm(y, w3)
    """

    def net(gamma: float) -> onnx.ModelProto:
        return graph(
            text,
            w1=weight(8, 3, 8, 8),
            w3=weight(8, 4),
            gamma=number(gamma),
            shape=np.array([-1, 8], np.int64),
        )

    assert not half(net(1e-6)).kept
    multiplied = net(1e-6)
    multiplied.graph.node[4].op_type = "Mul"
    assert "mul_branch" in kept(half(multiplied))


def test_the_sums_inside_a_mean_count() -> None:
    text = """
        p = Conv<kernel_shape=[3,3]>(images, w1)
        a = Abs(p)
        x = Mul(a, up)
        d = ReduceMean<axes=[2,3], keepdims=0>(x)
        logits = Gemm(d, w3)
    """

    def net(up: float) -> onnx.ModelProto:
        return graph(text, w1=weight(8, 3, 3, 3), w3=weight(8, 4), up=number(up))

    reasons = kept(half(net(800)))
    assert list(reasons) == ["reducemean_d"]
    assert "the sums inside reach" in reasons["reducemean_d"]
    assert not half(net(100)).kept


CANCELLING = """
    p = Conv<kernel_shape=[3,3]>(images, w1)
    far = Add(p, offset)
    near = Sub(far, offset)
    c = Conv<kernel_shape=[3,3]>(near, w2)
    more = Add(c, c)
    same = Sub(more, c)
    d = GlobalAveragePool(same)
    e = Flatten(d)
    logits = Gemm(e, w3)
"""


def test_what_loses_parity_without_overflow_is_found_by_the_logits() -> None:
    model = graph(
        CANCELLING,
        w1=weight(8, 3, 3, 3),
        w2=weight(8, 8, 3, 3),
        w3=weight(8, 4),
        offset=number(3000),
    )
    found = half(model)
    reasons = kept(found)
    assert set(reasons) == {"add_far", "sub_near"}  # of four of their kinds
    assert any("the logits are" in reason for reason in reasons.values())
    assert found.worst <= 0.02


def test_nan_in_the_float32_graph_names_the_operator() -> None:
    model = graph(
        "a = Conv<kernel_shape=[8,8]>(images, w1) b = Log(a) c = Relu(b) logits = Flatten(c)",
        w1=weight(4, 3, 8, 8),
    )
    with pytest.raises(ExportError, match=r"'log_b' \(Log\) gives NaN or infinite values"):
        half(model)


def test_a_division_that_only_float16_makes_infinite_stays_in_float32() -> None:
    # Both its operands are large for the first channel, and 0 in float16 for the second.
    model = graph(
        """
        p = Conv<kernel_shape=[8,8]>(images, w1)
        f = Flatten(p)
        g = Abs(f)
        small = Mul(g, spread)
        divisor = Reshape(small, shape)
        twice = Add(small, small)
        q = Div(twice, divisor)
        s = Softmax(q)
        logits = Gemm(s, w3)
        """,
        w1=weight(2, 3, 8, 8),
        w3=weight(2, 4),
        spread=np.array([0.5, 1e-9], np.float32),
        shape=np.array([-1, 2], np.int64),
    )
    reasons = kept(half(model))
    assert {"div_q", "reshape_divisor", "add_twice", "mul_small"} <= set(reasons)
    assert reasons["div_q"] == "'q' is NaN or infinite in float16"
    assert "gemm_logits" not in reasons


def test_images_beyond_float16_are_read_in_float32() -> None:
    reasons = kept(half(plain(scale=1e-5), pictures(scale=50000.0)))
    assert list(reasons) == ["conv_a"]
    assert "'images' reaches" in reasons["conv_a"]


def test_what_float16_is_not_defined_for_stays_in_float32() -> None:
    model = graph(
        """
        p = Conv<kernel_shape=[3,3]>(images, w1)
        big = Resize(p, , scales)
        d = GlobalAveragePool(big)
        e = Flatten(d)
        start = Cast<to=1>(zero)
        steps = Range(start, four, one)
        g = Gemm(e, w3)
        logits = Add(g, steps)
        """,
        w1=weight(8, 3, 3, 3),
        w3=weight(8, 4),
        scales=np.array([1, 1, 2, 2], np.float32),
        zero=np.array(0, np.int64),
        four=number(4),
        one=number(1),
    )
    found = half(model)
    assert "no float16 form" in kept(found)["range_steps"]
    seen = types(found.graph)
    assert (seen["scales"], seen["big"]) == (FLOAT, HALF)


def test_a_graph_in_which_nothing_can_be_float16_is_an_error() -> None:
    model = graph(
        "a = Mul(images, up) b = Flatten(a) logits = Gemm(b, w)", up=number(1e6), w=weight(192, 4)
    )
    with pytest.raises(ExportError, match="nothing in the model can be float16"):
        half(model)


def test_a_graph_within_a_graph_stays_in_float32_and_reads_it() -> None:
    model = graph(
        """
        p = Conv<kernel_shape=[8,8]>(images, w1)
        f = Flatten(p)
        chosen = If<
            then_branch = yes () => (float[batch, 4] y) { y = Relu(f) },
            else_branch = no () => (float[batch, 4] n) { n = Neg(f) }
        >(flag)
        logits = MatMul(chosen, w2)
        """,
        w1=weight(4, 3, 8, 8),
        w2=weight(4, 4),
        flag=np.array(True),
    )
    found = half(model)
    assert list(kept(found)) == ["if_chosen"]
    onnx.checker.check_model(found.graph, full_check=True)
    images = pictures()[0]
    np.testing.assert_allclose(run(found.graph, images), run(model, images), rtol=1e-2, atol=1e-3)


def test_equal_graphs_become_equal_bytes_in_another_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_half as t;"
        "sys.stdout.buffer.write(t.half(t.overflowing()).graph.SerializeToString())"
    )
    run = [sys.executable, "-c", code, str(Path(__file__).parent)]
    elsewhere = subprocess.run(run, capture_output=True, check=True).stdout
    assert elsewhere == half(overflowing()).graph.SerializeToString()


def test_what_the_proof_allows_is_held_by_keeping_more_in_float32(vit: Captured) -> None:
    graph = lower(vit, opset=19, metadata={})
    images = [np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)]
    free = to_half(graph, images, reporter=Silent())
    held = to_half(graph, images, reporter=Silent(), most=free.worst / 4)
    assert held.worst <= free.worst / 4
    assert len(held.kept) > len(free.kept)


def test_scales_that_float16_cannot_hold_stay_in_float32_with_what_reads_them() -> None:
    text = """
        d = DequantizeLinear<axis=0>(stored, scales, zeros)
        p = Conv<kernel_shape=[8,8]>(images, d)
        f = Flatten(p)
        logits = Gemm(f, w3)
    """
    stored = np.random.default_rng(0).integers(-127, 127, (4, 3, 8, 8)).astype(np.int8)
    others = {"stored": stored, "zeros": np.zeros(4, np.int8), "w3": weight(4, 4)}
    usual = half(graph(text, opset=19, scales=np.full(4, 1e-3, np.float32), **others))
    assert not kept(usual)
    tiny = half(graph(text, opset=19, scales=np.full(4, 3e-8, np.float32), **others))
    assert "conv_p" in kept(tiny)
    assert types(tiny.graph)["scales"] == FLOAT
    uneven = np.array([1e-4, 1e-4, 1e-4, 5e-7], np.float32)
    mixed = half(graph(text, opset=19, scales=uneven, **others))
    assert "quantised in float32" in kept(mixed)["conv_p"]
    dead = np.array([1e-3, 1e-3, 1e-3, 1e-12], np.float32)
    assert not kept(half(graph(text, opset=19, scales=dead, **others)))
