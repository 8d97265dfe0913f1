"""``edgeprune bench``: what it measures, prints and writes, and what it refuses."""

import getpass
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeprune.data import batches, load_data
from edgeprune.pipeline.bench_settings import BenchSettings
from edgeprune.pipeline.benching import bench
from edgeprune.pipeline.subjects import open_subject
from edgeprune_benchmarks.bench_report import read_report
from edgeprune_benchmarks.noise import default_path

from ..benchmarks.ssh_server import SshServer, needs_sshd
from ..exporters.fake_tensorrt import install
from ..exporters.fake_tensorrt_recipe import write_recipe
from .bench_case import HOW, rewrite, write_bundle, write_net
from .pipeline_case import Log, write_archive
from .test_layering import exported

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--quick", "--rounds", "2")


@pytest.fixture
def run(edgeprune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what measures in an empty folder, and gives exit code, stdout and stderr."""
    monkeypatch.setenv("EDGEPRUNE_STATE", str(tmp_path.with_name(f"{tmp_path.name}-state")))
    return partial(edgeprune, "bench")


def one_line(text: str) -> str:
    return " ".join(text.split())


# --- what is measured -----------------------------------------------------------------


def test_of_a_bundle_slim_is_measured_against_dense(run: Run, tmp_path: Path) -> None:
    write_bundle(tmp_path / "slim")
    code, out, err = run("slim", *QUICK)
    assert code == 0, err
    assert "A  tiny, dense" in out
    assert "B  tiny, slim" in out
    said = one_line(out)
    assert "parameters │ 1 k │ 100 │ 0.100" in said
    assert "as measured when the bundle was made, on the 24 test images" in said
    assert "accuracy" in said
    assert "runtime: onnxruntime" in said
    assert not list(tmp_path.glob("*.json"))


@pytest.fixture
def measured(run: Run, tmp_path: Path) -> Mapping[str, Any]:
    """Return what is printed of two files in two cases, which are kept in ``found``."""
    write_archive(tmp_path / "squares.npz")
    write_net(tmp_path / "a" / "model.onnx", 8, told=True)
    write_net(tmp_path / "b" / "model.onnx", 3, told=True)
    words = ("--data", "squares.npz", "--batch", "1,4", "--out", "found", "--json")
    code, out, err = run("a/model.onnx", "b/model.onnx", *words, *QUICK)
    assert code == 0, err
    document = json.loads(out)
    assert isinstance(document, dict)
    return document


def test_files_are_measured_in_every_case_and_all_of_it_is_kept(
    measured: Mapping[str, Any], tmp_path: Path
) -> None:
    _the_cases_are_those_asked_for(measured)
    _accuracy_is_that_of_the_artifact(measured, tmp_path)
    _every_form_is_written_and_says_the_same(measured, tmp_path / "found")
    _nothing_tells_of_this_machine(tmp_path)


def _the_cases_are_those_asked_for(measured: Mapping[str, Any]) -> None:
    assert (measured["a"], measured["b"]) == ("model.onnx (A)", "model.onnx (B)")
    assert [(case["threads"], case["batch"]) for case in measured["cases"]] == [(1, 1), (1, 4)]
    first = measured["cases"][0]["results"]
    assert set(first) == {"dense", "slim", "latency_ratio", "cut"}
    assert first["slim"]["macs"] < first["dense"]["macs"]


def _accuracy_is_that_of_the_artifact(measured: Mapping[str, Any], folder: Path) -> None:
    data = load_data(folder / "squares.npz")
    images, labels = next(batches(data.test, HOW, batch_size=len(data.test)))
    found = [measured["cases"][0]["results"][side]["accuracy"] for side in ("dense", "slim")]
    assert found[0] != found[1]
    for name, accuracy in zip("ab", found, strict=True):
        session = onnxruntime.InferenceSession(folder / name / "model.onnx")
        logits = np.asarray(session.run(None, {"images": images.numpy()})[0])
        right = float(np.mean(logits.argmax(axis=1) == labels.numpy()))
        assert accuracy == pytest.approx(right)
    assert "measured here on the 24 test images" in measured["accuracy_from"]
    assert measured["cases"][0]["difference"] is not None


def _every_form_is_written_and_says_the_same(measured: Mapping[str, Any], folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        *("bench.json", "bench.md", "junit.xml", "dashboard.json"),
    }
    report = read_report(folder / "bench.json")
    assert report.records[0].comparison.dense.runs[0].blocks_ns[0]
    ratio = measured["cases"][0]["results"]["latency_ratio"]["value"]
    assert report.records[0].results.latency_ratio.value == ratio
    points = json.loads((folder / "dashboard.json").read_text(encoding="utf-8"))
    assert ratio in [point["value"] for point in points]
    assert f"{ratio:.3f}" in (folder / "bench.md").read_text(encoding="utf-8")
    root = ET.parse(folder / "junit.xml").getroot()  # noqa: S314  our own
    assert root.get("failures") == "0"
    assert not folder.with_name("found.work").exists()


def _nothing_tells_of_this_machine(folder: Path) -> None:
    for path in (folder / "found").iterdir():
        assert str(folder).encode() not in path.read_bytes()


def test_an_artifact_against_itself_gives_the_noise_floor_that_later_runs_use(
    run: Run, tmp_path: Path
) -> None:
    write_net(tmp_path / "net.onnx")
    write_net(tmp_path / "other.onnx", 4)
    code, out, err = run("net.onnx", "--aa", *QUICK, "--format", "markdown")
    assert code == 0, err
    assert "noise floor, A against itself" in out
    assert "noise; give --data" in out
    (floor,) = json.loads(default_path().read_text(encoding="utf-8"))["floors"]
    code, out, err = run("net.onnx", "other.onnx", *QUICK, "--json")
    assert code == 0, err
    assert json.loads(out)["cases"][0]["noise_floor"] == floor["value"]


def test_an_interrupted_run_goes_on_where_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, width in (("a", 8), ("b", 4)):
        write_net(tmp_path / f"{name}.onnx", width)
    settings = BenchSettings(
        a=Path("a.onnx"), b=Path("b.onnx"), batches=(1, 2), quick=True, rounds=2
    )
    with pytest.raises(KeyboardInterrupt):
        bench(settings, out=Path("found"), reporter=Log(stop="Measure A and B, 1 thread, batch 2"))
    words = ("a.onnx", "b.onnx", "--batch", "1,2", *QUICK, "--out", "found")
    code, _, err = run(*words)
    assert code == 2
    assert "--resume" in err
    code, _, err = run(*words[:2], "--batch", "1,4", *QUICK, "--out", "found", "--resume")
    assert code == 2
    assert "other settings" in one_line(err)
    code, _, err = run(*words, "--resume")
    assert code == 0, err
    assert err.count("2 of 2 rounds are from the earlier run") == 1
    assert len(read_report(tmp_path / "found" / "bench.json").records) == 2
    code, _, err = run(*words, "--resume")
    assert code == 0
    assert "complete already" in err


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("net.onnx",), "give a second one to compare it with, or --aa"),
        (("net.onnx", "--aa", "--layers"), "give a second one beside --aa"),
        (("gone.onnx", "net.onnx"), "there is nothing at 'gone.onnx'"),
        (("net.txt", "net.onnx"), "nothing that a runtime here loads"),
        (("folder", "net.onnx"), "give one of its files, as inside/net.onnx"),
        (("net.onnx", "net.onnx", "--runtime", "ort"), "no runtime 'ort'"),
        (("net.onnx", "net.onnx", "--runtime", "torch"), "torch does not load 'net.onnx'"),
        (("net.onnx", "net.onnx", "--precision", "int8"), "its own: --precision chooses"),
        (("net.onnx", "net.onnx", "--precision", "int9"), "no precision 'int9'"),
        (("net.onnx", "net.onnx", "--threads", "0"), "--threads '0'"),
        (("net.onnx", "net.onnx", "--threads", "2,2"), "--threads '2,2'"),
        (("net.onnx", "net.onnx", "--threads", "two"), "no list of whole numbers"),
        (("net.onnx", "net.onnx", "--batch", ""), "--batch ''"),
        (("net.onnx", "net.onnx", "--cpus", "0", "--threads", "2"), "too few for 2 threads"),
        (("net.onnx", "net.onnx", "--rounds", "3"), "an even number is needed"),
        (("net.onnx", "net.onnx", "--idle", "-1"), "--idle -1 is below 0"),
        (("net.onnx", "net.onnx", "--device", "gpu"), "no device 'gpu'"),
        (("net.onnx", "net.onnx", "--cuda-graph"), "needs a device such as cuda:0"),
        (("net.onnx", "net.onnx", "--target", "jetsn"), "did you mean 'jetson'"),
        (("net.onnx", "net.onnx", "--resume"), "give --out DIR"),
        (("net.onnx", "net.onnx", "--out", "folder"), "not empty"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    write_net(tmp_path / "net.onnx")
    write_net(tmp_path / "folder" / "inside" / "net.onnx")
    (tmp_path / "net.txt").write_text("x")
    code, out, err = run(*words)
    assert code == 2
    assert said in one_line(err)
    assert len(err.splitlines()) == 1
    assert not out
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.txt", "folder"}


@pytest.mark.parametrize(
    ("other", "words", "said"),
    [
        ({"edge": 16}, (), "A takes images of 3 × 24 × 24, B of 3 × 16 × 16"),
        ({"classes": 5}, (), "A tells 3 classes apart, B 5"),
        ({"batch": 4}, (), "takes batches of 4 only, not of 1: give --batch 4"),
    ],
)
def test_two_that_cannot_share_images_are_not_compared(
    run: Run, tmp_path: Path, other: Mapping[str, Any], words: tuple[str, ...], said: str
) -> None:
    write_net(tmp_path / "a.onnx")
    write_net(tmp_path / "b.onnx", **other)
    code, _, err = run("a.onnx", "b.onnx", "--out", "found", *words)
    assert code == 2
    assert said in one_line(err)
    assert not list(tmp_path.glob("found*"))


def test_images_of_other_classes_are_refused(run: Run, tmp_path: Path) -> None:
    write_archive(tmp_path / "two.npz", classes=2)
    write_net(tmp_path / "a.onnx")
    code, _, err = run("a.onnx", "a.onnx", "--data", "two.npz")
    assert code == 1
    assert "tells 3 classes apart, but 'two.npz' has 2" in one_line(err)


def test_data_without_test_images_is_refused(run: Run, tmp_path: Path) -> None:
    arrays = dict(np.load(write_archive(tmp_path / "squares.npz")))
    arrays |= {name: arrays[name][:0] for name in ("test_images", "test_labels")}
    np.savez(tmp_path / "none.npz", **arrays)
    write_net(tmp_path / "a.onnx")
    code, _, err = run("a.onnx", "a.onnx", "--data", "none.npz")
    assert code == 1
    assert "test" in one_line(err)
    assert "Traceback" not in err


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x08\x0a\x12"])
def test_a_corrupt_file_is_one_line(run: Run, tmp_path: Path, content: bytes) -> None:
    write_net(tmp_path / "a.onnx")
    (tmp_path / "bad.onnx").write_bytes(content)
    code, _, err = run("a.onnx", "bad.onnx")
    assert code == 1
    assert "bad.onnx" in err
    assert "Traceback" not in err


def test_a_bundle_whose_file_changed_is_one_of_integrity(run: Run, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "slim")
    path = bundle / "artifacts" / "onnx" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, _, err = run("slim")
    assert code == 5
    assert "is not what bundle 'slim' lists: its SHA-256 is" in one_line(err)


def test_a_bundle_whose_dense_model_is_gone_asks_for_a_second(run: Run, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "slim")
    (tmp_path / "slim.work").rename(tmp_path / "elsewhere")
    code, _, err = run("slim")
    assert code == 2
    assert "give a second bundle or file" in one_line(err)
    assert open_subject(bundle).name == "tiny, slim"


def test_a_bundle_says_what_it_holds_where_something_else_is_asked_for(
    run: Run, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "slim")
    for words in (("--runtime", "openvino"), ("--precision", "int8")):
        code, _, err = run("slim", *words)
        assert code == 2
        assert "it lists onnx fp32" in one_line(err)


def test_a_bundle_that_lists_nothing_or_is_damaged_is_told(run: Run, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "slim")
    rewrite(bundle, artifacts=[])
    code, _, err = run("slim")
    assert code == 2
    assert "no artifacts" in err
    (bundle / "bundle.json").write_text("{")
    code, _, err = run("slim")
    assert code == 5
    assert "is damaged" in err


# --- other forms ----------------------------------------------------------------------


def test_a_recipes_engine_is_built_before_it_is_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "recipe", "fp32")
    code, _, err = run("recipe", "recipe")
    assert code == 1
    assert "the engine of" in err
    assert "cannot import TensorRT" in err
    monkeypatch.setenv("PYTHONPATH", str(install(tmp_path / "fakes")))
    code, out, err = run("recipe", "recipe/model.onnx", *QUICK, "--json")
    assert code == 0, err
    assert (recipe / "engine.plan").is_file()
    details = json.loads(out)["cases"][0]["details"]
    assert details["dense"]["backend"] == "tensorrt"
    assert "building the engine" in err


def test_layers_are_compared_where_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    write_bundle(tmp_path / "slim")
    code, out, err = run("slim", "--layers", *QUICK, "--out", "found")
    assert code == 0, err
    assert "Layer by layer" in out
    assert "tiny, slim against tiny, dense by layers" in out
    report = read_report(tmp_path / "found" / "bench.json")
    assert report.layers is not None
    assert {pair.name for pair in report.layers.layers} >= {"first", "second"}
    assert "by layers" in (tmp_path / "found" / "bench.md").read_text(encoding="utf-8")


def test_layers_that_trtexec_timed_are_compared_without_a_measurement(
    run: Run, tmp_path: Path
) -> None:
    for name, width, times in (("a", 16, (0.2, 0.4)), ("b", 8, (0.1, 0.2))):
        write_net(tmp_path / f"{name}.onnx", width)
        rows = zip(("first + relu", "second"), times, strict=True)
        exported(tmp_path / f"{name}.json", *rows)
    words = ("a.onnx", "b.onnx", "--trtexec", "a.json", "b.json")
    code, out, err = run(*words)
    assert code == 0, err
    assert "as trtexec times them" in out
    assert "the layers' time -50.0 %" in out
    code, out, _ = run(*words, "--json")
    assert json.loads(out)["profiler"] == "trtexec"
    code, _, err = run(*words, "--out", "found")
    assert code == 2
    assert "leave out --out" in err
    code, _, err = run("a.onnx", "b.onnx", "--trtexec", "a.onnx", "b.json")
    assert code == 1
    assert "a.onnx" in err


@needs_sshd
def test_another_device_is_measured_and_nothing_tells_which(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path.with_name(f"{tmp_path.name}-sshd")
    place.mkdir()
    server = SshServer(folder=place)
    server.start()
    try:
        monkeypatch.setenv("EDGEPRUNE_SSH_CONFIG", str(server.config))
        write_net(tmp_path / "a.onnx")
        write_net(tmp_path / "b.onnx", 4)
        words = ("--device", server.url(), "--out", "found", "--rounds", "2", "--quick")
        code, out, err = run("a.onnx", "b.onnx", *words)
    finally:
        server.stop()
    assert code == 0, err
    assert "on device" in err
    for secret in (str(place), "ssh://", getpass.getuser() + "@", "127.0.0.1"):
        assert secret not in out
        assert all(secret.encode() not in f.read_bytes() for f in (tmp_path / "found").iterdir())
