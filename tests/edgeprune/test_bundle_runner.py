"""The run.py of a bundle that ``compress`` made, with nothing of edgeprune to lean on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .pipeline_case import finished

PATIENCE = 120.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds numpy and both runtimes, and no edgeprune."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("numpy", "onnxruntime", "openvino"):
        installed = Path(str(__import__(name).__file__)).parent
        for path in (installed, installed.with_name(f"{name}.libs")):
            if path.exists():
                (folder / path.name).symlink_to(path)
    return folder


def run(bundle: Path, site: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-s", str(bundle / "run.py"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
    )


def test_a_bundle_passes_its_own_selftest_where_there_is_no_edgeprune(site: Path) -> None:
    done = run(finished()[0].bundle, site, "selftest", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert {row["what"]: row["status"] for row in told["checks"]} == {
        "files": "pass",
        "preprocessing": "pass",
        "artifacts/onnx/model.onnx": "pass",
        "artifacts/openvino/model.xml": "pass",
    }
    (preprocessing,) = [row for row in told["checks"] if row["what"] == "preprocessing"]
    assert preprocessing["levels"] == 0


def test_a_bundle_whose_weights_were_changed_by_one_bit_fails(site: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(finished()[0].bundle, bundle)
    weights = bundle / "artifacts" / "openvino" / "model.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    done = run(bundle, site, "selftest")
    assert done.returncode == 5
    assert "FAIL  artifacts/openvino/model.bin" in done.stdout
    assert "ok    artifacts/onnx/model.onnx" in done.stdout


def test_pictures_of_the_test_split_give_the_logits_that_the_model_gave(
    site: Path, tmp_path: Path
) -> None:
    results, data = finished()
    golden = json.loads((results.bundle / "golden" / "golden.json").read_text(encoding="utf-8"))
    images = np.load(data)["test_images"]
    paths = [tmp_path / f"{name.partition('/')[2]}.png" for name in golden["ids"]]
    for path in paths:
        Image.fromarray(images[int(path.stem)]).save(path)
    done = run(results.bundle, site, "predict", *paths, "--json")
    assert done.returncode == 0, done.stderr
    found = [row["logits"] for row in json.loads(done.stdout)["images"]]
    wanted = np.load(results.bundle / "golden" / "outputs.npy")
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
