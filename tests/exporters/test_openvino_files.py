"""What OpenVINO's files hold, and that using OpenVINO opens no connection."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.capture import Captured, capture
from edgeprune.errors import ExportError
from edgeprune.targets import load_target
from edgeprune_exporters import ExportOptions, Images, Job, TorchModel, openvino, runtimes
from edgeprune_exporters.execution import read_execution
from edgeprune_exporters.openvino import OpenvinoExporter
from edgeprune_exporters.quantization import Quantized, quantize_openvino
from edgeprune_exporters.quantization.openvino_subject import OpenvinoSubject
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

    map: Tensor

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


@pytest.fixture(scope="module")
def int8_jobs(cnn: Captured, vit: Captured, images: Tensor) -> dict[str, Job]:
    given = Images(parity=images, calibration=images)
    return {
        name: Job(model=TorchModel(model), target=load_target("cpu"), images=given)
        for name, model in (("cnn", cnn), ("vit", vit))
    }


@pytest.mark.parametrize("net", ["cnn", "vit"])
def test_weights_of_int8_files_are_integers(
    net: str, int8_jobs: dict[str, Job], tmp_path: Path
) -> None:
    artifact = OpenvinoExporter().export(int8_jobs[net], "int8", tmp_path)
    assert artifact.proof.ok
    assert artifact.precision == "int8"
    text = (tmp_path / "model.xml").read_text()
    assert 'element_type="i8"' in text
    assert "nncf" not in text


def test_weights_of_fp16_files_take_half_the_space(
    int8_jobs: dict[str, Job], vit_files: Any, tmp_path: Path
) -> None:
    assert OpenvinoExporter().export(int8_jobs["vit"], "fp16", tmp_path).proof.ok
    assert 'element_type="f16"' in (tmp_path / "model.xml").read_text()
    full = vit_files.path("openvino/model.bin").stat().st_size
    assert (tmp_path / "model.bin").stat().st_size < 0.55 * full


def test_a_fixed_batch_is_in_the_file(int8_jobs: dict[str, Job], tmp_path: Path) -> None:
    job = replace(int8_jobs["cnn"], options=ExportOptions(batch=2))
    for precision in ("fp32", "int8"):
        assert OpenvinoExporter().export(job, precision, tmp_path).proof.ok
        model = import_openvino().Core().read_model(tmp_path / "model.xml")
        assert model.input("images").partial_shape.to_string() == "[2,3,32,32]"
        assert model.output("logits").partial_shape.to_string() == "[2,5]"


def files_of(job: Job, folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    OpenvinoExporter().export(job, "int8", folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("net", ["cnn", "vit"])
def test_two_int8_exports_are_byte_identical_and_tell_no_path(
    net: str, int8_jobs: dict[str, Job], tmp_path: Path
) -> None:
    one = files_of(int8_jobs[net], tmp_path / "one")
    assert files_of(int8_jobs[net], tmp_path / "two") == one
    assert not re.search(rb"/(work|tmp|home|root|usr|opt|var|Users)/", b"".join(one.values()))


def test_another_process_writes_the_same_int8_bytes(
    int8_jobs: dict[str, Job], tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; import torch\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from conftest import TinyCnn, _captured\n"
        "from edgeprune.targets import load_target\n"
        "from edgeprune_exporters import Images, Job, TorchModel\n"
        "from edgeprune_exporters.openvino import OpenvinoExporter\n"
        "images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))\n"
        "job = Job(model=TorchModel(_captured(TinyCnn)), target=load_target('cpu'),\n"
        "          images=Images(parity=images, calibration=images))\n"
        "OpenvinoExporter().export(job, 'int8', Path(sys.argv[2]))\n"
    )
    other = tmp_path / "other"
    other.mkdir()
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, here, str(other)], check=True)
    here_written = files_of(int8_jobs["cnn"], tmp_path / "here")
    assert {path.name: path.read_bytes() for path in sorted(other.iterdir())} == here_written


def test_int8_refuses_without_nncf_and_names_it(
    cnn: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = runtimes.find_spec
    monkeypatch.setattr(runtimes, "find_spec", lambda n: None if n == "nncf" else found(n))
    arguments = TorchModel(cnn), load_target("cpu")
    assert OpenvinoExporter().refusal(*arguments, "fp32") is None
    reason = OpenvinoExporter().refusal(*arguments, "int8")
    assert reason is not None
    assert "pip install nncf" in reason


def test_a_wrong_range_in_one_quantiser_fails_the_proof(
    int8_jobs: dict[str, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored eight times too large, as with a scale that belongs to another layer."""

    def plant(model: Any, job: Job) -> Quantized[Any]:
        quantised = quantize_openvino(model, job)
        quantiser = next(
            each
            for each in quantised.graph.get_ordered_ops()
            if each.get_type_name() == "FakeQuantize" and "relu" in each.get_friendly_name()
        )
        for port in (3, 4):
            constant = quantiser.input_value(port).get_node()
            wrong = import_openvino().opset1.constant(constant.data * 8)
            quantiser.input(port).replace_source_output(wrong.output(0))
        return quantised

    monkeypatch.setattr(openvino, "quantize_openvino", plant)
    assert not OpenvinoExporter().export(int8_jobs["cnn"], "int8", tmp_path).proof.ok


@pytest.mark.parametrize("net", ["cnn", "vit"])
def test_what_runs_in_int8_is_read_back(
    net: str, int8_jobs: dict[str, Job], tmp_path: Path
) -> None:
    artifact = OpenvinoExporter().export(int8_jobs[net], "int8", tmp_path)
    found = read_execution(tmp_path / "model.xml")
    assert artifact.notes[-1] == found.note
    assert sum(found.layers.values()) == {"cnn": 4, "vit": 8}[net]
    assert sum(found.macs.values()) == pytest.approx(1)
    integers = {name: share for name, share in found.macs.items() if name in {"i8", "u8"}}
    # Attention weighs its values in float: a twentieth of the products of this ViT.
    assert sum(integers.values()) == pytest.approx({"cnn": 1, "vit": 0.95}[net], abs=0.01)


def test_a_float_file_is_said_to_run_in_what_the_runtime_chooses(cnn_files: Any) -> None:
    found = read_execution(cnn_files.path("openvino/model.xml"))
    assert set(found.layers) == {found.precision}
    assert found.macs == {found.precision: 1.0}
    assert "int8" not in found.note


def test_a_reverted_layer_is_not_counted_as_int8(
    int8_jobs: dict[str, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_in_float(model: Any, job: Job) -> Quantized[Any]:
        subject = OpenvinoSubject(model=model, job=job)
        first = subject.layers(subject.quantize())[0]
        return Quantized(graph=subject.quantize([first.name]))

    monkeypatch.setattr(openvino, "quantize_openvino", first_in_float)
    OpenvinoExporter().export(int8_jobs["cnn"], "int8", tmp_path)
    found = read_execution(tmp_path / "model.xml")
    assert found.layers[found.precision] == 1
    assert found.macs[found.precision] == pytest.approx(0.61, abs=0.01)
