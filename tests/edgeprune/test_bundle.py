import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.bundle import (
    Golden,
    GoldenLimit,
    read_manifest,
    relist,
    write_golden,
    write_manifest,
)
from edgeprune.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"12345")
    (tmp_path / "report.html").write_text("first", encoding="utf-8")
    write_manifest(tmp_path, {"created": "now"})
    return tmp_path


def listed(folder: Path) -> dict[str, int]:
    return {entry["path"]: entry["bytes"] for entry in read_manifest(folder)["files"]}


def test_a_manifest_lists_all_files_but_itself_and_its_signature(folder: Path) -> None:
    (folder / "signature.json").touch()
    write_manifest(folder, {"created": "now"})
    assert listed(folder) == {"model/weights": 5, "report.html": 5}


def test_a_manifest_says_what_it_is(folder: Path) -> None:
    document = read_manifest(folder)
    assert (document["format"], document["version"]) == ("edgeprune-bundle", 1)
    assert document["created"] == "now"


def test_a_file_that_is_listed_anew_leaves_the_others_as_they_were(folder: Path) -> None:
    (folder / "model" / "weights").write_bytes(b"damaged since")
    (folder / "report.html").write_text("second", encoding="utf-8")
    relist(folder, folder / "report.html")
    assert listed(folder) == {"model/weights": 5, "report.html": 6}


def test_a_new_file_is_listed_in_order(folder: Path) -> None:
    (folder / "plan.json").write_text("{}", encoding="utf-8")
    relist(folder, folder / "plan.json")
    assert list(listed(folder)) == ["model/weights", "plan.json", "report.html"]


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: it holds no bundle\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"null"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json' is damaged"):
        read_manifest(tmp_path)


def test_a_manifest_of_another_version_names_both(folder: Path) -> None:
    document = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    (folder / "bundle.json").write_text(json.dumps(document | {"version": 9}), encoding="utf-8")
    with pytest.raises(BundleError, match=r"edgeprune-bundle version 9; this edgeprune reads"):
        read_manifest(folder)


def test_golden_files_hold_what_a_device_has_to_reproduce(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    golden = Golden(
        ids=("a", "b"),
        inputs=torch.rand(2, 1, 4, 4),
        outputs=torch.rand(2, 3),
        limits={"artifacts/m.onnx": GoldenLimit(precision="int8", measure="noise", tolerance=0.3)},
        picture=1,
        raw=raw,
        pixels=raw[:4, :4, :1],
    )
    write_golden(tmp_path, golden)
    np.testing.assert_array_equal(np.load(tmp_path / "inputs.npy"), golden.inputs.numpy())
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), golden.outputs.numpy())
    np.testing.assert_array_equal(np.load(tmp_path / "pixels.npy"), golden.pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "picture.png")), raw)
    document = json.loads((tmp_path / "golden.json").read_text(encoding="utf-8"))
    assert document == {
        "ids": ["a", "b"],
        "outputs_from": "torch, float32",
        "limits": {"artifacts/m.onnx": {"precision": "int8", "measure": "noise", "tolerance": 0.3}},
        "picture": 1,
    }
