"""What an ONNX file holds, and what it must not hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from torch import Tensor

from edgeprune import Captured
from edgeprune.errors import ExportError
from edgeprune.targets import load_target
from edgeprune_exporters import ExportOptions, Images, Job, TorchModel, export
from edgeprune_exporters.onnx import check_file, save_graph

CPU = load_target("cpu")


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("files", ["cnn_files", "vit_files"])
def test_input_and_output_are_named_and_the_batch_is_dynamic(
    files: str, request: pytest.FixtureRequest
) -> None:
    loaded = session(request.getfixturevalue(files).path("onnx/model.onnx"))
    (given,), (result,) = loaded.get_inputs(), loaded.get_outputs()
    assert (given.name, given.shape) == ("images", ["batch", 3, 32, 32])
    assert (result.name, result.shape) == ("logits", ["batch", 5])


def test_an_opset_that_cannot_be_written_is_one_error_and_torch_keeps_silent(
    cnn: Captured, images: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ExportError, match=r"opset 12 cannot be written, 16 to \d+ can"):
        export(cnn, replace(CPU, opset=12), tmp_path, images, formats=["onnx"])
    assert [each for each in caplog.records if each.levelname != "DEBUG"] == []


@pytest.mark.parametrize("model", ["cnn", "vit"])
@pytest.mark.parametrize("opset", [16, 20])
def test_a_fixed_batch_makes_every_shape_static(
    model: str, opset: int, images: Tensor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    captured = request.getfixturevalue(model)
    target, options = replace(CPU, opset=opset), ExportOptions(batch=2)
    (artifact,) = export(captured, target, tmp_path, images, formats=["onnx"], options=options)
    assert [each.batch for each in artifact.proof.batches] == [2]
    graph = onnx.load(tmp_path / "onnx/model.onnx").graph
    known = {each.name: each for each in [*graph.input, *graph.value_info, *graph.output]}
    assert {output for node in graph.node for output in node.output} <= known.keys()
    for each in known.values():
        assert all(dim.HasField("dim_value") for dim in each.type.tensor_type.shape.dim), each.name
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [2, 3, 32, 32]


def test_a_batch_that_the_model_does_not_take_is_refused(
    fixed: Captured, images: Tensor, tmp_path: Path
) -> None:
    options = ExportOptions(batch=2)
    assert export(fixed, CPU, tmp_path, images, formats=["onnx"], options=options)[0].proof.ok
    with pytest.raises(ExportError, match=r"takes batches of 2 only: give --batch 2, or leave"):
        TorchModel(fixed).graph(opset=20, batch=3, metadata={})


def test_a_written_file_with_another_opset_is_noticed(job: Job, tmp_path: Path) -> None:
    save_graph(job.graph, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="imports opset 20; opset 19 was asked for"):
        check_file(tmp_path / "model.onnx", 19)


def test_metadata_is_ours_and_nothing_else(cnn_files: Any) -> None:
    model = onnx.load(cnn_files.path("onnx/model.onnx"))
    assert {each.key: each.value for each in model.metadata_props} == {
        "labels": '["no finding", "Hernie & Ödem <1 cm>"]',
        "preprocessing": '{"size": 32}',
    }
    assert model.producer_name == "edgeprune"
    for part in [model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer]:
        assert not part.doc_string
        assert not part.metadata_props


@pytest.mark.parametrize("files", ["cnn_files", "vit_files"])
def test_no_byte_tells_of_sources_or_folders(files: str, request: pytest.FixtureRequest) -> None:
    exported = request.getfixturevalue(files)
    for artifact in exported.artifacts:
        for file in artifact.files:
            data = exported.path(file).read_bytes()
            assert not re.search(rb"(?<![\w.)<])/(home|root|tmp|usr|work|opt|Users)/", data)
            for word in (b"site-packages", b"forward", b".py", b"stack_trace", b"pkg.torch"):
                assert word not in data, word


@pytest.mark.parametrize("model", ["cnn", "vit"])
def test_two_exports_are_equal_byte_for_byte(
    model: str, images: Tensor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    captured = request.getfixturevalue(model)
    for name in ("first", "second"):
        export(captured, CPU, tmp_path / name, images, metadata={"b": "1", "a": "2"})
    for file in ("onnx/model.onnx", "openvino/model.xml", "openvino/model.bin"):
        first, second = tmp_path / "first" / file, tmp_path / "second" / file
        assert first.read_bytes() == second.read_bytes(), file


def _undefined_input(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].input[0] = "nowhere"


def _wrong_shape(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6


@pytest.mark.parametrize("break_it", [_undefined_input, _wrong_shape])
def test_a_file_that_breaks_the_rules_is_refused(
    break_it: Callable[[onnx.ModelProto], None], job: Job, tmp_path: Path
) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(job.graph)
    break_it(broken)
    save_graph(broken, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="not valid ONNX"):
        check_file(tmp_path / "model.onnx", 20)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("model", ["cnn", "vit"])
def test_converted_files_are_valid_bare_and_equal_byte_for_byte(
    model: str, precision: str, images: Tensor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    captured, given = request.getfixturevalue(model), Images(parity=images, calibration=images)
    written = []
    for name in ("first", "second"):
        (artifact,) = export(
            captured,
            CPU,
            tmp_path / name,
            given,
            formats=[f"onnx:{precision}"],
            metadata={"labels": "[]"},
        )
        assert artifact.precision == precision
        path = tmp_path / name / "onnx/model.onnx"
        assert check_file(path, 20) == artifact.opset == 20
        written.append(path.read_bytes())
    assert written[0] == written[1]
    graph = onnx.load_from_string(written[0])
    assert {each.key: each.value for each in graph.metadata_props} == {"labels": "[]"}
    for part in [graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]:
        assert not part.doc_string
        assert not part.metadata_props
    for word in (b"site-packages", b"nncf.", b".py", b"/tmp", b"/home", b"/root"):
        assert word not in written[0], word


def test_half_precision_is_in_the_weights(cnn: Captured, images: Tensor, tmp_path: Path) -> None:
    (artifact,) = export(cnn, CPU, tmp_path, images, formats=["onnx:fp16"])
    graph = onnx.load(tmp_path / artifact.files[0]).graph
    kinds = {each.name: each.data_type for each in graph.initializer}
    weights = [kinds[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert set(weights) == {onnx.TensorProto.FLOAT16}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_whole_numbers_are_in_the_weights(cnn: Captured, images: Tensor, tmp_path: Path) -> None:
    given = Images(parity=images, calibration=images)
    (artifact,) = export(cnn, CPU, tmp_path, given, formats=["onnx:int8"])
    graph = onnx.load(tmp_path / artifact.files[0]).graph
    operators = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys, torch\nfrom edgeprune import capture\n"
        "from edgeprune.targets import load_target\n"
        "from edgeprune_exporters import Images, export\n"
        "torch.manual_seed(0)\n"
        "net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GELU(),"
        " torch.nn.Flatten(), torch.nn.Linear(144, 2))\n"
        "x = torch.linspace(0, 1, 768).reshape(4, 3, 8, 8)\n"
        "formats = ['onnx', 'onnx:fp16', 'onnx:int8', 'openvino']\n"
        "export(capture(net, x[:1]), load_target('cpu'), sys.argv[1],"
        " Images(parity=x, calibration=x), formats=formats)\n"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, tmp_path / seed], check=True, env=environment)
    files = [f"onnx-{precision}/model.onnx" for precision in ("fp32", "fp16", "int8")]
    for file in (*files, "openvino/model.xml", "openvino/model.bin"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file
