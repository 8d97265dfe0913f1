"""The runner as a program, in a bundle and alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.bundle import read_manifest, relist
from edgeprune_benchmarks import device_runner
from edgeprune_benchmarks.process import RUNNER

from .bundle_case import CLASSES, packages, pictures, prepared, run, write_bundle
from .conftest import SIZE, Tiny, images


@pytest.fixture
def program(tmp_path: Path, tiny: Tiny) -> Path:
    return write_bundle(tmp_path / "bundle", tiny, runtimes=("onnxruntime", "openvino"))


@pytest.fixture(scope="module")
def numpy_and_onnxruntime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages(tmp_path_factory.mktemp("bare") / "site", "numpy", "onnxruntime")


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{letter}.png" for letter in "abc"]
    for path, image in zip(paths, pictures(3, seed=1), strict=True):
        Image.fromarray(image).save(path)
    return paths


def wanted(tiny: Tiny) -> np.ndarray[Any, Any]:
    """Probabilities (3, K) of the scans."""
    logits = tiny.expected(prepared(pictures(3, seed=1))).astype(np.float64)
    shares = np.exp(logits)
    return np.asarray(shares / shares.sum(1, keepdims=True))


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def replace_logits(program: Path, change: float) -> None:
    """Change the golden outputs, and list them as if they had always been so."""
    path = program.parent / "golden" / "outputs.npy"
    np.save(path, np.load(path) + np.float32(change))
    relist(program.parent, path)


# ------------------------------------------------------------------ predict


def test_pictures_get_the_class_and_probability_that_the_model_computes(
    program: Path, scans: list[Path], tiny: Tiny
) -> None:
    shares = wanted(tiny)
    done = run(program, "predict", *scans)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{path}: {CLASSES[row.argmax()]} {row.max():.3f}"
        for path, row in zip(scans, shares, strict=True)
    ]
    assert "artifacts/onnx/model.onnx, fp32, in onnxruntime" in done.stderr


def test_as_json_logits_and_probabilities_are_told_for_any_batch(
    program: Path, scans: list[Path], tiny: Tiny
) -> None:
    for words in ((), ("--batch", "2")):
        told = json.loads(run(program, "predict", *scans, "--json", *words).stdout)
        assert (told["artifact"], told["precision"]) == ("artifacts/onnx/model.onnx", "fp32")
        rows = told["images"]
        assert [row["file"] for row in rows] == [str(path) for path in scans]
        found = [[row["probabilities"][name] for name in CLASSES] for row in rows]
        np.testing.assert_allclose(found, wanted(tiny), rtol=1e-4)
        logits = tiny.expected(prepared(pictures(3, seed=1)))
        np.testing.assert_allclose([row["logits"] for row in rows], logits, rtol=1e-4, atol=1e-6)


def test_of_several_labels_those_above_one_half_are_told(
    tmp_path: Path, scans: list[Path], tiny: Tiny
) -> None:
    program = write_bundle(tmp_path / "bundle", tiny, runtimes=("onnxruntime",), multi_label=True)
    logits = tiny.expected(prepared(pictures(3, seed=1)))
    done = run(program, "predict", *scans, "--json")
    for row, values in zip(json.loads(done.stdout)["images"], logits, strict=True):
        assert row["findings"] == [n for n, v in zip(CLASSES, values, strict=True) if v > 0]
        shares = [row["probabilities"][name] for name in CLASSES]
        np.testing.assert_allclose(shares, 1 / (1 + np.exp(-values)), rtol=1e-4)
    line = run(program, "predict", scans[0]).stdout
    assert [name in line for name in CLASSES] == list(logits[0] > 0)


def test_a_folder_stands_for_its_pictures_and_hidden_ones_are_none(
    program: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scans"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.png", "deeper/a.bmp", ".hidden.png"):
        Image.fromarray(pictures(1)[0]).save(folder / name)
    (folder / "notes.txt").write_text("not looked at")
    told = json.loads(run(program, "predict", folder, "--json").stdout)
    assert [Path(row["file"]).name for row in told["images"]] == ["b.png", "a.bmp"]


def test_a_bad_picture_gets_one_line_and_the_others_are_still_done(
    program: Path, scans: list[Path], tmp_path: Path
) -> None:
    scans[1].write_bytes(scans[1].read_bytes()[:60])
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(program, "predict", *scans, empty, tmp_path / "gone.png")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [": cannot be used: " in line for line in lines] == [False, True, False, True, True]
    assert lines[3].endswith("it is a folder without pictures")
    told = json.loads(run(program, "predict", *scans, "--json").stdout)
    assert ["error" in row for row in told["images"]] == [False, True, False]


def test_the_backend_can_be_chosen(program: Path, scans: list[Path]) -> None:
    told = json.loads(run(program, "predict", scans[0], "--backend", "openvino", "--json").stdout)
    assert (told["backend"], told["artifact"]) == ("openvino", "artifacts/openvino/model.xml")
    refused = run(program, "predict", scans[0], "--backend", "tensorrt")
    assert refused.returncode == 1
    assert "no artifact of this bundle can be run here: artifacts/onnx/model.onnx" in refused.stderr


def test_the_targets_own_runtime_comes_first_however_artifacts_are_listed(
    tmp_path: Path, tiny: Tiny, scans: list[Path]
) -> None:
    program = write_bundle(tmp_path / "bundle", tiny, own="onnxruntime")
    assert (
        json.loads(run(program, "predict", scans[0], "--json").stdout)["backend"] == "onnxruntime"
    )


def test_where_the_targets_runtime_is_missing_another_is_used_and_that_is_said(
    tmp_path: Path, tiny: Tiny, scans: list[Path], numpy_and_onnxruntime: Path
) -> None:
    program = write_bundle(tmp_path / "bundle", tiny)
    done = run(program, "predict", scans[0], only=numpy_and_onnxruntime)
    assert done.returncode == 0, done.stderr
    assert "artifacts/openvino/model.xml: openvino is not installed" in done.stderr
    assert "artifacts/onnx/model.onnx, fp32, in onnxruntime" in done.stderr
    assert done.stdout == run(program, "predict", scans[0]).stdout


def test_wide_samples_are_scaled_by_the_depth_in_the_bundle(tmp_path: Path, tiny: Tiny) -> None:
    program = write_bundle(tmp_path / "bundle", tiny, runtimes=("onnxruntime",), bits=12)
    grey = np.random.default_rng(0).integers(0, 4096, (30, 30)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "wide.png")
    Image.fromarray(((grey * 255.0 + 2047) // 4095).astype(np.uint8)).save(tmp_path / "narrow.png")
    told = run(program, "predict", tmp_path / "wide.png", tmp_path / "narrow.png", "--json").stdout
    rows = json.loads(told)["images"]
    assert rows[0]["logits"] == rows[1]["logits"]


def test_names_cannot_steer_the_terminal(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2Jb.png"
    Image.fromarray(pictures(1)[0]).save(path)
    done = run(program, "predict", path)
    assert "a?[2Jb.png: " in done.stdout
    assert "\x1b" not in done.stdout


def test_a_model_that_is_not_the_bundles_is_not_run(program: Path, scans: list[Path]) -> None:
    path = program.parent / "artifacts" / "onnx" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    done = run(program, "predict", scans[0])
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr == (
        "run.py: artifacts/onnx/model.onnx is not the file that was listed: its SHA-256 differs; "
        "copy the bundle again\n"
    )


def test_without_a_bundle_prepared_arrays_are_run(tiny: Tiny, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", images(3))
    words = ("--artifact", tiny.onnx, "--inputs", tmp_path / "in.npy")
    done = run(RUNNER, "predict", *words, "--outputs", tmp_path / "out.npy")
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, tiny.expected(images(3)), rtol=1e-4, atol=1e-6)
    assert run(RUNNER, "predict", *words).returncode == 2


# ------------------------------------------------------------------ selftest


def test_a_whole_bundle_passes_its_selftest_in_every_runtime(program: Path) -> None:
    done = run(program, "selftest", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"]) == (0, 0), done.stdout
    assert {row["what"]: row["status"] for row in told["checks"]} == {
        "files": "pass",
        "preprocessing": "pass",
        "artifacts/onnx/model.onnx": "pass",
        "artifacts/openvino/model.xml": "pass",
    }
    errors = [row["error"] for row in told["checks"] if "error" in row]
    assert len(errors) == 2
    assert 0 <= max(errors) < 1e-5


def test_it_needs_nothing_but_numpy_and_a_runtime_and_says_what_was_not_checked(
    program: Path, numpy_and_onnxruntime: Path
) -> None:
    done = run(program, "selftest", only=numpy_and_onnxruntime)
    assert done.returncode == 0, done.stdout
    assert "artifacts/openvino/model.xml: not run: openvino is not installed" in done.stdout
    assert done.stdout.endswith("as where it was made; not run: 1 of its artifacts\n")


def test_where_nothing_can_be_run_nothing_is_claimed(program: Path, tmp_path: Path) -> None:
    done = run(program, "selftest", only=packages(tmp_path / "site", "numpy"))
    assert done.returncode == 3
    assert "nothing could be run here" in done.stdout


def test_damaged_missing_and_foreign_files_are_named(program: Path) -> None:
    folder = program.parent
    (folder / "golden" / "picture.png").unlink()
    weights = folder / "artifacts" / "openvino" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    (folder / "helper.py").write_text("")
    done = run(program, "selftest")
    assert done.returncode == 5
    assert "FAIL  golden/picture.png: golden/picture.png is missing" in done.stdout
    assert "FAIL  artifacts/openvino/model.bin" in done.stdout
    assert "note  helper.py: not listed" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("change", "code"), [(0.0, 0), (1e-3, 5), (np.nan, 5)])
def test_an_artifact_that_is_not_the_model_fails(program: Path, change: float, code: int) -> None:
    replace_logits(program, change)
    done = run(program, "selftest", "--json")
    told = json.loads(done.stdout)
    failed = [row["what"] for row in told["checks"] if row["status"] == "fail"]
    assert done.returncode == code
    assert len(failed) == (2 if code else 0)


def test_an_artifact_without_a_limit_does_not_pass(program: Path) -> None:
    path = program.parent / "golden" / "golden.json"
    path.write_text(path.read_text().replace("artifacts/onnx/", "artifacts/other/"))
    relist(program.parent, path)
    done = run(program, "selftest")
    assert done.returncode == 5
    assert "onnx/model.onnx: golden.json does not say how far it may be" in done.stdout


def test_noise_is_relative_to_what_images_change_in_the_logits(tmp_path: Path, tiny: Tiny) -> None:
    program = write_bundle(tmp_path / "bundle", tiny, runtimes=("onnxruntime",), measure="noise")
    replace_logits(program, 1e-2)
    (row,) = [
        row
        for row in json.loads(run(program, "selftest", "--json").stdout)["checks"]
        if "error" in row
    ]
    logits = np.load(program.parent / "golden" / "outputs.npy")
    spread = np.sqrt(np.square(logits - logits.mean(0)).mean())
    assert row["error"] == pytest.approx(1e-2 / spread, rel=1e-3)
    assert row["status"] == "fail"


@pytest.mark.parametrize("measure", ["max_rel", "noise"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_infinitely_far(measure: str, value: float) -> None:
    wanted = np.eye(3, dtype=np.float32)
    found = wanted.copy()
    found[1, 1] = value
    assert device_runner.distance(found, wanted, measure) == np.inf
    assert device_runner.distance(wanted, wanted, measure) == 0


@pytest.mark.parametrize(("levels", "code"), [(1, 0), (2, 5)])
def test_preprocessing_may_be_off_by_one_grey_level(program: Path, levels: int, code: int) -> None:
    place = program.parent / "golden"
    pixels = np.load(place / "pixels.npy")
    dark = np.unravel_index(pixels.argmin(), pixels.shape)
    # Only the picture's own pixel moves: what is normalised stays what the model was given.
    steps = read_manifest(program.parent)["preprocessing"]["steps"][4]
    values = np.load(place / "inputs.npy")
    pixels[dark] += levels
    values[(2, dark[2], *dark[:2])] += levels / 255 / steps["std"][dark[2]]
    for name, array in (("pixels", pixels), ("inputs", values)):
        np.save(place / f"{name}.npy", array)
        relist(program.parent, place / f"{name}.npy")
    done = run(program, "selftest", "--json")
    (row,) = [r for r in json.loads(done.stdout)["checks"] if r["what"] == "preprocessing"]
    assert row["levels"] == levels
    assert row["status"] == ("fail" if code else "pass")


# ------------------------------------------------------------------ benchmark and info


def test_a_benchmark_times_the_bundles_artifact_on_its_golden_inputs(program: Path) -> None:
    done = run(program, "benchmark", "--seconds", "0.02", "--json")
    told = json.loads(done.stdout)
    assert told["artifact"] == "artifacts/onnx/model.onnx"
    assert told["inputs"] == "inputs.npy"
    assert 0 < told["p50_ms"] <= told["p90_ms"]
    assert (told["p99_ms"] is None) == (told["inferences"] < 1000)
    assert told["peak_bytes"] > 1e6
    assert str(program.parent) not in done.stdout


def test_a_benchmark_is_a_table_for_people(program: Path) -> None:
    lines = run(program, "benchmark", "--seconds", "0", "--idle", "0.001").stdout.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert {"artifact", "precision", "load", "first", "p50", "p90", "p99", "memory"} <= set(rows)
    assert rows["p99"].endswith("not told: it takes 1,000 inferences")
    assert rows["n"].endswith("10 inferences")
    assert f"1 × 3×{SIZE}×{SIZE}, inputs.npy" in rows["input"]


def test_any_artifact_can_be_timed_and_without_inputs_by_noise(tiny: Tiny) -> None:
    done = run(RUNNER, "benchmark", tiny.ir, "--batch", "2", "--seconds", "0", "--json")
    told = json.loads(done.stdout)
    assert (told["backend"], told["batch"], told["inputs"]) == ("openvino", 2, None)
    assert told["artifact"] == tiny.ir.name
    assert told["shape"][0] == 2


def test_an_artifact_of_fixed_batch_is_timed_at_its_own(network: Any) -> None:
    done = run(RUNNER, "benchmark", network(batch=2), "--seconds", "0", "--json")
    assert json.loads(done.stdout)["batch"] == 2


def test_info_tells_about_the_device_and_what_can_be_run(
    program: Path, numpy_and_onnxruntime: Path
) -> None:
    done = run(program, "info", "--json", only=numpy_and_onnxruntime)
    told = json.loads(done.stdout)
    assert told["machine"]["cores"] == os.cpu_count()
    assert [each["lacking"] for each in told["bundle"]["artifacts"]] == [
        None,
        "openvino is not installed",
    ]
    assert os.uname().nodename not in done.stdout
    text = run(program, "info").stdout
    assert "tiny for cpu, made 2001-01-01" in text
    assert "artifacts/onnx/model.onnx, fp32: runs in onnxruntime" in text
    assert json.loads(run(RUNNER, "info", "--json").stdout)["bundle"] is None


# ------------------------------------------------------------------ as a program


def test_nothing_is_ever_written(program: Path, scans: list[Path], tmp_path: Path) -> None:
    before = contents(tmp_path)
    words = (("predict", *scans), ("selftest",), ("info",), ("benchmark", "--seconds", "0"))
    for each in words:
        assert run(program, *each, cwd=program.parent).returncode == 0
    assert contents(tmp_path) == before


def test_it_runs_from_anywhere_and_through_a_link(
    program: Path, scans: list[Path], tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere" / "check"
    link.parent.mkdir()
    link.symlink_to(program)
    done = run(link, "predict", scans[0].name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a.png: ")


def test_files_beside_the_runner_do_not_hide_python_modules(program: Path) -> None:
    for name in ("onnxruntime", "statistics", "numpy"):
        (program.parent / f"{name}.py").write_text("raise RuntimeError('hidden')\n")
    done = run(program, "benchmark", "--seconds", "0")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("predict",), 2, "device_runner.py: name pictures, or folders of them, to"),
        (("dance",), 2, "invalid choice: 'dance'"),
        (("benchmark", "--threads", "0"), 2, "argument --threads: invalid positive value: '0'"),
        (("benchmark", "--seconds", "-1"), 2, "argument --seconds: invalid duration value"),
        (("benchmark", "nowhere.onnx"), 1, "device_runner.py: there is no file nowhere.onnx\n"),
        (("selftest",), 1, "there is no bundle.json beside device_runner.py\n"),
        (("predict", "a.png"), 1, "there is no bundle.json beside device_runner.py\n"),
        (("build",), 1, "there is no recipe for TensorRT in artifacts/ beside this file\n"),
    ],
)
def test_what_the_user_can_mend_is_said_without_a_traceback(
    words: tuple[str, ...], code: int, message: str
) -> None:
    done = run(RUNNER, *words)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("{", 5, "bundle.json is damaged"),
        ("[]", 5, "bundle.json is damaged: it holds no JSON object"),
        (
            '{"format": "edgeprune-bundle", "version": 9}',
            1,
            "edgeprune-bundle version 9; this file",
        ),
        ('{"format": "edgeprune-bundle", "version": 1}', 1, "by another version of edgeprune (Key"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_said_to_be_so(
    program: Path, content: str, code: int, message: str
) -> None:
    (program.parent / "bundle.json").write_text(content)
    done = run(program, "selftest")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_steps_that_this_file_does_not_know_are_refused_by_name(program: Path) -> None:
    path = program.parent / "bundle.json"
    path.write_text(path.read_text().replace('"bicubic"', '"lanczos"'))
    done = run(program, "predict", "a.png")
    assert done.returncode == 1
    assert "preprocessing step 'resize' has interpolation 'lanczos', not one of" in done.stderr


def test_a_reader_that_goes_away_ends_it_quietly(program: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(program), "info"]
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True) as child:
        os.close(write)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 141
    assert said == ""


def test_an_interrupt_ends_it_with_130(program: Path) -> None:
    command = [sys.executable, str(program), "serve"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write('{"id": 1, "do": "state"}\n')
        child.stdin.flush()
        assert child.stdout.readline().startswith('{"id": 1, "ok": true')
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert said == "run.py: stopped\n"


def test_its_help_shows_every_command_and_each_has_an_example() -> None:
    text = run(RUNNER, "--help").stdout
    for verb in ("predict", "selftest", "benchmark", "info"):
        assert f"\n    {verb}" in text
        shown = run(RUNNER, verb, "--help")
        assert shown.returncode == 0
        assert f"example: device_runner.py {verb}" in " ".join(shown.stdout.split())
    assert "\n    build " in text
    assert "\n    serve " in text
