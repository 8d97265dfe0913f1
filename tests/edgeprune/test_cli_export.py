"""``edgeprune export``: what it writes, what it prints, and what it refuses."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.files import sha256

from .pipeline_case import write_archive
from .unit_case import case

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(edgeprune: Run) -> Run:
    """Return what exports in an empty folder, and gives exit code, stdout and stderr."""
    return partial(edgeprune, "export")


def data() -> tuple[str, str]:
    return "--data", case().path("squares.npz")


def index(tmp_path: Path, out: str = "edgeprune-export") -> dict[str, object]:
    document = json.loads((tmp_path / out / "export.json").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


# --- what is written ------------------------------------------------------------------


def test_a_stored_model_is_written_in_every_format_of_the_target(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(case().path("stored"), *data())
    assert code == 0
    names = {path.name for path in (tmp_path / "edgeprune-export").iterdir()}
    assert names == {"onnx", "openvino", "export.json"}
    assert "onnx/model.onnx" in out
    assert "written: edgeprune-export" in out


def test_one_format_at_two_precisions_gets_two_folders(run: Run, tmp_path: Path) -> None:
    code, _, _ = run(case().path("stored"), *data(), "--formats", "onnx:fp32,onnx:fp16")
    assert code == 0
    names = {path.name for path in (tmp_path / "edgeprune-export").iterdir()}
    assert names == {"onnx-fp32", "onnx-fp16", "export.json"}


def test_int8_is_calibrated_on_training_images_and_judged_on_others(
    run: Run, tmp_path: Path
) -> None:
    code, out, err = run(
        case().path("stored"), *data(), "--precision", "int8", "--max-drop", "50", "--json"
    )
    assert code == 0, err
    (first, *_) = json.loads(out)["artifacts"]
    assert first["precision"] == "int8"
    assert 0 <= first["proof"]["accuracy"]["artifact"] <= 1
    assert index(tmp_path)["calibration"] == {"images": 300, "sampler": "random"}


def test_of_a_bundle_the_slim_model_is_exported_and_says_by_which_plan(
    run: Run, tmp_path: Path
) -> None:
    code, _, err = run(case().path("slim"), *data(), "--formats", "onnx")
    assert code == 0, err
    model = onnx.load(tmp_path / "edgeprune-export" / "onnx" / "model.onnx")
    texts = {entry.key: entry.value for entry in model.metadata_props}
    plan = next(Path(case().path("slim")).rglob("plan.json"))
    assert texts["edgeprune.plan_sha256"] == sha256(plan)
    assert json.loads(texts["edgeprune.classes"]) == ["0", "1", "2"]


def test_a_target_of_tensorrt_gets_a_recipe_and_nothing_is_said_to_be_measured(
    run: Run, tmp_path: Path
) -> None:
    code, out, err = run(case().path("stored"), *data(), "--target", "jetson")
    assert code == 0, err
    folder = tmp_path / "edgeprune-export" / "tensorrt"
    assert {"model.onnx", "recipe.json", "run.py"} <= {path.name for path in folder.iterdir()}
    assert "not measured" in out
    assert "estimate" in out


def test_an_onnx_file_is_exported_like_a_model(run: Run, tmp_path: Path) -> None:
    assert run(case().path("stored"), *data(), "--formats", "onnx", "--out", "first")[0] == 0
    code, _, err = run("first/onnx/model.onnx", *data(), "--formats", "openvino:int8")
    assert code == 0, err
    assert (tmp_path / "edgeprune-export" / "openvino" / "model.xml").is_file()


def test_without_images_parity_is_proven_on_noise_and_said(run: Run) -> None:
    code, out, err = run(case().path("stored"), "--formats", "onnx")
    assert code == 0
    assert "noise" in out + err


def test_two_exports_are_equal_byte_for_byte(run: Run, tmp_path: Path) -> None:
    for out in ("a", "b"):
        words = ("--formats", "onnx:int8,openvino:fp16", "--out", out)
        assert run(case().path("stored"), *data(), *words)[0] == 0
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")}
    assert files
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )


def test_no_file_tells_of_a_folder_of_this_machine(run: Run, tmp_path: Path) -> None:
    assert run(case().path("stored"), *data(), "--target", "jetson")[0] == 0
    secrets = [str(tmp_path).encode(), str(Path(case().path("stored")).parent).encode()]
    for path in (tmp_path / "edgeprune-export").rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in secrets), path


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--precision", "int4"), "cannot run --precision int4"),
        (("--precision", "int9"), "did you mean 'int8'"),
        (("--formats", "onx"), "did you mean 'onnx'"),
        (("--formats", "onnx,onnx"), "named 2 times"),
        (("--formats", "onnx:fp61"), "did you mean 'fp16'"),
        (("--target", "jetsn"), "did you mean 'jetson'"),
        (("--dla-core", "0"), "--dla-core means nothing to onnx or openvino"),
        (("--max-drop", "1"), "no int8 is written"),
        (("--max-drop", "-1", "--precision", "int8"), "--max-drop -1.0 is too small"),
        (("--batch", "0"), "--batch 0 is too small"),
        (("--calibration", "0"), "--calibration 0 is too small"),
        (("--sampler", "rnd"), "no sampler 'rnd'"),
    ],
)
def test_an_option_that_cannot_be_is_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    code, out, err = run(case().path("stored"), *data(), *words)
    assert code == 2
    assert said in err.replace("\n", " ")
    assert not out
    assert not list(tmp_path.iterdir())


def test_int8_without_images_says_how_to_give_them(run: Run) -> None:
    code, _, err = run(case().path("stored"), "--precision", "int8")
    assert code == 2
    assert "--data PATH" in err


def test_a_folder_that_holds_something_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "edgeprune-export").mkdir()
    (tmp_path / "edgeprune-export" / "mine.txt").write_text("x")
    code, _, err = run(case().path("stored"), *data())
    assert code == 2
    assert "not empty" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_where_nothing_can_be_written_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run(case().path("stored"), *data(), "--out", "locked/out")
    assert code == 2
    assert "nothing can be written" in err


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x08\x0a\x12"])
def test_a_corrupt_onnx_file_is_one_line(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    code, _, err = run("bad.onnx", *data())
    assert code == 1
    assert "bad.onnx" in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


def test_an_onnx_file_that_is_not_there_is_named(run: Run) -> None:
    code, _, err = run("gone.onnx", *data())
    assert code == 1
    assert "gone.onnx" in err


def test_external_data_outside_the_folder_is_refused(run: Run, tmp_path: Path) -> None:
    assert run(case().path("stored"), *data(), "--formats", "onnx", "--out", "first")[0] == 0
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "model.onnx"
    model = onnx.load(tmp_path / "first" / "onnx" / "model.onnx")
    onnx.save_model(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    shutil.move(tmp_path / "inside" / "w.data", tmp_path / "w.data")
    content = path.read_bytes().replace(b"w.data", b"../w.d")
    path.write_bytes(content)
    code, _, err = run("inside/model.onnx", *data())
    assert code == 1
    assert "../w.d" in err or "outside" in err


def test_images_of_other_classes_are_refused(run: Run, tmp_path: Path) -> None:
    write_archive(tmp_path / "two.npz", classes=2)
    code, _, err = run(case().path("stored"), "--data", "two.npz")
    assert code == 1
    assert "3 classes" in err or "tells 3" in err


def test_a_class_without_training_images_cannot_be_calibrated_on(run: Run, tmp_path: Path) -> None:
    source = dict(np.load(case().path("squares.npz")))
    few = source["train_labels"].ravel() != 1
    source |= {
        "train_images": source["train_images"][few],
        "train_labels": source["train_labels"][few],
    }
    np.savez(tmp_path / "gap.npz", **source)
    code, _, err = run(case().path("stored"), "--data", "gap.npz", "--precision", "int8")
    assert code == 1
    assert "class" in err
