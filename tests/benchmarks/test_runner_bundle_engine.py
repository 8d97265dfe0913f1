"""A bundle for a Jetson, from its recipe to a selftest, on the fake TensorRT."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgeprune.bundle import GoldenLimit

from ..exporters import fake_tensorrt
from ..exporters.fake_tensorrt_recipe import CLASSES, SIZE, network, write_recipe
from .bundle_case import HOW, complete, listed, run

NAMES = [f"class {number}" for number in range(CLASSES)]


def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(network().SerializeToString())
    return np.asarray(session.run(None, {"images": images})[0])


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = fake_tensorrt.install(tmp_path / "site", "10.3.0")
    monkeypatch.setenv("PYTHONPATH", str(site))
    folder = tmp_path / "bundle"
    (folder / "artifacts").mkdir(parents=True)
    write_recipe(folder / "artifacts" / "tensorrt")
    return complete(
        folder,
        [listed("tensorrt", "fp16")],
        logits,
        replace(HOW, size=(SIZE, SIZE)),
        limit=GoldenLimit(precision="fp16", measure="max_rel", tolerance=2e-3),
        data={"classes": NAMES, "multi_label": False, "bits": 8},
    )


def test_a_bundle_builds_its_engine_tests_it_and_predicts_with_it(program: Path) -> None:
    picture = program.parent / "golden" / "picture.png"
    before = run(program, "selftest")
    assert before.returncode == 3
    assert "its engine is not built yet: python3 run.py build" in before.stdout

    built = run(program, "build")
    assert built.returncode == 0, built.stderr

    done = run(program, "selftest", "--json")
    told = json.loads(done.stdout)
    rows = {row["what"]: row for row in told["checks"]}
    assert done.returncode == 0, done.stdout
    assert rows["artifacts/tensorrt/engine.plan"]["status"] == "pass"
    assert rows["artifacts/tensorrt/engine.plan"]["tolerance"] == 2e-3
    assert rows["artifacts/tensorrt/engine.json"]["status"] == "note"

    told = json.loads(run(program, "predict", picture, "--json").stdout)
    wanted = np.load(program.parent / "golden" / "outputs.npy")[2]
    assert told["backend"] == "tensorrt"
    np.testing.assert_allclose(told["images"][0]["logits"], wanted, atol=2e-3 * abs(wanted).max())


def test_an_engine_whose_recipe_was_changed_since_is_not_run(program: Path) -> None:
    assert run(program, "build").returncode == 0
    recipe = program.parent / "artifacts" / "tensorrt" / "recipe.json"
    recipe.write_text(recipe.read_text().replace("10.3", "10.4"))
    done = run(program, "selftest")
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
