"""Runtimes say what they run in, and are one error where they are absent or cannot load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch

from edgeprune.capture import capture
from edgeprune.errors import ExportError
from edgeprune.targets import load_target
from edgeprune_exporters import Images, Job, TorchModel, runtimes
from edgeprune_exporters.converting import converted
from edgeprune_exporters.runtimes import (
    import_openvino,
    last_line,
    load_onnxruntime,
    load_openvino,
    missing,
    run_graph,
    run_openvino,
)


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing("openvino", "OpenVINO") is None
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    assert missing("openvino", "OpenVINO") == "OpenVINO is not installed: pip install openvino"


def test_the_last_line_of_a_message_is_the_cause() -> None:
    assert last_line(RuntimeError("Check 'x' failed at core.cpp:1\n\n  no such file \n")) == (
        "no such file"
    )
    assert last_line(RuntimeError()) == "RuntimeError"


def test_openvino_runs_in_float32_whatever_it_prefers(cnn_files: Any) -> None:
    runtime = load_openvino(cnn_files.path("openvino/model.xml"))
    assert (runtime.name, runtime.precision) == ("openvino", "f32")
    assert runtime.path == cnn_files.path("openvino/model.xml")


def test_files_and_graphs_in_memory_run_alike(cnn_files: Any) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    path = cnn_files.path("onnx/model.onnx")
    np.testing.assert_array_equal(
        load_onnxruntime(path).run(images), run_graph(onnx.load(path))(images)
    )
    path = cnn_files.path("openvino/model.xml")
    model = import_openvino().Core().read_model(path)
    np.testing.assert_array_equal(load_openvino(path).run(images), run_openvino(model)(images))


def test_logits_are_not_overwritten_by_the_next_run(cnn_files: Any) -> None:
    run = load_openvino(cnn_files.path("openvino/model.xml")).run
    first = run(np.zeros((1, 3, 32, 32), np.float32))
    kept = first.copy()
    run(np.ones((1, 3, 32, 32), np.float32))
    np.testing.assert_array_equal(first, kept)


def test_a_file_that_is_no_model_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot load 'model.onnx'"):
        load_onnxruntime(tmp_path / "model.onnx")


def test_quantised_pairs_are_run_as_they_are_written_where_another_runtime_will_run_them(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 64, 64)
    dense = capture(timm.create_model("test_resnet", num_classes=4).eval(), images[:2])
    job = Job(
        model=TorchModel(dense),
        target=load_target("jetson"),
        images=Images(parity=images, calibration=images),
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(converted(job, "int8", "tensorrt").graph.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    exact = session.run(None, {"images": images.numpy()})[0]
    written = load_onnxruntime(path, as_written=True)
    np.testing.assert_array_equal(written.run(images.numpy()), exact)
    assert not np.array_equal(load_onnxruntime(path).run(images.numpy()), exact)
    assert {"f16", "i8"} <= set(written.precision.split("+"))


def test_importing_onnxruntime_starts_no_telemetry(tmp_path: Path) -> None:
    script = (
        "from edgeprune_exporters.runtimes import import_onnxruntime\n"
        "import_onnxruntime().SessionOptions()"
    )
    homes = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | homes
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*")), "where telemetry keeps its identity"
    assert not list(tmp_path.rglob(".ses"))
