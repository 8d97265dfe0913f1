"""The whole way for other kinds of models and data than the quick tests take."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from edgeprune.capture import load
from edgeprune.pipeline import compress

from .pipeline_case import Log, finished, settings, write_archive

NETS = """
import torch
from torch import nn

def plain(channels, classes):
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
    )

class Loop(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inner = plain(3, classes)
    def forward(self, images):
        logits = self.inner(images)
        return torch.cat([logits[i : i + 1] for i in range(int(images.shape[0]))])

def loop(num_classes):
    return Loop(num_classes)

def grey(num_classes):
    return plain(1, num_classes)
"""


def bundle_of(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "bundle.json").read_text(encoding="utf-8")))


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS, encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_model_of_a_fixed_batch_goes_the_whole_way(tmp_path: Path, nets: Path) -> None:
    data = write_archive(tmp_path / "squares.npz")
    log = Log()
    asked = settings(data, model=f"{nets}:loop", batch_size=7)
    results = compress(asked, tmp_path / "slim", reporter=log)
    assert any(line.startswith("fixed batch 7") for line in log.lines)
    assert "Measure in OpenVINO, 1 thread, batch 7" in log.lines
    slim = load(results.bundle)
    assert not slim.dynamic_batch
    golden = results.bundle / "golden"
    ids = json.loads((golden / "golden.json").read_text(encoding="utf-8"))["ids"]
    assert len(np.load(golden / "outputs.npy")) == len(np.load(golden / "inputs.npy")) == len(ids)
    assert len(ids) % 7, "as many as are wanted, not as many as fill batches"
    assert results.headline["cut"]["ok"]


@pytest.mark.slow
def test_a_factory_of_grey_images_goes_the_whole_way_for_a_jetson(
    tmp_path: Path, nets: Path
) -> None:
    data = write_archive(tmp_path / "squares.npz")
    asked = settings(data, model=f"{nets}:grey", target="jetson", criterion="magnitude")
    results = compress(asked, tmp_path / "slim", reporter=Log())
    bundle = bundle_of(results.bundle)
    assert bundle["source"]["in_chans"] == 1  # type: ignore[index]
    assert bundle["source"]["name"] == "nets.py:grey"  # type: ignore[index]
    assert bundle["target"]["measured_in"] == "onnxruntime"  # type: ignore[index]
    assert any("built on the device that runs them" in line for line in results.lines)
    assert (results.bundle / "artifacts" / "onnx" / "model.onnx").is_file()
    assert not (results.bundle / "artifacts" / "openvino").exists()
    recipe = results.bundle / "artifacts" / "tensorrt" / "recipe.json"
    assert json.loads(recipe.read_text(encoding="utf-8"))["precision"] == "fp16"
    assert any("estimate, uncalibrated: dense" in line for line in results.lines)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_slim_model_at_a_lower_precision_is_measured_against_dense_float32(
    tmp_path: Path, precision: str
) -> None:
    data = write_archive(tmp_path / "squares.npz")
    results = compress(settings(data, precision=precision), tmp_path / "slim", reporter=Log())
    artifacts = {
        (each["model"], each["format"]): each["precision"]
        for each in bundle_of(results.bundle)["artifacts"]  # type: ignore[attr-defined]
    }
    assert artifacts["slim", "openvino"] == precision
    assert artifacts["dense", "openvino"] == "fp32"
    assert any(line.startswith(f"slim was measured in {precision}") for line in results.lines)
    record = json.loads((results.bundle / "record.json").read_text(encoding="utf-8"))
    ran = {side: record["comparison"][side]["runs"][0]["precision"] for side in ("dense", "slim")}
    assert ran["dense"] == "f32"
    assert ("i8" in ran["slim"]) == (precision == "int8")


@pytest.mark.slow
def test_findings_go_the_whole_way(tmp_path: Path) -> None:
    data = write_archive(tmp_path / "findings.npz", findings=3)
    results = compress(settings(data, criterion="lrp"), tmp_path / "slim", reporter=Log())
    assert bundle_of(results.bundle)["data"]["multi_label"]  # type: ignore[index]
    assert 0 <= results.headline["slim"]["auroc"] <= 1


@pytest.mark.slow
def test_a_model_that_came_with_weights_is_not_trained_and_recovers_gently(tmp_path: Path) -> None:
    first, data = finished()
    dense = load(first.bundle.with_name("slim.work") / "dense")
    weights = tmp_path / "dense.safetensors"
    save_file(dict(dense.module.state_dict()), weights)
    log = Log()
    results = compress(
        settings(data, weights=weights, dense_epochs=None), tmp_path / "slim", reporter=log
    )
    assert "training" not in log.steps
    assert results.headline["dense"]["accuracy"] == first.headline["dense"]["accuracy"]
    rates = [bundle_of(b)["recovery"]["settings"]["lr"] for b in (first.bundle, results.bundle)]  # type: ignore[index]
    assert rates[1] < rates[0]
    assert bundle_of(results.bundle)["training"]["settings"] is None  # type: ignore[index]
