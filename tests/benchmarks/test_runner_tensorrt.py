"""Engines of TensorRT in the device runner, on the fake TensorRT of the exporter's tests."""

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks import device_runner as runner
from edgeprune_benchmarks.process import RunnerProcess

from ..exporters import fake_tensorrt
from ..exporters.fake_tensorrt_recipe import CLASSES, MOST, SIZE, network, program, write_recipe

PATIENCE = 60.0
Device = Callable[..., Path]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Give runners a TensorRT; return the folder that holds it."""

    def become(version: str = "10.3.0", **how: Any) -> Path:
        site = fake_tensorrt.install(tmp_path / "site", version, **how)
        monkeypatch.setenv("PYTHONPATH", str(site))
        return site

    return become


def built(folder: Path, site: Path, precision: str = "fp16", **how: Any) -> Path:
    """Write a recipe and build its engine."""
    write_recipe(folder, precision, **how)
    done = program(folder, site, "build")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return folder / "engine.plan"


def images(count: int) -> np.ndarray:
    shape = (count, 3, SIZE, SIZE)
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


def load(process: RunnerProcess, path: Path, **words: object) -> dict[str, Any]:
    return dict(process.ask("load", PATIENCE, artifact=str(path), **words))


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0"])
def test_an_engine_predicts_what_its_graph_computes(
    version: str, device: Device, tmp_path: Path
) -> None:
    plan = built(tmp_path / "recipe", device(version))
    np.save(tmp_path / "in.npy", images(11))
    with RunnerProcess("engine") as process:
        answer = load(process, plan, threads=2)
        words = {"inputs": str(tmp_path / "in.npy"), "outputs": str(tmp_path / "out.npy")}
        process.ask("predict", PATIENCE, **words, batch=4)
    session = onnxruntime.InferenceSession(network("fp16").SerializeToString())
    wanted = session.run(None, {"images": images(11)})[0]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, rtol=1e-3, atol=1e-3)
    assert (answer["backend"], answer["version"]) == ("tensorrt", version)
    assert answer["shape"] == [None, 3, SIZE, SIZE]
    assert answer["device"] == "cuda:0"
    assert answer["threads"] is None
    assert answer["properties"] == {"gpu": "Orin", "dla": "False"}


@pytest.mark.parametrize(
    ("precision", "found"), [("fp32", "f32"), ("fp16", "f16"), ("int8", "f32+i8")]
)
def test_the_precision_is_what_the_engines_layers_compute_in(
    precision: str, found: str, device: Device, tmp_path: Path
) -> None:
    plan = built(tmp_path / "recipe", device(), precision)
    with RunnerProcess("engine") as process:
        assert load(process, plan)["precision"] == found


def test_an_engine_is_timed_and_its_whole_folder_is_hashed(device: Device, tmp_path: Path) -> None:
    plan = built(tmp_path / "recipe", device())
    with RunnerProcess("engine") as process:
        files = load(process, plan.with_name("recipe.json"))["files"]
        process.ask("warmup", PATIENCE, seconds=0.01, limit=0.1, batch=3)
        times = process.ask("block", PATIENCE, seconds=0, iterations=5)
    assert len(times["ns"]) == 5
    assert "compute_ns" not in times
    names = {path.name for path in plan.parent.iterdir() if path.is_file()}
    assert set(files) == names >= {"engine.plan", "engine.json", "recipe.json", "run.py"}
    assert next(iter(files)) == "recipe.json"
    assert (
        files["engine.plan"]
        == json.loads(plan.with_name("engine.json").read_text())["engine_sha256"]
    )
    assert not (plan.parent / "__pycache__").exists()  # a bundle lists every file that it has


@pytest.mark.parametrize("version", ["8.6.1", "11.4.0"])
def test_layers_are_those_of_the_engine_with_the_nodes_they_came_from(
    version: str, device: Device, tmp_path: Path
) -> None:
    plan = built(tmp_path / "recipe", device(version))
    with RunnerProcess("engine") as process:
        load(process, plan, profile=True)
        process.ask("warmup", PATIENCE, seconds=0.01, limit=0.1, batch=2)
        told = process.ask("layers", PATIENCE, iterations=4)
        times = process.ask("block", PATIENCE, seconds=0, iterations=2)["ns"]
    names = ["narrow", "stem", "activation", "pool", "flatten", "head", "widen"]
    assert told["profiler"] == "tensorrt IProfiler"
    assert [layer["name"] for layer in told["layers"]] == names
    assert [layer["origins"] for layer in told["layers"]] == [[name] for name in names]
    assert [layer["ns"] for layer in told["layers"]] == pytest.approx(
        [1e3 * k for k in range(1, 8)]
    )
    stem = told["layers"][1]
    assert stem["type"] == "caskconvolution"
    assert (stem["precision"], stem["shape"]) == ("f16", [2, 6, SIZE, SIZE])
    assert told["layers"][0]["precision"] is None  # a cast computes nothing
    assert told["layers"][-1]["shape"] == [2, CLASSES]
    assert len(times) == 2  # the context that is not watched works on


def test_an_engine_is_watched_in_a_context_of_its_own(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = device()
    plan = built(tmp_path / "recipe", site)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    model = runner.load_tensorrt(runner.Loading(plan))
    engine = model.infer.__self__  # type: ignore[attr-defined]
    unwatched = engine.context
    assert model.profile is not None
    assert len(model.profile(images(2), 3).total_ns) == 3
    assert engine.context is unwatched
    assert unwatched.profiler is None
    for name in ("tensorrt", "edgeprune_tensorrt_recipe"):
        monkeypatch.delitem(sys.modules, name)


def test_a_batch_outside_the_engines_profile_is_refused(device: Device, tmp_path: Path) -> None:
    plan = built(tmp_path / "recipe", device())
    with RunnerProcess("engine") as process:
        load(process, plan)
        with pytest.raises(MeasureError, match=f"takes batches of 1 to {MOST}, not of 9"):
            process.ask("warmup", PATIENCE, batch=MOST + 1)


def test_an_engine_of_one_batch_size_predicts_any_number(device: Device, tmp_path: Path) -> None:
    plan = built(tmp_path / "recipe", device(), "fp32", batch=4)
    np.save(tmp_path / "in.npy", images(6))
    with RunnerProcess("engine") as process:
        assert load(process, plan)["shape"] == [4, 3, SIZE, SIZE]
        words = {"inputs": str(tmp_path / "in.npy"), "outputs": str(tmp_path / "out.npy")}
        process.ask("predict", PATIENCE, **words)
        with pytest.raises(MeasureError, match="takes batches of 4, not of 1"):
            process.ask("warmup", PATIENCE, batch=1)
    session = onnxruntime.InferenceSession(network("fp32").SerializeToString())
    wanted = session.run(None, {"images": images(6)})[0]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["engine.plan", "recipe.json"])
def test_an_engine_that_is_not_built_yet_says_how_to_build_it(
    name: str, device: Device, tmp_path: Path
) -> None:
    device()
    folder = write_recipe(tmp_path / "recipe")
    with (
        RunnerProcess("engine") as process,
        pytest.raises(MeasureError, match=r"no engine yet, build it first: python3 run\.py build"),
    ):
        load(process, folder / name)


def rewritten(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def damage_plan(folder: Path) -> None:
    (folder / "engine.plan").write_bytes((folder / "engine.plan").read_bytes() + b"\n")


def change_recipe(folder: Path) -> None:
    rewritten(folder / "recipe.json", workspace_mb=65)


def change_model(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"another")


def change_version(folder: Path) -> None:
    proof = json.loads((folder / "engine.json").read_text())
    rewritten(folder / "engine.json", device={**proof["device"], "tensorrt": "10.7.0"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "run.py").unlink(), r"no run\.py beside the engine"),
        (lambda folder: (folder / "engine.json").unlink(), r"engine\.json cannot be read"),
        (damage_plan, r"engine\.plan was \w{12} when the engine was proven and is \w{12} now"),
        (change_recipe, r"recipe\.json was \w{12} when the engine was proven"),
        (change_model, r"model\.onnx is not the file of the recipe"),
        (change_version, r"TensorRT was 10\.7\.0 when the engine was proven and is 10\.3\.0 now"),
    ],
)
def test_an_engine_that_is_not_the_one_that_was_proven_is_refused(
    damage: Callable[[Path], None], message: str, device: Device, tmp_path: Path
) -> None:
    plan = built(tmp_path / "recipe", device())
    damage(plan.parent)
    with RunnerProcess("engine") as process, pytest.raises(MeasureError, match=message):
        load(process, plan)


def test_a_gpu_that_is_not_there_is_refused(device: Device, tmp_path: Path) -> None:
    plan = built(tmp_path / "recipe", device())
    with (
        RunnerProcess("engine") as process,
        pytest.raises(MeasureError, match="cudaSetDevice: invalid argument"),
    ):
        load(process, plan, device="cuda:1")


def test_a_device_without_a_gpu_says_so(device: Device, tmp_path: Path) -> None:
    site = device()
    plan = built(tmp_path / "recipe", site)
    code = (
        "import os, runpy, sys\n"
        "os.environ['FAKE_CUDA_NO_DEVICE'] = '1'\n"  # a runner's environment is clean
        "sys.argv = ['runner', 'serve']\n"
        f"runpy.run_path({runner.__file__!r}, run_name='__main__')\n"
    )
    with (
        RunnerProcess("engine", [sys.executable, "-c", code]) as process,
        pytest.raises(MeasureError, match=r"no CUDA device can be used here: .*no CUDA-capable"),
    ):
        load(process, plan)


@pytest.mark.skipif(bool(find_spec("tensorrt")), reason="there is a TensorRT here")
def test_a_device_without_tensorrt_says_what_to_install(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path / "recipe")
    (folder / "engine.plan").write_bytes(b"plan")
    with (
        RunnerProcess("engine") as process,
        pytest.raises(MeasureError, match="install JetPack's python3-libnvinfer"),
    ):
        load(process, folder / "engine.plan")
