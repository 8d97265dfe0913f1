"""What OpenVINO's files hold, and that using OpenVINO opens no connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.capture import capture
from edgeprune.errors import ExportError
from edgeprune.targets import load_target
from edgeprune_exporters import Images, Job, TorchModel, openvino
from edgeprune_exporters.openvino import OpenvinoExporter
from edgeprune_exporters.runtimes import import_openvino, load_openvino


def test_metadata_is_read_back_as_it_was_given(cnn_files: Any) -> None:
    model = import_openvino().Core().read_model(cnn_files.path("openvino/model.xml"))
    for key, value in {
        "labels": '["no finding", "Hernie & Ödem <1 cm>"]',
        "preprocessing": '{"size": 32}',
    }.items():
        assert model.get_rt_info(["edgeprune", key]).value == value


def test_metadata_is_ours_and_the_version_only(cnn_files: Any) -> None:
    tree = ElementTree.parse(cnn_files.path("openvino/model.xml"))  # noqa: S314 - our own file
    found = [each.get("name", each.tag) for each in tree.getroot().find("rt_info") or ()]
    assert found == ["OpenVINO Runtime", "edgeprune"]


def test_weights_are_float32(cnn_files: Any) -> None:
    text = cnn_files.path("openvino/model.xml").read_text()
    assert 'element_type="f32"' in text
    assert "f16" not in text


def test_input_and_output_keep_their_names(vit_files: Any) -> None:
    model = import_openvino().Core().read_model(vit_files.path("openvino/model.xml"))
    assert model.input("images").partial_shape.to_string() == "[?,3,32,32]"
    assert model.output("logits").partial_shape.to_string() == "[?,5]"


def test_nothing_but_the_two_files_is_left(job: Job, tmp_path: Path) -> None:
    OpenvinoExporter().export(job, "fp32", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]


def test_a_damaged_file_is_one_error(cnn_files: Any, tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net>")
    with pytest.raises(ExportError, match=r"OpenVINO cannot load 'model.xml'"):
        load_openvino(tmp_path / "model.xml")


def test_importing_openvino_starts_no_telemetry(tmp_path: Path) -> None:
    code = (
        "import sys; from edgeprune_exporters.runtimes import import_openvino\n"
        "import_openvino().Core()\n"
        "assert not [n for n, m in sys.modules.items() if m and n.startswith('openvino_telemetry')]"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not (tmp_path / "intel").exists()  # where telemetry keeps its identifier


class MapThenConvolution(nn.Module):
    """A map over 7 x 7 positions, before a convolution whose kernel is as large."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 7, padding=3)
        self.register_buffer("map", torch.rand(7, 7) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.stem(x)) / self.map).mean((2, 3))


def test_a_map_over_space_is_not_folded_into_a_kernel_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 3, 7, 7)
    dense = capture(MapThenConvolution(), images)
    job = Job(model=TorchModel(dense), target=load_target("cpu"), images=Images(parity=images))
    assert OpenvinoExporter().export(job, "fp32", tmp_path).proof.ok
    monkeypatch.setattr(openvino, "separate_maps", lambda model: None)
    assert not OpenvinoExporter().export(job, "fp32", tmp_path).proof.ok, (
        "the barrier is not needed"
    )
