"""The one call: what it writes, proves, refuses, and leaves behind when it fails."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import edgeprune_exporters
from edgeprune import Captured, capture
from edgeprune.errors import ExportError, UsageError
from edgeprune.targets import load_target
from edgeprune_exporters import EXPORTERS, Artifact, ExportOptions, Job, export, exporters
from edgeprune_exporters.onnx import OnnxExporter

CPU = load_target("cpu")


def test_the_public_names_are_these() -> None:
    assert edgeprune_exporters.__all__ == [
        "Artifact",
        "BatchParity",
        "EXPORTERS",
        "ExportOptions",
        "Exportable",
        "Exporter",
        "Images",
        "Job",
        "Kept",
        "LabelledImages",
        "ParityProof",
        "TorchModel",
        "Wanted",
        "check_options",
        "export",
        "exporters",
        "find_exporter",
        "read_formats",
    ]


@pytest.mark.parametrize("files", ["cnn_files", "vit_files"])
def test_every_format_equals_torch_at_one_image_three_and_the_targets_largest_batch(
    files: str, request: pytest.FixtureRequest
) -> None:
    artifacts = request.getfixturevalue(files).artifacts
    assert [each.format for each in artifacts] == ["onnx", "openvino"]
    for artifact in artifacts:
        assert artifact.proof.ok
        assert [each.batch for each in artifact.proof.batches] == [1, 3, 8]
        assert artifact.proof.max_rel < 1e-5
        assert artifact.proof.precision == "f32"
        assert artifact.proof.note is None


def test_each_format_has_its_folder_and_nothing_else_is_written(cnn_files: Any) -> None:
    found = sorted(
        str(p.relative_to(cnn_files.folder)) for p in cnn_files.folder.rglob("*") if p.is_file()
    )
    assert found == [
        "onnx/model.onnx",
        "onnx/proof.json",
        "openvino/model.bin",
        "openvino/model.xml",
        "openvino/proof.json",
    ]
    assert sorted(f for each in cnn_files.artifacts for f in each.files) == found


def test_an_artifact_as_json_says_what_was_proven(cnn_files: Any) -> None:
    document = cnn_files.artifacts[0].to_dict()
    assert document["files"] == ["onnx/model.onnx", "onnx/proof.json"]
    assert document["opset"] == 20
    assert document["proof"]["ok"] is True
    assert [each["batch"] for each in document["proof"]["batches"]] == [1, 3, 8]


def test_a_fixed_batch_is_compared_at_its_own_size_and_said(
    fixed: Captured, images: Tensor, tmp_path: Path
) -> None:
    assert not fixed.dynamic_batch
    for artifact in export(fixed, CPU, tmp_path, images):
        assert [each.batch for each in artifact.proof.batches] == [2]
        assert artifact.proof.note == "the batch is fixed: compared at batch 2 only"


def test_one_image_is_enough_for_all_batches(cnn: Captured, tmp_path: Path) -> None:
    (artifact,) = export(cnn, CPU, tmp_path, torch.ones(1, 3, 32, 32), formats=["onnx"])
    assert [each.batch for each in artifact.proof.batches] == [1, 3, 8]


def test_exporting_prints_nothing(
    cnn: Captured, images: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export(cnn, CPU, tmp_path, images)
    assert capfd.readouterr() == ("", "")


def test_the_model_is_left_as_it_was(cnn: Captured, images: Tensor, tmp_path: Path) -> None:
    code, names = cnn.module.code, [name for name, _ in cnn.module.named_buffers()]
    export(cnn, CPU, tmp_path, images, formats=["onnx"])
    assert cnn.module.code == code
    assert [name for name, _ in cnn.module.named_buffers()] == names


def test_a_model_left_in_training_mode_is_exported_for_inference(
    cnn: Captured, images: Tensor, tmp_path: Path
) -> None:
    twin = cnn.clone()
    twin.module.train()
    assert export(twin, CPU, tmp_path, images)[0].proof.ok
    assert twin.module.training


class Interrupted(OnnxExporter):
    """An exporter during which somebody presses Ctrl-C."""

    def export(self, job: Job, precision: str, folder: Path) -> Artifact:
        super().export(job, precision, folder)
        raise KeyboardInterrupt


def test_ctrl_c_leaves_no_file(
    cnn: Captured, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPORTERS, "onnx", Interrupted())  # type: ignore[misc]
    with pytest.raises(KeyboardInterrupt):
        export(cnn, CPU, tmp_path / "out", images, formats=["onnx"])
    assert list((tmp_path / "out").rglob("*")) == []


def test_an_export_that_fails_leaves_an_earlier_one_as_it_was(
    cnn: Captured, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(cnn, CPU, tmp_path, images, formats=["onnx"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setitem(EXPORTERS, "onnx", Interrupted())  # type: ignore[misc]
    with pytest.raises(KeyboardInterrupt):
        export(cnn, CPU, tmp_path, images, formats=["onnx"])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_unknown_format_names_the_nearest(cnn: Captured, images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format 'onxx' .did you mean 'onnx'\?.: .*openvino"):
        export(cnn, CPU, tmp_path, images, formats=["onxx"])
    with pytest.raises(UsageError, match="no format was named"):
        export(cnn, CPU, tmp_path, images, formats=[])


def test_images_of_another_shape_are_refused(cnn: Captured, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"shape \(4, 1, 32, 32\); the model takes \(N, 3, 32"):
        export(cnn, CPU, tmp_path, torch.zeros(4, 1, 32, 32))


def test_a_model_that_gives_nan_in_torch_is_refused(
    cnn: Captured, images: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="torch itself gives NaN"):
        export(cnn, CPU, tmp_path, images * float("nan"))


def test_a_precision_that_the_device_cannot_run_is_refused_before_anything_is_written(
    cnn: Captured, images: Tensor, tmp_path: Path
) -> None:
    target = replace(CPU, precisions=("fp32", "fp16"))
    with pytest.raises(ExportError, match="no onnx for target 'cpu': it cannot run int8: give"):
        export(cnn, target, tmp_path / "out", images, formats=["onnx:int8"])
    assert not (tmp_path / "out").exists()


def test_int8_without_calibration_images_says_how_to_give_them(
    cnn: Captured, images: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="int8 needs images to calibrate on: give --data PATH"):
        export(cnn, CPU, tmp_path / "out", images, formats=["onnx", "openvino:int8"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "formats", "message"),
    [
        (ExportOptions(dla_core=0), ["onnx"], "--dla-core means nothing to onnx: .* tensorrt"),
        (ExportOptions(simplify=True), ["openvino"], "--simplify means nothing to openvino"),
        (ExportOptions(max_drop=1.0), ["onnx"], "--max-drop bounds what int8 may cost, and no"),
    ],
)
def test_an_option_that_no_format_takes_is_named(
    options: ExportOptions, formats: list[str], message: str, cnn: Captured, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        export(cnn, CPU, tmp_path, torch.ones(1, 3, 32, 32), formats=formats, options=options)


@pytest.mark.parametrize("module", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed_is_named(
    module: str, cnn: Captured, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = edgeprune_exporters.runtimes.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "edgeprune_exporters.runtimes.find_spec",
        lambda name: None if name == module else real(name),
    )
    with pytest.raises(ExportError, match=f"is not installed: pip install {module}"):
        export(cnn, CPU, tmp_path, images)


def test_a_folder_that_cannot_be_written_is_named(
    cnn: Captured, images: Tensor, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match=r"file/onnx' cannot be written: File exists"):
        export(cnn, CPU, tmp_path / "file", images)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a number of bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# 5000 bytes hold the ONNX file and the weights of OpenVINO, but not its graph.
@pytest.mark.parametrize(("name", "size"), [("onnx", 2000), ("openvino", 2000), ("openvino", 5000)])
def test_a_full_disk_is_one_error_and_leaves_no_file(
    name: str, size: int, cnn: Captured, images: Tensor, tmp_path: Path
) -> None:
    with largest_file(size), pytest.raises(ExportError, match="cannot be written: "):
        export(cnn, CPU, tmp_path / "out", images, formats=[name])
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_an_operator_without_onnx_form_is_named(tmp_path: Path) -> None:
    class Singular(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.linalg.svdvals(images.mean(1))

    captured = capture(Singular(), torch.randn(2, 3, 8, 8))
    with pytest.raises(ExportError, match=r"no ONNX form: .*svd"):
        export(captured, CPU, tmp_path, captured.sample)


def test_exporters_of_other_packages_are_found_and_do_not_replace_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "outsider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[edgeprune.exporters]\nours = edgeprune_exporters.onnx:OnnxExporter\n"
        "onnx = nowhere:Nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = exporters()
    assert found["ours"] is OnnxExporter
    assert found["onnx"] is EXPORTERS["onnx"]
