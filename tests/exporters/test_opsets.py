"""Graphs at another opset compute the same, or are refused with the operator's name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import Tensor

from edgeprune import Captured
from edgeprune.errors import ExportError
from edgeprune.targets import load_target
from edgeprune_exporters import export
from edgeprune_exporters.opsets import RULES, at_opset, opset_of

SHAPE = (2, 4, 6, 6)


def model(body: str, opset: int, inputs: str = "float[2,4,6,6] x") -> onnx.ModelProto:
    """Parse operators between x and y."""
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> test ({inputs}) => (float[] y) {{ {body} }}'
    )


def run(graph: onnx.ModelProto, **inputs: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)[0]


def operators(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


def constant(name: str, values: str, kind: str = "int64") -> str:
    count = values.count(",") + 1
    return f"{name} = Constant <value = {kind}[{count}] {{{values}}}> () "


ROOT = constant("s", "1.0, 2.0, 0.5, -1.0", "float") + constant("b", "0.1, 0.2, 0.3, 0.4", "float")
LAST = constant("s", "1.0, 2.0, 0.5, -1.0, 3.0, 1.5", "float")
PAIR = constant("s", "1.0, 2.0", "float") + constant("b", "0.5, -0.5", "float")
CASES = {
    "mean over axes": (18, 16, constant("a", "2, 3") + "y = ReduceMean <keepdims = 0> (x, a)"),
    "mean over all": (18, 17, "y = ReduceMean (x)"),
    "mean over none": (18, 16, "y = ReduceMean <noop_with_empty_axes = 1> (x)"),
    "largest": (20, 16, constant("a", "-1") + "y = ReduceMax (x, a)"),
    "norm": (18, 17, constant("a", "1") + "y = ReduceL2 (x, a)"),
    "padded axes": (
        18,
        16,
        constant("p", "1, 2, 3, 0") + constant("a", "-1, 2") + "y = Pad (x, p, , a)",
    ),
    "padded": (21, 17, constant("p", "0, 0, 1, 2, 0, 0, 3, 0") + "y = Pad (x, p)"),
    "uneven parts": (
        18,
        16,
        constant("p", "0, 1") + constant("a", "3") + "w = Pad (x, p, , a) "
        "a0, a1 = Split <axis = 3, num_outputs = 2> (w) y = Concat <axis = 3> (a1, a0)",
    ),
    "given parts": (
        18,
        17,
        constant("n", "1, 3") + "a, b = Split <axis = 1> (x, n) y = Concat <axis = 1> (b, a)",
    ),
    "resized": (
        19,
        16,
        constant("r", "1.0, 1.0, 2.0, 2.0", "float")
        + 'y = Resize <mode = "linear", antialias = 0, keep_aspect_ratio_policy = "stretch">'
        + " (x, , r)",
    ),
    "layer norm": (17, 16, LAST + "y = LayerNormalization <epsilon = 0.01> (x, s)"),
    "layer norm with bias": (20, 16, LAST + "y = LayerNormalization <axis = 3> (x, s, s)"),
    "gelu": (20, 19, "y = Gelu (x)"),
    "gelu by tanh": (20, 16, 'y = Gelu <approximate = "tanh"> (x)'),
    "group norm": (21, 20, ROOT + "y = GroupNormalization <num_groups = 2, epsilon = 0.1> (x,s,b)"),
    "group norm per group": (18, 17, PAIR + "y = GroupNormalization <num_groups = 2> (x, s, b)"),
    "mish": (22, 17, "y = Mish (x)"),
    "swish": (24, 16, "y = Swish <alpha = 0.7> (x)"),
    "rms norm": (23, 16, LAST + "y = RMSNormalization (x, s)"),
    "attention": (23, 16, "y = Attention <scale = 0.3> (x, x, x)"),
    "pooled": (22, 16, "y = AveragePool <kernel_shape = [2, 2], dilations = [1, 1]> (x)"),
    "cast": (21, 16, "i = Cast <to = 7, saturate = 1> (x) y = Cast <to = 1> (i)"),
    "scattered": (
        18,
        17,
        "i = Constant <value = int64[1,1,1,1] {2}> () "
        "u = Constant <value = float[1,1,1,1] {5.0}> () "
        'y = ScatterElements <axis = 3, reduction = "add"> (x, i, u)',
    ),
    "shapes and types": (
        23,
        17,
        constant("t", "2, -1") + "n = Shape (x) f = Reshape (x, t) g = Transpose (f) "
        "h = HardSwish (g) y = Reshape (h, n)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_that_older_opsets_lack_is_written_with_theirs(name: str) -> None:
    source, opset, body = CASES[name]
    graph = model(body, source)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32) * 3
    lowered = at_opset(graph, opset)
    assert opset_of(lowered) == opset
    onnx.checker.check_model(lowered, full_check=True)
    np.testing.assert_allclose(run(lowered, x=x), run(graph, x=x), rtol=2e-5, atol=2e-5)


def test_the_file_format_is_the_oldest_that_goes_with_the_opset() -> None:
    graph = model("y = Gelu (x)", 20)
    assert {opset: at_opset(graph, opset).ir_version for opset in (17, 19, 20, 21)} == {
        17: 8,
        19: 9,
        20: 9,
        21: 10,
    }


def test_layer_normalization_is_kept_where_it_is_known() -> None:
    graph = model(LAST + "y = LayerNormalization (x, s)", 18)
    assert operators(at_opset(graph, 17)) == ["LayerNormalization"]
    assert "LayerNormalization" not in operators(at_opset(graph, 16))


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
def test_sampling_on_a_grid_keeps_its_mode_under_the_older_name(mode: str) -> None:
    inputs = "float[2,4,6,6] x, float[2,3,3,2] g"
    graph = model(f'y = GridSample <mode = "{mode}"> (x, g)', 20, inputs)
    generator = np.random.default_rng(0)
    x = generator.standard_normal(SHAPE).astype(np.float32)
    g = generator.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)
    found = run(at_opset(graph, 16), x=x, g=g)
    np.testing.assert_allclose(found, run(graph, x=x, g=g), rtol=1e-5, atol=1e-5)


REFUSED = {
    "Resize has no form in opset 16: its antialias is 1, which opset 18 introduced": (
        18,
        16,
        'y = Resize <mode = "linear", antialias = 1> (x, , scales)',
    ),
    "Resize has no form in opset 17: it names the axes that it resizes": (
        18,
        17,
        'y = Resize <mode = "linear", axes = [2, 3]> (x, , both)',
    ),
    "Resize has no form in opset 18: its coordinate_transformation_mode is 'half_pixel_sym": (
        19,
        18,
        'y = Resize <coordinate_transformation_mode = "half_pixel_symmetric"> (x, , scales)',
    ),
    "Pad has no form in opset 18: its mode is 'wrap'": (
        19,
        18,
        'y = Pad <mode = "wrap"> (x, widths)',
    ),
    "Pad has no form in opset 16: its axes or widths are computed": (
        18,
        16,
        "y = Pad (x, n, , sizes)",
    ),
    "AveragePool has no form in opset 18: its dilations is (2, 2), which older": (
        19,
        18,
        "y = AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (x)",
    ),
    "LayerNormalization has no form in opset 16: its mean and deviation are used": (
        18,
        16,
        "a, m, d = LayerNormalization (x, scale) y = Add (a, m)",
    ),
    "ReduceMean has no form in opset 17: its axes are computed": (18, 17, "y = ReduceMean (x, n)"),
    "Split has no form in opset 17: the length of what it splits is not known": (
        18,
        17,
        "a, b = Split <axis = 2, num_outputs = 2> (z) y = Concat <axis = 2> (b, a)",
    ),
    "GridSample has no form in opset 16: only images can be sampled": (
        20,
        16,
        "y = GridSample (volume, grid)",
    ),
    "BitwiseNot has no form in opset 17: opset 18 defined it anew, and edgeprune has no rule": (
        18,
        17,
        "i = Cast <to = 6> (x) j = BitwiseNot (i) y = Cast <to = 1> (j)",
    ),
    "opset 12 cannot be written, 16 to ": (18, 12, "y = Relu (x)"),
    "opset 99 cannot be written, 16 to ": (18, 99, "y = Relu (x)"),
}
GIVEN = (
    constant("scales", "1.0, 1.0, 2.0, 2.0", "float")
    + constant("both", "2.0, 2.0", "float")
    + constant("widths", "0, 0, 1, 2, 0, 0, 3, 0")
    + constant("sizes", "2, 3")
    + constant("scale", "1.0, 2.0, 0.5, -1.0, 3.0, 1.5", "float")
)


@pytest.mark.parametrize("message", REFUSED)
def test_what_an_older_opset_cannot_say_is_refused_by_name(message: str) -> None:
    source, opset, body = REFUSED[message]
    inputs = (
        "float[2,4,6,6] x, float[2,1,N] z, float[1,1,2,2,2] volume, float[1,1,1,1,3] grid, "
        "int64[4] n"
    )
    with pytest.raises(ExportError, match=re.escape(message)):
        at_opset(model(GIVEN + body, source, inputs), opset)


def test_a_graph_without_an_opset_is_refused() -> None:
    graph = model("y = Relu (x)", 18)
    del graph.opset_import[:]
    with pytest.raises(ExportError, match="does not say which ONNX opset"):
        at_opset(graph, 18)


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_old_graphs_are_raised(opset: int) -> None:
    graph = model(
        'm = ReduceMean <axes = [2, 3]> (x) p = Pad <mode = "reflect"> (x, w)'
        + " z = Sub (x, m) a, b = Split <axis = 1> (z) y = Concat <axis = 1> (b, a)",
        13,
        "float[2,4,6,6] x, int64[8] w",
    )
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    w = np.zeros(8, np.int64)
    raised = at_opset(graph, opset)
    assert opset_of(raised) == opset
    np.testing.assert_allclose(run(raised, x=x, w=w), run(graph, x=x, w=w), rtol=1e-6)


def test_an_operator_that_cannot_be_raised_is_one_error() -> None:
    graph = model("y = GRU <hidden_size = 2> (z, w, w)", 3, "float[2,1,3] z, float[1,6,3] w")
    with pytest.raises(ExportError, match=r"opset 3 cannot be raised to 20: No Adapter .* for GRU"):
        at_opset(graph, 20)


def test_every_rule_is_for_a_definition_that_onnx_has() -> None:
    for name, since in RULES:
        assert onnx.defs.get_schema(name, since, "").since_version == since


@pytest.mark.parametrize("opset", [16, 17, 19, 21, 23])
@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_models_equal_torch_at_every_opset(
    name: str, opset: int, images: Tensor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    captured: Captured = request.getfixturevalue(name)
    target = replace(load_target("cpu"), opset=opset)
    (artifact,) = export(captured, target, tmp_path, images, formats=["onnx"])
    written = onnx.load(tmp_path / "onnx/model.onnx").opset_import
    assert [(each.domain, each.version) for each in written] == [("", opset)]
    assert artifact.opset == opset
    assert artifact.proof.max_rel < 1e-5
