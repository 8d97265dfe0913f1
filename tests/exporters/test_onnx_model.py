"""A user's own ONNX file: what is taken, what is refused, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgeprune.errors import ExportError, ParityError
from edgeprune.targets import load_target
from edgeprune_exporters import Exportable, ExportOptions, Images, export
from edgeprune_exporters.onnx_model import OnnxModel, open_onnx

CPU = load_target("cpu")
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BODY = """
    "/stem/conv" = Conv <pads = [1, 1, 1, 1]> (pixels, w)
    images = Relu ("/stem/conv")
    m = ReduceMean <axes = [2, 3], keepdims = 0> (images)
    s, t = Split <axis = 1> (m)
    j = Concat <axis = 1> (t, s)
    scores = Gemm (j, v, b)
"""


def graph(
    body: str = BODY,
    *,
    opset: int = 13,
    inputs: str = "float[N,3,8,8] pixels",
    outputs: str = "float[N,5] scores",
) -> onnx.ModelProto:
    """Parse a classifier with weights w (4, 3, 3, 3), v (4, 5), b (5,)."""
    body = body.replace('"/stem/conv"', "stem_conv")
    parsed = onnx.parser.parse_model(
        f'<ir_version: 7, opset_import: ["" : {opset}]> net ({inputs}) => ({outputs}) {{{body}}}'
    )
    generator = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 5)), ("b", (5,))):
        values = generator.standard_normal(shape).astype(np.float32)
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for position, node in enumerate(parsed.graph.node):
        node.name = f"/net/{node.op_type}_{position}"
        for names in (node.input, node.output):
            names[:] = ["/stem/conv" if each == "stem_conv" else each for each in names]
    return parsed


def saved(parsed: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "own.onnx"
    path.write_bytes(parsed.SerializeToString())
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    parsed = graph()
    onnx.helper.set_model_props(parsed, {"labels": '["a"]', "trained_in": "/home/someone"})
    parsed.producer_name = "someone"
    parsed.doc_string = "from /home/someone/net.py"
    return saved(parsed, tmp_path)


def reference(path: Path, images: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def test_a_file_is_something_to_export(own: Path) -> None:
    model = open_onnx(own)
    assert isinstance(model, Exportable)
    assert (model.reference, model.shape, model.fixed_batch) == ("ONNX Runtime", (3, 8, 8), None)
    assert model.metadata["labels"] == '["a"]'
    np.testing.assert_array_equal(model.logits(IMAGES.numpy()), reference(own, IMAGES))


@pytest.mark.parametrize("opset", [16, 17, 20, 23])
def test_it_is_written_at_the_opset_of_the_target_with_our_names(
    opset: int, own: Path, tmp_path: Path
) -> None:
    target = replace(CPU, opset=opset)
    (artifact,) = export(open_onnx(own), target, tmp_path / "out", IMAGES, formats=["onnx"])
    assert artifact.proof.max_rel < 1e-6
    written = tmp_path / "out" / artifact.files[0]
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("images", ["batch", 3, 8, 8])
    assert (result.name, result.shape) == ("logits", ["batch", 5])
    assert onnx.load(written).opset_import[0].version == opset
    np.testing.assert_allclose(reference(written, IMAGES), reference(own, IMAGES), atol=1e-5)


def test_every_format_and_precision_is_made_from_a_file(own: Path, tmp_path: Path) -> None:
    images = Images(parity=IMAGES, calibration=IMAGES)
    formats = ["onnx", "openvino", "onnx:fp16", "onnx:int8"]
    for artifact in export(open_onnx(own), CPU, tmp_path / "out", images, formats=formats):
        assert artifact.proof.ok
        assert artifact.proof.reference == "ONNX Runtime"


def test_what_the_file_says_about_itself_is_not_repeated(own: Path, tmp_path: Path) -> None:
    export(open_onnx(own), CPU, tmp_path / "out", IMAGES, metadata={"labels": "[]"})
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"someone" not in data
            assert b"/net/" not in data
            assert b"/stem/" not in data
    props = onnx.load(tmp_path / "out/onnx/model.onnx").metadata_props
    assert [(each.key, each.value) for each in props] == [("labels", "[]")]


def test_a_batch_is_fixed_on_request(own: Path, tmp_path: Path) -> None:
    (artifact,) = export(
        open_onnx(own), CPU, tmp_path, IMAGES, formats=["onnx"], options=ExportOptions(batch=2)
    )
    assert [each.batch for each in artifact.proof.batches] == [2]
    written = onnx.load(tmp_path / artifact.files[0]).graph
    shapes = [each.type.tensor_type.shape for each in [*written.input, *written.value_info]]
    assert all(dim.HasField("dim_value") for shape in shapes for dim in shape.dim)


def test_a_fixed_batch_stays_and_no_other_is_written(tmp_path: Path) -> None:
    path = saved(graph(inputs="float[2,3,8,8] pixels", outputs="float[2,5] scores"), tmp_path)
    model = open_onnx(path)
    assert model.fixed_batch == 2
    (artifact,) = export(model, CPU, tmp_path / "out", IMAGES, formats=["onnx"])
    assert [each.batch for each in artifact.proof.batches] == [2]
    with pytest.raises(ExportError, match=r"takes batches of 2 only: give --batch 2"):
        model.graph(opset=20, batch=3, metadata={})


def test_a_file_that_claims_any_batch_and_takes_one_is_told_so(tmp_path: Path) -> None:
    body = BODY.replace(
        "s, t =", "n = Constant <value = int64[2] {1, 4}> () k = Reshape (m, n) s, t ="
    )
    body = body.replace("<axis = 1> (m)", "<axis = 1> (k)")
    path = saved(graph(body), tmp_path)
    with pytest.raises(ExportError, match=r"cannot run 'own.onnx' at batch 3: .*--batch"):
        export(open_onnx(path), CPU, tmp_path / "out", IMAGES, formats=["onnx"])
    options = ExportOptions(batch=1)
    assert export(open_onnx(path), CPU, tmp_path / "out", IMAGES, options=options)[0].proof.ok


def test_weights_among_the_inputs_of_old_files_are_weights(tmp_path: Path) -> None:
    old = graph(inputs="float[N,3,8,8] pixels, float[4,3,3,3] w, float[4,5] v, float[5] b")
    old.ir_version = 3
    model = open_onnx(saved(old, tmp_path))
    (artifact,) = export(model, CPU, tmp_path / "out", IMAGES, formats=["onnx"])
    assert artifact.proof.max_rel < 1e-6


def test_functions_of_the_file_s_own_are_inlined(tmp_path: Path) -> None:
    parsed = graph(BODY.replace("scores = Gemm (j, v, b)", "k = Relu (j) scores = Gemm (k, v, b)"))
    (relu,) = (node for node in parsed.graph.node if node.output[0] == "k")
    relu.op_type, relu.domain = "Twice", "own"
    parsed.opset_import.append(onnx.helper.make_opsetid("own", 1))
    parsed.functions.append(
        onnx.helper.make_function(
            "own",
            "Twice",
            ["x"],
            ["y"],
            [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
            [onnx.helper.make_opsetid("", 13)],
        )
    )
    path = saved(parsed, tmp_path)
    (artifact,) = export(open_onnx(path), CPU, tmp_path / "out", IMAGES, formats=["onnx"])
    assert artifact.proof.max_rel < 1e-6


def test_weights_beside_the_file_are_read(own: Path, tmp_path: Path) -> None:
    beside = tmp_path / "beside" / "own.onnx"
    beside.parent.mkdir()
    onnx.save_model(
        onnx.load(own), beside, save_as_external_data=True, location="own.bin", size_threshold=0
    )
    (artifact,) = export(open_onnx(beside), CPU, tmp_path / "out", IMAGES, formats=["onnx"])
    assert artifact.files[0] == "onnx/model.onnx"
    assert not (tmp_path / "out/onnx/model.onnx.data").exists()
    assert artifact.proof.max_rel < 1e-6
    beside.with_name("own.bin").unlink()
    with pytest.raises(ExportError, match=r"'own\.bin' that holds them is not beside it"):
        open_onnx(beside)


def test_values_within_can_be_read_under_their_names_in_the_graph(own: Path) -> None:
    model = open_onnx(own)
    assert {"m", "j", "stem/conv"} <= model.value_names
    assert "logits" not in model.value_names
    found = model.values(IMAGES.numpy(), ["m", "stem/conv", "nowhere"])
    assert found.keys() == {"m", "stem/conv"}
    relu = np.maximum(found["stem/conv"], 0)
    np.testing.assert_allclose(relu.mean((2, 3)), found["m"], atol=1e-6)
    assert model.values(IMAGES.numpy(), ["nowhere"]) == {}


def test_a_conversion_that_gets_a_weight_wrong_is_caught_and_the_layer_named(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OnnxModel.graph

    def wrong(self: OnnxModel, **wanted: object) -> onnx.ModelProto:
        made = real(self, **wanted)  # type: ignore[arg-type]
        (conv,) = (node for node in made.graph.node if node.op_type == "Conv")
        for tensor in made.graph.initializer:
            if tensor.name == conv.input[1]:
                values = onnx.numpy_helper.to_array(tensor)[:, ::-1]
                tensor.CopyFrom(onnx.numpy_helper.from_array(values.copy(), tensor.name))
        return made

    monkeypatch.setattr(OnnxModel, "graph", wrong)
    with pytest.raises(ParityError, match=r"differs from ONNX Runtime by .*stem/conv.*Conv"):
        export(open_onnx(own), CPU, tmp_path / "out", IMAGES, formats=["onnx"])
    assert not list((tmp_path / "out").rglob("*.onnx"))


REFUSED: dict[str, Callable[[], onnx.ModelProto]] = {
    r"it takes 'a' \(float, of shape \(\?, 3, 8, 8\)\) and 'c' \(int64": lambda: graph(
        "scores = Relu (a)", inputs="float[N,3,8,8] a, int64[N,7] c"
    ),
    r"it takes 'pixels' \(float, of shape \(\?, 77\)\); one input of images": lambda: graph(
        "scores = Relu (pixels)", inputs="float[N,77] pixels"
    ),
    r"shape \(\?, 3, \?, \?\)\): write the file with one size of images": lambda: graph(
        inputs="float[N,3,H,W] pixels"
    ),
    r"it takes 'pixels' \(uint8, .*images in float32 are needed": lambda: graph(
        "f = Cast <to = 1> (pixels) m = ReduceMean <axes = [2, 3], keepdims = 0> (f) "
        "scores = Relu (m)",
        inputs="uint8[N,3,8,8] pixels",
    ),
    r"it gives 'scores' \(float, .*\) and 'm' \(float, .*one output of logits": lambda: graph(
        outputs="float[N,5] scores, float[N,4] m"
    ),
    r"it gives 'scores' \(float, of shape \(\?, 4, 8, 8\)\); one output of logits": lambda: graph(
        "scores = Conv <pads = [1, 1, 1, 1]> (pixels, w)", outputs="float[N,4,8,8] scores"
    ),
    r"its output is of Softmax, so no logits: write the file without it": lambda: graph(
        BODY.replace("scores = Gemm (j, v, b)", "k = Gemm (j, v, b) scores = Softmax (k)")
    ),
    r"it gives 'scores' \(int64.*logits in float32 are needed": lambda: graph(
        BODY.replace("scores = Gemm", "k = Gemm") + "scores = Cast <to = 7> (k)",
        outputs="int64[N,5] scores",
    ),
    r"operators that are not ONNX's own: com.microsoft.FusedMatMul": lambda: _foreign(graph()),
    r"it is quantised already \(QuantizeLinear '/net/QuantizeLinear_2'\)": lambda: graph(
        BODY.replace(
            "images = Relu",
            "z = Constant <value = float {0.1}> () q = QuantizeLinear (pixels, z) images = Relu",
        )
    ),
    r"weights in half precision: give the float32 file": lambda: _half(graph()),
    r"is not valid ONNX: Unrecognized attribute: axles for operator ReduceMean": lambda: graph(
        BODY.replace("<axes = [2, 3],", "<axles = [2, 3],")
    ),
}


def _foreign(parsed: onnx.ModelProto) -> onnx.ModelProto:
    parsed.graph.node[-1].op_type, parsed.graph.node[-1].domain = "FusedMatMul", "com.microsoft"
    parsed.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return parsed


def _half(parsed: onnx.ModelProto) -> onnx.ModelProto:
    values = np.ones(5, np.float16)
    parsed.graph.initializer.append(onnx.numpy_helper.from_array(values, "unused"))
    return parsed


@pytest.mark.parametrize("message", REFUSED)
def test_a_file_of_another_kind_is_refused_and_told_what_was_found(
    message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        open_onnx(saved(REFUSED[message](), tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"\x00" * 64, b"<?xml version='1.0'?><net/>"]
)
def test_a_file_that_is_not_onnx_is_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "own.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"'own\.onnx' is not an ONNX file"):
        open_onnx(tmp_path / "own.onnx")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_file_cut_off_is_one_error(share: float, own: Path) -> None:
    content = own.read_bytes()
    own.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ExportError, match="is not"):
        open_onnx(own)


def test_no_file_and_a_folder_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'own\.onnx' cannot be read: No such file"):
        open_onnx(tmp_path / "own.onnx")
    with pytest.raises(ExportError, match="cannot be read: Is a directory"):
        open_onnx(tmp_path)
