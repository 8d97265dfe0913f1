"""What is measured really is float16, whatever the runtime makes of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeprune_exporters.half_graph import halve, typed
from edgeprune_exporters.half_local import local_errors
from edgeprune_exporters.half_rounding import rounding
from edgeprune_exporters.half_values import observe

from .test_half import CANCELLING, graph, number, overflowing, pictures, run, weight


def test_an_overflow_that_the_runtime_hides_is_seen() -> None:
    half = halve(typed(ir.from_proto(overflowing())), single=())
    hidden = run(ir.to_proto(half), pictures()[0])
    seen = observe(rounding(half), pictures(), ["big"])
    assert np.isfinite(hidden).all()  # why its own float16 cannot be measured
    assert not seen.reached["big"].finite
    assert not np.isfinite(seen.logits[0]).all()


def test_each_operator_rounds_as_numpy_s_float16_does() -> None:
    model = graph(
        """
        a = Mul(images, factor)
        b = Add(a, images)
        c = Div(b, factor)
        d = Sub(c, images)
        logits = Identity(d)
        """,
        width="3, 8, 8",
        factor=number(1.2345),
    )
    images = pictures()[0]
    x, factor = images.astype(np.float16), np.float16(1.2345)
    wanted = (x * factor + x) / factor - x
    seen = observe(rounding(halve(typed(ir.from_proto(model)), single=())), [images])
    np.testing.assert_array_equal(seen.logits[0], wanted.astype(np.float32))


def test_reach_tells_the_largest_magnitude_of_all_batches_and_sees_nan() -> None:
    model = graph("a = Neg(images) b = Log(images) logits = Add(a, b)", width="3, 8, 8")
    images = [abs(batch) for batch in pictures()]
    images[1] *= 10
    reached = observe(typed(ir.from_proto(model)), images, ["a", "b", "images"]).reached
    assert reached["a"].largest == max(batch.max() for batch in images)
    assert reached["images"] == reached["a"]
    assert reached["b"].finite
    images[1][0, 0, 0, 0] = -1
    assert not observe(typed(ir.from_proto(model)), images, ["b"]).reached["b"].finite


def test_the_local_error_is_the_operator_s_own() -> None:
    model = graph(
        CANCELLING,
        w1=weight(8, 3, 3, 3),
        w2=weight(8, 8, 3, 3),
        w3=weight(8, 4),
        offset=number(3000),
    )
    local = local_errors(typed(ir.from_proto(model)), pictures(), ["far", "near", "c"])
    assert local["near"] > 0.1
    assert max(local["far"], local["c"]) == pytest.approx(0, abs=2e-3)
