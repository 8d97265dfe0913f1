"""What run.py reads off a device, and how it behaves as a program."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import fake_tensorrt, fake_tensorrt_recipe
from .fake_tensorrt_recipe import left, program, write_recipe

run = fake_tensorrt_recipe.imported()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return fake_tensorrt.install(tmp_path / "site")


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.4, GCID: 41, BOARD: generic, EABI: aarch64", "36.4.4"),
        ("# R35 (release), REVISION: 6.1, GCID: 39, BOARD: t186ref", "35.6.1"),
        ("", None),
    ],
)
def test_the_release_of_jetsons_linux_is_read(text: str, release: str | None) -> None:
    assert run.l4t(text) == release


@pytest.mark.parametrize(
    ("script", "mode"),
    [
        ("echo 'NV Fan Mode:quiet'; echo 'NV Power Mode: MAXN_SUPER'; echo 2", "MAXN_SUPER"),
        ("exit 1", None),
    ],
)
def test_the_power_mode_is_asked_for(
    script: str, mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvpmodel"
    program.write_text(f'#!/bin/sh\n[ "$1" = -q ] || exit 2\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert run.power_mode() == mode


HALF = "Channel major FP16 format where channel % 8 == 0"
BYTES = "Thirty-two wide channel vectorized row major Int8 format."


def layer(name: str, kind: str, *inputs: str, **more: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Format/Datatype": text} for text in inputs],
        **more,
    }


@pytest.mark.parametrize(
    ("told", "precision", "on_dla"),
    [
        (layer("a", "CaskConvolution", BYTES, Weights={"Type": "Half"}), "fp16", 0),
        (layer("b", "CaskConvolution", HALF), "fp16", 0),
        (layer("c", "CaskConvolution", BYTES), "int8", 0),
        (layer("d", "kgen", "Half", "Float", "Int32"), "fp16", 0),
        (layer("e", "gemm", "Float"), "fp32", 0),
        (layer("f", "Reformat", "Row major linear FP16 format"), None, 0),
        (layer("g", "Dequantize", "Int8"), None, 0),
        (layer("h", "Constant"), None, 0),
        (layer("{ForeignNode[a...b]}", "Myelin", "Half"), "fp16", 0),
        (layer("{ForeignNode[a...b]}", "Myelin", "Row major linear FP32"), "opaque", 0),
        (layer("{ForeignNode[a...b]}", "DLA", "Channel major FP16 format"), "fp16", 1),
        (layer("images to nvm", "", "Row major linear FP16 format"), None, 0),
    ],
)
def test_precision_and_place_of_a_layer_are_read_from_what_the_inspector_tells(
    told: dict[str, Any], precision: str | None, on_dla: bool
) -> None:
    found = run.described(told)
    assert (found["precision"], found["dla"]) == (precision, bool(on_dla))


def test_the_narrowest_precision_has_to_be_the_one_asked_for() -> None:
    layers = [{"precision": name} for name in ("fp32", None, "fp16", "int8", "fp16")]
    shares = run.precisions(layers, "int8", True)
    assert shares["fp16"] == {"layers": 2, "share": 0.5}
    assert sum(each["share"] for each in shares.values()) == 1
    for wanted in ("fp16", "fp32"):
        with pytest.raises(run.ProofError, match="compute: 1 in int8, 2 in fp16, 1 in fp32"):
            run.precisions(layers, wanted, True)
    with pytest.raises(run.ProofError, match="no type that the inspector tells"):
        run.precisions([{"precision": None}], "fp16", True)


def test_a_long_build_says_how_long_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with run.telling("building", every=0.01):
        time.sleep(0.2)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert (first, second) == ("run.py: building", "run.py: building: 0 s so far")


def test_calls_are_classes_or_where_labels_are_several_signs() -> None:
    wanted = np.array([[3.0, 1.0, -1.0], [-1.0, 2.0, -3.0]])
    found = np.array([[2.0, 3.0, -1.0], [-1.0, 2.0, 1.0]])
    assert run.distance(found, wanted, False)["agreement"] == 0.5
    assert run.distance(found, wanted, True)["agreement"] == pytest.approx(5 / 6)
    assert run.distance(found, wanted, None)["max_rel"] == pytest.approx(4 / 3)


def test_a_program_without_tensorrt_or_device_says_so_in_one_line(
    tmp_path: Path, site: Path
) -> None:
    folder = write_recipe(tmp_path / "recipe")
    done = program(folder, None, "build")
    assert done.returncode == 1
    assert done.stderr.startswith("run.py: this Python cannot import TensorRT (")
    assert len(done.stderr.splitlines()) == 1
    done = program(folder, site, "build", FAKE_CUDA_NO_DEVICE="1")
    assert done.returncode == 1
    assert "no CUDA device can be used here: cudaFree: no CUDA-capable" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert left(folder) == []


def test_info_tells_what_is_there_and_what_is_not(tmp_path: Path, site: Path) -> None:
    folder = write_recipe(tmp_path / "recipe")
    told = json.loads(program(folder, site, "info").stdout)
    assert (told["tensorrt"], told["gpu"], told["lacks"]) == ("10.3.0", "Orin", [])
    told = json.loads(program(folder, site, "info", FAKE_CUDA_NO_DEVICE="1").stdout)
    assert "gpu" not in told
    assert len(told["lacks"]) == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("build", "--level", "6"), 2),
        (("build", "--workspace", "0"), 2),
        ((), 2),
        (("check",), 2),
        (("build", "--dla", "0"), 2),
    ],
)
def test_wrong_use_ends_with_code_2_and_no_traceback(
    words: tuple[str, ...], code: int, tmp_path: Path, site: Path
) -> None:
    done = program(write_recipe(tmp_path / "recipe"), site, *words)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_failed_proof_ends_with_code_5_and_its_reason_last(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path / "recipe")
    done = program(folder, fake_tensorrt.install(tmp_path / "site", faults=["swap"]), "build")
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith("run.py: the engine is not the model: at")
    assert done.stdout == ""


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_real_tensorrt_builds_proves_and_checks_an_engine(
    precision: str, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt")
    try:
        run.Cuda()
    except run.RunError as error:
        pytest.skip(str(error))
    changes: dict[str, Any] = {"tensorrt": {"expected": None, "least": "8.5", "below": None}}
    folder = write_recipe(tmp_path / "recipe", precision, **changes)
    for word in ("build", "check"):
        done = program(folder, None, word)
        assert done.returncode == 0, done.stderr
