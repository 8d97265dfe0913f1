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
from edgeprune_exporters import Images, Job, TorchModel, export
from edgeprune_exporters.onnx import OnnxExporter, check_file, save_graph

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


@pytest.mark.parametrize(("name", "opset"), [("cpu", 20), ("cpu-ort", 20), ("jetson", 19)])
def test_the_file_has_the_opset_of_the_target(
    name: str, opset: int, vit: Captured, images: Tensor, tmp_path: Path
) -> None:
    artifact = export(vit, load_target(name), tmp_path, images, formats=["onnx"])[0]
    written = onnx.load(tmp_path / "onnx/model.onnx").opset_import
    assert [(each.domain, each.version) for each in written] == [("", opset)]
    assert artifact.opset == opset


def test_an_opset_that_cannot_be_written_names_both_and_torch_keeps_silent(
    cnn: Captured, images: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ExportError, match=r"reads opset 12 and torch.onnx wrote opset 18"):
        export(cnn, replace(CPU, opset=12), tmp_path, images, formats=["onnx"])
    assert [each for each in caplog.records if each.levelname != "DEBUG"] == []


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


def test_weights_beyond_the_limit_of_one_file_lie_beside_it(
    vit: Captured, images: Tensor, tmp_path: Path
) -> None:
    job = Job(model=TorchModel(vit), target=CPU, images=Images(parity=images))
    artifact = OnnxExporter(single_file_bytes=100).export(job, "fp32", tmp_path)
    assert artifact.files == ("model.onnx", "model.onnx.data")
    assert artifact.proof.ok
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    assert {entry.value for entry in entries if entry.key == "location"} == {"model.onnx.data"}


def test_writing_beside_leaves_the_shared_graph_whole(
    vit: Captured, images: Tensor, tmp_path: Path
) -> None:
    job = Job(model=TorchModel(vit), target=CPU, images=Images(parity=images))
    before = job.graph.SerializeToString(deterministic=True)
    save_graph(job.graph, tmp_path / "model.onnx", single_file_bytes=100)
    assert job.graph.SerializeToString(deterministic=True) == before


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


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys, torch\nfrom edgeprune import capture\n"
        "from edgeprune.targets import load_target\nfrom edgeprune_exporters import export\n"
        "torch.manual_seed(0)\n"
        "net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GELU(),"
        " torch.nn.Flatten(), torch.nn.Linear(144, 2))\n"
        "x = torch.ones(1, 3, 8, 8); export(capture(net, x), load_target('cpu'), sys.argv[1], x)\n"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, tmp_path / seed], check=True, env=environment)
    for file in ("onnx/model.onnx", "openvino/model.xml", "openvino/model.bin"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file
