import getpass
import json
import re
import socket
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from edgeprune.capture import load
from edgeprune.errors import UsageError
from edgeprune.pipeline import compress

from .pipeline_case import Log, finished, settings, write_archive

SHAPE = {
    "artifacts/onnx/model.onnx",
    "artifacts/onnx/proof.json",
    "artifacts/openvino/model.bin",
    "artifacts/openvino/model.xml",
    "artifacts/openvino/proof.json",
    "bundle.json",
    "change_record.json",
    "evidence/examples.json",
    "evidence/examples.npz",
    "golden/golden.json",
    "golden/inputs.npy",
    "golden/outputs.npy",
    "golden/picture.png",
    "golden/pixels.npy",
    "model/graph.json",
    "model/weights.safetensors",
    "plan.json",
    "record.json",
    "report.html",
    "run.py",
}
SAME_EVERY_TIME = (
    "plan.json",
    "model/graph.json",
    "model/weights.safetensors",
    "artifacts/onnx/model.onnx",
    "artifacts/openvino/model.bin",
    "artifacts/openvino/model.xml",
    "artifacts/openvino/proof.json",
    "golden/outputs.npy",
    "golden/picture.png",
    "golden/pixels.npy",
    "evidence/examples.json",
    "evidence/examples.npz",
)
STEPS = 3  # that an epoch reports: two batches, and its end
SIDE = {"accuracy", "auroc", "params", "macs", "bytes", "latency_ms", "peak_memory_mb"}


@pytest.fixture(scope="module")
def bundle() -> Path:
    return finished()[0].bundle


def document(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_bundle_holds_the_files_of_the_design(bundle: Path) -> None:
    assert {path.relative_to(bundle).as_posix() for path in files(bundle)} == SHAPE


def test_the_manifest_lists_every_file_with_its_size_and_hash(bundle: Path) -> None:
    listed = document(bundle / "bundle.json")["files"]
    assert isinstance(listed, list)
    assert {entry["path"] for entry in listed} == SHAPE - {"bundle.json"}
    for entry in listed:
        content = (bundle / entry["path"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), sha256(content).hexdigest())


def test_headline_results_have_one_shape_everywhere(bundle: Path) -> None:
    headline = finished()[0].headline
    assert set(headline) == {"dense", "slim", "latency_ratio", "cut"}
    assert set(headline["dense"]) == set(headline["slim"]) == SIDE
    assert set(headline["latency_ratio"]) == {"value", "low", "high", "verdict"}
    assert set(headline["cut"]) == {"max_rel", "ok", "units_removed", "units_total"}
    as_json = json.loads(json.dumps(headline))
    assert document(bundle / "bundle.json")["results"] == as_json
    assert document(bundle / "record.json")["results"] == as_json


def test_every_artifact_has_its_own_accuracy_on_the_test_split(bundle: Path) -> None:
    manifest = document(bundle / "bundle.json")
    artifacts = manifest["artifacts"]
    assert isinstance(artifacts, list)
    found = {f"{a['model']}/{a['format']}": a["metrics"] for a in artifacts}
    assert set(found) == {"slim/onnx", "slim/openvino", "dense/openvino"}
    headline = finished()[0].headline
    for key, metrics in found.items():
        assert metrics["n"] == manifest["data"]["splits"]["test"]  # type: ignore[index,call-overload]
        assert len(metrics["per_class"]) == len(manifest["data"]["classes"])  # type: ignore[index,call-overload]
        assert metrics["accuracy"] == pytest.approx(headline[key.split("/")[0]]["accuracy"])


def test_the_slim_model_costs_what_was_asked_for(bundle: Path) -> None:
    headline = finished()[0].headline
    slim = load(bundle)
    assert headline["cut"]["ok"]
    assert headline["slim"]["macs"] <= 0.5 * headline["dense"]["macs"]
    assert sum(p.numel() for p in slim.module.parameters()) == headline["slim"]["params"]


def test_no_file_tells_where_or_by_whom_it_was_made(bundle: Path) -> None:
    data = finished()[1]
    telling = [str(data.parent), str(Path.home()) + "/", str(Path(__file__).parents[2])]
    telling += [name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 4]
    for path in files(bundle):
        content = path.read_bytes()
        for word in telling:
            assert word.encode() not in content, f"{path.name} holds {word}"


def test_golden_outputs_are_those_of_the_exported_and_of_the_stored_model(bundle: Path) -> None:
    inputs, outputs = (np.load(bundle / "golden" / f"{n}.npy") for n in ("inputs", "outputs"))
    session = onnxruntime.InferenceSession(bundle / "artifacts" / "onnx" / "model.onnx")
    (actual,) = session.run(None, {session.get_inputs()[0].name: inputs})
    np.testing.assert_allclose(actual, outputs, atol=1e-4 * np.abs(outputs).max())
    with torch.no_grad():
        stored = load(bundle).module(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(stored, outputs, atol=1e-5 * np.abs(outputs).max())


def test_the_runner_in_the_bundle_is_the_one_that_measured(bundle: Path) -> None:
    runner = Path(__file__).parents[2] / "benchmarks" / "edgeprune_benchmarks" / "device_runner.py"
    assert (bundle / "run.py").read_bytes() == runner.read_bytes()


def test_the_report_opens_offline(bundle: Path) -> None:
    html = (bundle / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//', html)
    assert "test_resnet" in html


def test_the_dense_model_that_was_trained_on_the_spot_is_said_to_be(bundle: Path) -> None:
    notes = document(bundle / "bundle.json")["notes"]
    assert isinstance(notes, list)
    assert any("trained here, on the spot: no --weights were given; 2 epochs" in n for n in notes)


def test_only_the_bundle_and_the_work_folder_are_left(bundle: Path) -> None:
    assert {path.name for path in bundle.parent.iterdir()} == {"slim", "slim.work"}
    work = bundle.with_name("slim.work")
    stages = {"dense", "scores", "cut", "slim", "artifacts", "measurement", "evidence"}
    assert {path.name for path in work.iterdir()} == stages | {"settings.json", "lock"}


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path, bundle: Path) -> None:
    asked = settings(write_archive(tmp_path / "squares.npz"))
    out = tmp_path / "slim"
    stops = (
        ("training", STEPS),
        ("recovery", STEPS),
        ("Export", 0),
        ("dense and slim in turns", 0),
        ("Write the bundle", 0),
    )
    logs = [Log(*stop) for stop in stops]
    for log in logs:
        with pytest.raises(KeyboardInterrupt):
            compress(asked, out, resume=True, reporter=log)
        assert not out.exists()
    assert logs[1].steps["training"] == STEPS, "the epoch that was complete was trained again"
    assert logs[2].steps["recovery"] == STEPS
    assert "1 of 2 rounds are from the earlier run" in logs[4].lines
    log = Log()
    compress(asked, out, resume=True, reporter=log)
    assert "training" not in log.steps
    assert "Capture the dense model (from the earlier run)" in log.lines
    assert "Write the bundle" in log.lines
    for name in SAME_EVERY_TIME:
        assert (out / name).read_bytes() == (bundle / name).read_bytes(), name


def test_a_complete_bundle_is_not_made_again(bundle: Path) -> None:
    before = (bundle / "bundle.json").stat()
    again = compress(settings(finished()[1]), bundle, resume=True)
    assert again.headline == json.loads(json.dumps(finished()[0].headline))
    assert (bundle / "bundle.json").stat() == before


def test_a_complete_bundle_of_other_settings_is_not_taken_for_this_one(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"complete and was made with other settings: seed was 0"):
        compress(settings(finished()[1], seed=1), bundle, resume=True)
