"""proof.json: whole, the same for the same inputs, and silent about when and where."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune import Captured
from edgeprune.targets import load_target
from edgeprune_exporters import Images, LabelledImages, TorchModel, export
from edgeprune_exporters.parity import Array

FORMATS = {
    "cpu": ("onnx:fp32", "onnx:int8", "openvino:fp32", "openvino:fp16", "openvino:int8"),
    "jetson-orin-nano": ("onnx:fp16", "tensorrt:fp16", "tensorrt:int8"),
}
# Folders of whoever exports; a recipe may well speak of those of the device.
ABSOLUTE = re.compile(rb"(?:/(?:tmp|home|root|opt|work|mnt|Users)/|[A-Za-z]:\\\\)[\w.-]")


def inputs() -> Images:
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(4))

    def batches(size: int) -> Iterator[Array]:
        for start in range(0, len(images), size):
            yield images[start : start + size].numpy()

    test = LabelledImages(labels=np.arange(12) % 5, batches=batches)
    return Images(parity=images, calibration=images * 1.1, test=test)


def write(model: TorchModel, folder: Path) -> None:
    """Write every format at every precision."""
    for target, formats in FORMATS.items():
        export(model, load_target(target), folder, inputs(), formats=formats)


@pytest.fixture(scope="module")
def folder(cnn: Captured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("proofs")
    write(TorchModel(cnn), place)
    return place


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "openvino-int8" / "proof.json").read_text())
    return found


def test_every_file_of_the_artifact_is_listed_with_its_hash(folder: Path) -> None:
    for proof in folder.rglob("proof.json"):
        listed = json.loads(proof.read_text())["artifact"]["files"]
        beside = {path.name for path in proof.parent.iterdir()} - {"proof.json"}
        assert {each["path"] for each in listed} == beside
        for each in listed:
            data = (proof.parent / each["path"]).read_bytes()
            assert each["sha256"] == hashlib.sha256(data).hexdigest()
            assert each["bytes"] == len(data)


def test_a_proof_says_what_was_compared_and_how_it_came_out(document: dict[str, Any]) -> None:
    proof = document["artifact"]["proof"]
    assert proof["ok"] is True
    assert proof["reference"] == "torch"
    assert [each["batch"] for each in proof["batches"]] == [1, 3, 8]
    for each in proof["batches"]:
        assert 0 < each["mean_abs"] <= each["max_abs"]
        assert each["max_rel"] > 0
    assert proof["images"] == 12
    assert proof["measure"] == "noise"
    assert 0 < proof["error"] == proof["noise"] <= proof["tolerance"]
    assert proof["accuracy"]["images"] == 12
    assert document["artifact"]["precision"] == "int8"
    assert document["images"] == {"parity": 12, "calibration": 12, "validation": None, "test": 12}
    assert document["target"] == {"name": "cpu", "opset": 20}


def test_versions_are_of_what_made_and_ran_the_files(
    folder: Path, document: dict[str, Any]
) -> None:
    for name in ("edgeprune", "torch", "onnx", "onnxruntime", "openvino", "nncf"):
        assert document["versions"][name] == version(name)
    plain = json.loads((folder / "onnx-fp32" / "proof.json").read_text())["versions"]
    assert "torch" in plain
    assert not {"openvino", "nncf"} & plain.keys()


def test_a_second_export_is_the_same_byte_for_byte(
    folder: Path, cnn: Captured, tmp_path: Path
) -> None:
    write(TorchModel(cnn), tmp_path)
    first, second = (
        {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        for place in (folder, tmp_path)
    )
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_no_file_holds_an_absolute_path(folder: Path) -> None:
    assert ABSOLUTE.search(b"x /home/somebody/model.py")
    found = {
        path.name: ABSOLUTE.findall(path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert {name: hits for name, hits in found.items() if hits} == {}
